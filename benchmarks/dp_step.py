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
from functools import partial
from pathlib import Path
from typing import Any

import torch
from dp_models import CASES, Case
from dp_ways import WAYS, step_of, truth
from table import Table, in_turns, parser, python, ratios, spread, taken, write
from torch import Tensor

from fedlearn.training.device import keep_freed_memory


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


if __name__ == "__main__":
    main()
