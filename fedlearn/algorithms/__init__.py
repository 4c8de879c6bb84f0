"""Algorithms: for each its settings, its part at the sites and its part at the coordinator."""

from fedlearn.algorithms.algorithm import (
    Algorithm,
    Correction,
    LocalRound,
    LocalSettings,
    RoundMean,
    State,
    Vectors,
    cohort_size,
)
from fedlearn.algorithms.fedavg import FedAvg
from fedlearn.algorithms.fedavgm import FedAvgM
from fedlearn.algorithms.fedopt import FedAdam, FedYogi
from fedlearn.algorithms.fedprox import FedProx

__all__ = [
    "Algorithm",
    "Correction",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "FedYogi",
    "LocalRound",
    "LocalSettings",
    "RoundMean",
    "State",
    "Strategy",
    "Vectors",
    "cohort_size",
]

Strategy = FedAvg | FedProx | FedAvgM | FedAdam | FedYogi
"""The union of strategies, told apart by `kind`."""
