"""What a run promises, as attacks can be held against it, and whether what was measured fits it.

A promise is more than its one epsilon at one delta: the accountant proves an
epsilon at every delta, and each such pair limits what any attack can reach.

The verdict is a test of the promise itself, not a comparison of bounds: the
chance, if the promise holds, of guessing as well as the attacker did. Where
canaries are independent that chance is an exact binomial tail: no test guesses
a fair coin about one record with more than `(1 + advantage) / 2`, where the
advantage is the total variation distance that the accountant allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from fedlearn.auditing.bounds import at_least, p_value
from fedlearn.auditing.findings import VerdictText
from fedlearn.auditing.game import Game, guess_counts
from fedlearn.auditing.gaussian import mu_of
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.events import Unit

FALSE_ALARMS: Final = 1e-3
"""How often at most a run that keeps its promise is accused."""

_TRIED: Final = (0.01, 0.05, 0.2, 0.5, 0.8, 0.98, 1.0, 1.01, 1.03, 1.1, 1.3)
"""Deltas, as shares of the advantage of a Gaussian of the same epsilon."""

_LARGEST_EXPONENT: Final = 700.0


@dataclass(frozen=True, kw_only=True)
class Promise:
    """(epsilon, delta), and in `points` more such pairs that hold for the same run."""

    epsilon: float
    delta: float
    points: tuple[tuple[float, float], ...]

    @property
    def advantage(self) -> float:
        """At most so much, the total variation distance between neighbours, is gained by a guess.

        Every pair bounds it by `(e^epsilon - 1 + 2 delta) / (e^epsilon + 1)`
        (Kairouz, Oh and Viswanath 2015, theorem 2.1), exactly where epsilon is zero.
        """
        return min(1.0, *(math.tanh(e / 2) + 2 * d / (_exp(e) + 1) for e, d in self.points))

    def found(self, rates: NDArray[np.float64]) -> NDArray[np.float64]:
        """The most that events have as chances with a record which have `rates` without it.

        Guarantees: grows with `rates`, and is concave in them.
        """
        return np.asarray(np.min([_found(rates, e, d) for e, d in self.points], axis=0))

    def found_at(self, false_alarms: float) -> float:
        """The most members that an attack finds at this rate of false alarms, over all records."""
        return float(self.found(np.array([false_alarms]))[0])

    def area(self) -> float:
        """At most the area under the curve of `found_at`: steps that lie above it, to .0001."""
        return float(np.mean(self.found(np.linspace(0, 1, 10_001)[1:])))


def promise_of(
    plan: PrivacyPlan, deltas: Sequence[float] = (), *, unit: Unit = "record"
) -> Promise | None:
    """What `plan` promises to one `unit`; None where nothing finite is promised.

    `deltas` are further ones at which it is held: smaller ones for events that are rare.
    """
    promised = epsilon(plan.events, plan.delta, unit=unit)
    if not math.isfinite(promised):
        return None
    further = ((epsilon(plan.events, one, unit=unit), one) for one in deltas)
    points = (*_points(plan, promised, unit), *(one for one in further if math.isfinite(one[0])))
    return Promise(epsilon=promised, delta=plan.delta, points=((promised, plan.delta), *points))


def _points(plan: PrivacyPlan, promised: float, unit: Unit) -> tuple[tuple[float, float], ...]:
    gaussian = 2 * float(ndtr(mu_of(promised, plan.delta) / 2)) - 1 if promised > 0 else 0.0
    deltas = [share * gaussian for share in _TRIED if plan.delta < share * gaussian < 1]
    return tuple((epsilon(plan.events, one, unit=unit), one) for one in deltas)


def _found(rates: NDArray[np.float64], epsilon: float, delta: float) -> NDArray[np.float64]:
    up = _exp(epsilon) * rates + delta
    down = 1 - math.exp(-epsilon) * (1 - delta - rates)
    return np.asarray(np.clip(np.minimum(up, down), 0.0, 1.0))


def _exp(epsilon: float) -> float:
    return math.exp(min(epsilon, _LARGEST_EXPONENT))


# --- the verdict -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`p_value`: the chance of guessing this well if the promise holds; null without a promise."""

    text: VerdictText
    p_value: float | None


def judge(game: Game, promise: Promise | None, *, independent: bool) -> Verdict:
    """Whether `promise` survives `game`.

    Guarantees: a promise that holds is called broken with chance at most `FALSE_ALARMS`.
    """
    if promise is None:
        return Verdict(text="no promise was made", p_value=None)
    p = _independent(game, promise) if independent else _any(game, promise)
    return Verdict(
        text="PROMISE BROKEN" if p < FALSE_ALARMS else "consistent with the promise", p_value=p
    )


def _independent(game: Game, promise: Promise) -> float:
    """All canaries are guessed, and each guess is right by a coin of its own."""
    right = game.correct()[-1:]
    return float(at_least(right, game.canaries, (1 + promise.advantage) / 2)[0])


def _any(game: Game, promise: Promise) -> float:
    """The smallest over the numbers of guesses, times how many were tried."""
    counts, correct = guess_counts(game.canaries), game.correct()
    smallest = min(
        p_value(game.canaries, r, int(correct[r - 1]), promise.epsilon, promise.delta)
        for r in counts
    )
    return min(1.0, smallest * len(counts))
