"""Models as users write them: functions of the task that return a module, good and bad."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.tasks import Task


def linear(task: Task) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(_size(task), task.num_outputs))


def mlp(task: Task, width: int = 8) -> nn.Module:
    return nn.Sequential(
        nn.Linear(_size(task), width), nn.ReLU(), nn.Linear(width, task.num_outputs)
    )


def with_head(task: Task) -> nn.Module:
    """Stages that end in a head, so that the head alone can be trained."""
    model = nn.Sequential()
    model.add_module("body", nn.Linear(_size(task), 4))
    model.add_module("head", nn.Linear(4, task.num_outputs))
    return model


def scaled(task: Task) -> nn.Module:
    """A layer of one's own, with a bare parameter."""
    return nn.Sequential(Scale(_size(task)), nn.Linear(_size(task), task.num_outputs))


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def batch_norm(task: Task) -> nn.Module:
    return nn.Sequential(
        nn.Linear(_size(task), 4), nn.BatchNorm1d(4), nn.Linear(4, task.num_outputs)
    )


def recurrent(task: Task) -> nn.Module:
    return Recurrent(task)


class Recurrent(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 4, batch_first=True)
        self.out = nn.Linear(4, task.num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x.unsqueeze(-1))
        result: Tensor = self.out(states[:, -1])
        return result


def idle(task: Task) -> nn.Module:
    """A part that nothing uses."""
    model = Passing(_size(task), task.num_outputs)
    model.spare = nn.Linear(2, 2)
    return model


class Passing(nn.Linear):
    spare: nn.Module


def narrow(task: Task) -> nn.Module:
    return nn.Linear(_size(task), task.num_outputs + 1)


def lazy(task: Task) -> nn.Module:
    """A layer that waits for its first batch to know its size."""
    return nn.LazyLinear(task.num_outputs)


def clumsy(task: Task) -> nn.Module:
    return nn.Linear(_size(task) + 1, task.num_outputs)


class Odd(nn.Module):
    """Does to a batch of numbers what `way` says, then a linear layer."""

    def __init__(self, task: Task, way: str) -> None:
        super().__init__()
        self.way, self.seen = way, 0.0
        self.layer = nn.Linear(_size(task), task.num_outputs)
        self.register_buffer("centre", torch.zeros(_size(task)))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "mixes":
            x = x - x.mean(0)
        if self.way == "keeps":
            self.centre = 0.9 * self.centre + 0.1 * x.mean(0).detach()
        if self.way == "remembers":
            self.seen += float(x.mean())
            x = x - self.seen
        if self.way == "draws":
            x = functional.dropout(x, 0.5)
        result: Tensor = self.layer(x)
        return result


def odd(task: Task, way: str) -> nn.Module:
    return Odd(task, way)


def nothing(task: Task) -> Any:
    return [task.num_outputs]


def failing(task: Task) -> nn.Module:
    raise RuntimeError("no such luck")


_CALLS = iter(range(1000))


def restless(task: Task) -> nn.Module:
    """Another model at every call, whatever torch's generator."""
    model = nn.Linear(_size(task), task.num_outputs)
    nn.init.constant_(model.weight, float(next(_CALLS)))
    return model


NUMBER = 3


def _size(task: Task) -> int:
    return int(torch.Size(task.input_shape).numel())
