"""What one DP-SGD step costs beside one plain step: time and peak memory, and that sums agree.

    python benchmarks/dp_step.py --quick
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
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.dp_models import CASES, Case
from benchmarks.dp_ways import WAYS, step_of, truth
from fedlearn.training.device import keep_freed_memory


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
    print("| model | batch | plain SGD | way | time | quartiles | memory | apart |")
    print("|---|---|---|---|---|---|---|---|")
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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--allocator", choices=("default", "keep"), default="keep")
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
    clock = time.process_time if options.threads == 1 else time.perf_counter
    for repetition in range(options.repetitions + 2):
        order = list(steps)[repetition % len(steps) :] + list(steps)[: repetition % len(steps)]
        for way in order:
            start = clock()
            steps[way]()
            times[way].append(clock() - start)
    memory = {} if options.no_memory else {w: _peak(case, batch, w, options) for w in steps}
    reference = truth(case, batch)
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
    memory = "" if row.memory_ratio is None else f"{row.memory_ratio:.2f}"
    return (
        f"| {row.model} | {row.batch} | {row.plain_ms:.0f} ms | {row.way} | {row.ratio:.2f} "
        f"| {low:.2f} to {high:.2f} | {memory} | {row.difference:.0e} |"
    )


def _difference(sums: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """Relative difference as one vector."""
    apart = sum(float((sums[n] - reference[n]).double().square().sum()) for n in reference)
    size = sum(float(value.double().square().sum()) for value in reference.values())
    return (apart / size) ** 0.5


def _peak(case: Case, batch: int, way: str, options: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--threads", str(options.threads)]
    command += ["--allocator", "default", "--peak", case.name, str(batch), way]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


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


def _case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


if __name__ == "__main__":
    main()
