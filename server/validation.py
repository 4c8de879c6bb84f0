"""Which round's model is kept, by what validation has shown, and when a run has learned enough.

All of it is computed from what sites have released for it: exact sums, or sums with noise that the
plan has paid for. So it costs nothing more, and under private evaluation it tells no more than
these. The test is read once, with the model that is kept, whatever rounds have shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedlearn.core.vector import Vector
from fedlearn.results.result import BestRound
from fedlearn.tasks import Metric
from fedlearn.training.settings import Keep


@dataclass
class Validation:
    """The choice among the rounds of one run; grows in place.

    The best has the best value of the leading metric, of equal ones the smallest loss, and of equal
    ones the first. A round of which the metric cannot be computed is not chosen, and counts as one
    that was not better once there is a best.
    """

    keep: Keep
    patience: int
    best: BestRound | None = None
    model: Vector | None = None
    """Of the best round, where the best is kept."""

    def look(self, number: int, metric: Metric, found: Mapping[str, float], model: Vector) -> None:
        """Take in what a round has shown, with the model that it has shown it of."""
        loss = found.get("loss")
        now = BestRound(round=number, value=found.get(metric.name, math.nan), loss=loss)
        if math.isfinite(now.value) and (
            self.best is None or _rank(metric, now) > _rank(metric, self.best)
        ):
            self.best = now
            self.model = model.copy() if self.keep == "best" else None
        elif self.best is not None:
            self.best = replace(self.best, since=self.best.since + 1)

    def forget(self) -> None:
        """Begin anew: what was kept holds what has been taken back since."""
        self.best = self.model = None

    @property
    def enough(self) -> bool:
        """Whether as many validations as there is patience for have found nothing better."""
        return bool(self.patience and self.best and self.best.since >= self.patience)


def _rank(metric: Metric, one: BestRound) -> tuple[float, float]:
    """Larger for better."""
    known = one.loss is not None and math.isfinite(one.loss)
    return metric.rank(one.value), -one.loss if known and one.loss is not None else -math.inf
