"""What rules that bound an update have in common: sums beyond the bound are refused."""

from __future__ import annotations

import math

import numpy as np

from fedlearn.core.settings import Natural, Positive, config
from fedlearn.mechanisms.reach import SumBound
from fedlearn.robust.rule import Robust
from fedlearn.stages import Total


@config
class Bounds(Robust):
    """Every update has a public bound, the ring is sized to the honest sum, others are refused.

    `share` is for clipped gradients (`privacy=record`): the sum of a step is scaled down, before
    its noise, to this share of what `sample_rate * nominal_records` records could add up to.
    `norm` bounds a change that nothing else bounds (`privacy=none`). `repeats` rounds of a run
    may be refused; with one more it ends.

    It works where updates are summed by secure aggregation, and changes nothing elsewhere.
    """

    share: Positive = 1.0
    norm: Positive = 10.0
    repeats: Natural = 4

    @property
    def step_share(self) -> float:
        """As set."""
        return self.share

    @property
    def change_norm(self) -> float:
        """As set."""
        return self.norm

    @property
    def most_refused(self) -> int:
        """As set."""
        return self.repeats

    def refuses(self, bound: SumBound, total: Total, before: Total) -> str | None:
        """A value, the norm, or the norm of all so far that is beyond its bound."""
        if not bound.reach.noised:
            return None
        weight = total.weight
        value = float(np.max(np.abs(total.values), initial=0.0))
        if value > bound.sum_value(weight):
            return _beyond("a value", value, bound.sum_value(weight))
        norm = float(np.linalg.norm(total.values))
        if norm > bound.sum_norm(weight):
            return _beyond("its norm", norm, bound.sum_norm(weight))
        if bound.reach.adds_up and before.weight:
            # Noise that is new in every round does not add up as a steady pull does.
            norm = float(np.linalg.norm(total.values + before.values))
            together = bound.sum_norm(weight + before.weight)
            if norm > together:
                return _beyond("the norm of all sums so far", norm, together)
        return None


def _beyond(what: str, found: float, most: float) -> str:
    shown = f"{found:.3g}" if math.isfinite(found) else "no number"
    return f"{what} is {shown}, and honest sites reach {most:.3g}"
