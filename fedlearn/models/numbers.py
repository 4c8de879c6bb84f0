"""Numbers of a scale that nobody told, as features that a model can tell apart.

A column without a public range is squashed (`fedlearn.data.tables.scaling.squash`):
ages of 20 to 90 become .44 to .65, and a model learns next to nothing from so
narrow a spread far from zero. Scaling by the column's own quantiles would tell
them apart and read the records, a release of its own. Here the places are
public and the same for every column: a piecewise linear encoding (Gorishniy et
al. 2022, "On Embeddings for Numerical Features in Tabular Deep Learning",
section 3.1) whose bins stand at equal steps of the logarithm, and sine and
cosine waves of it (their section 3.3), which tell apart what one bin holds.
Most bins lie where a column has no value; they get no gradient, and under
DP-SGD noise that no prediction sees.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedlearn.tasks import SQUASH_UNIT

PER_DECADE = 3
"""Bins in a factor of ten, as in 1, 2, 5, 10."""

FINEST, HIGHEST = 1e-3, 1e9
"""Smaller differences than the first, and what lies beyond the second, are not told apart."""

WAVES = 5
"""The first has the period of one bin, each further one half of that before."""

# In this proportion, and with a square sum near 2, steps of usual size neither crawl on a table of
# two columns nor overshoot on one of forty: docs/data.md.
_OF_BIN, _OF_WAVE = 1.5, 0.35

_REACH = round(math.log10(HIGHEST / FINEST)) * PER_DECADE
ENCODED = 2 * _REACH + 1 + 2 * WAVES
"""Features of one number."""


def encode(squashed: Tensor) -> Tensor:
    """`float[...]` -> `float[..., ENCODED]`: bins around the value, and waves.

    With `p = 3 sign(x) log10(1 + 1000 |x|)` bin `k` from -36 to 36 is
    `1.5 max(0, 1 - |p - k|)`, so that at most two of them are not zero, and wave
    `j` from 0 is `.35 sin` and `.35 cos` of `2 pi 2^j p`.
    """
    place = _place(squashed).unsqueeze(-1)
    bins = torch.arange(-_REACH, _REACH + 1, device=place.device)
    angles = place * (2 * math.pi * 2.0 ** torch.arange(WAVES, device=place.device))
    near = (1 - (place - bins).abs()).clamp(min=0)
    return torch.cat([_OF_BIN * near, _OF_WAVE * angles.sin(), _OF_WAVE * angles.cos()], dim=-1)


def _place(squashed: Tensor) -> Tensor:
    size = torch.expm1(squashed.abs() * SQUASH_UNIT) / FINEST
    return (squashed.sign() * PER_DECADE * torch.log10(1 + size)).clamp(-_REACH, _REACH)
