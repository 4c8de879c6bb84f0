"""All bounds that a game gives, each beside the most that it could have given."""

from __future__ import annotations

import math
from collections.abc import Callable

from fedlearn.auditing import one_run, tradeoff
from fedlearn.auditing.findings import Bound, Estimator
from fedlearn.auditing.game import Game, guess_counts
from fedlearn.auditing.independent import clopper_pearson, clopper_pearson_ceiling, moments

_Bound = Callable[[int, int, int, float, float], float]


def bounds_of(
    game: Game, *, delta: float, alpha: float, independent: bool, normal: bool
) -> tuple[Bound, ...]:
    """The bounds of `game`: those that need it only for `independent` canaries, `normal` scores."""
    free = (
        _counted("one_run", "nothing", one_run.lower_bound, game, delta, alpha),
        _counted("f_dp", "a Gaussian trade-off curve", tradeoff.lower_bound, game, delta, alpha),
    )
    if not independent:
        return free
    exact = _exact(game, delta, alpha)
    return (*free, exact, _gaussian(game, delta, alpha)) if normal else (*free, exact)


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


def _exact(game: Game, delta: float, alpha: float) -> Bound:
    inside = int(game.inside.sum())
    return Bound(
        estimator="clopper_pearson",
        lower_bound=clopper_pearson(game, delta, alpha),
        ceiling=clopper_pearson_ceiling(inside, game.canaries - inside, delta, alpha),
        estimate=None,
        assumes="independent canaries, a Gaussian trade-off curve",
    )


def _gaussian(game: Game, delta: float, alpha: float) -> Bound:
    found = moments(game, delta, alpha)
    return Bound(
        estimator="gaussian",
        lower_bound=_finite(found.lower_bound),
        ceiling=None,
        estimate=_finite(found.estimate),
        assumes="independent canaries with normal scores",
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
