"""The weighted mean of the sites' models (McMahan et al. 2017, algorithm 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

from fedlearn.algorithms.algorithm import Algorithm
from fedlearn.core.settings import config


@config
class FedAvg(Algorithm):
    """The next model is the mean."""

    kind: Literal["fedavg"] = "fedavg"
    takes_mean: ClassVar[bool] = True
