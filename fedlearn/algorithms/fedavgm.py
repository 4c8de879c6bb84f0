"""FedAvg with momentum on the mean update (Hsu, Qi and Brown 2019, section 4.2)."""

from __future__ import annotations

from typing import Literal

from fedlearn.algorithms.algorithm import Algorithm, RoundMean, State
from fedlearn.core.settings import Portion, Positive, config
from fedlearn.core.vector import Vector


@config
class FedAvgM(Algorithm):
    """A step of SGD with momentum along the mean update, which stands for a gradient."""

    kind: Literal["fedavgm"] = "fedavgm"
    server_learning_rate: Positive
    server_momentum: Portion

    def server(self, mean: RoundMean, state: State) -> tuple[Vector, State]:
        """`m = momentum m + (before - mean)`, `before - rate m`; to the bit Flower's FedAvgM."""
        if self.server_learning_rate == 1 and self.server_momentum == 0:
            return mean.model, state
        step = mean.before - mean.model
        if self.server_momentum:
            if "momentum_vector" in state:
                step = self.server_momentum * state["momentum_vector"] + step
            state = {"momentum_vector": step}
        return mean.before - self.server_learning_rate * step, state
