"""Does what was measured fit what was promised?

The verdict is a test of the promise itself, not a comparison of bounds: the
chance, if the promise holds, of guessing as well as the attacker did. Where
canaries are independent that chance is an exact binomial tail: no test guesses
a fair coin about one record with more than `(1 + advantage) / 2`, where the
advantage is the total variation distance that the accountant allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedlearn.auditing import one_run
from fedlearn.auditing.findings import VerdictText
from fedlearn.auditing.game import Game, guess_counts
from fedlearn.auditing.promise import Promise

FALSE_ALARMS: Final = 1e-3
"""How often at most a run that keeps its promise is accused."""


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
    return float(one_run.at_least(right, game.canaries, (1 + promise.advantage) / 2)[0])


def _any(game: Game, promise: Promise) -> float:
    """The smallest over the numbers of guesses, times how many were tried."""
    counts, correct = guess_counts(game.canaries), game.correct()
    smallest = min(
        one_run.p_value(game.canaries, r, int(correct[r - 1]), promise.epsilon, promise.delta)
        for r in counts
    )
    return min(1.0, smallest * len(counts))
