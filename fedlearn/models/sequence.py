"""A small LSTM for records over time (Hochreiter and Schmidhuber 1997; with a gate that forgets,
Gers et al. 2000).

It is written in linear layers, called step by step, so that DP-SGD gets the
gradient of every record exactly: that of one record is the sum over its steps.
torch's own layer has a second bias, which adds to the first; under DP-SGD a
parameter without effect is noise for nothing, so there is one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from fedlearn.core.settings import Count, Portion, config
from fedlearn.models.finetune import stages
from fedlearn.models.model import Model, input_as
from fedlearn.models.tabular import OneHot
from fedlearn.tasks import SeriesInput, Task

REMEMBER = 1.0
"""Added to what the forget gate sees, so that an untrained cell keeps its memory (Jozefowicz et
al. 2015, "An Empirical Exploration of Recurrent Network Architectures")."""


@config
class Sequence(Model):
    """A classifier for rows over time."""

    kind: Literal["sequence"] = "sequence"
    input = (SeriesInput,)
    width: Count
    """Length of the state and of the memory of a layer."""
    depth: Count
    """Number of layers; each reads the states of the one before."""
    dropout: Portion

    def network(self, task: Task) -> nn.Sequential:
        """`float32[batch, steps, row.width + 1]` -> `[batch, task.num_outputs]`.

        Each layer is a stage of its own, so that `training.finetune=last_k` can train
        the last of them. A record is judged by the state after its last row.
        """
        series = input_as(SeriesInput, task)
        one_hot = OneHotSteps(series)
        widths = [one_hot.width, *[self.width] * self.depth]
        layers = {
            f"lstm{i}": Lstm(before, after, self.dropout)
            for i, (before, after) in enumerate(pairwise(widths))
        }
        head = nn.Linear(self.width, task.num_outputs)
        return stages(one_hot=one_hot, **layers, last=Last(), head=head)


# Between the stages goes `[batch, steps, width + 1]`: the last column is 1 where
# the record has a row and 0 where it is padded.


class OneHotSteps(nn.Module):
    """`OneHot` of every row; has no parameters."""

    def __init__(self, series: SeriesInput) -> None:
        super().__init__()
        self.one_hot = OneHot(series.row)
        self.width = self.one_hot.width

    def forward(self, masked: Tensor) -> Tensor:
        """`[batch, steps, columns + 1]` -> `[batch, steps, self.width + 1]`."""
        rows = self.one_hot(masked[..., :-1].flatten(0, 1))
        return torch.cat([rows.unflatten(0, masked.shape[:2]), masked[..., -1:]], dim=-1)


class Lstm(nn.Module):
    """One layer; where a record has no row, state and memory stay as they are."""

    def __init__(self, before: int, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        # Of the gates that let in, forget, propose and let out, in this order.
        self.input = nn.Linear(before, 4 * width)
        self.recurrent = nn.Linear(width, 4 * width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, masked: Tensor) -> Tensor:
        """`[batch, steps, before + 1]` -> the states `[batch, steps, width + 1]`."""
        from_input, held = self.input(masked[..., :-1]), masked[..., -1:]
        state = memory = from_input.new_zeros(len(masked), self.width)
        states = []
        for step in range(masked.shape[1]):
            gates = from_input[:, step] + self.recurrent(state)
            fresh_state, fresh_memory = _cell(gates, memory)
            here = held[:, step].to(state.dtype)
            state = torch.lerp(state, fresh_state, here)
            memory = torch.lerp(memory, fresh_memory, here)
            states.append(state)
        return torch.cat([self.dropout(torch.stack(states, dim=1)), held], dim=-1)


def _cell(gates: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """The next state and memory from what the four gates see, `[batch, 4 * width]`."""
    let_in, forget, propose, let_out = gates.chunk(4, dim=1)
    kept = torch.sigmoid(forget + REMEMBER) * memory
    memory = kept + torch.sigmoid(let_in) * torch.tanh(propose)
    return torch.sigmoid(let_out) * torch.tanh(memory), memory


class Last(nn.Module):
    """The state after a record's last row; has no parameters."""

    def forward(self, masked: Tensor) -> Tensor:
        """`[batch, steps, width + 1]` -> `[batch, width]`."""
        return masked[:, -1, :-1]
