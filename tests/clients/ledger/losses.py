"""An accountant of its own: what releases really cost, from below, by arithmetic on distributions.

It shares nothing with `fedlearn.privacy`: no event, no library of privacy losses, no Renyi
divergence. Of every mechanism it takes one pair of neighbours that the mechanism allows, cuts the
outputs into cells (which can only lose what tells the two apart), rounds every privacy loss down,
and adds losses up by a Fourier transform. So epsilon here is at most the true one, and close to it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ive, ndtr

Floats = NDArray[np.float64]

_STEP: Final = 2e-4
"""Of the grid of losses."""
_BINS: Final = 1 << 18
"""Losses from -26 to 26: a sum that leaves these would come in at the other end."""
_REACH: Final = 12.0
"""Standard deviations of noise that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One noisy sum: `stddev` is that of all noise on a coordinate whose shape is `law`, `moves`
    how far one record moves single coordinates, `rate` the chance with which it takes part."""

    law: str
    stddev: float
    moves: tuple[float, ...]
    rate: float = 1.0


def true_epsilon(releases: Iterable[Release], delta: float) -> float:
    """At most the epsilon of all releases together, for adding or removing one record."""
    counts = Counter(releases)
    return max(_one_way(counts, delta, added) for added in (False, True))


def _one_way(counts: Counter[Release], delta: float, added: bool) -> float:
    if not counts:
        return 0.0
    total = np.ones(_BINS // 2 + 1, np.complex128)
    for release, times in counts.items():
        total *= _transformed(release, added) ** times
    mass = np.fft.irfft(total, _BINS)
    losses = np.fft.fftfreq(_BINS, 1 / _BINS) * _STEP
    order = np.argsort(losses)
    losses, mass = losses[order], np.maximum(mass[order], 0.0)
    mass[mass < 1e-15] = 0.0  # what a transform leaves where there is nothing
    low, high = 0.0, float(losses[-1])
    if _delta(losses, mass, low) <= delta:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(losses, mass, middle) > delta else (low, middle)
    return low


def _delta(losses: Floats, mass: Floats, epsilon: float) -> float:
    above = losses > epsilon
    return float(np.sum(-np.expm1(epsilon - losses[above]) * mass[above]))


@lru_cache(maxsize=64)
def _transformed(release: Release, added: bool) -> Any:
    found = np.ones(_BINS // 2 + 1, np.complex128)
    for move in release.moves:
        found = found * np.fft.rfft(_losses(release, move, added))
    return found


def _losses(release: Release, move: float, added: bool) -> Floats:
    """The distribution of the loss of one coordinate, on the grid, without what was cut off."""
    with_it, without = _outputs(release, move)
    if release.rate < 1:
        with_it = release.rate * with_it + (1 - release.rate) * without
    here, there = (without, with_it) if added else (with_it, without)
    seen = (here > 1e-300) & (there > 1e-300)
    here, there = here[seen], there[seen]
    at = np.floor(np.log(here / there) / _STEP).astype(np.int64)
    near = abs(at) < _BINS // 2
    return np.bincount(at[near] % _BINS, here[near], minlength=_BINS)


def _outputs(release: Release, move: float) -> tuple[Floats, Floats]:
    """What cells hold with the record and without it."""
    reach = math.ceil(_REACH * release.stddev + move)
    if release.law == "gaussian":
        edges = np.linspace(-reach, reach, 40_001)
        cells = [np.diff(ndtr((edges - at) / release.stddev)) for at in (move, 0.0)]
        return cells[0], cells[1]
    numbers, moved = np.arange(-reach, reach + 1), math.floor(move)
    return _whole(release, numbers - moved), _whole(release, numbers)


def _whole(release: Release, at: NDArray[np.int64]) -> Floats:
    variance = release.stddev**2
    if release.law == "skellam":
        return np.asarray(ive(np.abs(at), variance), np.float64)
    weights = np.exp(-np.square(at.astype(np.float64)) / (2 * variance))
    return np.asarray(weights / (math.sqrt(2 * math.pi) * release.stddev), np.float64)
