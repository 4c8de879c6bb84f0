"""Integer noise by table: the discrete Gaussian and the Skellam distribution.

A table holds the distribution function of |X| in 127 bits. A draw compares 63
random bits with the upper halves; only in the rare tie (a chance of table
length times 2^-63) does it draw 64 bits more and look at the lower halves. So a draw costs
one 64-bit word, and its distance from the exact law is nevertheless below
2^-100: `IntegerNoise.error` says how far, and the accountant adds it.

Tables are computed in integer arithmetic, so that all machines have the same.
Tests compare them with a slow sampler that has no tables.

Sources: Canonne, Kamath, Steinke 2020, "The Discrete Gaussian for Differential
Privacy"; Agarwal, Kairouz, Liu 2021, "The Skellam Mechanism"; backward
recurrence of Bessel functions: Miller, in Abramowitz and Stegun, section 9.12.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from fedlearn.privacy.noise import WORDS, Keystream

Law = Literal["discrete_gaussian", "skellam"]

SMALLEST_STDDEV: Final = 4
"""Below this a sum of discrete Gaussians is not close enough to one discrete Gaussian."""

LARGEST_STDDEV: Final = 1 << 16
"""A table for more would outgrow the caches, and a finer grid gains nothing."""

_TAIL: Final = 2.0**-120  # the chance of what lies beyond a table
_LOG_TAIL: Final = -math.log(_TAIL)
_BITS: Final = 127
_FIXED: Final = 256  # fractional bits of the fixed-point numbers that tables are made with
_GUIDE_BITS: Final = 17
_LOW = (1 << 64) - 1


@dataclass(frozen=True, eq=False)
class IntegerNoise:
    """A symmetric law on the integers, ready to draw from; made by `integer_noise`."""

    stddev: int
    upper: NDArray[np.uint64]
    lower: NDArray[np.uint64]
    guide: NDArray[np.int32]
    """For every value of the first bits of a draw, the first entry that it may fall into."""

    @property
    def error(self) -> float:
        """Upper bound on the total variation distance between one draw and the exact law."""
        return math.ldexp(len(self.upper) + 1, 1 - _BITS) + _TAIL

    def draw(self, size: int, stream: Keystream) -> NDArray[np.int64]:
        """`int64[size]` independent draws.

        Guarantees: the same keystream gives the same draws on every machine; no
        draw is larger than the table, about 13 standard deviations.

        Raises ValueError for a negative size.
        """
        if size < 0:
            raise ValueError(f"size={size}: must be >= 0")
        out = np.empty(size, np.int64)
        for start in range(0, size, WORDS):
            block = out[start : start + WORDS]
            self._fill(block, stream)
        return out

    def _fill(self, out: NDArray[np.int64], stream: Keystream) -> None:
        words = stream.words(len(out))
        negative = (words & np.uint64(1)).astype(np.int64)
        level = words >> np.uint64(1)
        magnitude = self._look_up(level)
        for i in np.flatnonzero(self.upper[magnitude - 1] == level):
            # A tie: `level` and 64 more bits against the whole thresholds.
            magnitude[i] = self._resolve(level[i], stream.words(1)[0])
        # Two's complement: x -> -x where the coin says so. Zero has one sign.
        np.subtract(magnitude ^ -negative, -negative, out=out)

    def _look_up(self, level: NDArray[np.uint64]) -> NDArray[np.int64]:
        """How many upper halves are <= `level`: the whole of `searchsorted`, and faster."""
        found = self.guide[level >> np.uint64(63 - _GUIDE_BITS)].astype(np.int64)
        found += self.upper[found] <= level
        # In the tails one cell of the guide covers many entries.
        late = np.flatnonzero(self.upper[found] <= level)
        found[late] = np.searchsorted(self.upper, level[late], side="right")
        return np.asarray(found)

    def _resolve(self, level: np.uint64, more: np.uint64) -> int:
        first, last = (
            np.searchsorted(self.upper, level),
            np.searchsorted(self.upper, level, "right"),
        )
        return int(first + np.searchsorted(self.lower[first:last], more, side="right"))


def draw_error(stddev: int) -> float:
    """Upper bound on `IntegerNoise.error` for both laws, without making the table."""
    return math.ldexp(14 * stddev + 64, 1 - _BITS) + _TAIL


@lru_cache(maxsize=8)
def integer_noise(law: Law, stddev: int) -> IntegerNoise:
    """The law with mean zero and variance `stddev`^2, with its table; takes up to a second.

    For the discrete Gaussian `stddev` is the parameter of the law; its true
    standard deviation is never above it and, from 4 on, equal to it in float64.
    The Skellam law is that of the difference of two Poisson variables of mean
    `stddev`^2 / 2.

    Raises ValueError for a stddev outside [4, 65536].
    """
    if not SMALLEST_STDDEV <= stddev <= LARGEST_STDDEV:
        raise ValueError(f"stddev={stddev}: must be in [{SMALLEST_STDDEV}, {LARGEST_STDDEV}]")
    match law:
        case "discrete_gaussian":
            weights = list(_gaussian_weights(stddev))
        case "skellam":
            weights = _skellam_weights(stddev)
        case _:
            assert_never(law)
    return _with_guide(stddev, *_thresholds(weights))


def _gaussian_weights(stddev: int) -> Iterator[int]:
    """exp(-k^2 / (2 stddev^2)) for k = 0, 1, ... in fixed point, by two multiplications each."""
    # Neighbours differ by the factor exp(-(2k+1) / (2 stddev^2)), which itself shrinks by `step`.
    ratio, step = _exp_minus(1, 2 * stddev**2), _exp_minus(1, stddev**2)
    weight = 1 << _FIXED
    for _ in range(math.ceil(math.sqrt(2 * _LOG_TAIL) * stddev) + 1):
        yield weight
        weight = weight * ratio >> _FIXED
        ratio = ratio * step >> _FIXED


def _exp_minus(numerator: int, denominator: int) -> int:
    """exp(-numerator/denominator) in fixed point, for a fraction in [0, 1], by Taylor."""
    total = term = 1 << _FIXED
    for n in range(1, _FIXED):
        term = -term * numerator // (denominator * n)
        total += term
    return total


def _skellam_weights(stddev: int) -> list[int]:
    """exp(-mu) I_k(mu) for k = 0, 1, ... up to a common factor, mu = stddev^2.

    I_{k-1} = I_{k+1} + (2k/mu) I_k, started well above the end of the table
    with arbitrary values, which the recurrence forgets on the way down.
    """
    mu = stddev**2
    end = _skellam_end(mu)
    above, here = 0, 1 << _FIXED
    weights = []
    for k in range(end + 4 * stddev + 64, 0, -1):
        above, here = here, above + 2 * k * here // mu
        if k <= end + 1:
            weights.append(here)
    return weights[::-1]


def _skellam_end(mu: int) -> int:
    """The first k with P(|X| > k) < 2^-120, by the Chernoff bound."""
    low, high = 0, 16 * mu + 1024
    while low < high:
        k = (low + high) // 2
        exponent = math.hypot(k, mu) - mu - k * math.asinh(k / mu)
        low, high = (low, k) if exponent < -_LOG_TAIL - math.log(2) else (k + 1, high)
    return low


def _thresholds(weights: list[int]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """P(|X| <= k) * 2^127 for all k but the last, as upper and lower 64-bit halves."""
    total = 2 * sum(weights) - weights[0]
    below, halves = 0, bytearray()
    for k, weight in enumerate(weights[:-1]):
        below += weight if k == 0 else 2 * weight
        halves += ((below << _BITS) // total).to_bytes(16, "little")
    lower, upper = np.frombuffer(halves, "<u8").reshape(-1, 2).T.astype(np.uint64)
    return upper, lower


def _with_guide(stddev: int, upper: NDArray[np.uint64], lower: NDArray[np.uint64]) -> IntegerNoise:
    # The entry after the last is never passed: every draw is below it.
    upper = np.append(upper, np.uint64(_LOW))
    cells = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(63 - _GUIDE_BITS)
    guide = np.searchsorted(upper, cells, side="right").astype(np.int32)
    return IntegerNoise(stddev, upper, np.append(lower, np.uint64(_LOW)), guide)
