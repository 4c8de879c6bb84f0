"""Low-rank adapters (Hu et al. 2022, "LoRA"): what is learned is a small change of frozen layers.

A linear layer `W x` becomes `W x + (alpha / rank) B A x`, where `W` stays as it
is. The layers are those of peft; weights are drawn from the run's own stream,
because peft draws from torch's global generator. Both factors are plain linear
layers, so DP-SGD clips them exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from fedlearn.core.errors import ConfigError
from fedlearn.models.initialise import initialise

ADAPTER = "default"


def adapt(
    model: nn.Sequential, stages: list[str], *, rank: int, alpha: float, generator: torch.Generator
) -> None:
    """Put adapters into the linear layers of the named stages, in place.

    **Guarantees:** what `model` computes is unchanged until it is trained; only
    adapters and `head` learn; no global generator is read.

    Raises:
        ConfigError: there is no such layer, or peft is not installed.
    """
    targets = [name for stage in stages for name in _linear(model.get_submodule(stage), stage)]
    if not targets:
        raise ConfigError(
            [
                "training.finetune=lora: the model has no linear layer before its head; choose "
                "training.finetune=head"
            ]
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
            ["training.finetune=lora: needs peft; install it with pip install 'fedlearn[text]'"]
        ) from None
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)


def _linear(stage: nn.Module, prefix: str) -> Iterator[str]:
    for name, module in stage.named_modules():
        if isinstance(module, nn.Linear):
            yield f"{prefix}.{name}" if name else prefix
