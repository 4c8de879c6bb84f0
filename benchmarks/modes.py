"""What protection costs on `experiment=medical_heart`: every secagg with every transport.

    python benchmarks/modes.py [--repeats 5] [--rounds 20] [--command] [--json PATH]

Every run is the whole `fedlearn simulate` in this process (config, data, enrolment,
training, evaluation, files), after one run that warms up; with `--command` it is the
command itself in a new process, start and imports included. The modes take turns, so
that the load of the machine falls on all of them alike; times are medians of wall and
CPU seconds, ratios those to the run with `off` and `plain` of the same turn. The noise
is secret, so models differ: all runs must have made the same rounds, on the same
records, for the same epsilon. Bytes are those of message contents over all sites, in
the last round (the first also carries the set-up).
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from table import Spread, Table, parser, ratios, spread, write

from fedlearn.config import compose
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate

MODES = tuple(itertools.product(("off", "ring", "masked", "two_server"), ("plain", "sealed")))

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run."""

    wall: float
    cpu: float
    down: int
    up: int
    setup: int
    """Bytes of the first round beyond those of the last."""
    promise: str
    """What all runs must have in common: rounds, records and epsilon."""


def run_here(options: list[str]) -> None:
    """The run in this process."""
    simulate(compose(options), Silent(), Stop())


def run_command(options: list[str]) -> None:
    """The command line, from start to end."""
    command = [sys.executable, "-m", "fedlearn", "simulate", *options]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)


def cpu_seconds() -> float:
    """CPU seconds of this process and of its ended children."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def measure(
    folder: Path, secagg: str, transport: str, rounds: int, *, command: bool = False
) -> Measured:
    """Run the experiment once."""
    options = [f"secagg={secagg}", f"transport={transport}", f"rounds={rounds}", f"out={folder}"]
    run = run_command if command else run_here
    wall, cpu = time.perf_counter(), cpu_seconds()
    run(["experiment=medical_heart", *options])
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    entries = result["rounds"]
    first, last = entries[0]["bytes"], entries[-1]["bytes"]
    return Measured(
        wall=wall,
        cpu=cpu,
        down=last["down"],
        up=last["up"],
        setup=sum(first.values()) - sum(last.values()),
        promise=f"{len(entries)} rounds, {result['data']['sites']}, {result['privacy']['epsilon']}",
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One mode; ratios to the neighbours with `off` and `plain`."""

    secagg: str
    transport: str
    wall_seconds: Spread
    cpu_seconds: Spread
    wall_ratio: Spread
    cpu_ratio: Spread
    down_bytes_per_round: int
    up_bytes_per_round: int
    setup_bytes: int


def summary(mode: tuple[str, str], runs: list[Measured], base: list[Measured]) -> Row:
    """The row of one mode; `base` are the runs of `off` and `plain`."""
    wall, cpu = [run.wall for run in runs], [run.cpu for run in runs]
    return Row(
        secagg=mode[0],
        transport=mode[1],
        wall_seconds=spread(wall),
        cpu_seconds=spread(cpu),
        wall_ratio=ratios(wall, [run.wall for run in base]),
        cpu_ratio=ratios(cpu, [run.cpu for run in base]),
        down_bytes_per_round=runs[-1].down,
        up_bytes_per_round=runs[-1].up,
        setup_bytes=runs[-1].setup,
    )


def main() -> None:
    """Print a row per mode."""
    options_of = parser(__doc__)
    options_of.add_argument("--repeats", type=int, default=5)
    options_of.add_argument("--rounds", type=int, default=20)
    options_of.add_argument("--command", action="store_true")
    options = options_of.parse_args()
    runs: dict[tuple[str, str], list[Measured]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder, "warm-up"), "masked", "sealed", 1)
        for repeat, mode in itertools.product(range(options.repeats), MODES):
            out = Path(folder, str(repeat), *mode)
            runs[mode].append(measure(out, *mode, options.rounds, command=options.command))
    promises = {run.promise for found in runs.values() for run in found}
    assert len(promises) == 1, f"all runs must do the same: {promises}"
    rows = [summary(mode, runs[mode], runs["off", "plain"]) for mode in MODES]
    table = Table(
        "secagg", "transport", "wall", "ratio", "CPU", "ratio (CPU)", "bytes down", "bytes up"
    )
    for row in rows:
        table.row(
            row.secagg, row.transport,
            row.wall_seconds.shown(".2f", " s"), row.wall_ratio.shown(".2f"),
            row.cpu_seconds.shown(".2f", " s"), row.cpu_ratio.shown(".2f"),
            f"{row.down_bytes_per_round:,}", f"{row.up_bytes_per_round:,}",
        )  # fmt: skip
    each = {"/".join(mode): [asdict(run) for run in found] for mode, found in runs.items()}
    write(options.json, {"rows": [asdict(row) for row in rows], "runs": each})


if __name__ == "__main__":
    main()
