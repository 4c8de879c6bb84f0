"""Which sites are summed together in a round: groups that follow from common randomness.

They are drawn over all sites of the start, in every round, whoever is left out or silent since.
Nothing that is said in a run brings a site into another group: who is missing is missing, and a
group with too few left sits the round out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from math import comb

from fedlearn.crypto.codec import name_bytes, sorted_names
from fedlearn.crypto.kdf import key_info

Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Sizes:
    """How many sites a group has, of `sites` in groups of at least `size`."""

    sites: int
    size: int

    @property
    def most_left_out(self) -> int:
        """So many sites may be left out of a run for what a rule has found.

        A quarter of them, and no more than leave one group whole in every round.
        """
        spare = self.sites - self.groups * self.size
        return max(0, min(self.sites // 4, spare + self.groups - 1))

    @property
    def groups(self) -> int:
        """In a round with all sites; none where they are fewer than one group takes."""
        return self.sites // self.size

    @property
    def largest(self) -> int:
        """Sites of the largest group."""
        return -(-self.sites // self.groups) if self.groups else 0

    @property
    def smallest(self) -> int:
        """Sites of the smallest group, whoever is left out."""
        if not self.groups:
            return 0
        return max(self.size, self.sites // self.groups - self.most_left_out)


@dataclass(frozen=True)
class Draw:
    """The groups of every round, from `seed`, for all `names` of the run's roster.

    Guarantees: no site is in two groups of a round; two sites are in one group only if the seed
    alone has brought them together in that round, whoever is left out; every group keeps within
    `Sizes.smallest` and `Sizes.largest`, and there is one while no more are left out than may be.
    """

    seed: bytes
    names: tuple[str, ...]
    size: int

    @property
    def several(self) -> bool:
        """Whether a round has more than one."""
        return len(self.names) >= 2 * self.size

    def groups(self, number: int, without: Collection[str] = ()) -> Groups:
        """Those of round `number` that have `size` sites besides those `without`."""
        left = (tuple(x for x in one if x not in without) for one in self._drawn(number))
        return tuple(one for one in left if len(one) >= self.size)

    def group_of(self, name: str, number: int) -> tuple[str, ...]:
        """That of one site, as drawn; empty for a name that is not in the run."""
        return next((one for one in self._drawn(number) if name in one), ())

    def _drawn(self, number: int) -> Groups:
        count = len(self.names) // self.size
        ring = sorted(self.names, key=lambda name: self._place(name, number))
        return tuple(sorted_names(ring[at::count]) for at in range(count))

    def _place(self, name: str, number: int) -> bytes:
        fields = (self.seed, b"round", number.to_bytes(8, "big"), name_bytes(name))
        return hashlib.sha256(key_info("robust/groups", *fields)).digest()


def exposure(sizes: Sizes, colluders: int, withstood: int, rounds: int) -> float:
    """Bound on the chance that in some round more than `withstood` colluders share a group.

    The chance of one group, hypergeometric, times all groups of all rounds.
    """
    if sizes.groups == 0:
        return 0.0
    total, group = sizes.sites, sizes.largest
    worst = min(colluders, group)
    ways = sum(
        comb(colluders, count) * comb(total - colluders, group - count)
        for count in range(withstood + 1, worst + 1)
        if group - count <= total - colluders
    )
    return min(1.0, rounds * sizes.groups * ways / comb(total, group))
