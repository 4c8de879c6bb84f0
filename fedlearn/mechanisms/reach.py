"""What honest sites can make of an update, and of a sum of them, noise included: mathematics alone.

An honest update is a part of which the norm has a bound, and noise of a known law. So a sum of
n of them is no longer than n times that bound and what the noise of n sites comes to, but for a
chance that is chosen: the noise grows with the root of n, and its norm with that of its length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

FALSE_ALARM: Final = 2.0**-40
"""Chance, per run, that anything that honest sites do is cut, wraps around or is refused."""

_OF_SUMS: Final = 3
"""A round's sum has a norm and a largest value, and a norm with all before it."""
_OF_SITES: Final = 2 * 4096
"""Every site's update has a norm and a largest value."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """An honest update: `signal` bounds the norm of what comes from records, always.

    `noise` is the standard deviation of a coordinate of the site's own noise, independent of
    all others and no heavier in its tails than a Gaussian. `clips` where the mechanism keeps a
    whole update within the bound itself, so that nothing needs to be cut after it; `adds_up`
    where coordinates of two rounds stand for the same, and their noises are independent.
    """

    signal: float
    noise: float = 0.0
    clips: bool = False
    adds_up: bool = False
    noised: bool = True
    """Whether a sum has its noise when it is opened, or promises nothing: else what is done about
    it must move no further than an update does, and to refuse is to tell."""
    per_value: bool = False
    """Whether `signal` bounds every value instead of the norm."""
    loose: float = 1.0
    """Where more moves an update than is known: by so much the bound of a site is wider, and a sum
    is held to as many times it, noise that does not add up included."""

    def norm(self, size: int) -> float:
        """Bound on the norm of `size` values of it that are not noise."""
        return self.loose * self.signal * (math.sqrt(size) if self.per_value else 1.0)


@dataclass(frozen=True, kw_only=True)
class SumBound:
    """What updates of `size` values come to, in `rounds` rounds.

    `step` is what rounding may add to a value of one update.

    Guarantees: in a run of up to 4096 honest sites all that the methods bound is within its
    bound, in all rounds together, but for a chance of `FALSE_ALARM`; without noise always.

    Source: Laurent and Massart 2000, "Adaptive estimation of a quadratic functional by model
    selection", lemma 1, for the norm of Gaussian noise; Hsu, Kakade and Zhang 2012, "A tail
    inequality for quadratic forms of subgaussian random vectors", for noise on whole numbers.
    """

    reach: Reach
    size: int
    rounds: int
    step: float = 0.0

    def _radius(self, events: int) -> float:
        """Norm of standard noise, in so many events a round, with half of the chance."""
        x = math.log(2 * events * self.rounds / FALSE_ALARM)
        return math.sqrt(self.size + 2 * math.sqrt(self.size * x) + 2 * x)

    def _deviation(self, events: int) -> float:
        """Largest value of standard noise, likewise."""
        return math.sqrt(2 * math.log(4 * self.size * events * self.rounds / FALSE_ALARM))

    @property
    def _signal(self) -> float:
        """Norm of what is not noise."""
        return self.reach.signal * (math.sqrt(self.size) if self.reach.per_value else 1.0)

    @property
    def site_norm(self) -> float:
        """Norm of one update, before it is rounded: what a site cuts its own to."""
        return self.reach.loose * (self._signal + self.reach.noise * self._radius(_OF_SITES))

    @property
    def site_value(self) -> float:
        """Largest value of one update, before it is rounded."""
        if self.reach.loose > 1:
            return self.site_norm
        return self.reach.signal + self.reach.noise * self._deviation(_OF_SITES)

    def sum_norm(self, weight: float) -> float:
        """Norm of a sum of updates whose weights add up to `weight`, each of at least 1."""
        rounding = weight * self.step * math.sqrt(self.size)
        if self.reach.loose > 1:
            return weight * self.site_norm + rounding
        return weight * self._signal + self._noise(weight) * self._radius(_OF_SUMS) + rounding

    def sum_value(self, weight: float) -> float:
        """Largest value of such a sum."""
        if self.reach.loose > 1:
            return weight * (self.site_norm + self.step)
        noise = self._noise(weight) * self._deviation(_OF_SUMS)
        return weight * (self.reach.signal + self.step) + noise

    def _noise(self, weight: float) -> float:
        # Where there is noise every site weighs 1, so that the weight is their number.
        return math.sqrt(weight) * self.reach.noise
