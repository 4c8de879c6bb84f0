"""Adam and Yogi on the mean update (Reddi et al. 2021, "Adaptive Federated Optimization")."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.algorithms.algorithm import Algorithm, RoundMean, State
from fedlearn.core.settings import Portion, Positive, config
from fedlearn.core.vector import Vector


@config
class FedOpt(Algorithm, ABC):
    """What both have in common: two moments of the mean update, and a step that they scale."""

    server_learning_rate: Positive
    beta_1: Portion
    beta_2: Portion
    tau: Positive
    """Degree of adaptivity: added to the root of the second moment."""

    @abstractmethod
    def second_moment(self, before: Vector, squared: Vector) -> Vector:
        """The next second moment from the last, and the squared update."""

    def rate(self, number: int) -> float | np.float64:
        """The step size of round `number`."""
        return self.server_learning_rate

    def server(self, mean: RoundMean, state: State) -> tuple[Vector, State]:
        """`before + rate m / (sqrt(v) + tau)`; to the bit what Flower's class of the name gives."""
        update = mean.model - mean.before
        nothing = np.zeros_like(update)
        m: Vector = self.beta_1 * state.get("m_t", nothing) + (1 - self.beta_1) * update
        v = self.second_moment(state.get("v_t", nothing), update**2)
        step: NDArray[np.floating] = self.rate(mean.number) * m / (np.sqrt(v) + self.tau)
        return np.asarray(mean.before + step, np.float32), {"m_t": m, "v_t": v}


@config
class FedAdam(FedOpt):
    """Adam on the mean update (algorithm 2), its first steps as long as later ones."""

    kind: Literal["fedadam"] = "fedadam"

    def second_moment(self, before: Vector, squared: Vector) -> Vector:
        """A running mean of squares."""
        return self.beta_2 * before + (1 - self.beta_2) * squared

    def rate(self, number: int) -> np.float64:
        """With the correction of Kingma and Ba 2015 before section 2.1, counted as Flower does."""
        first, second = (1 - np.power(b, number + 1.0) for b in (self.beta_1, self.beta_2))
        return np.float64(self.server_learning_rate * np.sqrt(second) / first)


@config
class FedYogi(FedOpt):
    """Yogi on the mean update (algorithm 2)."""

    kind: Literal["fedyogi"] = "fedyogi"

    def second_moment(self, before: Vector, squared: Vector) -> Vector:
        """Moves by the square at most, whichever is larger."""
        moved: Vector = before - (1 - self.beta_2) * squared * np.sign(before - squared)
        return moved
