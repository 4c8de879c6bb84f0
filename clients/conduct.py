"""What a site does in a round of training, apart from the protocol; a liar does something else.

The programs of a site ask for its conduct in three places: what it trains on, what update comes
of that, and what of the update enters a sum. `simulations.attacks.poison` puts others there, so
that a federation can be attacked by a site that is real in all the rest: its keys, its ledger,
its messages.
"""

from __future__ import annotations

from clients.secagg import as_it_is
from clients.site import Site
from clients.work import SiteRound
from fedlearn.core.ring import RingVector
from fedlearn.rounds import TrainRequest
from fedlearn.secagg.whole import AnyPayload
from fedlearn.stages import Route, Update


class Conduct:
    """That of an honest site."""

    def begin(self, site: Site, request: TrainRequest) -> SiteRound:
        """The site as it trains in a round."""
        return SiteRound(site, request)

    def update(self, route: Route, here: SiteRound, payload: AnyPayload | None) -> Update:
        """What leaves the site, but for masks; `payload` is its form in a sum, if there is one."""
        return route.forward(here)

    def contribution(self, payload: AnyPayload, mine: Update, vector: RingVector) -> RingVector:
        """What enters the sum, `word[length]`; `vector` is `mine`, encoded by the rules."""
        return as_it_is(payload, mine, vector)
