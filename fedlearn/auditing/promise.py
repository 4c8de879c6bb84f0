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
from scipy.special import ndtr

from fedlearn.auditing.bounds import at_least, p_value
from fedlearn.auditing.findings import VerdictText
from fedlearn.auditing.game import Game, guess_counts
from fedlearn.auditing.gaussian import mu_of
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.privacy import Event
from fedlearn.privacy.accounting import epsilon

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

    def found_at(self, false_alarms: float) -> float:
        """The most members that an attack finds at this rate of false alarms, over all records."""
        return min(1.0, *(_found_at(false_alarms, e, d) for e, d in self.points))

    def area(self) -> float:
        """At most the area under the curve of `found_at`: steps that lie above it, to .0001."""
        return float(np.mean([self.found_at(rate) for rate in np.linspace(0, 1, 10_001)[1:]]))


def promise_of(plan: PrivacyPlan) -> Promise | None:
    """What `plan` promises to one record; None where nothing finite is promised."""
    promised = epsilon(plan.events, plan.delta)
    if not math.isfinite(promised):
        return None
    return Promise(
        epsilon=promised,
        delta=plan.delta,
        points=((promised, plan.delta), *_points(plan.events, promised, plan.delta)),
    )


def _points(
    events: Sequence[Event], promised: float, delta: float
) -> tuple[tuple[float, float], ...]:
    gaussian = 2 * float(ndtr(mu_of(promised, delta) / 2)) - 1 if promised > 0 else 0.0
    deltas = [share * gaussian for share in _TRIED if delta < share * gaussian < 1]
    return tuple((epsilon(events, one), one) for one in deltas)


def _found_at(false_alarms: float, epsilon: float, delta: float) -> float:
    up = _exp(epsilon) * false_alarms + delta
    down = 1 - math.exp(-epsilon) * (1 - delta - false_alarms)
    return max(0.0, min(up, down))


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
