"""The running mean of the models over rounds, which is tested and kept in place of the last.

Noise that is new in every round averages out. The mean is computed from what is
released already, so it costs no privacy; training goes on from the last model,
not from the mean.

Source: Polyak and Juditsky 1992 for the idea; De et al. 2022, "Unlocking
High-Accuracy Differentially Private Image Classification through Scale",
section 4, for what it is worth under DP-SGD.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.vector import Vector


@dataclass
class RunningMean:
    """An exponential moving average with `decay` in [0, 1); it grows in place.

    `total: float64[d]` is the sum of `(1 - decay) decay^(t - i)` times model i;
    `count` is t.
    """

    decay: float
    total: NDArray[np.float64]
    count: int = 0

    def take(self, model: Vector) -> None:
        """Add the model of one more round."""
        self.total = self.decay * self.total + (1 - self.decay) * model
        self.count += 1

    def model(self) -> Vector:
        """The mean, `float32[d]`: weights that add up to 1, the newest model's the largest.

        Raises:
            RuntimeError: there was no model yet.
        """
        if not self.count:
            raise RuntimeError("the mean of no model was asked for")
        return np.asarray(self.total / (1 - self.decay**self.count), np.float32)
