"""The models that can be federated, each with its config beside it."""

from __future__ import annotations

from typing import TypeVar, assert_never

import torch
from torch import nn

from fedlearn.errors import ConfigError
from fedlearn.models.cnn import Cnn, build_cnn, cnn_problems
from fedlearn.models.finetune import Finetune, Learner, cut
from fedlearn.models.initialise import allocate, initialise
from fedlearn.models.tabular import Tabular, build_tabular, tabular_problems
from fedlearn.rng import Streams
from fedlearn.task import ImageInput, Input, TableInput, Task

__all__ = ["Finetune", "Learner", "Model", "build", "pretrained", "problems"]

Model = Tabular | Cnn
"""The union of model configs, told apart by `kind`."""

WHOLE = Finetune()


def build(config: Model, task: Task, streams: Streams, finetune: Finetune = WHOLE) -> Learner:
    """A new model for `task`, on the CPU, with the initial weights of the run.

    Guarantees: the same (config, task, seed) gives the same weights, bit for
    bit, whatever part of them `finetune` trains; no global generator is read.

    Raises:
        ConfigError: `finetune` does not fit the model.
    """
    with torch.device("meta"):
        model = _build(config, task)
    allocate(model)
    initialise(model, torch.Generator().manual_seed(streams.torch_seed("model")))
    learner = cut(model, finetune)
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
        case Tabular() | Cnn():
            return False
        case _:
            assert_never(config)


def problems(config: Model, task: Task) -> list[str]:
    """What is wrong with this pair of model and task, as `dotted.path: reason` lines."""
    wanted = _wanted(config)
    if not isinstance(task.input, wanted):
        return [
            f"model.kind={config.kind}: needs {_NAMES[wanted]}, and the scenario's records are not"
        ]
    match config:
        case Tabular():
            return list(tabular_problems(config))
        case Cnn():
            return list(cnn_problems(config, _input(task, ImageInput)))
        case _:
            assert_never(config)


_NAMES: dict[type[Input], str] = {TableInput: "a table", ImageInput: "pictures"}


def _wanted(config: Model) -> type[Input]:
    match config:
        case Tabular():
            return TableInput
        case Cnn():
            return ImageInput
        case _:
            assert_never(config)


def _build(config: Model, task: Task) -> nn.Sequential:
    match config:
        case Tabular():
            return build_tabular(config, _input(task, TableInput), task.num_classes)
        case Cnn():
            return build_cnn(config, _input(task, ImageInput), task.num_classes)
        case _:
            assert_never(config)


Shape = TypeVar("Shape", bound=Input)


def _input(task: Task, wanted: type[Shape]) -> Shape:
    if not isinstance(task.input, wanted):
        found = type(task.input).__name__
        raise TypeError(f"the model needs {wanted.__name__}, not {found}: see `problems`")
    return task.input
