"""Test accuracy of `experiment=medical_heart` by privacy budget, over seeds.

python benchmarks/heart.py [--seeds 20] [--json PATH]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from fedlearn.config import compose
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate

BUDGETS = {"none": "privacy=none", "4": "privacy.epsilon=4.0", "1": "privacy.epsilon=1.0"}


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    """One run's `result.json`."""
    config = ["experiment=medical_heart", "evaluate_every=1000", f"out={folder}", *overrides]
    simulate(compose(config), Silent(), Stop())
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def main() -> None:
    """Print a line per budget."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table = []
    for name, privacy in BUDGETS.items():
        with tempfile.TemporaryDirectory() as folder:
            results = [
                run(Path(folder, str(seed)), privacy, f"seed={seed}")
                for seed in range(options.seeds)
            ]
        accuracies = [result["final"]["evaluate"]["accuracy"] for result in results]
        row = {
            "budget": name,
            "epsilon": results[0]["privacy"]["epsilon"],
            "accuracy": statistics.mean(accuracies),
            "deviation": statistics.stdev(accuracies),
            "seconds": statistics.median(result["seconds"] for result in results),
            "accuracies": accuracies,
        }
        table.append(row)
        print(f"epsilon {name:5} accuracy {row['accuracy']:.4f} +- {row['deviation']:.4f} "
              f"({row['seconds']:.2f} s a run)", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
