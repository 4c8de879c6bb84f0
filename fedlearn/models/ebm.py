"""Explainable boosting: a sum of one function for each column, each a table of bins.

    score = b + sum_k f_k(bin of x_k)

A round of boosting adds up, for every bin, what the sites' records in it are still wrong by
(their residuals), and moves the bin's value by a share of the mean: gradient boosting whose trees
are the bins of one column, all columns at once (Lou, Caruana and Gehrke 2012, "Intelligible Models
for Classification and Regression", section 2; Nori et al. 2021, "Accuracy, Interpretability, and
Differential Privacy via Explainable Boosting", algorithm 2). The sums of a round are the gradient
of the loss by the values, so that a round is one step of what every mechanism here clips, noises,
masks and counts, and nothing is added to it.

**No clip is needed.** A record has one entry for every column and level, and their weights are such
that the squares add up to one, with the constant to two: whatever the record, its gradient is
sqrt(2) times the residuals of the classes, whose norm is below sqrt(2). With `privacy.clip_norm=2`
a classifier loses nothing to the clip, and the noise is for what a record can do.

`strategy=boosting` makes the step that this needs, and is chosen with it where no other is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlearn.core.settings import Count, config
from fedlearn.models.bins import Axis, axes_of, names_of
from fedlearn.models.finetune import stages
from fedlearn.models.model import Model, input_as
from fedlearn.tasks import TableInput, Task


@config
class Ebm(Model):
    """An additive model of binned columns."""

    kind: Literal["ebm"] = "ebm"
    input = (TableInput,)
    strategy: ClassVar[str] = "boosting"
    bins: Count = 32
    """Finest bins: of the range of a column, or of a factor of ten where it has none."""
    levels: Count = 5
    """Widths of bins: the finest, twice that, and so on."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """What columns were scaled by; `configs/model/ebm.yaml` takes them from the scenario."""
    edges: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Where the finest bins of a column begin, in its own units: public numbers, or quantiles that
    were paid for."""

    def problems(self, task: Task) -> Iterator[str]:
        """Edges that are none, or of no column."""
        table = input_as(TableInput, task)
        numbers = names_of(table)[: table.numeric]
        for name, found in self.edges.items():
            where = f"model.edges.{name}={[*found]}"
            if name not in numbers:
                yield f"{where}: no such column of numbers; there are {', '.join(numbers)}"
            elif not np.isfinite(found).all() or list(found) != sorted(set(found)):
                yield f"{where}: must be finite and rise from one to the next"

    def axes(self, task: Task) -> tuple[Axis, ...]:
        """The columns with their bins."""
        table = input_as(TableInput, task)
        return axes_of(
            table, bins=self.bins, levels=self.levels, ranges=self.ranges, edges=self.edges
        )

    def network(self, task: Task) -> nn.Sequential:
        """`float32[batch, table.width]` -> logits `[batch, task.num_outputs]`."""
        axes = self.axes(task)
        return stages(bins=Binned(axes), head=BinValues(axes, task.num_outputs))


class Binned(nn.Module):
    """The places of a record's bins in the table of values; has no parameters and no buffers."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        super().__init__()
        self.axes = tuple(axes)
        self.cuts = [axis.cuts.tolist() for axis in axes]

    def forward(self, rows: Tensor) -> Tensor:
        """`float32[batch, columns]` -> `int64[batch, entries]`; the constant first."""
        found, start = [torch.zeros(len(rows), dtype=torch.long, device=rows.device)], 1
        for axis, cuts in zip(self.axes, self.cuts, strict=True):
            values = rows[:, axis.place].contiguous()
            if axis.kind == "number":
                bounds = torch.tensor(cuts, dtype=torch.float32, device=rows.device)
                fine = torch.bucketize(values, bounds, right=True)
            else:
                fine = values.long().clamp(0, axis.size - 1)
            for width, cells in zip(axis.widths, axis.cells, strict=True):
                cell = torch.div(fine, width, rounding_mode="floor")
                if axis.gap is not None:
                    cell = torch.where(rows[:, axis.gap] > 0, cells - 1, cell)
                found.append(cell + start)
                start += cells
        return torch.stack(found, dim=1)


class BinValues(nn.Module):
    """The values of all bins, and their weighted sum for a record.

    The values start at zero: the first prediction is uniform.
    """

    def __init__(self, axes: Sequence[Axis], outputs: int) -> None:
        super().__init__()
        self.shares = shares(axes)
        self.columns = [axis.place for axis in axes for _ in axis.widths]
        self.values = nn.Embedding(1 + sum(sum(axis.cells) for axis in axes), outputs)

    @torch.no_grad()
    def start(self) -> None:
        """Set all values to zero."""
        self.values.weight.zero_()

    @property
    def weight(self) -> Tensor:
        """The values: `float32[bins of all columns and levels, outputs]`, the constant first."""
        return self.values.weight

    def forward(self, places: Tensor) -> Tensor:
        """`int64[batch, entries]` -> `[batch, outputs]`."""
        return self.entries(places).sum(1)

    def entries(self, places: Tensor) -> Tensor:
        """What each entry adds to the scores: `[batch, entries, outputs]`, the constant first."""
        found: Tensor = self.values(places)
        return found * torch.tensor(self.shares, dtype=found.dtype, device=found.device)[:, None]


@torch.no_grad()
def parts_of(model: nn.Module, rows: Tensor) -> Tensor | None:
    """What each column adds to the scores of records: `[batch, columns, outputs]`, exactly.

    A column that says where another has a gap adds nothing by itself. None where the model is no
    sum over columns.
    """
    stage = dict(model.named_children())
    bins, head = stage.get("bins"), stage.get("head")
    if not isinstance(bins, Binned) or not isinstance(head, BinValues):
        return None
    entries = head.entries(bins(rows))[:, 1:]
    found = entries.new_zeros(len(rows), rows.shape[1], entries.shape[2])
    owners = torch.tensor(head.columns, device=rows.device)
    return found.index_add_(1, owners, entries)


def shares(axes: Sequence[Axis]) -> list[float]:
    """The weight of every entry of a record; squares add up to 1, and with the constant to 2."""
    count = max(1, len(axes))
    return [1.0, *(1 / math.sqrt(count * len(axis.widths)) for axis in axes for _ in axis.widths)]


def functions(
    axes: Sequence[Axis], values: NDArray[np.floating], *, power: int = 1
) -> list[NDArray[np.float64]]:
    """What each column adds in each of its finest bins, `float64[size (+ 1), outputs]`.

    `values: [entries of the table, outputs]`. Of a number the last row is that of records without
    a value: what their gap says, or the bin that stands in for it. With `power=2` values are
    variances, and so is what comes back.
    """
    found, start = [], 1
    for axis in axes:
        total = np.zeros((axis.size + (axis.kind == "number"), values.shape[1]))
        share = (1 / math.sqrt(len(axes) * len(axis.widths))) ** power
        for width, cells in zip(axis.widths, axis.cells, strict=True):
            own = values[start : start + cells].astype(np.float64) * share
            total[: axis.size] += own[np.arange(axis.size) // width]
            if axis.gap is not None:
                total[-1] += own[-1]
            start += cells
        if axis.kind == "number" and axis.gap is None:
            total[-1] = total[axis.fine(np.zeros(1))[0]]
        found.append(total)
    return found
