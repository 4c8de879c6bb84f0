"""A batch in parts of a few public sizes, so that a record's row is its own whoever else is there.

Libraries choose how to compute by shapes and never by values. `fedlearn.training.trials` looks
whether rows are alike on this machine, in parts of one size and of all; where not, one size is
used, or records go one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlearn.tasks import Loss
from fedlearn.training.device import CPU, home
from fedlearn.training.local import forward
from fedlearn.training.settings import Precision, Training

Records = Callable[[int], tuple[Tensor, Tensor]]
"""So many made-up records, inputs and targets `[n, ...]`, in the form of a site's own."""

ROWS: Final = 32
"""Parts have this many rows, or twice as many, or four times, where a machine holds them: rows of
such parts are alike, bit for bit, on every machine that was tried."""


ALONE: Final = 0
"""The depth of records that are by themselves, and no person's (`fedlearn.training.persons`)."""

_MOST_ROWS: Final = 512
"""Of a part on the CPU, which gains nothing from more; they are all tried once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchPart:
    """Records that go through the model together: up to `rows`, and filled up to as many.

    `inputs`: tensors with the record first; `run` makes losses of them.
    """

    inputs: tuple[Tensor, ...]
    run: Callable[..., Tensor]
    rows: int

    @property
    def count(self) -> int:
        """How many records there are; their rows are the first."""
        return len(self.inputs[0])

    def losses(self) -> Tensor:
        """`float32[rows]`: those of the records, and of the first one again in rows to spare."""
        losses: Tensor = self.run(*(_filled(values, self.rows) for values in self.inputs))
        return losses

    def single(self) -> Iterator[BatchPart]:
        """Its records one by one, each in the first row."""
        for i in range(self.count):
            yield replace(self, inputs=tuple(values[i : i + 1] for values in self.inputs))


def _filled(values: Tensor, rows: int) -> Tensor:
    spare = rows - len(values)
    return torch.cat([values, values[:1].expand(spare, *values.shape[1:])]) if spare else values


def sizes_of(config: Training, device: torch.device = CPU, depth: int = ALONE) -> tuple[int, ...]:
    """How many rows parts may have: from public constants alone, never from the records at hand.

    From `ROWS` up by twos until most batches fit, as far as `max_batch`, views and the `depth` of
    persons allow.
    """
    expected = config.sample_rate * config.nominal_records
    most = max(1, config.max_batch // (max(1, config.augmentations) * max(1, depth)))
    if device == CPU:
        most = min(most, _MOST_ROWS)
    if most < ROWS:
        return (most,)
    sizes = [ROWS]
    while sizes[-1] < 1.5 * expected and 2 * sizes[-1] <= most:
        sizes.append(2 * sizes[-1])
    return tuple(sizes)


def split(count: int, sizes: Sequence[int]) -> list[int]:
    """The sizes of the parts that `count` records go through: few rows to spare, and few parts."""
    whole, rest = divmod(count, sizes[-1])
    return [sizes[-1]] * whole + _rest(rest, sizes)


def _rest(count: int, sizes: Sequence[int]) -> list[int]:
    if not count:
        return []
    ways = [[size] for size in sizes if size >= count][:1]
    if smaller := [size for size in sizes if size < count]:
        ways.append([smaller[-1], *_rest(count - smaller[-1], sizes)])
    # A part costs about as much as so many rows, however few it has.
    return min(ways, key=lambda way: sum(way) + ROWS * len(way))


def dealt(batch: NDArray[np.int64], sizes: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """The rows of every part, and which records are in it."""
    start = 0
    for rows in split(len(batch), sizes):
        yield rows, torch.from_numpy(batch[start : start + rows])
        start += rows


def losses_of(
    model: nn.Module, precision: Precision, loss: Loss, labels: Tensor, *seen: Tensor
) -> Tensor:
    """The loss of every record, the mean over its views.

    A layer is called once for each view; the engine adds up what a record owes to all of them.
    """
    return torch.stack([loss(forward(model, view, precision), labels) for view in seen]).mean(0)


_Sizes = tuple[int, ...]

_alike: WeakKeyDictionary[nn.Module, dict[tuple[int, _Sizes], _Sizes]] = WeakKeyDictionary()
"""What a trial has found of a model's sizes, by depth: those among which rows are alike; maybe
none."""


def note_alike(model: nn.Module, sizes: _Sizes, found: _Sizes, depth: int = ALONE) -> None:
    """Have `model` computed in parts of the sizes that were `found` alike; if none, one by one."""
    _alike.setdefault(model, {})[depth, sizes] = found


def used_sizes(model: nn.Module, config: Training, depth: int = ALONE) -> tuple[int, ...]:
    """The sizes that a model is computed in: those of the config, as far as a trial found alike."""
    wanted = sizes_of(config, home(model), depth)
    return _alike.get(model, {}).get((depth, wanted), wanted) or (_ONE,)


_ONE: Final = 1
"""A part of one row: who else is there cannot matter."""


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, NaN like NaN."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
