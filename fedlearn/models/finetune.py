"""Which part of a model is trained, and what stays as it is.

A model is a sequence of stages that ends in one called `head`. Fine-tuning cuts
it in two: what comes before the cut is *frozen*, the same at every party and
for ever, so that a site computes it once per record and keeps the result; what
comes after is *trained*, and it alone travels, is clipped, noised, masked and
counted.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import nn

from fedlearn.errors import ConfigError
from fedlearn.settings import Count

Mode = Literal["full", "head", "last_k"]


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """`full`: all stages; `head`: the last one; `last_k`: the last k that have parameters."""

    mode: Mode = "full"
    last_k: Count = 1


@dataclass(frozen=True, eq=False)
class Learner:
    """What a prediction is made by: `frozen`, where there is any, and then `model`.

    Only `model` has parameters that learn; `frozen` is in evaluation mode and
    holds none that needs a gradient.
    """

    frozen: nn.Sequential | None
    model: nn.Module

    @property
    def frozen_parameters(self) -> int:
        """Number of parameters that stay as they are, whichever side they are on."""
        parts = (self.model,) if self.frozen is None else (self.frozen, self.model)
        return sum(p.numel() for part in parts for p in part.parameters() if not p.requires_grad)

    def whole(self) -> nn.Module:
        """Both as one module that maps records to logits."""
        return self.model if self.frozen is None else nn.Sequential(self.frozen, self.model)


def stages(**parts: nn.Module) -> nn.Sequential:
    """The named parts of a model in their order; the last is its `head`."""
    return nn.Sequential(OrderedDict(parts))


def cut(whole: nn.Sequential, finetune: Finetune) -> Learner:
    """The learner that trains the part of `whole` that `finetune` names.

    **Guarantees:** the two parts, one after the other, are `whole`; names are kept.

    Raises:
        ConfigError: there are fewer stages than are to be trained.
    """
    names = [name for name, _ in whole.named_children()]
    learnable = [i for i, stage in enumerate(whole) if any(True for _ in stage.parameters())]
    count = trained_stages(finetune, len(learnable))
    if count > len(learnable):
        raise ConfigError(
            [f"training.last_k={count}: the model has {len(learnable)} stages that have parameters"]
        )
    start = 0 if finetune.mode == "full" else learnable[-count]
    frozen, trained = (_part(whole, part) for part in (names[:start], names[start:]))
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    return Learner(frozen=frozen.eval() if start else None, model=trained)


def trained_stages(finetune: Finetune, available: int) -> int:
    """How many of the stages that have parameters are trained."""
    match finetune.mode:
        case "full":
            return available
        case "head":
            return 1
        case "last_k":
            return finetune.last_k


def _part(whole: nn.Sequential, names: list[str]) -> nn.Sequential:
    return stages(**{name: whole.get_submodule(name) for name in names})
