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
from fedlearn.algorithms.boosting import Boosting
from fedlearn.algorithms.fedavg import FedAvg
from fedlearn.algorithms.fedavgm import FedAvgM
from fedlearn.algorithms.fedopt import FedAdam, FedYogi
from fedlearn.algorithms.fedprox import FedProx
from fedlearn.algorithms.given import GivenStep, Step, give
from fedlearn.algorithms.personal import Ditto, MrMtl, OwnParts, unprotected
from fedlearn.algorithms.scaffold import Scaffold
from fedlearn.core.registry import Family

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Boosting",
    "Correction",
    "Ditto",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "FedYogi",
    "GivenStep",
    "LocalRound",
    "LocalSettings",
    "MrMtl",
    "OwnParts",
    "RoundMean",
    "Scaffold",
    "State",
    "Step",
    "Vectors",
    "cohort_size",
    "give",
    "unprotected",
]

ALGORITHMS: Family[Algorithm] = Family(
    "strategy",
    "fedlearn.algorithms",
    (FedAvg, FedProx, FedAvgM, FedAdam, FedYogi, Scaffold, Boosting, Ditto, MrMtl, GivenStep),
    Algorithm,
)
