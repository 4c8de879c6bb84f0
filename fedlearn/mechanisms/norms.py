"""Vectors held to a norm: clipped, with room for rounding, and as the end of a ring folds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError

# Rounding a clipped vector to float32 moves each value by at most 2^-24 of itself.
_FLOAT32_SLACK: Final = 1e-6
# Values are taken to 16 fraction bits of a step before they are rounded to a whole one.
_STEP: Final = 1 + 2.0**-16


def clipped(update: NDArray[np.floating], norm: float) -> NDArray[np.float64]:
    """`update` scaled down to at most `norm` (L2), as a new `float64[d]`.

    Guarantees: a projection onto the ball, so no two results are further apart
    than their arguments; the norm of the result exceeds `norm` by float64
    rounding only; zero stays zero.

    Raises ValueError for a value that is not finite.
    """
    vector = np.array(update, np.float64)
    found = length(vector)
    if found > norm:
        vector *= norm / found
    return vector


def length(vector: NDArray[np.floating]) -> float:
    """The L2 norm of `vector`, without overflow on the way.

    Raises ValueError for a value that is not finite.
    """
    largest = float(np.max(np.abs(vector), initial=0.0))
    if not math.isfinite(largest):
        raise ValueError("the update holds NaN or infinite values")
    # Dividing by the largest value first keeps the squares in range.
    return largest * float(np.linalg.norm(vector / largest)) if largest > 0 else 0.0


def folded(values: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """As they are up to `most`, back to zero at twice that, and zero beyond.

    Guarantees: two values come no further apart, also at the ends of a ring that holds `2 * most`
    and joins there.
    """
    size = np.abs(values)
    return np.asarray(np.sign(values) * np.clip(np.minimum(size, 2 * most - size), 0.0, None))


@dataclass(frozen=True, kw_only=True)
class OwnClip:
    """An update that its client has clipped, and whether it was within the norm before."""

    update: NDArray[np.float32]
    within: bool


def clip_own(update: NDArray[np.floating], clip_norm: float, *, resolution: float) -> OwnClip:
    """Clip an update before it is rounded to steps of `resolution` and summed unseen.

    Guarantees: after rounding, each coordinate up or down by less than a step,
    the norm is at most `clip_norm`.

    Raises:
        ValueError: a value that is not finite.
        ConfigError: rounding alone could move the update further than the norm.
    """
    room = room_to_round(clip_norm, size=update.size, resolution=resolution)
    exact = np.asarray(update, np.float64)
    within = length(exact) <= clip_norm
    return OwnClip(update=clipped(exact, room).astype(np.float32), within=within)


def room_to_round(clip_norm: float, *, size: int, resolution: float) -> float:
    """The norm to clip to, so that `size` values rounded to steps keep within `clip_norm`.

    Raises:
        ConfigError: rounding alone could move an update further than the norm.
    """
    room = clip_norm * (1 - _FLOAT32_SLACK) - resolution * _STEP * math.sqrt(size)
    if room <= 0:
        raise ConfigError(
            [
                f"privacy.clip_norm={clip_norm:g}: rounding {size} values to steps of "
                f"secagg.resolution={resolution:g} moves them further than that. Lower "
                "secagg.resolution, or raise privacy.clip_norm"
            ]
        )
    return room


def smallest_clip_norm(*, size: int, resolution: float) -> float:
    """Where an adaptive norm stops: rounding `size` values to steps takes half of it.

    A public constant, so that stopping there costs no privacy.
    """
    return 2 * resolution * _STEP * math.sqrt(size)
