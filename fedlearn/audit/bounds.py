"""All bounds that a game gives, each beside the most that it could have given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fedlearn.audit import one_run, tradeoff
from fedlearn.audit.game import Game, guess_counts
from fedlearn.audit.independent import clopper_pearson, clopper_pearson_ceiling, moments

Estimator = Literal["one_run", "f_dp", "clopper_pearson", "gaussian"]

_Bound = Callable[[int, int, int, float, float], float]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A lower bound on epsilon at confidence `1 - alpha`.

    `ceiling` is what the same estimator would have said had every guess been
    right: a run may be worse than that and the audit would not know. It is
    null for the Gaussian estimator, which has none. Zero is no evidence of a
    leak, not evidence of privacy.
    """

    estimator: Estimator
    lower_bound: float | None
    """Null for infinite."""
    ceiling: float | None
    estimate: float | None
    """The likeliest epsilon, where the estimator has one."""
    assumes: str


def bounds_of(game: Game, *, delta: float, alpha: float, independent: bool) -> tuple[Bound, ...]:
    """The bounds of `game`; those that need `independent` canaries only where they are."""
    free = (
        _counted("one_run", "nothing", one_run.lower_bound, game, delta, alpha),
        _counted("f_dp", "a Gaussian trade-off curve", tradeoff.lower_bound, game, delta, alpha),
    )
    return (*free, *_of_independent(game, delta, alpha)) if independent else free


def _counted(
    estimator: Estimator, assumes: str, bound: _Bound, game: Game, delta: float, alpha: float
) -> Bound:
    """The best over all numbers of guesses, each at its share of alpha (Bonferroni)."""
    canaries, counts = game.canaries, guess_counts(game.canaries)
    correct, share = game.correct(), alpha / len(counts)
    found = [bound(canaries, r, int(correct[r - 1]), delta, share) for r in counts]
    most = [bound(canaries, r, r, delta, share) for r in counts]
    return Bound(
        estimator=estimator,
        lower_bound=max(found),
        ceiling=max(most),
        estimate=None,
        assumes=assumes,
    )


def _of_independent(game: Game, delta: float, alpha: float) -> tuple[Bound, Bound]:
    inside = int(game.inside.sum())
    gauss = moments(game, delta, alpha)
    return (
        Bound(
            estimator="clopper_pearson",
            lower_bound=clopper_pearson(game, delta, alpha),
            ceiling=clopper_pearson_ceiling(inside, game.canaries - inside, delta, alpha),
            estimate=None,
            assumes="independent canaries, a Gaussian trade-off curve",
        ),
        Bound(
            estimator="gaussian",
            lower_bound=_finite(gauss.lower_bound),
            ceiling=None,
            estimate=_finite(gauss.estimate),
            assumes="independent canaries with normal scores",
        ),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
