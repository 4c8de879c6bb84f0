"""The models that can be federated, each with its config beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar, assert_never

import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.core.registry import Family
from fedlearn.core.rng import Streams
from fedlearn.models.cnn import Cnn, build_cnn, cnn_problems
from fedlearn.models.finetune import Finetune, Learner, cut
from fedlearn.models.initialise import allocate, initialise
from fedlearn.models.resnet import ResNet, build_resnet, resnet_problems
from fedlearn.models.scattering import Scattering, build_scattering, scattering_problems
from fedlearn.models.sequence import Sequence, build_sequence
from fedlearn.models.squeezenet import SqueezeNet, build_squeezenet, squeezenet_problems
from fedlearn.models.tabular import Tabular, build_tabular, tabular_problems
from fedlearn.models.text import Text, build_text, text_problems
from fedlearn.models.vit import ViT, build_vit, vit_problems
from fedlearn.tasks import ImageInput, Input, SeriesInput, TableInput, Task, TextInput

__all__ = [
    "MODELS",
    "Finetune",
    "Learner",
    "Model",
    "Weights",
    "build",
    "freezes",
    "pretrained",
    "problems",
]

Model = Tabular | Cnn | ResNet | ViT | SqueezeNet | Scattering | Text | Sequence
"""The union of model configs, told apart by `kind`."""

MODELS: Family[Model] = Family(
    "model",
    "fedlearn.models",
    (Tabular, Cnn, ResNet, ViT, SqueezeNet, Scattering, Text, Sequence),
)

Weights = Mapping[str, Tensor]
"""Pretrained weights by name; `fedlearn.models.weights` has them."""

NOTHING: Weights = MappingProxyType({})
WHOLE = Finetune()


def build(
    config: Model,
    task: Task,
    streams: Streams,
    finetune: Finetune = WHOLE,
    weights: Weights = NOTHING,
) -> Learner:
    """A new model for `task`, on the CPU, with the initial weights of the run.

    Guarantees: the same (config, task, seed, weights) give the same model, bit
    for bit, whatever part of it `finetune` trains; no global generator is read.

    Raises:
        ConfigError: `finetune` does not fit the model.
        ValueError: `weights` are not those of this model.
    """
    with torch.device("meta"):
        model = _build(config, task)
    allocate(model)
    generator = torch.Generator().manual_seed(streams.torch_seed("model"))
    initialise(model, generator)
    _take_over(model, config, weights)
    learner = cut(model, _meant(config, finetune), generator)
    if not pretrained(config) and learner.frozen_parameters:
        raise ConfigError(
            [
                f"training.finetune={finetune.mode}: would keep random weights as they are; choose "
                "a pretrained model, or training.finetune=full"
            ]
        )
    return learner


def pretrained(config: Model) -> bool:
    """Whether the weights below the head mean something before training."""
    match config:
        case SqueezeNet():
            return config.pretrained
        case Text():
            return bool(config.pretrained)
        case Tabular() | Cnn() | ResNet() | ViT() | Scattering() | Sequence():
            return False
        case _:
            assert_never(config)


def _take_over(model: nn.Module, config: Model, weights: Weights) -> None:
    """Puts all pretrained weights in; only the head may be without one."""
    if not pretrained(config):
        return
    state = model.state_dict()
    if strange := weights.keys() - state.keys():
        raise ValueError(f"weights of no layer of the model: {', '.join(sorted(strange))}")
    if missing := [n for n in state if not n.startswith("head.") and n not in weights]:
        raise ValueError(f"no weights for {', '.join(missing)}")
    if unlike := [n for n, values in weights.items() if values.shape != state[n].shape]:
        raise ConfigError([_unlike(n, weights[n], state[n]) for n in unlike])
    with torch.no_grad():
        for name, values in weights.items():
            state[name].copy_(values)


def _unlike(name: str, weight: Tensor, wanted: Tensor) -> str:
    return (
        f"model.pretrained: its {name} is {list(weight.shape)} where the model has "
        f"{list(wanted.shape)}; the model's sizes, and a scenario's tokenizer, are those of what "
        "it is pretrained from"
    )


def _meant(config: Model, finetune: Finetune) -> Finetune:
    """Where the head is all that can be trained, what comes before is computed once."""
    fixed = isinstance(config, Scattering) or (
        isinstance(config, Text) and not config.words and not config.depth
    )
    return Finetune(mode="head") if fixed and finetune.mode == "full" else finetune


def freezes(config: Model, finetune: Finetune) -> bool:
    """Whether a part of the model stays as it is, and is computed once for every record."""
    return _meant(config, finetune).mode != "full"


def problems(config: Model, task: Task) -> list[str]:
    """What is wrong with this pair of model and task, as `dotted.path: reason` lines."""
    wanted = _wanted(config)
    if not isinstance(task.input, wanted):
        return [
            f"model.kind={config.kind}: needs {_NAMES[wanted]}, and the scenario's records are not"
        ]
    return list(_own_problems(config, task))


def _own_problems(config: Model, task: Task) -> Iterator[str]:
    match config:
        case Tabular():
            return tabular_problems(config)
        case Cnn():
            return cnn_problems(config, _input(task, ImageInput))
        case ResNet():
            return resnet_problems(config, _input(task, ImageInput))
        case ViT():
            return vit_problems(config, _input(task, ImageInput))
        case SqueezeNet():
            return squeezenet_problems(config, _input(task, ImageInput))
        case Scattering():
            return scattering_problems(config, _input(task, ImageInput))
        case Text():
            return text_problems(config, _input(task, TextInput))
        case Sequence():
            return iter(())
        case _:
            assert_never(config)


_NAMES: dict[type[Input], str] = {
    TableInput: "a table",
    ImageInput: "pictures",
    TextInput: "texts",
    SeriesInput: "rows over time (scenario=csv with scenario.record and scenario.time)",
}


def _wanted(config: Model) -> type[Input]:
    match config:
        case Tabular():
            return TableInput
        case Cnn() | ResNet() | ViT() | SqueezeNet() | Scattering():
            return ImageInput
        case Text():
            return TextInput
        case Sequence():
            return SeriesInput
        case _:
            assert_never(config)


def _build(config: Model, task: Task) -> nn.Sequential:
    classes = task.num_classes
    match config:
        case Tabular():
            return build_tabular(config, _input(task, TableInput), classes)
        case Cnn():
            return build_cnn(config, _input(task, ImageInput), classes)
        case ResNet():
            return build_resnet(config, _input(task, ImageInput), classes)
        case ViT():
            return build_vit(config, _input(task, ImageInput), classes)
        case SqueezeNet():
            return build_squeezenet(config, _input(task, ImageInput), classes)
        case Scattering():
            return build_scattering(config, _input(task, ImageInput), classes)
        case Text():
            return build_text(config, _input(task, TextInput), classes)
        case Sequence():
            return build_sequence(config, _input(task, SeriesInput), classes)
        case _:
            assert_never(config)


Shape = TypeVar("Shape", bound=Input)


def _input(task: Task, wanted: type[Shape]) -> Shape:
    if not isinstance(task.input, wanted):
        found = type(task.input).__name__
        raise TypeError(f"the model needs {wanted.__name__}, not {found}: see `problems`")
    return task.input
