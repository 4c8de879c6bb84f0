"""How long `fedlearn simulate experiment=medical_heart` takes to its first round, and in all.

Whole commands in new processes: record-level privacy, masked sums, sealed
transport, 20 rounds. The clock starts before Python does; "started" is when the
command says who takes part, "round 1" when it says how the first round went.

    python benchmarks/start.py [--runs 5] [--json PATH]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARKS = {"started": "medical_heart:", "round 1": "round 1:"}


def one(out: Path) -> dict[str, float]:
    """Seconds from the start of one command to each mark and to its end, and its CPU time."""
    command = [sys.executable, "-u", "-m", "fedlearn", "simulate", "experiment=medical_heart"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, found = time.perf_counter(), dict[str, float]()
    with subprocess.Popen(
        [*command, f"out={out}"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            for name, mark in MARKS.items():
                if line.startswith(mark):
                    found.setdefault(name, time.perf_counter() - began)
    assert process.returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**found, "whole command": time.perf_counter() - began, "CPU of the command": cpu}


def main() -> None:
    """Print medians and ranges."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [one(Path(folder) / str(number)) for number in range(options.runs)]
    report = {
        name: {"median": statistics.median(times), "least": min(times), "most": max(times)}
        for name in runs[0]
        if (times := [run[name] for run in runs])
    }
    report["load"] = {"after": os.getloadavg()[0]}
    for name, values in report.items():
        print(f"{name:20s}", "  ".join(f"{key} {value:.2f}" for key, value in values.items()))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
