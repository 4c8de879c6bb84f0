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
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from table import Table, cpu_of_all, parser, python, ratios, result_of, spread, write

from fedlearn.config import compose
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate

MODES = tuple(itertools.product(("off", "ring", "masked", "two_server"), ("plain", "sealed")))


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


def measure(
    folder: Path, secagg: str, transport: str, rounds: int, *, command: bool = False
) -> Measured:
    """Run the experiment once."""
    words = [
        "experiment=medical_heart",
        f"secagg={secagg}",
        f"transport={transport}",
        f"rounds={rounds}",
        f"out={folder}",
    ]
    wall, cpu = time.perf_counter(), cpu_of_all()
    if command:
        python("-m", "fedlearn", "simulate", *words)
    else:
        simulate(compose(words), Silent(), Stop())
    wall, cpu = time.perf_counter() - wall, cpu_of_all() - cpu
    result = result_of(folder)
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


def summary(mode: tuple[str, str], runs: list[Measured], base: list[Measured]) -> dict[str, Any]:
    """The row of one mode; `base` are the runs of `off` and `plain` in the same turns."""
    wall, cpu = [run.wall for run in runs], [run.cpu for run in runs]
    return {
        "secagg": mode[0],
        "transport": mode[1],
        "wall_seconds": spread(wall),
        "cpu_seconds": spread(cpu),
        "wall_ratio": ratios(wall, [run.wall for run in base]),
        "cpu_ratio": ratios(cpu, [run.cpu for run in base]),
        "down_bytes_per_round": runs[-1].down,
        "up_bytes_per_round": runs[-1].up,
        "setup_bytes": runs[-1].setup,
    }


def main() -> None:
    """Print a row per mode."""
    options = parser(__doc__, repeats=5, rounds=20, command=False).parse_args()
    runs: dict[tuple[str, str], list[Measured]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder, "warm-up"), "masked", "sealed", 1)
        for repeat, mode in itertools.product(range(options.repeats), MODES):
            out = Path(folder, str(repeat), *mode)
            runs[mode].append(measure(out, *mode, options.rounds, command=options.command))
    promises = {run.promise for found in runs.values() for run in found}
    assert len(promises) == 1, f"all runs must do the same: {promises}"
    table = Table(
        secagg="secagg", transport="transport", wall_seconds=("wall", ".2f", " s"),
        wall_ratio=("ratio", ".2f"), cpu_seconds=("CPU", ".2f", " s"),
        cpu_ratio=("ratio (CPU)", ".2f"), down_bytes_per_round=("bytes down", ","),
        up_bytes_per_round=("bytes up", ","),
    )  # fmt: skip
    for mode in MODES:
        table.row(summary(mode, runs[mode], runs["off", "plain"]))
    each = {"/".join(mode): found for mode, found in runs.items()}
    write(options.json, {"rows": table.rows, "runs": each})


if __name__ == "__main__":
    main()
