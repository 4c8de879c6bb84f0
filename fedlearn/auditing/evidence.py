"""How much what was seen on a coordinate speaks for a canary: the log likelihood ratio.

A canary that is in takes part in each of `steps` steps with chance `rate`, and
adds one clip norm each time; every step adds noise whether it is in or not.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp, xlog1py, xlogy

_LEAST: Final = -700.0
"""Numbers of steps of less log probability than this are left out."""


def log_likelihood_ratio(
    signals: NDArray[np.float64], *, noise: float, rate: float, steps: int
) -> NDArray[np.float64]:
    """For each of `signals: float64[m]`, in clip norms, log P(signal | in) - log P(signal | out).

    `noise` > 0 is the standard deviation of the noise of all steps together.
    """
    counts = np.arange(steps + 1)
    ways = gammaln(steps + 1) - gammaln(counts + 1) - gammaln(steps - counts + 1)
    chances = ways + xlogy(counts, rate) + xlog1py(steps - counts, -rate)
    counts, chances = counts[chances > _LEAST], chances[chances > _LEAST]
    gain = (2 * np.outer(counts, signals) - np.square(counts)[:, None]) / (2 * noise**2)
    return np.asarray(logsumexp(chances[:, None] + gain, axis=0))


def area_under_curve(scores: NDArray[np.float64], inside: NDArray[np.bool_]) -> float | None:
    """The chance that a canary inside scores above one outside, ties half; None without both."""
    outside, own = np.sort(scores[~inside]), scores[inside]
    if not len(outside) or not len(own):
        return None
    sides = [np.searchsorted(outside, own, side=side) for side in ("left", "right")]
    return float(np.mean(sides) / len(outside))
