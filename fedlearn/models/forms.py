"""A trained model in the form that transformers and peft read, so that it can be used without us.

The names of tensors are those of transformers, the numbers are ours, in single precision.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.models.architectures import Architecture
from fedlearn.models.finetune import ADAPTER, Finetune
from fedlearn.models.seq2seq import Seq2SeqKind

BESIDE: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""Files of a folder that a tuned model needs as its base does."""

_FACTORS: Final = ("lora_A", "lora_B")


@dataclass(frozen=True, kw_only=True)
class PublicBase:
    """The public model that another was tuned from, in a folder of Hugging Face's form."""

    made_of: Architecture | Seq2SeqKind | None
    """None of one that writes no texts."""
    about: Mapping[str, Any]
    """Its config.json."""
    path: Path
    name: str
    """By which a config calls it."""
    licence: str
    """Empty where nothing says it."""
    sha256: str
    """Of its weights."""

    @property
    def kind(self) -> Architecture | Seq2SeqKind:
        """How it is put together, and what transformers and peft call such a model.

        Raises:
            ConfigError: it is another kind of model, of which no such form is written.
        """
        if self.made_of is None:
            raise ConfigError(
                f"--to: {self.name} is of type {self.about.get('model_type')!r}; peft and merged "
                "are written of models that write texts: give --to a folder"
            )
        return self.made_of


def stages_of(network: nn.Module) -> OrderedDict[str, nn.Module]:
    """The named stages of a whole model, frozen or not, in their order."""
    found = OrderedDict(network.named_children())
    if [*found] == ["0", "1"]:  # as `Learner.whole` puts together what it has cut
        return OrderedDict(part for half in found.values() for part in half.named_children())
    return found


def whole_weights(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of a whole model by the names of its stages, adapters added to
    what they adapt: those of `Model.network`. What two layers share is there once.
    """
    found: dict[str, Tensor] = {}
    shared: set[int] = set()
    for name, weight in _merged(network):
        if id(weight) not in shared:
            found[name] = weight.detach()
        shared.add(id(weight))
    for stage, part in stages_of(network).items():
        found |= {f"{stage}.{name}": buffer for name, buffer in part.named_buffers()}
    return found


def merged_weights(network: nn.Module, base: PublicBase) -> dict[str, Tensor]:
    """All weights of a whole model by transformers' names, adapters added to what they adapt.

    What two layers share is there once, as a folder has it.
    """
    found: dict[str, Tensor] = {}
    shared: set[int] = set()
    for name, weight in _merged(network):
        if not (name == "head.weight" and weight.data_ptr() in shared):
            found[base.kind.theirs(name)] = _own(weight)
        shared.add(weight.data_ptr())
    return found


def _own(weight: Tensor) -> Tensor:
    """Numbers of one's own: the weights of a public model are read once for a whole process."""
    return weight.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def merged_settings(base: PublicBase) -> dict[str, Any]:
    """The config.json of a model with these weights."""
    kept = {name: value for name, value in base.about.items() if not name.startswith("_")}
    kept.pop("dtype", None)
    return {**kept, "torch_dtype": "float32"}


def adapter_weights(network: nn.Module, base: PublicBase) -> dict[str, Tensor]:
    """Both factors of every adapter, by the names that peft gives them."""
    return {
        f"base_model.model.{base.kind.theirs(layer)}.{factor}.weight": weight.detach().float()
        for layer, module in _adapted(network)
        for factor in _FACTORS
        for weight in [getattr(module, factor)[ADAPTER].weight]
    }


def adapter_settings(network: nn.Module, base: PublicBase, part: Finetune) -> dict[str, Any]:
    """The adapter_config.json of these adapters.

    Raises:
        ConfigError: it has none: whole blocks were trained.
    """
    layers = [(base.kind.theirs(layer), module) for layer, module in _adapted(network)]
    if not layers:
        raise ConfigError(
            f"--to=peft: the run trained whole blocks (training.finetune={part.mode}), so there "
            "are no adapters to write; --to merged writes the model"
        )
    return {
        "peft_type": "LORA",
        "task_type": base.kind.peft_task,
        "base_model_name_or_path": base.name,
        "r": part.lora_rank,
        "lora_alpha": part.lora_alpha,
        "lora_dropout": 0.0,
        "target_modules": [name for name, _ in layers],
        "fan_in_fan_out": bool(layers[0][1].fan_in_fan_out),
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _adapted(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that have adapters, by our names."""
    for stage, part in stages_of(network).items():
        for name, module in part.named_modules():
            if hasattr(module, "lora_A"):
                yield f"{stage}.{name}", module


def _merged(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight by our name, that of an adapted layer with its change."""
    changed = {
        f"{layer}.base_layer.weight": (f"{layer}.weight", _with_change(module))
        for layer, module in _adapted(network)
    }
    for stage, part in stages_of(network).items():
        for name, weight in part.named_parameters(remove_duplicate=False):
            whole = f"{stage}.{name}"
            if whole in changed:
                yield changed[whole]
            elif not any(f".{factor}." in whole for factor in _FACTORS):
                yield whole.replace(".base_layer.", "."), weight


@torch.no_grad()
def _with_change(module: Any) -> Tensor:
    weight: Tensor = module.base_layer.weight.float()
    change: Tensor = module.get_delta_weight(ADAPTER)
    return weight + change
