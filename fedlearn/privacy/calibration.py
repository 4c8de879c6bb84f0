"""The least noise that keeps a whole run within its epsilon.

Calibration looks at all steps of the run at once: a noise multiplier chosen
"per round" pays for one round only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Final

from fedlearn.core.errors import ConfigError
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.events import GaussianEvent
from fedlearn.privacy.loss_distribution import SMALLEST_NOISE

LARGEST_NOISE: Final = 1e5
"""No model survives more; an epsilon that asks for it is refused."""

_DIGITS: Final = 4


def fitting_delta(units: int) -> float:
    """The largest power of ten of which a tenth of a unit at most could be published in full."""
    return float(f"1e{math.floor(math.log10(0.1 / max(1, units)) + 1e-9)}")


@lru_cache(maxsize=1024)
def noise_multiplier(target: float, delta: float, sample_rate: float, steps: int) -> float:
    """The smallest noise multiplier, in four digits, whose epsilon over all `steps` is <= `target`.

    `steps` counts the whole run, over all rounds.

    Guarantees: the reported epsilon of the result is at most `target`, and that
    of the next smaller number of four digits is above it.

    Raises ConfigError where no noise multiplier from 0.01 to 100,000 fits, and
    ValueError for arguments that no event can have.
    """
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"epsilon={target}: must be finite and > 0")

    def excess(noise: float) -> float:
        event = GaussianEvent(noise_multiplier=noise, sample_rate=sample_rate, steps=steps)
        # The logarithm is close to a line in log(noise), which the root finder likes.
        return math.log(max(epsilon([event], delta), 1e-12) / target)

    if excess(SMALLEST_NOISE) <= 0:
        raise ConfigError([_too_loose(target)])
    if excess(LARGEST_NOISE) > 0:
        raise ConfigError([_too_strict(target, steps, sample_rate)])
    return _smallest_in_digits(excess, _root(excess))


def _root(excess: Callable[[float], float]) -> float:
    """A noise multiplier near the one where `excess` changes its sign."""
    from scipy.optimize import brentq  # half a second that runs without privacy do not need

    low = high = 1.0
    while excess(low) <= 0 and low > SMALLEST_NOISE:
        low, high = max(low / 4, SMALLEST_NOISE), low
    while excess(high) > 0 and high < LARGEST_NOISE:
        low, high = high, min(high * 4, LARGEST_NOISE)
    logarithm = brentq(lambda x: excess(math.exp(x)), math.log(low), math.log(high), xtol=2e-5)
    return math.exp(float(logarithm))


def _smallest_in_digits(excess: Callable[[float], float], near: float) -> float:
    """The smallest number of four digits around `near` at which `excess` is not positive."""
    unit = Decimal(1).scaleb(Decimal(near).adjusted() - _DIGITS + 1)
    value = (Decimal(near) / unit).to_integral_value(ROUND_CEILING) * unit
    while excess(float(value)) > 0:
        value += unit
    while excess(float(value - unit)) <= 0:
        value -= unit
    return float(value)


def _too_loose(target: float) -> str:
    return (
        f"privacy.epsilon={target}: is no protection; it would be met with next to no noise. "
        "Ask for 10 or less"
    )


def _too_strict(target: float, steps: int, sample_rate: float) -> str:
    return (
        f"privacy.epsilon={target}: cannot be met in {steps} steps at sample rate {sample_rate}, "
        f"not even with a noise multiplier of {LARGEST_NOISE:g}. "
        "Raise epsilon, or use fewer rounds, fewer steps or a smaller sample rate"
    )
