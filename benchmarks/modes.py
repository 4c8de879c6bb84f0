"""What protection costs on `experiment=medical_heart`: every secagg with every transport.

    python benchmarks/modes.py [--repeats 5] [--rounds 20] [--json PATH]

Every run is the whole `fedlearn simulate` in this process (config, data, enrolment,
training, evaluation, files), after one run that warms up. The modes take turns, so
that the load of the machine falls on all of them alike; times are medians of wall
and CPU seconds, ratios those of the medians to `off` and `plain`. Bytes are those of
message contents over all sites, in the last round (the first also carries the set-up).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

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


def measure(folder: Path, secagg: str, transport: str, rounds: int) -> Measured:
    """Run the experiment once."""
    options = [f"secagg={secagg}", f"transport={transport}", f"rounds={rounds}", f"out={folder}"]
    wall, cpu = time.perf_counter(), time.process_time()
    simulate(compose(["experiment=medical_heart", *options]), Silent(), Stop())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    entries = json.loads((folder / "result.json").read_text())["rounds"]
    first, last = entries[0]["bytes"], entries[-1]["bytes"]
    return Measured(
        wall=wall,
        cpu=cpu,
        down=last["down"],
        up=last["up"],
        setup=sum(first.values()) - sum(last.values()),
    )


def summary(mode: tuple[str, str], runs: list[Measured], base: list[Measured]) -> dict[str, object]:
    """The row of one mode; `base` are the runs of `off` and `plain`."""
    wall, cpu = (statistics.median(getattr(run, at) for run in runs) for at in ("wall", "cpu"))
    return {
        "secagg": mode[0],
        "transport": mode[1],
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "wall_ratio": wall / statistics.median(run.wall for run in base),
        "cpu_ratio": cpu / statistics.median(run.cpu for run in base),
        "down_bytes_per_round": runs[-1].down,
        "up_bytes_per_round": runs[-1].up,
        "setup_bytes": runs[-1].setup,
        "runs": [asdict(run) for run in runs],
    }


def main() -> None:
    """Print a row per mode."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs: dict[tuple[str, str], list[Measured]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder, "warm-up"), "masked", "sealed", 1)
        for repeat, mode in itertools.product(range(options.repeats), MODES):
            out = Path(folder, str(repeat), *mode)
            runs[mode].append(measure(out, *mode, options.rounds))
    rows = [summary(mode, runs[mode], runs["off", "plain"]) for mode in MODES]
    for row in rows:
        print(
            "{secagg:10} {transport:6} {wall_seconds:.2f} s, {cpu_seconds:.2f} s CPU, "
            "ratio {wall_ratio:.2f} ({cpu_ratio:.2f} CPU), {down_bytes_per_round:,} B down, "
            "{up_bytes_per_round:,} B up a round".format(**row)
        )
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
