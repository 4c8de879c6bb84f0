"""All tables of `docs/performance.md`, or those that are named: one command, one JSON each.

python -m benchmarks [NAME ...] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

TABLES = {
    "start": ["start.py"],
    "engine": ["engine.py"],
    "cohort": ["cohort.py"],
    "growth": ["growth.py"],
    "ray": ["ray.py"],
    "batched": ["batched_clients.py"],
    "dp": ["dp_step.py"],
    "masking": ["masking.py"],
    "sealing": ["sealing.py"],
    "modes": ["modes.py", "--command"],
}
"""Name to program and arguments; every program takes `--json PATH`."""


def main() -> int:
    """Run the tables one after another; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TABLES))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args()
    if unknown := set(options.names) - TABLES.keys():
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    failed = []
    for name in options.names or TABLES:
        program, *arguments = TABLES[name]
        print(f"== {name}", flush=True)
        command = [sys.executable, str(HERE / program), *arguments]
        report = str(options.out / f"{name}.json")
        if subprocess.run([*command, "--json", report], env=environment, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
