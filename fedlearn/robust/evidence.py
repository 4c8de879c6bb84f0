"""Who pulls against the others, from sums over changing groups alone.

Every sum is taken as that of what its sites give, and noise. From enough sums what each site
gives can be told, in the mean over rounds, by least squares; of it one number is used, the inner
product of what a site gives with what all others give together. It is below zero for a site that
undoes what the others do. Noise in sums makes it uncertain and shifts it; by how much is estimated
from what the least squares leave unexplained: noise of privacy, of batches, and what
changes from round to round.

A liar that looks at who is in its sum can put the blame on one of them. So nobody is named who is
not found by sums without any one liar, or any few (`surely`): whoever they are, in what is left
nobody but honest sites could speak against an honest one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_PER_SITE: Final = 2.0
"""So many sums for each site, at least: of fewer too little is left to estimate noise from, and
what changes from round to round is taken for what a site gives."""
_DOUBT: Final = 2.0
"""Deviations from zero from which others agree."""
_FAR: Final = 2.25
"""Of the square of what an honest site gives at most: what is left unexplained may add to it."""
_SURE: Final = 6.0
"""Deviations by which it is more."""
_ROUNDS: Final = 4
_CHOICES: Final = 2000
"""Of who may have framed somebody: so many are gone through, at most."""


@dataclass(frozen=True)
class Finding:
    """What the sums of a round show of a site, in words."""

    site: str
    reason: str


def window(sites: int) -> int:
    """How many of the latest sums are looked at by themselves: a liar may begin late."""
    return math.ceil(_PER_SITE * sites)


def recurring(findings: Sequence[Finding | None]) -> Finding | None:
    """What was found in three of the last four rounds, and nothing else in the fourth.

    While a site changes what it does, sums before and after differ by more than their sites, and
    another may seem to be the cause.
    """
    latest = [one for one in findings[-_ROUNDS:] if one is not None]
    same = len({one.site for one in latest}) == 1 and len(latest) >= _ROUNDS - 1
    return latest[-1] if same else None


@dataclass(frozen=True, eq=False)
class Evidence:
    """Opened sums: `members` says which of the sites are in which, `bool[r, n]`.

    `products` holds the inner products of the sums, each divided by its number of sites,
    `float64[r, r]`; `dimension` is their length.
    """

    members: NDArray[np.bool_]
    products: Matrix
    dimension: int

    @cached_property
    def _roots(self) -> Matrix:
        """Of the numbers of sites: a mean times it has the noise of one site."""
        return np.asarray(np.sqrt(self.members.sum(axis=1)))

    @cached_property
    def _design(self) -> Matrix:
        return self.members / self._roots[:, None]

    @cached_property
    def _gram(self) -> Matrix:
        return self.products * np.outer(self._roots, self._roots)

    @cached_property
    def _inverse(self) -> Matrix:
        return np.asarray(np.linalg.pinv(self._design), np.float64)

    @property
    def enough(self) -> bool:
        """Whether what each site gives can be told, and how uncertain it is."""
        sums, sites = self.members.shape
        full = int(np.linalg.matrix_rank(self._design)) == sites
        return bool(full and sums >= _PER_SITE * sites)

    @cached_property
    def _noise(self) -> tuple[float, float]:
        """Traces of the covariance of the noise of one site, and of its square.

        By the moments of a Wishart matrix; the second is no less than that of white noise.
        """
        sums, sites = self.members.shape
        left = np.eye(sums) - self._design @ self._inverse
        residual, free = left @ self._gram @ left, sums - sites
        trace = max(float(np.trace(residual)), 0.0)
        squares = float((residual**2).sum())
        square = (squares - trace**2 / free) / ((free + 2) * (free - 1))
        return trace / free, max(square, (trace / free) ** 2 / self.dimension)

    def pull(self, site: int, among: Sequence[int]) -> tuple[float, float]:
        """How far what a site gives goes with what the others `among` give: the inner product,
        and the same in standard deviations."""
        mine = self._inverse[site]
        others = self._inverse[[one for one in among if one != site]].sum(axis=0)
        weights = (np.outer(mine, others) + np.outer(others, mine)) / 2
        found = float((weights * self._gram).sum()) - self._noise[0] * float(np.trace(weights))
        return found, self._deviations(weights)

    def _deviations(self, weights: Matrix) -> float:
        """A quadratic form of the sums, without what noise adds to it, over its deviation."""
        trace, square = self._noise
        found = float((weights * self._gram).sum()) - trace * float(np.trace(weights))
        size = float((weights**2).sum())
        length = float((weights @ self._gram * weights).sum()) - trace * size
        along = square / trace if trace else 0.0
        variance = 4 * along * max(length, 0.0) + 2 * square * size
        return _over(found, math.sqrt(max(variance, 0.0)))

    def agreement(self, among: Sequence[int]) -> float:
        """How far what some sites give goes the same way, in standard deviations."""
        each = self._inverse[list(among)]
        together = each.sum(axis=0)
        return self._deviations(np.outer(together, together) - each.T @ each)

    def apart(self, some: Collection[int]) -> Evidence:
        """The sums that none of `some` is in, of the other sites."""
        rows = ~self.members[:, sorted(some)].any(axis=1)
        columns = [one for one in range(self.members.shape[1]) if one not in some]
        members = self.members[rows][:, columns]
        return Evidence(members, self.products[np.ix_(rows, rows)], self.dimension)

    def latest(self, sums: int) -> Evidence:
        """So many of the last."""
        last = slice(max(0, len(self.members) - sums), None)
        return Evidence(self.members[last], self.products[last, last], self.dimension)

    def against(self, false_alarm: float, looks: int, most: int = 1) -> list[int]:
        """The sites that pull against the others, furthest first; none where it cannot be told.

        They pull against all others by more than a chance of `false_alarm` explains, over all
        sites and as many `looks`; and without the one, or without up to `most` such sites, the
        others go the same way.

        Args:
            false_alarm: over all looks and sites, for sites that do not pull against the others.
            looks: how often this is asked in a run, at most.
            most: how many may do so.
        """
        if not self.enough:
            return []
        everybody = range(self.members.shape[1])
        limit = -NormalDist().inv_cdf(false_alarm / (len(everybody) * looks))
        found = {site: self.pull(site, everybody) for site in everybody}
        beyond = [site for site in everybody if found[site][1] < -limit]
        beyond.sort(key=lambda site: found[site][0])
        alone = [site for site in beyond if self._agree_without([site])]
        if alone:
            return alone
        several = (beyond[:count] for count in range(2, min(most, len(beyond)) + 1))
        return next((some for some in several if self._agree_without(some)), [])

    def _agree_without(self, some: Sequence[int]) -> bool:
        rest = [one for one in range(self.members.shape[1]) if one not in some]
        return self.agreement(rest) > _DOUBT

    def beyond(self, reach: float, most: int = 1) -> list[int]:
        """The sites that give more than honest sites can, if no more than `most` do; most first.

        What one gives is longer than honest sites' in the mean of squares over its sums, more than
        `_FAR` times the square of `reach`, and by more than what is unexplained in the sums without
        it; nobody else gives half as much, but for others of whom this is so.
        """
        if not self.enough:
            return []
        found = {site: self._length(site) for site in range(self.members.shape[1])}
        limit = _FAR * reach**2
        far = [one for one, (square, error) in found.items() if square - _SURE * error > limit]
        if not 0 < len(far) <= most:
            return []
        least = min(found[one][0] for one in far)
        others = max((found[one][0] for one in found if one not in far), default=0.0)
        return sorted(far, key=lambda one: -found[one][0]) if others < least / 2 else []

    def _length(self, site: int) -> tuple[float, float]:
        """Mean square of what a site gives, and its error; zero where it cannot be told."""
        there, sums = self.members[:, site], len(self.members)
        left = np.eye(sums) - self._design @ self._inverse
        # What a sum holds besides what the other sites give in the mean.
        without = left + np.outer(self._design[:, site], self._inverse[site])
        mine = without[there] * self._roots[there][:, None]
        others = left[~there] * self._roots[~there][:, None]
        scale = float((others**2).sum())
        if scale < 1:
            return 0.0, 0.0
        mean = mine.T @ mine / len(mine)
        # Noise adds to both alike, whatever it is.
        unexplained = others.T @ others / scale
        weights = mean - float(np.trace(mean)) * unexplained
        noise = float((unexplained * self._gram).sum())
        error = noise * math.sqrt(2 * float((weights**2).sum()) / self.dimension)
        return float((weights * self._gram).sum()), error


def surely(evidence: Evidence, find: Callable[[Evidence], Sequence[int]], liars: int) -> int | None:
    """The first site that is found whichever `liars` others are set aside with all their sums.

    If no more than so many lie, one of the choices holds all of them: an honest site is named
    only if it is found in sums over honest sites alone, whatever the liars have sent to whom.
    """
    sites = range(evidence.members.shape[1])
    for site in find(evidence):
        others = (one for one in sites if one != site)
        if all(_found(evidence, find, site, some) for some in combinations(others, liars)):
            return site
    return None


def _found(
    evidence: Evidence,
    find: Callable[[Evidence], Sequence[int]],
    site: int,
    some: tuple[int, ...],
) -> bool:
    return site - sum(one < site for one in some) in find(evidence.apart(some))


def set_aside(sites: int, most: int) -> int:
    """How many liars that frame others are reckoned with, of `most` that a run of `sites` may have:
    as many as leave no more choices than can be gone through."""
    return max(one for one in range(most + 1) if one < 2 or comb(sites - 1, one) <= _CHOICES)


def _over(value: float, deviation: float) -> float:
    if deviation > 0:
        return value / deviation
    return math.copysign(math.inf, value) if value else 0.0
