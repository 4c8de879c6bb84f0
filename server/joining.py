"""Sites join a run: the list of those who take part, and the sealed channels to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedlearn.agreement import draw_of
from fedlearn.algorithms import cohort_size
from fedlearn.config import RunConfig
from fedlearn.config.study import sign_run
from fedlearn.core.errors import ProtocolError, UnauthenticatedError
from fedlearn.core.names import name_problem
from fedlearn.crypto.common import faults, seed_of
from fedlearn.crypto.handshake import ServerOffer
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.roster import SERVER, Roster
from fedlearn.crypto.sealed import Channel
from fedlearn.crypto.settings import TransportSealed
from fedlearn.flower import messages as flower
from fedlearn.flower.grid import SiteGrid
from fedlearn.flower.records import read_small_bytes
from fedlearn.flower.sealing import Sealing
from fedlearn.robust import Draw
from fedlearn.rounds import Hello, Invitation, Openings
from fedlearn.secagg.proven import ProvingHelper
from server.admission import Admission
from server.aside import FailingSitesError, check
from server.helper import RemoteHelper, SecondServer, hello_of, wait_for
from server.helper import join as join_helper

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The public keys of the sites that have joined under one, and the second server, if any."""

    publics: Mapping[str, bytes]
    helper: SecondServer | None = None
    commitments: Mapping[str, str] = field(default_factory=dict)
    """Those of all sites to their shares of common randomness, where the run needs it."""
    draw: Draw | None = None
    """The groups of every round, which follow from that; None: all sites are summed together."""


@dataclass(frozen=True)
class Joining:
    """What a run is joined with: the coordinator's `identity` signs the list of its sites.

    `offer` is how a second server of another organisation, if there is one, hears the terms.
    """

    grid: SiteGrid
    config: RunConfig
    run_id: bytes
    identity: Identity
    offer: RecordDict
    admission: Admission

    def signature(self, helper: bytes) -> str:
        """On the run and the second server's key."""
        return sign_run(self.identity, self.config.terms, self.run_id, helper).hex()


def join(run: Joining, hellos: Mapping[str, Hello]) -> Keys:
    """Have the sites with keys take the run's roster, and open the channels to them.

    Raises:
        FailingSitesError: sites did not accept, or not as they should.
        ProtocolError: a second server of another organisation did not.
    """
    config, grid = run.config, run.grid
    publics = {
        site: bytes.fromhex(hello.public_key) for site, hello in hellos.items() if hello.public_key
    }
    if not publics:
        return Keys(publics={})
    offer, largest = None, 0
    if isinstance(config.transport, TransportSealed):
        classical, largest = config.transport.allow_classical, config.transport.max_bytes
        keys = run.identity, run.run_id, config.terms
        offer = ServerOffer(*keys, SERVER, allow_classical=classical)
    invitation = Invitation(
        run_id=run.run_id.hex(),
        roster=_roster(config, publics, run.identity).to_json(),
        offer=offer.message.hex() if offer else "",
        helper="",
        signature=run.signature(b""),
        commitments={site: one.commitment for site, one in hellos.items() if one.commitment},
    )
    helper = _second(run, publics, invitation, offer) if config.secagg.two_servers else None
    if helper:
        invitation = replace(
            invitation,
            helper=helper.public.hex(),
            signature=run.signature(helper.public),
            vouched=helper.vouched.hex() if isinstance(helper, RemoteHelper) else "",
        )
    accepted = _invite(grid, invitation)
    if offer:
        grid.sealing = Sealing(_channels(offer, publics, accepted), largest)
    return Keys(publics=publics, helper=helper, commitments=invitation.commitments)


def _second(
    run: Joining, publics: Mapping[str, bytes], invitation: Invitation, offer: ServerOffer | None
) -> SecondServer:
    """The second server: that of the roster, else one in this process."""
    node, grid, config = run.admission.helper, run.grid, run.config
    if node is None:
        return ProvingHelper(run.run_id, publics, min_cohort=config.secagg.least)
    deadline = time.monotonic() + run.admission.seconds
    there = partial(_is_there, grid.inner, node.node)
    if not there():
        run.admission.tell(
            f"waiting for {node.name}, the second server, {run.admission.seconds:g} seconds at most"
        )
    wait_for(there, node.name, deadline, grid.stopping)
    # Its bytes count as those of a round.
    waits = grid.timeout, grid.stopping
    its = SiteGrid(grid.inner, {node.name: node.node}, *waits, traffic=grid.traffic)
    hello_of(its, run.offer, run.admission)
    largest = config.transport.max_bytes if isinstance(config.transport, TransportSealed) else 0
    return join_helper(its, config, node, invitation, offer, largest)


def _is_there(grid: Grid, node: int) -> bool:
    return node in grid.get_node_ids()


def draw_groups(grid: SiteGrid, config: RunConfig, run_id: bytes, keys: Keys) -> Keys:
    """The same keys with the groups of every round, where sums are of groups.

    All sites open their shares, the last thing that a start asks for, and each is given all of
    them. Who does not take them sits out the rounds; the others have opened theirs for good.

    Raises:
        ConfigError: the rule needs more sites; nothing is opened for that.
        FailingSitesError: sites have not opened the share that they were committed to.
    """
    if config.robust.group_size is None:
        return keys
    config.robust.check(cohort_size(config.strategy, len(grid.sites)))
    replies = grid.ask(flower.OPEN, RecordDict(), grid.sites, flower.read_opening)
    check(replies, "open")
    shares = {s: flower.read_opening(reply.content) for s, reply in replies.answers.items()}
    listed, publics = keys.commitments, keys.publics
    if found := faults(shares, run_id, listed, publics):
        reasons = {site: [reason] for site, reason in found.items()}
        error = ProtocolError("", "open", "; ".join(f"{s} {one}" for s, one in found.items()))
        raise FailingSitesError(reasons, error)
    _give(grid, Openings(shares=shares))
    return replace(keys, draw=draw_of(config, publics, seed_of(shares, run_id, listed, publics)))


def _give(grid: SiteGrid, openings: Openings) -> None:
    """Show all shares to all sites; a second time to those that did not take them."""
    missing = dict.fromkeys(grid.sites, "")
    for _ in range(2):
        taken = grid.ask(flower.DRAW, flower.openings_request(openings), list(missing))
        missing = {one.site: one.reason for one in taken.refusals} | taken.failures
        if not missing:
            return
    for site, reason in missing.items():
        log.warning("%s does not know its groups, and sits the rounds out: %s", site, reason)


def _channels(
    offer: ServerOffer, publics: Mapping[str, bytes], accepted: Mapping[str, bytes]
) -> dict[str, Channel]:
    channels, broken = {}, dict[str, list[str]]()
    for site, public in publics.items():
        try:
            channels[site] = offer.finish(site, public, accepted[site])
        except UnauthenticatedError as error:
            broken[site] = [f"its answer to the offer of a channel: {error}"]
    if broken:
        raise FailingSitesError(broken, UnauthenticatedError())
    return channels


def _roster(config: RunConfig, publics: Mapping[str, bytes], identity: Identity) -> Roster:
    federation = "run" if name_problem(config.experiment) else config.experiment
    return Roster.of_run(federation, publics, identity)


def _invite(grid: SiteGrid, value: Invitation) -> dict[str, bytes]:
    """What the sites answer: their halves of the set-up of channels."""
    replies = grid.exchange(
        (
            Message(
                flower.invitation(value), dst_node_id=grid.node_of[site], message_type=flower.JOIN
            )
            for site in grid.sites
        ),
        _accepted,
    )
    check(replies, "join")
    return {site: _accepted(reply.content) for site, reply in replies.answers.items()}


def _accepted(content: RecordDict) -> bytes:
    return read_small_bytes(content, "accepted") or b""
