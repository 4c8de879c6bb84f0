"""Who shares a mask with whom: number of neighbours, threshold, and the graph itself.

Up to 64 clients the graph is complete. Above, each client has `k` neighbours on a Harary
graph over a permutation that every client recomputes from a hash of the signed keys. Both
are safe for the worst case, not for the mean: wherever the corrupt clients stand, and
whatever the server says of who has dropped. The hash can be influenced by whoever
advertises last, and who tries many keys chooses his place on the ring; a bound that takes
the permutation as random would be worth little against him. Chance is left in one thing
alone, whether an honest round finishes (2^-20 that it does not).

Two things keep a client's vector hidden:

- **No two lists.** Of a client with `c` corrupt neighbours, seed and mask key are both
  opened by two survivor lists only if its `k - c` honest neighbours, who release one share
  each, make up `t - c` shares of either: `2t <= k + c`. So `2t > k + corrupt`.
- **No cut.** Honest survivors who hang together are opened together. The graph stays
  connected when fewer than `k` clients are taken out of it, so corrupt and missing ones
  together must be fewer (`most_missing`).

Sources: Bonawitz et al., CCS 2017 (threshold against a malicious server); Bell et al.,
"Secure single-server aggregation with (poly)logarithmic overhead", CCS 2020, section 3
(k-regular graph); Harary, PNAS 48, 1962 (its connectivity).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb, floor

from fedlearn.core.errors import ConfigError
from fedlearn.crypto.codec import name_bytes, sorted_names
from fedlearn.crypto.shamir import MAX_SHARES

COMPLETE_UP_TO = 64
LIVENESS_FAILURE = Fraction(1, 2**20)


@dataclass(frozen=True, kw_only=True)
class Degree:
    """Every client shares its secrets among `neighbours` others; `threshold` of them reopen one."""

    neighbours: int
    threshold: int


@lru_cache(maxsize=256)
def choose_degree(
    num_clients: int,
    corrupt_fraction: float,
    dropout_fraction: float,
    complete_up_to: int = COMPLETE_UP_TO,
) -> Degree:
    """The smallest safe number of neighbours, with the smallest safe threshold for it.

    Guarantees, for at most floor(corrupt_fraction * n) corrupt clients, wherever they stand:
        2 * threshold > neighbours + corrupt: no two survivor lists can both be answered
        for any client; corrupt clients alone stay below the threshold;
        neighbours > corrupt + dropped: honest survivors stay connected;
        an honest round with floor(dropout_fraction * n) dropped finishes, but for 2^-20.

    Raises:
        ConfigError: fewer than three clients, or no safe pair exists.
    """
    corrupt, dropped = _count(corrupt_fraction, num_clients), _count(dropout_fraction, num_clients)
    if num_clients < 3:
        raise ConfigError(
            [
                f"secagg: a cohort of {num_clients} reveals single updates; at least 3 are needed; "
                "invite more sites or set secagg=off"
            ]
        )
    if num_clients > complete_up_to:
        for neighbours in range(2, min(num_clients - 1, MAX_SHARES + 1), 2):
            threshold = _regular_threshold(num_clients, neighbours, corrupt, dropped)
            if threshold:
                return Degree(neighbours=neighbours, threshold=threshold)
    complete = _complete(num_clients, corrupt, dropped)
    if complete is None:
        raise ConfigError(
            [
                f"secagg: no safe threshold for {num_clients} clients with {corrupt} corrupt "
                f"(corrupt_fraction={corrupt_fraction}) and {dropped} dropped "
                f"(dropout_fraction={dropout_fraction}), and at most {MAX_SHARES} neighbours; "
                f"{_way_out(num_clients)}"
            ]
        )
    return complete


def _way_out(num_clients: int) -> str:
    if num_clients > MAX_SHARES:
        return "lower one of the two, or strategy.fraction so that a round has fewer sites"
    return "lower one of the two or invite more"


def _count(fraction: float, total: int) -> int:
    # The decimal that the user wrote, not its binary neighbour: 0.29 of 100 is 29.
    return floor(Fraction(str(fraction)) * total)


def _complete(total: int, corrupt: int, dropped: int) -> Degree | None:
    """Worst-case counts: a survivor's share holders are the other survivors."""
    neighbours = total - 1
    threshold = max((neighbours + corrupt) // 2 + 1, corrupt + 1, 2)
    if threshold > neighbours - dropped or neighbours > MAX_SHARES:
        return None
    return Degree(neighbours=neighbours, threshold=threshold)


def _regular_threshold(total: int, neighbours: int, corrupt: int, dropped: int) -> int | None:
    """The smallest threshold that is safe on a k-regular graph, if an honest round reaches it."""
    threshold = max((neighbours + corrupt) // 2 + 1, 2)
    if corrupt + dropped >= neighbours or threshold > neighbours:
        return None
    alive = total - 1 - dropped
    # Exactly: how many neighbours of one client are alive is hypergeometric.
    too_few = sum(
        comb(alive, count) * comb(dropped, neighbours - count) for count in range(threshold)
    )
    fails = total * too_few > LIVENESS_FAILURE * comb(total - 1, neighbours)
    return None if fails else threshold


def most_missing(listed: int, cohort: int, neighbours: int, corrupt_fraction: float) -> int:
    """How many of `listed` clients may be left out of a sum without the rest falling apart.

    In a complete graph that is any number; else one less than would cut it, with the
    corrupt ones of the whole cohort all in the right places.
    """
    if neighbours >= listed - 1:
        return listed
    return neighbours - 1 - _count(corrupt_fraction, cohort)


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
