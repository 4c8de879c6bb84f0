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

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from peers import missing
from table import Table, parser, python, ratios, result_of, spread, taken, write

MEASURES = ("round", "command")
SAME = [
    "experiment=medical_heart", "privacy=none", "secagg=off", "transport=plain",
    "partition=iid", "partition.num_sites=10", "rounds=8",
]  # fmt: skip
SIZES = {
    "tiny": ["model.architecture=mlp"],
    "larger": ["model.architecture=ft_transformer", "training.local_steps=20"],
}
"""What a client trains: an MLP in a few steps; an FT-Transformer in twenty."""


def one(engine: str, size: str, out: Path) -> dict[str, Any]:
    """One command: seconds of a round (median, without the first) and of all of it."""
    words = (*SAME, *SIZES[size], f"engine={engine}", f"out={out}")
    seconds = taken(partial(python, "-m", "fedlearn", "simulate", *words), time.perf_counter)
    result = result_of(out)
    return {
        "round": statistics.median([entry["seconds"] for entry in result["rounds"]][1:]),
        "command": seconds,
        "parameters": result["model"]["parameters"],
        "sha256": result["model"]["sha256"],
    }


def compare(size: str, runs: int, folder: Path) -> dict[str, Any]:
    """Both engines in turns; medians of the ratios of neighbours."""
    pairs = []
    for number in range(runs):
        local, ray = (one(e, size, folder / f"{size}-{e}-{number}") for e in ("local", "ray"))
        assert local["sha256"] == ray["sha256"], "both must compute the same"
        pairs.append((local, ray))
    found: dict[str, Any] = {"parameters": pairs[0][0]["parameters"], "runs": pairs}
    for measure in MEASURES:
        own, theirs = ([pair[side][measure] for pair in pairs] for side in (0, 1))
        found[measure] = {
            "local": spread(own), "ray": spread(theirs), "ratio": ratios(theirs, own)
        }  # fmt: skip
    return found


def main() -> None:
    """Print a table of both engines, and write JSON."""
    options_of = parser(__doc__, runs=3)
    options_of.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = options_of.parse_args()
    if reason := missing("Ray"):
        print(f"skipped: {reason}")
        write(options.json, {"skipped": reason})
        return
    report: dict[str, Any] = {}
    table = Table(
        client="client", measure="measure", local=("local", ".3f", " s"), ray=("Ray", ".3f", " s"),
        ratio=("ratio", ".1f", "x"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            found = report[size] = compare(size, options.runs, Path(folder))
            for measure in MEASURES:
                client = f"{size}, {found['parameters']} parameters"
                table.row({"client": client, "measure": measure, **found[measure]})
    write(options.json, report)


if __name__ == "__main__":
    main()
