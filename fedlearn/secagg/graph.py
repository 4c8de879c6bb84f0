"""Who shares a mask with whom: number of neighbours, threshold, and the graph itself.

Up to 64 clients the graph is complete and the guarantees are worst-case counts.
Above, each client has `k` neighbours on a Harary graph over a permutation that
every client recomputes from a hash of the signed keys, and the guarantees hold
but for a chance of 2^-40 (privacy) and 2^-20 (the round finishes).

The hash can be influenced by whoever advertises last: corrupt clients may try
keys to move themselves on the ring. The chances above take the permutation as
random.

Sources: Bonawitz et al., CCS 2017 (threshold against a malicious server); Bell
et al., "Secure single-server aggregation with (poly)logarithmic overhead", CCS
2020, section 3 (k-regular graph).
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
PRIVACY_FAILURE = Fraction(1, 2**40)
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

    Guarantees, for at most floor(fraction * n) corrupt and dropped clients:
        2 * threshold > neighbours + corrupt neighbours: no two survivor lists
        can both be answered; corrupt clients alone stay below the threshold;
        honest survivors stay connected; survivors can reopen every secret.

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
            threshold = _regular_threshold(
                num_clients, neighbours, corrupt, dropped, corrupt_fraction
            )
            if threshold:
                return Degree(neighbours=neighbours, threshold=threshold)
    complete = _complete(num_clients, corrupt, dropped)
    if complete is None:
        raise ConfigError(
            [
                f"secagg: no safe threshold for {num_clients} clients with {corrupt} corrupt "
                f"(corrupt_fraction={corrupt_fraction}) and {dropped} dropped "
                f"(dropout_fraction={dropout_fraction}); lower one of the two or invite more"
            ]
        )
    return complete


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


def _regular_threshold(
    total: int, neighbours: int, corrupt: int, dropped: int, corrupt_fraction: float
) -> int | None:
    """The smallest safe threshold on a k-regular graph, from exact hypergeometric tails."""
    draws = comb(total - 1, neighbours)
    gone = min(corrupt + dropped, total)
    # Two runs of k/2 vanished nodes cut the ring: union bound over pairs of gaps.
    cut = Fraction(comb(total, 2) * comb(gone, neighbours), comb(total, neighbours))
    if cut > PRIVACY_FAILURE:
        return None
    # Most corrupt neighbours to expect: the fraction, and Bell et al.'s tail below.
    expected = -floor(-Fraction(str(corrupt_fraction)) * neighbours)
    alive = total - 1 - dropped
    for threshold in range(max(2, (neighbours + expected) // 2 + 1), neighbours + 1):
        too_few = sum(
            comb(alive, count) * comb(dropped, neighbours - count) for count in range(threshold)
        )
        if total * too_few > LIVENESS_FAILURE * draws:
            return None  # only worse with a higher threshold
        exposed = sum(
            comb(corrupt, count) * comb(total - 1 - corrupt, neighbours - count)
            for count in range(threshold, min(corrupt, neighbours) + 1)
        )
        if total * exposed <= PRIVACY_FAILURE * draws:
            return threshold
    return None


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
