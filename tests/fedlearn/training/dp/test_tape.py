"""What a tape puts on modules: it sees calls, and keeps nothing that they were made with."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from fedlearn.training.dp.layer import Layer
from fedlearn.training.dp.plan import layers_of
from fedlearn.training.dp.tape import Unfreeze


class Noting:
    """Stands in for a tape: notes how a call can be repeated, and nothing else."""

    recording = True

    def record(
        self, layer: Layer, inputs: tuple[Tensor, ...], output: Tensor, again: Any
    ) -> Tensor:
        self.again = again
        return output


def test_unfreeze__repeats_a_call_without_holding_on_to_what_went_in() -> None:
    """What is held until the batch is done is the memory of a private step over a plain one."""
    module, tape = nn.Linear(2, 2), Noting()
    (layer,) = layers_of(module)
    x, mask = torch.ones(3, 2), torch.zeros(3)
    Unfreeze(tape, layer)(module, (x, 7, "mode"), {"mask": mask, "scale": 2.0}, module(x))  # type: ignore[arg-type]
    seen = weakref.ref(x), weakref.ref(mask)
    del x, mask
    gc.collect()
    assert [one() for one in seen] == [None, None]
    args, named = tape.again([torch.tensor(1.0), torch.tensor(2.0)])
    assert (args, named) == ((1.0, 7, "mode"), {"mask": 2.0, "scale": 2.0})
