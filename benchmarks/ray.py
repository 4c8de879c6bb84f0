"""The `local` engine beside Flower's own simulation runtime (Ray), on the same run.

Two commands that differ in `engine=` alone, in turns, both free to use every core;
the models they end with must have one hash. Two sizes of client: one that trains for
milliseconds, where the engine's own cost is all there is to see, and one that trains
for a good part of a second, where there is little to gain. Two measures: the median
round after the first (in which Ray starts its actors), and the whole command, with
the start of Python, torch and Ray.

    python benchmarks/ray.py [--runs 3] [--json PATH]       (needs fedlearn[ray])
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peers import missing
from table import Table, parser, ratios, spread, write

ROOT = Path(__file__).resolve().parent.parent
SAME = [
    "experiment=medical_heart", "privacy=none", "secagg=off", "transport=plain",
    "partition=iid", "partition.num_sites=10", "rounds=8",
]  # fmt: skip
SIZES = {
    "tiny": ["model.architecture=mlp"],
    "larger": ["model.architecture=ft_transformer", "training.local_steps=20"],
}
"""What a client trains: an MLP in a few steps; an FT-Transformer in twenty."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One command: seconds of a round (median, without the first) and of all of it."""

    round: float
    command: float
    parameters: int
    sha256: str


def one(engine: str, size: str, out: Path) -> Run:
    """Run one command to its end."""
    command = [sys.executable, "-m", "fedlearn", "simulate", *SAME, *SIZES[size]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    subprocess.run(
        [*command, f"engine={engine}", f"out={out}"],
        check=True,
        capture_output=True,
        env=environment,
    )
    seconds = time.perf_counter() - began
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return Run(
        round=statistics.median([entry["seconds"] for entry in result["rounds"]][1:]),
        command=seconds,
        parameters=result["model"]["parameters"],
        sha256=result["model"]["sha256"],
    )


def compare(size: str, runs: int, folder: Path) -> dict[str, Any]:
    """Both engines in turns; medians of the ratios of neighbours."""
    pairs = []
    for number in range(runs):
        local, ray = (one(e, size, folder / f"{size}-{e}-{number}") for e in ("local", "ray"))
        assert local.sha256 == ray.sha256, "both must compute the same"
        pairs.append((local, ray))
    found: dict[str, Any] = {"parameters": pairs[0][0].parameters}
    for measure in ("round", "command"):
        own, theirs = zip(
            *((getattr(a, measure), getattr(b, measure)) for a, b in pairs), strict=True
        )
        found[measure] = {
            "local": spread(own),
            "ray": spread(theirs),
            "ratio": ratios(theirs, own),
        }
    found["runs"] = [[asdict(local), asdict(ray)] for local, ray in pairs]
    return found


def main() -> None:
    """Print a table of both engines, and write JSON."""
    options_of = parser(__doc__)
    options_of.add_argument("--runs", type=int, default=3)
    options_of.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = options_of.parse_args()
    if reason := missing("Ray"):
        print(f"skipped: {reason}")
        write(options.json, {"skipped": reason})
        return
    report: dict[str, Any] = {}
    table = Table("client", "measure", "local", "Ray", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            found = report[size] = compare(size, options.runs, Path(folder))
            for measure in ("round", "command"):
                row = found[measure]
                client = f"{size}, {found['parameters']} parameters"
                sides = (row[side].shown(".3f", " s") for side in ("local", "ray"))
                table.row(client, measure, *sides, row["ratio"].shown(".1f", "x"))
                found[measure] = {name: asdict(value) for name, value in row.items()}
    write(options.json, report)


if __name__ == "__main__":
    main()
