"""Which part of a model is trained, and what stays as it is.

A model is a sequence of stages that ends in one called `head`. Fine-tuning cuts
it in two: what comes before the cut is *frozen*, the same at every party and
for ever, so that a site computes it once per record and keeps the result; what
comes after is *trained*, and it alone travels, is clipped, noised, masked and
counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError, counted
from fedlearn.core.recompute import computed_again
from fedlearn.core.settings import Count, Name, Natural, Positive, config
from fedlearn.models.initialise import initialise

Mode = Literal["full", "head", "last_k", "lora"]
Start = Literal["drawn", "whitened"]


@config
class Finetune:
    """`full`: all stages; `head`: the last one; `last_k`: the last k that have parameters.

    `lora`: the head, and low-rank adapters of the linear layers in the last
    `lora_stages` stages before it that have parameters; 0 takes all of them. Of these layers
    those whose name ends in one of `lora_layers`, where there are any. With `lora_frozen_a` the
    first factor of each adapter stays as it started: as it was `drawn`, or `whitened`
    (`fedlearn.models.whitening`).

    Where a model's head does not learn it is none of the stages that are counted, and nor is a
    stage that is `fixed`.
    """

    mode: Mode = "full"
    last_k: Count = 1
    lora_rank: Count = 8
    lora_alpha: Positive = 16.0
    lora_stages: Natural = 0
    lora_layers: Annotated[tuple[Name, ...], Field(exclude_if=lambda names: not names)] = ()
    lora_frozen_a: Annotated[bool, Field(exclude_if=lambda frozen: not frozen)] = False
    lora_start: Annotated[Start, Field(exclude_if=lambda start: start == "drawn")] = "drawn"


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


class Stages(nn.Sequential):
    """Named stages in their order; with `checkpointing` those before the head keep what they read
    alone, and are computed again in the backward pass (`fedlearn.core.recompute`)."""

    def __init__(self, parts: OrderedDict[str, nn.Module]) -> None:
        super().__init__(parts)
        self.checkpointing = False

    def forward(self, x: Tensor) -> Any:
        """What the last stage gives."""
        again = self.checkpointing
        for name, stage in self.named_children():
            again = again and name != HEAD
            x = computed_again(stage, x) if again else stage(x)
        return x


@contextmanager
def checkpointed(model: nn.Module, checkpointing: bool) -> Iterator[None]:
    """While this lasts, the stages of a model compute again what they do not keep, or not."""
    if not isinstance(model, Stages):
        yield
        return
    before, model.checkpointing = model.checkpointing, checkpointing
    try:
        yield
    finally:
        model.checkpointing = before


HEAD: Final = "head"
"""What the last stage of a model is called."""


def stages(**parts: nn.Module) -> nn.Sequential:
    """The named parts of a model in their order; the last is its `head`."""
    return Stages(OrderedDict(parts))


def cut(
    whole: nn.Sequential,
    finetune: Finetune,
    generator: torch.Generator,
    *,
    head: bool = True,
    shared: bool = False,
) -> Learner:
    """The learner that trains the part of `whole` that `finetune` names.

    `generator` draws the adapters of `lora`; `head` says whether the head learns, `shared`
    whether the weights are those of other models as well, and so are not written to.
    **Guarantees:** the two parts, one after the other, compute what `whole` does; names are kept.

    Raises:
        ConfigError: there are fewer stages than are to be trained, or none for adapters.
    """
    names = [name for name, _ in whole.named_children()]
    if finetune.mode != "full" and names[-1] != "head":
        raise ConfigError(
            f"training.finetune={finetune.mode}: the model has no last stage called head; "
            "return an nn.Sequential that ends in one, or choose training.finetune=full"
        )
    if not head and finetune.mode in ("full", "head"):
        raise ConfigError(
            f"training.finetune={finetune.mode}: the head of this model (a vocabulary, or public "
            "documents) stays as it is; choose training.finetune=lora, or last_k for its last "
            "stages"
        )
    learnable = [
        i
        for i, stage in enumerate(whole)
        if any(True for _ in stage.parameters()) and not getattr(stage, "fixed", False)
    ]
    if not head:  # it is the vocabulary, and so is the first one
        learnable = learnable[1 if finetune.mode == "last_k" else 0 : -1]
    count = trained_stages(finetune, len(learnable), head=head)
    if count > len(learnable):
        name, most = _setting(finetune), len(learnable) - (head and finetune.mode == "lora")
        way_out = f"set it to {most} or less" if most else "choose training.finetune=head"
        raise ConfigError(
            f"{name}={getattr(finetune, name.rpartition('.')[2])}: the model has "
            f"{counted(len(learnable), 'stage that has', 'stages that have')} parameters, "
            f"{'the head among them' if head else 'without its vocabulary'}; {way_out}"
        )
    start = 0 if finetune.mode == "full" else learnable[-count]
    frozen, trained = (_part(whole, part) for part in (names[:start], names[start:]))
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    if finetune.mode == "lora":
        last = -1 if head else None
        adapt(trained, [names[i] for i in learnable[-count:last]], finetune, generator, head=head)
    elif shared:
        _own_weights(trained, head=head)
    return Learner(frozen=frozen.eval() if start else None, model=trained)


def _own_weights(trained: nn.Sequential, *, head: bool) -> None:
    """Have all of it learn, the head if `head`, in single precision: numbers of their own, in
    nobody's cache."""
    for name, parameter in trained.named_parameters():
        if head or not name.startswith("head."):
            parameter.data = parameter.data.to(torch.float32, copy=True)
            parameter.requires_grad_()


def trained_stages(finetune: Finetune, available: int, *, head: bool = True) -> int:
    """How many of the stages that have parameters are trained."""
    match finetune.mode:
        case "full":
            return available
        case "head":
            return 1
        case "last_k":
            return finetune.last_k
        case "lora":
            return head + finetune.lora_stages if finetune.lora_stages else available


def _setting(finetune: Finetune) -> str:
    return "training.lora_stages" if finetune.mode == "lora" else "training.last_k"


def _part(whole: nn.Sequential, names: list[str]) -> nn.Sequential:
    return stages(**{name: whole.get_submodule(name) for name in names})


# --- low-rank adapters -------------------------------------------------------------

ADAPTER = "default"


def adapt(
    model: nn.Sequential,
    stages: list[str],
    finetune: Finetune,
    generator: torch.Generator,
    *,
    head: bool,
) -> None:
    """Put adapters into linear layers of the named stages, in place; the head learns if `head`.

    As Hu et al. 2022, "LoRA": a layer `W x` becomes `W x + (alpha / rank) B A x`, where `W`
    stays as it is. The layers are those of peft; weights are drawn from the run's own stream,
    because peft draws from torch's global generator. Both factors are plain linear layers, so
    DP-SGD clips them exactly. With a frozen A (Sun et al. 2024, "FFA-LoRA") the mean of what
    sites send is the mean of their changes, and half as many numbers have noise.

    **Guarantees:** what `model` computes is unchanged until it is trained; only
    adapters and the head learn, in single precision; no global generator is read.

    Raises:
        ConfigError: there is no such layer, or peft is not installed.
    """
    targets = _targets(model, stages, finetune.lora_layers)
    _inject(model, targets, finetune)
    for name, module in model.named_modules():
        if name.endswith((f"lora_A.{ADAPTER}", f"lora_B.{ADAPTER}")):
            module.float()
        if name.endswith(f"lora_A.{ADAPTER}"):
            initialise(module, generator)
    factors = "lora_B" if finetune.lora_frozen_a else "lora_"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(factors in name or (head and name.startswith("head.")))


def _targets(model: nn.Sequential, stages: list[str], named: Sequence[str]) -> list[str]:
    """The names of the layers that get adapters."""
    there = [name for stage in stages for name in _linear(model.get_submodule(stage), stage)]
    if not there:
        raise ConfigError(
            "training.finetune=lora: the model has no linear layer before its head; choose "
            "training.finetune=head"
        )
    last = dict.fromkeys(name.rpartition(".")[2] for name in there)
    if unknown := [name for name in named if name not in last]:
        raise ConfigError(
            f"training.lora_layers: no layer is called {', '.join(unknown)}; in the stages that "
            f"get adapters there are {', '.join(last)}"
        )
    return [name for name in there if not named or name.rpartition(".")[2] in named]


def _inject(model: nn.Module, targets: list[str], finetune: Finetune) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model  # seconds to import
    except ImportError:
        raise ConfigError(
            "training.finetune=lora: needs peft; install it with pip install 'fedlearn[text]'"
        ) from None
    turned = any(_is_turned(model.get_submodule(name)) for name in targets)
    config = LoraConfig(
        r=finetune.lora_rank,
        lora_alpha=finetune.lora_alpha,
        target_modules=targets,
        fan_in_fan_out=turned,
    )
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)


def _linear(stage: nn.Module, prefix: str) -> Iterator[str]:
    for name, module in stage.named_modules():
        if isinstance(module, nn.Linear) or _is_turned(module):
            yield f"{prefix}.{name}" if name else prefix


def _is_turned(module: nn.Module) -> bool:
    """Whether it is a linear layer as GPT-2 has them, whose weight is `[in, out]`."""
    return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")
