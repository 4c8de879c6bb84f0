"""The models that can be federated, each with its config beside it."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import nn

from fedlearn.errors import ConfigError
from fedlearn.models.finetune import Finetune, Learner, cut
from fedlearn.models.initialise import initialise
from fedlearn.models.tabular import Tabular, build_tabular
from fedlearn.rng import Streams
from fedlearn.task import TableInput, Task

__all__ = ["Finetune", "Learner", "Model", "build", "pretrained", "problems"]

Model = Tabular
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
    model = model.to_empty(device="cpu")
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
        case Tabular():
            return False
        case _:
            assert_never(config)


def _build(config: Model, task: Task) -> nn.Sequential:
    match config, task.input:
        case Tabular(), TableInput() as table:
            return build_tabular(config, table, task.num_classes)
        case Tabular(), _:
            raise TypeError("a tabular model needs a table; `problems` should have refused this")
        case _:
            assert_never(config)


def problems(config: Model, task: Task) -> list[str]:
    """What is wrong with this pair of model and task, as `dotted.path: reason` lines."""
    found = []
    if not isinstance(task.input, TableInput):
        found.append(f"model.kind={config.kind}: needs a table, and the scenario's records are not")
    if config.architecture == "ft_transformer" and config.width % config.heads:
        found.append(
            f"model.heads={config.heads}: must divide model.width={config.width}; "
            f"set model.width to a multiple of it"
        )
    return found
