"""The `local` engine beside Flower's own simulation runtime (Ray), on the same run.

Two commands that differ in `engine=` alone, in turns; the models they end with
have one hash. Seconds are those of the rounds after the first, in which Ray
starts its actors: that, and the start of Ray itself, is not counted against it.

    python benchmarks/ray.py [--runs 3] [--json PATH]       (needs fedlearn[ray])
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAME = [
    "experiment=medical_heart", "privacy=none", "secagg=off", "transport=plain",
    "partition=iid", "partition.num_sites=10", "model.architecture=mlp", "rounds=8",
]  # fmt: skip


def one(engine: str, out: Path) -> tuple[float, str]:
    """Median seconds of a round, and the hash of the model."""
    command = [sys.executable, "-m", "fedlearn", "simulate", *SAME, f"engine={engine}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, f"out={out}"], check=True, capture_output=True, env=environment)
    result = json.loads((out / "result.json").read_text())
    seconds = [entry["seconds"] for entry in result["rounds"]][1:]
    return statistics.median(seconds), result["model"]["sha256"]


def main() -> None:
    """Print the seconds of a round on both engines, and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"local": [], "ray": []}
    hashes = set()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.runs):
            for engine, found in seconds.items():
                took, sha = one(engine, Path(folder) / f"{engine}-{number}")
                found.append(took)
                hashes.add(sha)
    assert len(hashes) == 1, "both must compute the same"
    ratios = [r / own for r, own in zip(seconds["ray"], seconds["local"], strict=True)]
    report = {"seconds": seconds, "ratios": ratios, "ratio": statistics.median(ratios)}
    print(json.dumps({**report, "load": os.getloadavg()[0]}))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
