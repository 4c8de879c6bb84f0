"""Gaussian noise where a GPU needs it: secret words from the CPU, arithmetic on the device.

The keystream is an eighth of the work of a normal and stays on the CPU, where the
cryptographic generator is; logarithm and sine are the device's. Draw by draw this is
`NoiseSource.normal`: the same words, the same formula in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fedlearn.privacy.noise import WORDS, Keystream, NoiseSource, check_size, check_stddev

_AT_ONCE: Final = 1 << 20
"""Words that are on their way at once: 8 MiB here, and some 30 MiB of the device."""


def normals(
    noise: NoiseSource, sizes: Sequence[int], stddev: float, device: torch.device
) -> list[Tensor]:
    """Vectors `float32[size]` on `device`, one for each of `sizes`, of draws of N(0, stddev^2).

    Guarantees: equal to `noise.normal` called for each size in turn, to the last bit
    of a device's logarithm and sine. Does not wait for the device.

    Raises ValueError for a negative size, or a stddev outside [0, 1e37].
    """
    if device.type == "cpu":
        return [torch.from_numpy(noise.normal(size, stddev)) for size in sizes]
    check_stddev(stddev)
    parts = [
        _box_muller(words.to(device, non_blocking=True), lengths, stddev)
        for words, lengths in _words(noise, sizes)
    ]
    padded = [size + size % 2 for size in sizes]
    if not parts:
        return [torch.zeros(0, device=device) for _ in sizes]
    whole = torch.split(torch.cat(parts), padded)
    return [part[:size] for part, size in zip(whole, sizes, strict=True)]


def _words(noise: NoiseSource, sizes: Sequence[int]) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """The words of all draws, `int64[2, n]` (of radii, of angles), and how long each block is."""
    pending: list[tuple[Keystream, int]] = []
    for size in sizes:
        check_size(size)
        stream, left = noise.stream(), size + size % 2
        while left:
            length = min(left, WORDS)
            if sum(n for _, n in pending) + length > _AT_ONCE:
                yield _filled(pending)
                pending = []
            pending.append((stream, length))
            left -= length
    if pending:
        yield _filled(pending)


def _filled(blocks: Sequence[tuple[Keystream, int]]) -> tuple[Tensor, tuple[int, ...]]:
    lengths = tuple(length for _, length in blocks)
    # Pinned, so that the copy runs beside what the device computes.
    words = torch.empty((2, sum(lengths) // 2), dtype=torch.int64, pin_memory=True)
    rows, start = words.numpy(), 0
    for stream, length in blocks:
        drawn = stream.words(length).view(np.int64).reshape(2, length // 2)
        rows[:, start : start + length // 2] = drawn
        start += length // 2
    return words, lengths


def _box_muller(words: Tensor, lengths: tuple[int, ...], stddev: float) -> Tensor:
    """`float32[2 n]` from `int64[2, n]`: of every block the cosines, then the sines."""
    high, low = ((words[0] >> 32) & 0xFFFFFFFF).double(), (words[0] & 0xFFFFFFFF).double()
    # Both parts are exact, so that their sum is rounded once, as a conversion would be.
    radius = (high * 2.0**32 + low).add_(0.5).mul_(2.0**-64).log_().mul_(-2.0).sqrt_().mul_(stddev)
    angle = ((words[1] >> 11) & ((1 << 53) - 1)).double().mul_(2.0**-53 * 2.0 * math.pi)
    both = torch.cat([(radius * angle.cos()).float(), (radius * angle.sin()).float()])
    return both.index_select(0, _order(lengths, words.device))


@lru_cache(maxsize=64)
def _order(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Where each normal of the blocks is among all cosines followed by all sines: `int32[2 n]`.

    Kept: a model asks for the same lengths in every step.
    """
    half, start, places = sum(lengths) // 2, 0, []
    for length in lengths:
        cosines = np.arange(start, start + length // 2)
        places += [cosines, cosines + half]
        start += length // 2
    order = torch.from_numpy(np.concatenate(places).astype(np.int32))
    return order if device.type == "cpu" else order.pin_memory().to(device, non_blocking=True)
