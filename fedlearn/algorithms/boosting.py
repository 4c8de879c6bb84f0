"""Steps as long as the records in a bin are many: the coordinator's half of a boosting round.

What sites send of a round is a gradient: of every value of the model the sum of what records are
still wrong by. Bins hold very different numbers of records, and the noise of privacy is the same
in all of them. So the step of a value is its gradient, averaged over rounds, over its usual size
(Kingma and Ba 2015, "Adam", algorithm 1) and a multiple of the noise, which is public:

    m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
    w <- w - rate m / (sqrt(v) + max(floor, shrink * noise))

A value whose gradient drowns in noise moves by a share of it that is small and even, as a Gaussian
prior would have it; one whose gradient stands out moves by the whole rate. Whatever the state is
made of was released and paid for.

Beside the model the state holds how much of the noise is in each value: of independent noise in
every round, whose share of a step is known, the variances add up. Later rounds correct a part of
it, so that the deviation is an upper bound as long as steps do not overshoot.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from fedlearn.algorithms.algorithm import Algorithm, LocalSettings, RoundMean, State
from fedlearn.core.settings import NonNegative, Portion, Positive, config
from fedlearn.core.vector import Vector

SPREAD: Final = "spread"
"""What of the state is the variance of the noise in each value of the model."""


@config
class Boosting(Algorithm):
    """Adam on the gradient of a round, held back by the noise that is known to be in it."""

    kind: Literal["boosting"] = "boosting"
    server_learning_rate: Positive
    beta_1: Portion
    beta_2: Portion
    floor: Positive
    """Least size of a value's mean change in a round that a whole step is made for."""
    shrink: NonNegative
    """The same in units of the noise."""

    def problems(self, settings: LocalSettings) -> list[str]:
        """What a site sends must be one gradient."""
        found = []
        if settings.optimizer != "sgd" or settings.momentum:
            found.append(
                "strategy=boosting: reads a gradient from the change of a site's model, and "
                f"training.optimizer={settings.optimizer} with training.momentum="
                f"{settings.momentum:g} hides it. Set training.optimizer=sgd training.momentum=0.0"
            )
        return found

    def deviation(self, state: State) -> Vector | None:
        """An upper bound on it, as far as the head of this file says."""
        found = state.get(SPREAD)
        return None if found is None or not found.any() else np.sqrt(found).astype(np.float32)

    def server(self, mean: RoundMean, state: State) -> tuple[Vector, State]:
        """The step above; `spread` grows by what of this round's noise is in it."""
        change = np.asarray(mean.model - mean.before, np.float64)
        nothing = np.zeros_like(change)
        count = mean.number
        m = self.beta_1 * state.get("m", nothing) + (1 - self.beta_1) * change
        v = self.beta_2 * state.get("v", nothing) + (1 - self.beta_2) * change**2
        size = np.sqrt(v / (1 - self.beta_2**count)) + max(self.floor, self.shrink * mean.noise)
        step = self.server_learning_rate / size
        model = np.asarray(mean.before + step * m / (1 - self.beta_1**count), np.float32)
        spread = state.get(SPREAD, nothing) + (step * mean.noise) ** 2
        return model, {"m": m, "v": v, SPREAD: spread}
