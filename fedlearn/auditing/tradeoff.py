"""A bound from one run against a whole trade-off curve, for any dependence between canaries.

Mahloujifar, Melis and Chaudhuri 2024, "Auditing f-Differential Privacy in One
Run", algorithm 3, for the curves of Gaussian differential privacy. A subsampled
mechanism follows such a curve in the limit of many steps; the epsilon is then
that of the refuted Gaussian curve at delta.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Final

from fedlearn.auditing.gaussian import epsilon_of

_LARGEST_MU: Final = 64.0
_TOLERANCE: Final = 1e-6
_NORMAL: Final = NormalDist()


def refutes(canaries: int, guesses: int, correct: int, mu: float, alpha: float) -> bool:
    """Whether `correct` of `guesses` right guesses refute mu-GDP at confidence `1 - alpha`."""
    # Names as in the paper: r and h bound the mass of runs with i or more right guesses.
    r, h = alpha * correct / canaries, alpha * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        reached = max(h, _blown_up(r, mu))
        if reached == h:
            break
        r, h = min(1.0, r + i / (guesses - i) * (reached - h)), reached
    return r + h > guesses / canaries


def _blown_up(chance: float, mu: float) -> float:
    """The inverse of the curve, `Phi(Phi^-1(chance) - mu)`; NumPy would be slow on scalars."""
    if chance <= 0 or chance >= 1:
        return chance
    return 0.5 * math.erfc((mu - _NORMAL.inv_cdf(chance)) / math.sqrt(2))


@lru_cache(maxsize=1024)  # ceilings are the same for every seat
def lower_bound(canaries: int, guesses: int, correct: int, delta: float, alpha: float) -> float:
    """The epsilon at `delta` of the largest Gaussian curve that is refuted; or zero."""
    low, high = 0.0, 1.0
    if correct == 0 or not refutes(canaries, guesses, correct, _TOLERANCE, alpha):
        return 0.0
    while high < _LARGEST_MU and refutes(canaries, guesses, correct, high, alpha):
        low, high = high, 2 * high
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        if refutes(canaries, guesses, correct, middle, alpha):
            low = middle
        else:
            high = middle
    return epsilon_of(low, delta)
