"""What private training costs on a GPU: steps over plain ones, and clients that share it.

A step is a whole one of `train` and `train_private`: forward, backward, clipping, noise
from the CPU's generator, update; in fp32 (TF32 off) and bf16. Sides take turns, the
clock stops when the device is done, and without noise all private sides must reach
the same weights. The second table is a round of ten clients in 1, 2, 4, ... processes
on one device; every number of processes must give the same model.

    python benchmarks/gpu.py [--device cuda] [--steps 20] [--turns 7] [--json PATH]

Without a CUDA device nothing is measured; `--device cpu` shows that it runs.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from dp_models import CASES, Case
from table import Table, in_turns, parser, python, ratios, spread, taken, write

from fedlearn.core.vector import Vector, to_vector
from fedlearn.mechanisms import RecordPlan
from fedlearn.privacy import SystemNoise
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.device import place
from fedlearn.training.local import train
from fedlearn.training.private import train_private
from fedlearn.training.settings import Training

PLAN = RecordPlan(
    clip_norm=1.0, noise_multiplier=1.0, delta=1e-5, sample_rate=1.0, steps_per_round=1, rounds=1
)
WAYS = ("plain", "fast", "opacus")
APART = 1e-3
"""Most that weights after three noiseless steps may differ between ways to clip, relative."""


def main() -> None:
    """Measure both tables, or say why not."""
    options_of = parser(__doc__, steps=20, turns=7, processes=[1, 2, 4, 8])
    options_of.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options_of.add_argument("--only", nargs="*", help="parts of names of models")
    options_of.add_argument("--round", type=int, help="seconds of rounds in so many processes")
    options = options_of.parse_args()
    torch.set_num_threads(1)
    if options.device == "cuda" and not torch.cuda.device_count():
        print("nothing measured: torch finds no CUDA device here")
        return
    device = torch.device(options.device)
    if options.round:
        print(json.dumps(rounds(options.round, device, options.turns)))
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"On {name}, torch {torch.__version__}:\n")
    wanted = [c for c in CASES if not options.only or any(part in c.name for part in options.only)]
    steps = [row for case in wanted for row in steps_of(case, device, options.steps, options.turns)]
    print()
    shared = clients(options.processes, options.device, options.turns)
    found = {"device": name, "torch": torch.__version__, "steps": steps}
    write(options.json, {**found, "clients": shared})


# --- steps --------------------------------------------------------------------------


def steps_of(case: Case, device: torch.device, steps: int, turns: int) -> list[dict[str, Any]]:
    """All ways and precisions on the largest batch of a case; prints its part of the table."""
    batch = case.batches[-1]
    table = Table(
        model="model", batch="batch", precision="precision", way="way",
        step_ms=("a step", ".2f", " ms"), ratio=("over plain", ".2f"),
        memory_mb=("memory", ".0f", " MB"),
    )  # fmt: skip
    for precision in ("fp32", "bf16"):
        # Opacus would round its norms as well: fedlearn refuses it in bf16.
        ways = [way for way in WAYS if precision == "fp32" or way != "opacus"]
        sides = {way: partial(timed, way, case, batch, precision, device, steps) for way in ways}
        _agree(case, batch, device, [way for way in ways if way != "plain"])
        memory = {way: _memory(side, device) for way, side in sides.items()}
        times = in_turns(sides, turns, warm_up=1)
        for way in ways:
            row = {"model": case.name, "batch": batch, "precision": precision, "way": way}
            row |= {"step_ms": spread(times[way]).times(1e3 / steps), "memory_mb": memory[way]}
            table.row(row | {"ratio": ratios(times[way], times["plain"])})
    return table.rows


def timed(
    way: str, case: Case, batch: int, precision: str, device: torch.device, steps: int
) -> float:
    """Seconds of `steps` steps, on weights and records that are there already."""
    work = _work(way, case, batch, precision, device, steps, noise=1.0)
    _wait(device)

    def done() -> None:
        work()
        _wait(device)

    return taken(done, time.perf_counter)


def _work(
    way: str, case: Case, batch: int, precision: str, device: torch.device, steps: int, noise: float
) -> Callable[[], Vector]:
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2)
        model = case.build()
    features = case.inputs(batch, generator).to(device)
    labels = torch.randint(0, case.classes, (batch,), generator=generator).to(device)
    place(model, device)
    config = Training(
        optimizer="sgd", learning_rate=0.01, momentum=0.9, weight_decay=0.0, local_steps=steps,
        sample_rate=1.0, nominal_records=batch, max_batch=batch, precision=precision,  # type: ignore[arg-type]
        dp_engine="fast" if way == "plain" else way,  # type: ignore[arg-type]
    )  # fmt: skip
    plan = replace(PLAN, noise_multiplier=noise)

    def work() -> Vector:
        data = model, features, labels, config
        if way == "plain":
            train(*data, loss=cross_entropy, rng=np.random.default_rng(0))
        else:
            train_private(*data, plan, loss=cross_entropy, noise=SystemNoise())
        return to_vector(model)

    return work


def _agree(case: Case, batch: int, device: torch.device, ways: list[str]) -> None:
    found = [_work(way, case, batch, "fp32", device, 3, noise=0.0)() for way in ways]
    for way, vector in zip(ways, found, strict=True):
        apart = float(np.linalg.norm(vector - found[0]) / np.linalg.norm(found[0]))
        assert apart < APART, f"{case.name}: {way} is {apart:.1e} from {ways[0]}"


def _memory(side: Callable[[], float], device: torch.device) -> float | None:
    """Megabytes that the device held at most, weights and records included."""
    if device.type == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    side()
    return torch.cuda.max_memory_allocated(device) / 2**20


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- clients ------------------------------------------------------------------------


def clients(counts: list[int], device: str, turns: int) -> list[dict[str, object]]:
    """A round of ten clients by number of processes, each number in a program of its own."""
    table = Table(processes="processes", seconds=("a round", ".3f", " s"), over=("over one", ".2f"))
    models, alone = set(), 0.0
    for count in counts:
        words = (__file__, "--device", device, "--round", str(count), "--turns", str(turns))
        told = json.loads(python(*words).splitlines()[-1])
        models.add(told["model"])
        seconds = spread(told["seconds"])
        alone = alone or seconds.median
        table.row({"processes": count, "seconds": seconds, "over": seconds.median / alone})
    assert len(models) == 1, "the number of processes must not show in the model"
    return table.rows


def rounds(processes: int, device: torch.device, turns: int) -> dict[str, object]:
    """Seconds of `turns` rounds after the first, and the hash of the model."""
    from engine import engine_round, make_model

    one, vector, seconds = engine_round(processes, device), to_vector(make_model()), []
    for number in range(1, turns + 2):
        start = time.perf_counter()
        vector = one(number, vector)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[1:], "model": hashlib.sha256(vector.tobytes()).hexdigest()}


if __name__ == "__main__":
    main()
