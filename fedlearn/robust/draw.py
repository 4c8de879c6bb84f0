"""Which sites are summed together in a round: groups that follow from common randomness.

With room for two groups every site is in one; with less, one group takes all sites but one, a
different one in each round, so that over rounds it can be told whose absence made a difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
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
        """So many sites may be left out of a run for what a rule has found: a quarter of them."""
        return max(0, min(self.sites // 4, self.sites - self.size))

    @property
    def groups(self) -> int:
        """In a round with all sites; none where they are fewer than one group takes."""
        return self.sites // self.size

    @property
    def largest(self) -> int:
        """Sites of the largest group, whoever is left out."""
        return max(map(self._largest_of, self._there), default=0)

    @property
    def smallest(self) -> int:
        """Sites of the smallest group, whoever is left out."""
        return min(map(self._smallest_of, self._there), default=0)

    @property
    def _there(self) -> range:
        return range(max(self.size, self.sites - self.most_left_out), self.sites + 1)

    def _largest_of(self, there: int) -> int:
        return _all_but_one(there, self.size) or -(-there // (there // self.size))

    def _smallest_of(self, there: int) -> int:
        return _all_but_one(there, self.size) or there // (there // self.size)


def _all_but_one(there: int, size: int) -> int:
    """The size of the one group of a round that goes without one site; 0 where there is none."""
    return there - 1 if size < there < 2 * size else 0


@dataclass(frozen=True)
class Draw:
    """The groups of every round, from `seed`, for all `names` of the run's roster.

    Guarantees: no site is in two groups of a round; groups of a round differ by one site, and
    keep within `Sizes.smallest` and `Sizes.largest` while no more are left out than may be;
    whoever is not left out is in one, but for the one that a single group goes without.
    """

    seed: bytes
    names: tuple[str, ...]
    size: int

    def groups(self, number: int, without: Collection[str] = ()) -> Groups:
        """Those of round `number`, where the sites `without` are left out of the run."""
        there = [name for name in sorted_names(self.names) if name not in without]
        if _all_but_one(len(there), self.size):
            return (self._without_one(there, number),)
        count = len(there) // self.size
        ring = self._shuffled(there, b"round", number)
        return tuple(sorted_names(ring[at::count]) for at in range(count))

    def group_of(self, name: str, number: int, without: Collection[str] = ()) -> tuple[str, ...]:
        """That of one site; empty where it sits the round out."""
        return next((one for one in self.groups(number, without) if name in one), ())

    def _without_one(self, there: list[str], number: int) -> tuple[str, ...]:
        """Everybody is left out once in as many rounds as there are sites, in a new order."""
        cycle, place = divmod(number - 1, len(there))
        left = self._shuffled(there, b"cycle", cycle)[place]
        return tuple(name for name in there if name != left)

    def _shuffled(self, names: Iterable[str], what: bytes, number: int) -> list[str]:
        def place(name: str) -> bytes:
            fields = (self.seed, what, number.to_bytes(8, "big"), name_bytes(name))
            return hashlib.sha256(key_info("robust/groups", *fields)).digest()

        return sorted(names, key=place)


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
