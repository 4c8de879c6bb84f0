"""What it would gain to train many small clients as one batched computation: a loop beside it.

    python benchmarks/batched_clients.py [--clients 50] [--json PATH]

The same clients, batches and steps of plain SGD: one after the other by the code
that every engine runs (`fedlearn.training.local.train`), and all at once by
`torch.func.vmap` over models and batches. Both end with the same models, to the
rounding that is reported. CPU time, in turns, medians. The engine does not train
this way; why, is in `docs/decisions.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from engine import TRAINING, make_model
from table import Table, in_turns, parser, ratios, spread, taken, write
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, load_vector, to_vector
from fedlearn.models.initialise import initialise
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.device import keep_freed_memory
from fedlearn.training.local import batches, train


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, the shape of a record, and how many records a client has and takes at a time."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    records: int
    batch: int


def _made(model: nn.Module) -> nn.Module:
    initialise(model, torch.Generator().manual_seed(0))
    return model


CASES = (
    Case(name="linear", build=lambda: _made(nn.Linear(13, 2)), shape=(13,), records=8, batch=8),
    Case(
        name="MLP",
        build=lambda: _made(nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 2))),
        shape=(13,),
        records=64,
        batch=16,
    ),
    Case(name="CNN, batch of 8", build=make_model, shape=(1, 28, 28), records=80, batch=8),
    Case(name="CNN, batch of 32", build=make_model, shape=(1, 28, 28), records=320, batch=32),
)


def _data(case: Case, clients: int) -> tuple[Tensor, Tensor]:
    rng = Streams(0).get("benchmark")
    x = torch.from_numpy(rng.standard_normal((clients, case.records, *case.shape), np.float32))
    return x, torch.from_numpy(rng.integers(0, 2, (clients, case.records)))


def one_by_one(case: Case, clients: int) -> Callable[[], list[Vector]]:
    """The loop that every engine runs."""
    (x, y), model = _data(case, clients), case.build()
    start = to_vector(model)
    training = replace(TRAINING, sample_rate=case.batch / case.records)

    def run() -> list[Vector]:
        found = []
        for client in range(clients):
            load_vector(model, start)
            rng = Streams(0).get("batches", client)
            train(model, x[client], y[client], training, loss=cross_entropy, rng=rng)
            found.append(to_vector(model))
        return found

    return run


def all_at_once(case: Case, clients: int) -> Callable[[], list[Vector]]:
    """One computation over stacked models and batches."""
    (x, y), model = _data(case, clients), case.build()
    training = replace(TRAINING, sample_rate=case.batch / case.records)
    stacked, _ = stack_module_state([model] * clients)

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(model, values, (x,)), y)

    gradients = vmap(grad(loss))

    def run() -> list[Vector]:
        values = {name: value.detach().clone() for name, value in stacked.items()}
        streams = [Streams(0).get("batches", client) for client in range(clients)]
        drawn = zip(*(batches(case.records, training, rng) for rng in streams), strict=True)
        rows = torch.arange(clients).unsqueeze(1)
        for step in drawn:
            chosen = torch.from_numpy(np.stack(step))
            for name, value in gradients(values, x[rows, chosen], y[rows, chosen]).items():
                values[name] -= training.learning_rate * value
        flat = torch.cat([value.flatten(1) for value in values.values()], 1)
        return [np.asarray(row) for row in flat.numpy()]

    return run


def measure(case: Case, clients: int, repetitions: int) -> dict[str, Any]:
    """CPU milliseconds of a client both ways, in turns, and how far apart the models end."""
    ways = {"loop": one_by_one(case, clients), "batched": all_at_once(case, clients)}
    models = {name: np.stack(run()) for name, run in ways.items()}
    apart = models["batched"] - models["loop"], models["loop"] - to_vector(case.build())
    # A rounding may decide a maximum or a ReLU, and then more than a rounding follows.
    relative = float(np.linalg.norm(apart[0]) / np.linalg.norm(apart[1]))
    assert relative < 0.01, "both must compute the same"
    times = in_turns({name: partial(taken, run) for name, run in ways.items()}, repetitions)
    return {
        "model": case.name,
        "records": case.records,
        "loop_ms": spread(times["loop"]).times(1e3 / clients),
        "batched_ms": spread(times["batched"]).times(1e3 / clients),
        "gain": ratios(times["loop"], times["batched"]),
        "apart": relative,
    }


def main() -> None:
    """Print the table, write JSON."""
    options = parser(__doc__, clients=50, repetitions=5).parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    table = Table(
        model="model", records="records", loop_ms=("loop, a client", ".2f", " ms"),
        batched_ms=("batched, a client", ".2f", " ms"), gain=("gain", ".1f", "x"),
        apart=("apart", ".0e"),
    )  # fmt: skip
    for case in CASES:
        table.row(measure(case, options.clients, options.repetitions))
    write(options.json, {"clients": options.clients, "rows": table.rows})


if __name__ == "__main__":
    main()
