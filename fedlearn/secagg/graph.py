"""Who shares a mask with whom: number of neighbours, threshold, and the graph itself.

Up to 64 clients the graph is complete. Above, each client has `k` neighbours on a Harary
graph over a permutation that every client recomputes from a hash of the signed keys. Both
are safe for the worst case, not for the mean: wherever the corrupt clients stand, and
whatever the server says of who has dropped. The hash can be influenced by whoever
advertises last, and who tries many keys chooses his place on the ring; a bound that takes
the permutation as random would be worth little against him. Chance is left in one thing
alone, whether an honest round finishes (2^-20 that it does not).

What keeps a client's vector hidden, with `c` corrupt clients:

- **One list, in a complete graph.** Who releases a share has seen `t` others sign the list
  of survivors that it signed itself: `t + 1 - c` honest clients at least. Of two lists both
  would need so many, and there are `k + 1 - c`: `2t >= k + c` leaves room for one.
- **No two lists, in a regular one.** Neighbours may see other lists than strangers. Of one
  client seed and mask key are both opened only if its `k - c` honest neighbours, who release
  one share each, make up `t - c` shares of either: `2t <= k + c`. So `2t > k + c`.
- **No cut.** Honest survivors who hang together are opened together. The graph stays
  connected when fewer than `k` clients are taken out of it, so corrupt and missing ones
  together must be fewer (`most_missing`).
- **No small part.** Whose seed is opened has `t - c` honest neighbours who say so, and masks
  with `t - c` honest ones; the `2t - k - c` who are both stay with it in any sum. A server that
  shows parts of a regular graph other lists, or keeps shares back, opens none of fewer than
  `1 + 2t - k`, corrupt ones included. Where a sum must hold more the graph is complete: there
  its one list is opened as a whole.

Sources: Bonawitz et al., CCS 2017 (threshold against a malicious server); Malkhi and Reiter,
"Byzantine quorum systems", Distributed Computing 11, 1998 (two quorums meet in an honest one);
Bell et al., "Secure single-server aggregation with (poly)logarithmic overhead", CCS 2020,
section 3 (k-regular graph); Harary, PNAS 48, 1962 (its connectivity).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb, floor

from fedlearn.core.errors import ConfigError, counted
from fedlearn.crypto.codec import name_bytes, sorted_names
from fedlearn.crypto.shamir import MAX_SHARES
from fedlearn.secagg.settings import SecAggMasked

COMPLETE_UP_TO = 64
LIVENESS_FAILURE = Fraction(1, 2**20)
MOST_DROPPED = Fraction(1, 5)
"""Of a cohort, where neighbours cost bytes and nobody has said how many may drop out."""


@dataclass(frozen=True, kw_only=True)
class Degree:
    """Every client shares its secrets among `neighbours` others; `threshold` of them reopen one.

    `corrupt` clients may work with the server, wherever they stand, and `dropped` may fall
    silent in a round that still finishes.
    """

    neighbours: int
    threshold: int
    corrupt: int
    dropped: int

    @property
    def smallest_part(self) -> int:
        """The fewest clients, corrupt ones included, in a sum of a part of a regular graph."""
        return 1 + 2 * self.threshold - self.neighbours


def degree_of(masks: SecAggMasked, cohort: int) -> Degree:
    """Neighbours and threshold of a round of `cohort` clients, and what they withstand.

    Both ends, plans and reports ask here, so that none of them can state another number.

    Raises:
        ConfigError: the cohort is too small, or no safe pair exists.
    """
    if cohort < 3:
        raise ConfigError(
            [
                f"secagg: a cohort of {cohort} reveals single updates; at least 3 are needed; "
                "invite more sites"
            ]
        )
    corrupt = max(part_of(masks.corrupt_fraction, cohort), masks.corrupt_sites)
    fraction = masks.dropout_fraction
    dropped = None if fraction is None else part_of(fraction, cohort)
    found = choose_degree(cohort, corrupt, dropped, masks.min_cohort)
    if found is None:
        raise ConfigError([_impossible(cohort, corrupt, dropped)])
    return found


def withstood(masks: SecAggMasked, cohort: int) -> int:
    """How many of a cohort may work with the server; none where no round of it is summed."""
    try:
        return degree_of(masks, cohort).corrupt
    except ConfigError:
        return 0


def part_of(fraction: float, total: int) -> int:
    """A fraction of a cohort in clients: of the decimal that was written, cut off."""
    # Its binary neighbour may be less: 0.29 of 100 is 29.
    return floor(Fraction(str(fraction)) * total)


@lru_cache(maxsize=256)
def choose_degree(
    num_clients: int,
    corrupt: int,
    dropped: int | None,
    least: int = 3,
    complete_up_to: int = COMPLETE_UP_TO,
) -> Degree | None:
    """The smallest safe number of neighbours, with the smallest safe threshold for it.

    `dropped` None: as many as `corrupt` leaves room for; in a regular graph, where every one
    costs neighbours, a fifth at most. None if there is no safe pair.

    Guarantees, for at most `corrupt` of at least three clients, wherever they stand:
        no two survivor lists can both be answered for any client; corrupt clients alone stay
        below the threshold; no sum of fewer than `least` clients, corrupt ones included, can
        be opened; an honest round with `dropped` silent clients finishes (in a regular graph
        but for 2^-20).
    """
    if num_clients > complete_up_to:
        regular = _regular(num_clients, corrupt, dropped, least)
        if regular is not None:
            return regular
    return _complete(num_clients, corrupt, dropped or 0, least)


def _complete(total: int, corrupt: int, dropped: int, least: int) -> Degree | None:
    """Worst-case counts: a survivor's share holders are the other survivors."""
    neighbours = total - 1
    threshold = max((neighbours + corrupt + 1) // 2, corrupt + 1, 2)
    room = neighbours - threshold
    if room < dropped or neighbours > MAX_SHARES:
        return None
    return Degree(
        neighbours=neighbours,
        threshold=threshold,
        # A threshold is a whole number, and may withstand one more than was asked for.
        corrupt=min(2 * threshold - neighbours, threshold - 1),
        dropped=max(0, min(room, total - least)),
    )


def _regular(total: int, corrupt: int, dropped: int | None, least: int) -> Degree | None:
    """On the regular graph with the fewest neighbours that are safe and let a round finish."""
    if dropped is not None:
        return _regular_for(total, corrupt, dropped, least)
    most = floor(MOST_DROPPED * total)
    # Fewer dropped are never harder: the first of the counts, from the largest down, that fits.
    at = bisect_left(
        range(most + 1),
        True,
        key=lambda fewer: _regular_for(total, corrupt, most - fewer, least) is not None,
    )
    return _regular_for(total, corrupt, most - at, least) if at <= most else None


@lru_cache(maxsize=256)
def _regular_for(total: int, corrupt: int, dropped: int, least: int) -> Degree | None:
    for neighbours in range(2, min(total - 1, MAX_SHARES + 1), 2):
        threshold = (neighbours + corrupt) // 2 + 1
        found = Degree(neighbours=neighbours, threshold=threshold, corrupt=corrupt, dropped=dropped)
        fits = corrupt + dropped < neighbours and 2 <= threshold <= neighbours
        whole = least <= found.smallest_part
        if fits and whole and _finishes(total, neighbours, threshold, dropped):
            return found
    return None


def _finishes(total: int, neighbours: int, threshold: int, dropped: int) -> bool:
    """Whether enough neighbours of everybody stay, but for `LIVENESS_FAILURE`."""
    alive = total - 1 - dropped
    # Exactly: how many neighbours of one client are alive is hypergeometric.
    too_few = sum(
        comb(alive, count) * comb(dropped, neighbours - count) for count in range(threshold)
    )
    return total * too_few <= LIVENESS_FAILURE * comb(total - 1, neighbours)


def _impossible(cohort: int, corrupt: int, dropped: int | None) -> str:
    """Why there is no safe pair, with the ways out."""
    against = (
        f"secagg: no masks of {counted(cohort, 'site')} withstand {corrupt} that work with "
        "the coordinator "
        "(the largest of secagg.corrupt_fraction, secagg.corrupt_sites and privacy.max_colluders)"
    )
    limit = f", with at most {MAX_SHARES} neighbours each" if cohort > MAX_SHARES else ""
    fewer = (
        ", or strategy.fraction so that a round has fewer sites"
        if cohort > MAX_SHARES
        else ", or invite more sites"
    )
    if not dropped:
        return f"{against}{limit}: too few are left to hide among. Lower that{fewer}"
    return (
        f"{against} and finish without {dropped} that fall silent{limit}. Lower that, or "
        f"secagg.dropout_fraction (null: as many as there is room for){fewer}"
    )


def most_missing(listed: int, degree: Degree) -> int:
    """How many of `listed` clients may be left out of a sum without the rest falling apart.

    In a complete graph that is any number; else one less than would cut it, with the
    corrupt ones of the whole cohort all in the right places.
    """
    if degree.neighbours >= listed - 1:
        return listed
    return degree.neighbours - 1 - degree.corrupt


def neighbours_of(names: Sequence[str], degree: int, seed: bytes) -> dict[str, tuple[str, ...]]:
    """The graph: every name with its neighbours in canonical order.

    Complete when `degree` reaches everybody, else a Harary graph (each client
    with the `degree / 2` next on both sides) over the permutation that sorts
    SHA-256(seed, name).
    """
    ordered = sorted_names(names)
    total = len(ordered)
    if degree >= total - 1:
        return {name: tuple(other for other in ordered if other != name) for name in ordered}
    ring = sorted(ordered, key=lambda name: hashlib.sha256(seed + name_bytes(name)).digest())
    reach = [step for step in range(-(degree // 2), degree // 2 + 1) if step]
    return {
        name: sorted_names(ring[(place + step) % total] for step in reach)
        for place, name in enumerate(ring)
    }
