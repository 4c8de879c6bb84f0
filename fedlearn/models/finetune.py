"""Which part of a model is trained, and what stays as it is.

A model is a sequence of stages that ends in one called `head`. Fine-tuning cuts
it in two: what comes before the cut is *frozen*, the same at every party and
for ever, so that a site computes it once per record and keeps the result; what
comes after is *trained*, and it alone travels, is clipped, noised, masked and
counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Count, Natural, Positive, config
from fedlearn.models.initialise import initialise

Mode = Literal["full", "head", "last_k", "lora"]


@config
class Finetune:
    """`full`: all stages; `head`: the last one; `last_k`: the last k that have parameters.

    `lora`: the head, and low-rank adapters of the linear layers in the last
    `lora_stages` stages before it that have parameters; 0 takes all of them.
    """

    mode: Mode = "full"
    last_k: Count = 1
    lora_rank: Count = 8
    lora_alpha: Positive = 16.0
    lora_stages: Natural = 0


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


def cut(whole: nn.Sequential, finetune: Finetune, generator: torch.Generator) -> Learner:
    """The learner that trains the part of `whole` that `finetune` names.

    `generator` draws the adapters of `lora`. **Guarantees:** the two parts, one
    after the other, compute what `whole` does; names are kept.

    Raises:
        ConfigError: there are fewer stages than are to be trained, or none for adapters.
    """
    names = [name for name, _ in whole.named_children()]
    if finetune.mode != "full" and names[-1] != "head":
        raise ConfigError(
            f"training.finetune={finetune.mode}: the model has no last stage called head; "
            "return an nn.Sequential that ends in one, or choose training.finetune=full"
        )
    learnable = [i for i, stage in enumerate(whole) if any(True for _ in stage.parameters())]
    count = trained_stages(finetune, len(learnable))
    if count > len(learnable):
        raise ConfigError(
            f"{_setting(finetune)}: the model has {len(learnable)} stages that have "
            "parameters, the head among them"
        )
    start = 0 if finetune.mode == "full" else learnable[-count]
    frozen, trained = (_part(whole, part) for part in (names[:start], names[start:]))
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    if finetune.mode == "lora":
        adapt(
            trained,
            [names[i] for i in learnable[-count:-1]],
            rank=finetune.lora_rank,
            alpha=finetune.lora_alpha,
            generator=generator,
        )
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
        case "lora":
            return 1 + finetune.lora_stages if finetune.lora_stages else available


def _setting(finetune: Finetune) -> str:
    name = "lora_stages" if finetune.mode == "lora" else "last_k"
    return f"training.{name}={getattr(finetune, name)}"


def _part(whole: nn.Sequential, names: list[str]) -> nn.Sequential:
    return stages(**{name: whole.get_submodule(name) for name in names})


# --- low-rank adapters -------------------------------------------------------------

ADAPTER = "default"


def adapt(
    model: nn.Sequential, stages: list[str], *, rank: int, alpha: float, generator: torch.Generator
) -> None:
    """Put adapters into the linear layers of the named stages, in place.

    As Hu et al. 2022, "LoRA": a layer `W x` becomes `W x + (alpha / rank) B A x`, where `W`
    stays as it is. The layers are those of peft; weights are drawn from the run's own stream,
    because peft draws from torch's global generator. Both factors are plain linear layers, so
    DP-SGD clips them exactly.

    **Guarantees:** what `model` computes is unchanged until it is trained; only
    adapters and `head` learn; no global generator is read.

    Raises:
        ConfigError: there is no such layer, or peft is not installed.
    """
    targets = [name for stage in stages for name in _linear(model.get_submodule(stage), stage)]
    if not targets:
        raise ConfigError(
            "training.finetune=lora: the model has no linear layer before its head; choose "
            "training.finetune=head"
        )
    _inject(model, targets, rank, alpha)
    for name, module in model.named_modules():
        if name.endswith(f"lora_A.{ADAPTER}"):
            initialise(module, generator)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith("head."))


def _inject(model: nn.Module, targets: list[str], rank: int, alpha: float) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model  # seconds to import
    except ImportError:
        raise ConfigError(
            "training.finetune=lora: needs peft; install it with pip install 'fedlearn[text]'"
        ) from None
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)


def _linear(stage: nn.Module, prefix: str) -> Iterator[str]:
    for name, module in stage.named_modules():
        if isinstance(module, nn.Linear):
            yield f"{prefix}.{name}" if name else prefix
