"""How long `fedlearn simulate experiment=medical_heart` takes to its first round, and in all.

Whole commands in new processes: record-level privacy, masked sums, sealed
transport, 20 rounds. The clock starts before Python does; "started" is when the
command says who takes part, "round 1" when it says how the first round went. Beside
it, in turns, what no program that trains with torch and Flower can go below: starting
Python and importing the two. Every run must have finished with the same promise.

    python benchmarks/start.py [--runs 5] [--json PATH]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import (
    Table,
    cpu_of_all,
    environment,
    parser,
    python,
    ratios,
    result_of,
    spread,
    taken,
    write,
)

MARKS = {"started": "medical_heart:", "round 1": "round 1:"}


def one(out: Path) -> dict[str, float]:
    """Seconds from the start of one command to each mark and to its end, and its CPU time."""
    command = [sys.executable, "-u", "-m", "fedlearn", "simulate", "experiment=medical_heart"]
    began, before, found = time.perf_counter(), cpu_of_all(), dict[str, float]()
    with subprocess.Popen(
        [*command, f"out={out}"], stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            for name, mark in MARKS.items():
                if line.startswith(mark):
                    found.setdefault(name, time.perf_counter() - began)
    assert process.returncode == 0
    whole, cpu = time.perf_counter() - began, cpu_of_all() - before
    return {**found, "whole command": whole, "CPU of the command": cpu}


def imports() -> float:
    """Seconds of Python with torch and Flower and nothing else."""
    code = "import torch, flwr.app, flwr.clientapp, flwr.serverapp"
    return taken(lambda: python("-c", code), time.perf_counter)


def main() -> None:
    """Print medians and spread."""
    options = parser(__doc__, runs=5).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / str(number) for number in range(options.runs)]
        pairs = [(one(out), imports()) for out in outs]
        ends = [result_of(out) for out in outs]
    promises = {(end["status"], len(end["rounds"]), end["privacy"]["epsilon"]) for end in ends}
    assert len(promises) == 1, f"all runs must do the same: {promises}"
    bare = [seconds for _, seconds in pairs]
    found = {"Python, torch and Flower alone": bare}
    found |= {name: [run[name] for run, _ in pairs] for name in pairs[0][0]}
    table = Table(
        until="until", seconds=("seconds", ".2f"), ratio=("over torch and Flower alone", ".2f")
    )
    for name, seconds in found.items():
        ratio = None if seconds is bare else ratios(seconds, bare)
        table.row({"until": name, "seconds": spread(seconds), "ratio": ratio})
    write(options.json, {"rows": table.rows, "runs": [run for run, _ in pairs]})


if __name__ == "__main__":
    main()
