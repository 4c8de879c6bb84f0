"""A Gaussian rounded to whole numbers, exactly: floats find it, whole numbers decide.

A sum on a grid that gets such noise costs what the Gaussian mechanism costs, to the last digit
and under sampling: for a whole number n, n + round(X) = round(n + X), so what is released is
computed from n + X and nothing else. What floats leak by the gaps of their own grid (Mironov
2012, "On significance of the least significant bits") is not there to leak. A discrete Gaussian
would do as well, but every accountant would need to know how far it is from a Gaussian
(`integer_bounds`).

X is made by Box and Muller (1958) from two uniform numbers, of which a keystream has as many
digits as are asked for. The first 64 of each, in float64, give X to within `_ERROR` of its
deviation. Where that leaves open which whole number is next (thirty times in a million, at 2^24
steps to the deviation) the digits go on and the same is computed in whole numbers, until it is
decided. So the law is exact, and equal keystreams give equal numbers on every machine and device,
as long as a library's logarithm, root, sine and cosine are within 32 units of the last place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedlearn.privacy.noise import WORDS, Keystream, NoiseSource, box_muller, check_size

FINEST: Final = 36
"""Logarithm of the most steps to a deviation: beyond it floats would decide too little."""

_STEPS: Final = 24
"""Logarithm of the fewest."""

_SHARE: Final = 2.0**-12
"""Of the clip norm, given up to rounding at most, as long as the grid can be made finer."""

_ERROR: Final = 2.0**-41
"""Of a normal in float64, over its deviation. Numbers of the radius between `_LOW` and `_HIGH` and
functions within 32 units of the last place give 2^-43: the radius is at most 9.5, and its square is
off by 2^-44 where it is largest, by 2^-35 of 2^-18 where it is smallest."""

_LOW: Final = 1 << 44
_HIGH: Final = (1 << 64) - (1 << 46)

_AT_ONCE: Final = 1 << 20
"""Words that are on their way to a device at once: 8 MiB here, and some 50 MiB of the device."""

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Where a sum of clipped vectors is rounded to before it gets its noise.

    `step`: a power of two, so that dividing by it and multiplying rounds nothing. `stddev`: of the
    noise, in steps. `inner_norm`: what one vector may add before rounding, so that the rounded sum
    moves by at most the clip norm: every coordinate may move by one step more.
    """

    step: float
    stddev: float
    inner_norm: float

    def noisy(self, total: Tensor, noise: Tensor) -> Tensor:
        """`total`, rounded, with `noise` in steps: `float64`, of the shape of `total`.

        Whole numbers are added; where the sum has more digits than a float64 it is rounded, which
        is computed from the sum.
        """
        return (total.double() / self.step).round_().add_(noise.view_as(total)).mul_(self.step)


def grid_for(noise_multiplier: float, clip_norm: float, dimension: int) -> Grid:
    """The grid of a sum of `dimension` coordinates that gets so much noise.

    At least 2^24 steps to a deviation, and more where rounding would cost more than 2^-12 of the
    clip norm.

    Raises ValueError where the noise is so large that rounding would leave nothing.
    """
    stddev = noise_multiplier * clip_norm
    wanted = min(stddev * 2.0**-_STEPS, clip_norm * _SHARE / math.sqrt(dimension))
    # The power of two at or below it.
    step = max(_power_of_two(wanted), _power_of_two(stddev * 2.0**-FINEST))
    inner = clip_norm - math.sqrt(dimension) * step * (1 + 1e-9)
    if not (inner > 0 and step > 0 and math.isfinite(stddev)):
        raise ValueError(
            f"noise_multiplier={noise_multiplier}, clip_norm={clip_norm}: no grid holds such noise "
            f"in {dimension} coordinates"
        )
    return Grid(step=step, stddev=stddev / step, inner_norm=inner)


def _power_of_two(value: float) -> float:
    return math.ldexp(0.5, math.frexp(value)[1]) if value > 0 else 0.0


def rounded_normals(
    noise: NoiseSource, sizes: Sequence[int], stddev: float, device: torch.device
) -> list[Tensor]:
    """Draws of N(0, stddev^2), rounded: a vector `float64[size]` on `device` for each of `sizes`.

    Every one takes a stream of its own from `noise`.

    Guarantees: whole numbers, of exactly that law; the same for the same streams on every device.
    A device is waited for once in a million numbers or so, to settle what floats do not decide.

    Raises ValueError for a negative size, or a stddev outside [1, 2^37].
    """
    if not 1 <= stddev <= 2.0 ** (FINEST + 1):
        raise ValueError(f"stddev={stddev}: must be in [1, 2^{FINEST + 1}]")
    for size in sizes:
        check_size(size)
    if device.type == "cpu":
        return [torch.from_numpy(_drawn(noise.stream(), size, stddev)) for size in sizes]
    lengths = [size + size % 2 for size in sizes]
    drawn = [_Batch.of(blocks, stddev, device) for blocks in _batches(noise, sizes)]
    if not drawn:
        return [torch.zeros(0, dtype=torch.float64, device=device) for _ in sizes]
    # All of it is on its way before the one look at what is open.
    counts = [len(batch.open_) for batch in drawn]
    open_ = torch.split(torch.cat([batch.open_ for batch in drawn]).cpu(), counts)
    for batch, pairs in zip(drawn, open_, strict=True):
        batch.settle(pairs.nonzero().flatten().tolist(), stddev)
    whole = torch.cat([part for batch in drawn for part in batch.parts()])
    return [part[:size] for part, size in zip(torch.split(whole, lengths), sizes, strict=True)]


def _drawn(stream: Keystream, size: int, stddev: float) -> Float64Array:
    out = np.empty(size + size % 2)
    for start in range(0, size, WORDS):
        block = out[start : start + WORDS]
        words = stream.words(len(block))
        box_muller(words, stddev, block)
        half = len(block) // 2
        whole = np.rint(block)
        np.subtract(block, whole, out=block)
        np.abs(block, out=block)
        open_ = block >= 0.5 - _ERROR * stddev
        pairs = open_[:half] | open_[half:]
        # In unsigned numbers, what lies below the first is larger than all.
        pairs |= words[:half] - np.uint64(_LOW) >= np.uint64(_HIGH - _LOW)
        block[:] = whole
        for pair in np.flatnonzero(pairs):
            digits = int(words[pair]), int(words[half + pair])
            places = start + int(pair), start + half + int(pair)
            block[pair], block[half + pair] = _settled(stream, digits, places, stddev)
    return out[:size]


# --- What floats do not decide ----------------------------------------------------------


def _settled(
    stream: Keystream, digits: tuple[int, int], places: tuple[int, int], stddev: float
) -> tuple[int, int]:
    """Both numbers of a pair, from as many digits as it takes.

    `digits`: the first 64 of either uniform number, which are the words of the stream at `places`.
    """
    bits = 64
    while True:
        bits *= 2
        radius, angle = (
            (first << (bits - 64)) | stream.further(place, bits - 64)
            for first, place in zip(digits, places, strict=True)
        )
        found = _pair(radius, angle, bits, stddev)
        if found is not None:
            return found


def _pair(radius: int, angle: int, bits: int, stddev: float) -> tuple[int, int] | None:
    """The pair whose uniform numbers begin with these `bits` digits, or None if that is open."""
    scale = bits + 64
    minus_log = _minus_log(2 * radius + 1, bits + 1, scale)
    square = 2 * minus_log
    # So near to zero a root would lose too many digits; with more of them it is not near.
    if radius == 0 or square <= 1 << (scale - bits // 2):
        return None
    length = math.isqrt(square << scale)
    cosine, sine = _turned(2 * angle + 1, bits + 1, scale)
    # To the middle of what is open: of the logarithm 1 / 2 radius, of the turn half a digit.
    size = length / (1 << scale)
    error = 1 / (radius * size) + 7 * size * 2.0**-bits + 2.0 ** (20 - scale)
    numerator, denominator = stddev.as_integer_ratio()
    margin = math.ceil(math.ldexp(2 * stddev * error, scale))
    whole = [
        _nearest(numerator * (length * turned >> scale) // denominator, scale, margin)
        for turned in (cosine, sine)
    ]
    return None if None in whole else (whole[0], whole[1])  # type: ignore[return-value]


def _nearest(value: int, scale: int, margin: int) -> int | None:
    """The whole number next to `value` / 2^scale, if all within `margin` have the same."""
    half = 1 << (scale - 1)
    low, high = (value - margin + half) >> scale, (value + margin + half) >> scale
    return low if low == high else None


def _minus_log(numerator: int, bits: int, scale: int) -> int:
    """-ln(numerator / 2^bits) in fixed point."""
    exponent, one = numerator.bit_length() - 1, 1 << scale
    ratio = numerator << (scale - exponent)  # from one to two
    rest = _atanh(((ratio - one) << scale) // (ratio + one), scale)
    return (bits - exponent) * _log_two(scale) - 2 * rest


def _atanh(value: int, scale: int) -> int:
    """In fixed point, for a value of at most 1/3, by its series."""
    square, power, total, n = value * value >> scale, value, 0, 1
    while power:
        total += power // n
        power = power * square >> scale
        n += 2
    return total


@lru_cache(maxsize=8)
def _log_two(scale: int) -> int:
    return 2 * _atanh((1 << scale) // 3, scale)


@lru_cache(maxsize=8)
def _half_pi(scale: int) -> int:
    """By Machin's formula."""

    def arctan(inverse: int) -> int:
        power, total, n = (1 << scale) // inverse, 0, 1
        while power:
            total += power // n if n % 4 == 1 else -(power // n)
            power //= inverse * inverse
            n += 2
        return total

    return 2 * (4 * arctan(5) - arctan(239))


def _turned(numerator: int, bits: int, scale: int) -> tuple[int, int]:
    """Cosine and sine of the turn numerator / 2^bits, in fixed point."""
    quarter, rest = numerator >> (bits - 2), numerator & ((1 << (bits - 2)) - 1)
    angle = rest * _half_pi(scale) >> (bits - 2)
    square = angle * angle >> scale
    cosine = term = 1 << scale
    sine, other, n = angle, angle, 1
    while term or other:
        term = -(term * square >> scale) // (n * (n + 1))
        other = -(other * square >> scale) // ((n + 1) * (n + 2))
        cosine, sine, n = cosine + term, sine + other, n + 2
        if abs(term) <= 1 and abs(other) <= 1:
            break
    return [(cosine, sine), (-sine, cosine), (-cosine, -sine), (sine, -cosine)][quarter]


# --- On a GPU -----------------------------------------------------------------------
#
# The keystream is an eighth of the work of a normal and stays on the CPU, where the
# cryptographic generator is; logarithm and sine are the device's.

_Block = tuple[Keystream, int, int]
"""A stream, the place of a word, and how many words from there on."""


def _batches(noise: NoiseSource, sizes: Sequence[int]) -> Iterator[list[_Block]]:
    """The blocks of all draws, some million words at a time."""
    pending = list[_Block]()
    for size in sizes:
        stream = noise.stream()
        for start in range(0, size, WORDS):
            length = min(WORDS, size + size % 2 - start)
            if sum(n for _, _, n in pending) + length > _AT_ONCE:
                yield pending
                pending = []
            pending.append((stream, start, length))
    if pending:
        yield pending


@dataclass(frozen=True, eq=False)
class _Batch:
    """What was drawn at once: `words: int64[2, n]` here, and there what floats make of them."""

    blocks: Sequence[_Block]
    words: Tensor
    whole: Tensor
    open_: Tensor

    @classmethod
    def of(cls, blocks: Sequence[_Block], stddev: float, device: torch.device) -> _Batch:
        """Rounded pairs, `whole: float64[2, n]`, and which are open, `open_: bool[n]`."""
        words = _filled([(stream, length) for stream, _, length in blocks])
        found = _box_muller_on_device(words.to(device, non_blocking=True), stddev)
        return cls(blocks, words, *found)

    def settle(self, columns: Sequence[int], stddev: float) -> None:
        """Put into `columns` what whole numbers say."""
        if not columns:
            return
        starts = self._starts()
        found = []
        for column in columns:
            block = int(np.searchsorted(starts, column, side="right")) - 1
            stream, start, length = self.blocks[block]
            place = start + column - int(starts[block])
            radius, angle = (int(word) % (1 << 64) for word in self.words[:, column].tolist())
            found.append(_settled(stream, (radius, angle), (place, place + length // 2), stddev))
        pairs = torch.tensor(found, dtype=torch.float64).T.contiguous().pin_memory()
        index = torch.tensor(columns).pin_memory()
        device = self.whole.device
        self.whole[:, index.to(device, non_blocking=True)] = pairs.to(device, non_blocking=True)

    def parts(self) -> Iterator[Tensor]:
        """What was drawn by each block, `float64[length]`: its cosines, then its sines."""
        for start, (_, _, length) in zip(self._starts().tolist(), self.blocks, strict=False):
            yield self.whole[:, start : start + length // 2].reshape(-1)

    def _starts(self) -> npt.NDArray[np.int64]:
        return np.cumsum([0, *(length // 2 for _, _, length in self.blocks)])


def _filled(blocks: Sequence[tuple[Keystream, int]]) -> Tensor:
    """The words of all blocks, `int64[2, n]`: of radii, of angles."""
    # Pinned, so that the copy runs beside what the device computes.
    size = sum(length for _, length in blocks) // 2
    words = torch.empty((2, size), dtype=torch.int64, pin_memory=True)
    rows, start = words.numpy(), 0
    for stream, length in blocks:
        drawn = stream.words(length).view(np.int64).reshape(2, length // 2)
        rows[:, start : start + length // 2] = drawn
        start += length // 2
    return words


def _box_muller_on_device(words: Tensor, stddev: float) -> tuple[Tensor, Tensor]:
    """From `int64[2, n]` the rounded pairs, `float64[2, n]`, and which are open, `bool[n]`."""
    high, low = ((words[0] >> 32) & 0xFFFFFFFF).double(), (words[0] & 0xFFFFFFFF).double()
    # Both parts are exact, so that their sum is rounded once, as a conversion would be.
    digits = high * 2.0**32 + low
    edge = (digits < _LOW) | (digits >= _HIGH)
    radius = digits.add_(0.5).mul_(2.0**-64).log_().mul_(-2.0).sqrt_().mul_(stddev)
    angle = ((words[1] >> 11) & ((1 << 53) - 1)).double().mul_(2.0**-53 * 2.0 * math.pi)
    exact = torch.stack([radius * angle.cos(), radius * angle.sin()])
    whole = exact.round()
    open_ = (exact - whole).abs() >= 0.5 - _ERROR * stddev
    return whole, open_.any(0) | edge
