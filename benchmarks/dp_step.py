"""What one DP-SGD step costs beside one plain step: time and peak memory, and that sums agree.

    python benchmarks/dp_step.py --quick
    python benchmarks/dp_step.py --threads 1 --json dp_step.json

Every repetition times plain SGD and each way to clip, one after the other in
one process, in an order that changes; what is reported is the median of their
ratios with quartiles. Memory is the growth of the peak resident set of a fresh
process over the same process before its first step. The step is forward,
backward and, for DP, clipping; noise and update are the same for all and left out.

`--allocator keep` tells the C library to keep freed memory, for plain SGD and
DP alike: without it, every step of every way pays the system for fresh pages.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.dp_models import CASES, Case
from fedlearn.training.dp import ClippedGradients

CLIP_NORM = 1.0
WAYS = ("plain", "fedlearn", "hooks", "ghost")
Step = Callable[[], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model, batch and way: ratios to plain SGD in the same process."""

    model: str
    batch: int
    way: str
    plain_ms: float
    ratio: float
    quartiles: tuple[float, float]
    repetitions: int
    difference: float
    memory_mb: float | None
    memory_ratio: float | None


def main() -> None:
    """Measure what the command line asks for, print a table, write JSON."""
    options = _options()
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    if options.allocator == "keep":
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak_growth(_case(options.peak[0]), int(options.peak[1]), options.peak[2]))
        return
    rows: list[Row] = []
    for case in CASES:
        if options.only and not any(part in case.name for part in options.only):
            continue
        for batch in case.batches[:1] if options.quick else case.batches:
            rows += measure(case, batch, options)
            for row in rows[-(len(options.ways) - 1) :]:
                print(_line(row), flush=True)
    if options.json:
        environment = {
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "threads": options.threads,
            "allocator": options.allocator,
        }
        text = json.dumps({"environment": environment, "rows": [asdict(r) for r in rows]}, indent=1)
        options.json.write_text(text + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smallest batches, few repetitions")
    parser.add_argument("--repetitions", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--allocator", choices=("default", "keep"), default="default")
    parser.add_argument("--only", nargs="*", help="parts of names of models")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--peak", nargs=3, metavar=("MODEL", "BATCH", "WAY"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    options.repetitions = options.repetitions or (5 if options.quick else 15)
    options.ways = ["plain", *(way for way in options.ways if way != "plain")]
    return options


def measure(case: Case, batch: int, options: argparse.Namespace) -> list[Row]:
    """Interleaved repetitions of every way on one batch."""
    steps = {way: step_of(way, case, batch) for way in options.ways}
    sums = {way: step() for way, step in steps.items() if way != "plain"}
    times: dict[str, list[float]] = {way: [] for way in steps}
    for repetition in range(options.repetitions + 2):
        order = list(steps)[repetition % len(steps) :] + list(steps)[: repetition % len(steps)]
        for way in order:
            start = time.perf_counter()
            steps[way]()
            times[way].append(time.perf_counter() - start)
    memory = {} if options.no_memory else {w: _peak(case, batch, w, options) for w in steps}
    reference = sums.get("hooks", sums["fedlearn"])
    return [
        _row(case, batch, way, times, _difference(sums[way], reference), memory)
        for way in steps
        if way != "plain"
    ]


def _row(
    case: Case,
    batch: int,
    way: str,
    times: dict[str, list[float]],
    difference: float,
    memory: dict[str, float],
) -> Row:
    # The first two repetitions warm caches and allocator.
    ratios = [mine / plain for mine, plain in zip(times[way], times["plain"], strict=True)][2:]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Row(
        model=case.name,
        batch=batch,
        way=way,
        plain_ms=statistics.median(times["plain"][2:]) * 1e3,
        ratio=middle,
        quartiles=(low, high),
        repetitions=len(ratios),
        difference=difference,
        memory_mb=memory.get(way),
        memory_ratio=memory[way] / memory["plain"] if memory else None,
    )


def _line(row: Row) -> str:
    low, high = row.quartiles
    memory = "" if row.memory_ratio is None else f"  memory {row.memory_ratio:5.2f}"
    return (
        f"{row.model:13s} {row.batch:4d} {row.way:9s} plain {row.plain_ms:8.1f} ms  "
        f"ratio {row.ratio:5.2f} [{low:.2f} {high:.2f}]{memory}  apart {row.difference:.1e}"
    )


def step_of(way: str, case: Case, batch: int) -> Step:
    """A closure that runs one step and returns the clipped sums (nothing for plain SGD)."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(2)
        model = case.build()
    x = case.inputs(batch, generator)
    y = torch.randint(0, case.classes, (batch,), generator=generator)
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


def _difference(sums: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """Relative difference as one vector."""
    apart = sum(float((sums[n] - reference[n]).double().square().sum()) for n in reference)
    size = sum(float(value.double().square().sum()) for value in reference.values())
    return (apart / size) ** 0.5


def _peak(case: Case, batch: int, way: str, options: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--threads", str(options.threads)]
    command += ["--allocator", options.allocator, "--peak", case.name, str(batch), way]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


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
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def keep_freed_memory() -> None:
    """Ask glibc not to hand freed memory back between steps; does nothing elsewhere."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold, most = -1, -3, 2**31 - 1
        mallopt(mmap_threshold, most)
        mallopt(trim_threshold, most)


if __name__ == "__main__":
    main()
