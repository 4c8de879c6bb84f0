"""FedAvg whose sites are pulled towards the global model (Li et al. 2020)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from fedlearn.algorithms.algorithm import Algorithm, Correction, LocalRound
from fedlearn.core.settings import NonNegative, config
from fedlearn.models.slots import is_slot


@config
class FedProx(Algorithm):
    """A site's loss has `mu/2 * |w - w_global|^2` besides."""

    kind: Literal["fedprox"] = "fedprox"
    proximal_mu: NonNegative
    """Weight of `mu/2 * |w - w_global|^2` in a site's loss."""
    takes_mean: ClassVar[bool] = True

    def correction(self, model: nn.Module, here: LocalRound) -> Correction | None:
        """The gradient of the term, which reads no record."""
        return pull(model, self.proximal_mu) if self.proximal_mu else None


def pull(model: nn.Module, mu: float) -> Correction:
    """Adds the gradient of `mu/2 * |w - anchor|^2`; the anchor is what `model` holds now."""
    anchor = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def correct(moved: nn.Module) -> None:
        for name, parameter in moved.named_parameters():
            if parameter.requires_grad and parameter.grad is not None and not is_slot(name):
                parameter.grad.add_(parameter.detach() - anchor[name], alpha=mu)

    return correct
