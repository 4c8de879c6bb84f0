"""What one DP-SGD step costs beside one plain step: time and peak memory, and that sums agree.

    python benchmarks/dp_step.py --smallest --repetitions 5
    python benchmarks/dp_step.py --json dp_step.json

Every repetition times plain SGD and each way to clip, one after the other in
one process, in an order that changes; what is reported is the median of their
ratios with quartiles. With one thread it is CPU time, which other programs
disturb less. The step is forward, backward and, for DP, clipping; noise and
update are the same for all and left out. All run with freed memory kept, as in
`fedlearn simulate`; `--allocator default` leaves the C library as it is.

Memory is the growth of the peak resident set of a fresh process over the same
process before its first step. There the C library takes large blocks from the
system and gives them back at once, so that what counts is what a step needs and
not what gaps between blocks add. `apart` is from per-sample gradients that are
clipped by norms in float64.
"""

from __future__ import annotations

import argparse
import re
import resource
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from dp_models import CASES, Case
from table import Table, in_turns, parser, python, ratios, spread, taken, write
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.training.device import keep_freed_memory
from fedlearn.training.dp import ClippedGradients


def main() -> None:
    """Measure what the command line asks for, print a table, write JSON."""
    options = _options()
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    if options.allocator == "keep":
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    if options.peak:
        case = next(case for case in CASES if case.name == options.peak[0])
        print(peak_growth(case, int(options.peak[1]), options.peak[2]))
        return
    table = Table(
        model="model", batch="batch", plain_ms=("plain SGD", ".0f", " ms"), way="way",
        ratio=("time", ".2f"), memory_ratio=("memory", ".2f"), difference=("apart", ".0e"),
    )  # fmt: skip
    for case in CASES:
        if options.only and not any(part in case.name for part in options.only):
            continue
        for batch in case.batches[:1] if options.smallest else case.batches:
            for row in measure(case, batch, options):
                table.row(row)
    used = {name: getattr(options, name) for name in ("threads", "allocator")}
    write(options.json, {"torch": torch.__version__, **used, "rows": table.rows})


def _options() -> argparse.Namespace:
    options_of = parser(__doc__, smallest=False, repetitions=15, threads=1, no_memory=False)
    options_of.add_argument("--allocator", choices=("default", "keep"), default="keep")
    options_of.add_argument("--only", nargs="*", help="parts of names of models")
    options_of.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    options_of.add_argument(
        "--peak", nargs=3, metavar=("MODEL", "BATCH", "WAY"), help=argparse.SUPPRESS
    )
    options = options_of.parse_args()
    options.ways = ["plain", *(way for way in options.ways if way != "plain")]
    return options


def measure(case: Case, batch: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every way to clip on one batch: ratios to plain SGD in the same process."""
    steps = {way: step_of(way, case, batch) for way in options.ways}
    sums = {way: step() for way, step in steps.items() if way != "plain"}
    clock = time.process_time if options.threads == 1 else time.perf_counter
    sides = {way: partial(taken, step, clock) for way, step in steps.items()}
    times = in_turns(sides, options.repetitions, warm_up=2)  # of caches and allocator
    memory = {} if options.no_memory else {w: _peak(case, batch, w, options) for w in steps}
    reference = truth(case, batch)
    return [
        {
            "model": case.name,
            "batch": batch,
            "way": way,
            "plain_ms": spread(times["plain"]).times(1e3),
            "ratio": ratios(times[way], times["plain"]),
            "difference": _difference(sums[way], reference),
            "memory_mb": memory.get(way),
            "memory_ratio": memory[way] / memory["plain"] if memory else None,
        }
        for way in sums
    ]


def _difference(sums: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """Relative difference as one vector."""
    apart = sum(float((sums[n] - reference[n]).double().square().sum()) for n in reference)
    size = sum(float(value.double().square().sum()) for value in reference.values())
    return (apart / size) ** 0.5


def _peak(case: Case, batch: int, way: str, options: argparse.Namespace) -> float:
    words = ("--threads", str(options.threads), "--allocator", "default")
    peak = ("--peak", case.name, str(batch), way)
    return float(python(__file__, *words, *peak, MALLOC_MMAP_THRESHOLD_="131072"))


def peak_growth(case: Case, batch: int, way: str) -> float:
    """Megabytes by which three steps raise the peak resident set of this process."""
    step_of(way, case, 2)()  # imports and code paths are not what is measured
    step = step_of(way, case, batch)
    before = _peak_resident()
    for _ in range(3):
        step()
    return _peak_resident() - before


def _peak_resident() -> float:
    """Megabytes; from /proc where there is one, for `ru_maxrss` outlives an exec."""
    status = Path("/proc/self/status")
    if status.exists() and (
        found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
    ):
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- the ways to make a step, each as a closure ------------------------------------------------

CLIP_NORM = 1.0
WAYS = ("plain", "fedlearn", "hooks", "ghost")
Step = Callable[[], dict[str, Tensor]]


def _prepared(case: Case, batch: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The same model and batch every time."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(2)
        model = case.build()
    x = case.inputs(batch, generator)
    return model, x, torch.randint(0, case.classes, (batch,), generator=generator)


def step_of(way: str, case: Case, batch: int) -> Step:
    """A closure that runs one step and returns the clipped sums (nothing for plain SGD)."""
    model, x, y = _prepared(case, batch)
    match way:
        case "plain":
            return _plain(model, x, y)
        case "fedlearn":
            return _fedlearn(model, x, y)
        case "hooks":
            return _hooks(model, x, y)
        case "ghost":
            return _ghost(model, x, y)
    raise ValueError(f"way={way}: must be one of {', '.join(WAYS)}")


def _plain(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    def step() -> dict[str, Tensor]:
        functional.cross_entropy(model(x), y).backward()
        for parameter in model.parameters():
            parameter.grad = None
        return {}

    return step


def _fedlearn(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    engine = ClippedGradients(model, clip_norm=CLIP_NORM)

    def step() -> dict[str, Tensor]:
        losses = engine.step(lambda: functional.cross_entropy(model(x), y, reduction="none"))
        return dict(losses.sums)

    return step


def _register_sample_parameter() -> None:
    from opacus.grad_sample import register_grad_sampler

    from fedlearn.training.dp import SampleParameter

    @register_grad_sampler(SampleParameter)
    def _(layer: nn.Module, _activations: list[Tensor], backprops: Tensor) -> dict[object, Tensor]:
        return {layer.value: backprops}


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _hooks(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    _register_sample_parameter()
    parameters = _trainable(model)
    hooked = GradSampleModule(model, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(parameters.values(), lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=len(x),
    )

    def step() -> dict[str, Tensor]:
        functional.cross_entropy(hooked(x), y, reduction="sum").backward()
        optimizer.clip_and_accumulate()
        sums = {name: p.summed_grad for name, p in parameters.items()}
        optimizer.zero_grad(set_to_none=True)
        return sums

    return step


def _ghost(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    _register_sample_parameter()
    parameters = _trainable(model)
    hooked = GradSampleModuleFastGradientClipping(
        model, loss_reduction="sum", max_grad_norm=CLIP_NORM, use_ghost_clipping=True
    )

    def step() -> dict[str, Tensor]:
        losses = functional.cross_entropy(hooked(x), y, reduction="none")
        losses.sum().backward(retain_graph=True)
        factors = hooked.get_clipping_coef()
        for parameter in parameters.values():
            parameter.grad = None
        hooked.disable_hooks()
        (factors * losses).sum().backward()
        hooked.enable_hooks()
        sums = {}
        for name, parameter in parameters.items():
            sums[name] = parameter.grad
            parameter.grad = parameter.grad_sample = None
        return sums

    return step


def truth(case: Case, batch: int) -> dict[str, Tensor]:
    """The clipped sum from the gradients of every sample, their norms added up in float64.

    Opacus adds up norms in float32, where torch loses 1e-5 over a large layer.
    """
    from opacus import GradSampleModule

    _register_sample_parameter()
    model, x, y = _prepared(case, batch)
    parameters = _trainable(model)
    hooked = GradSampleModule(model, loss_reduction="sum")
    functional.cross_entropy(hooked(x), y, reduction="sum").backward()
    samples = {name: p.grad_sample.flatten(1).double() for name, p in parameters.items()}
    norms = torch.stack([one.norm(dim=1) for one in samples.values()]).norm(dim=0)
    factors = (CLIP_NORM / norms).clamp(max=1.0)
    return {name: (factors @ samples[name]).view_as(p) for name, p in parameters.items()}


if __name__ == "__main__":
    main()
