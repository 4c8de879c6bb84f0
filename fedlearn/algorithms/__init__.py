"""How the coordinator turns the sites' models into the next global model.

The settings only; the algorithms are Flower's own classes (`server.strategies`).
"""

from __future__ import annotations

import math
from typing import Literal

from fedlearn.core.settings import Count, NonNegative, Portion, Positive, Rate, config


@config
class FedAvg:
    """The weighted mean of the sites' models (McMahan et al. 2017, algorithm 1)."""

    kind: Literal["fedavg"] = "fedavg"
    fraction: Rate
    """Share of the sites that is invited in a round, rounded up."""
    min_sites: Count
    """A round with fewer replies ends the run; nothing of it is used."""


@config
class FedProx:
    """FedAvg whose sites are pulled towards the global model (Li et al. 2020)."""

    kind: Literal["fedprox"] = "fedprox"
    fraction: Rate
    min_sites: Count
    proximal_mu: NonNegative
    """Weight of `mu/2 * |w - w_global|^2` in a site's loss."""


@config
class FedAvgM:
    """FedAvg with momentum on the mean update (Hsu, Qi and Brown 2019, section 4.2)."""

    kind: Literal["fedavgm"] = "fedavgm"
    fraction: Rate
    min_sites: Count
    server_learning_rate: Positive
    server_momentum: Portion


@config
class FedAdam:
    """Adam on the mean update (Reddi et al. 2021, algorithm 2)."""

    kind: Literal["fedadam"] = "fedadam"
    fraction: Rate
    min_sites: Count
    server_learning_rate: Positive
    beta_1: Portion
    beta_2: Portion
    tau: Positive
    """Degree of adaptivity: added to the root of the second moment."""


@config
class FedYogi:
    """Yogi on the mean update (Reddi et al. 2021, algorithm 2)."""

    kind: Literal["fedyogi"] = "fedyogi"
    fraction: Rate
    min_sites: Count
    server_learning_rate: Positive
    beta_1: Portion
    beta_2: Portion
    tau: Positive


Strategy = FedAvg | FedProx | FedAvgM | FedAdam | FedYogi
"""The union of strategies, told apart by `kind`."""


def cohort_size(config: Strategy, sites: int) -> int:
    """How many of `sites` sites a round invites: the fraction, and never fewer than `min_sites`."""
    wanted = math.ceil(config.fraction * sites - 1e-9)
    return min(sites, max(wanted, config.min_sites))
