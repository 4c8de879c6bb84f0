"""FedAvg whose sites are pulled towards the global model (Li et al. 2020)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from fedlearn.algorithms.algorithm import Algorithm, Correction, LocalRound
from fedlearn.algorithms.pull import pull
from fedlearn.core.settings import NonNegative, config


@config
class FedProx(Algorithm):
    """A site's loss has `mu/2 * |w - w_global|^2` besides."""

    kind: Literal["fedprox"] = "fedprox"
    proximal_mu: NonNegative
    """Weight of `mu/2 * |w - w_global|^2` in a site's loss."""
    takes_mean: ClassVar[bool] = True

    def correction(self, model: nn.Module, here: LocalRound) -> Correction | None:
        """The gradient of the term, which reads no record."""
        return pull(model, here.start, self.proximal_mu) if self.proximal_mu else None
