"""All tables of `docs/performance.md`, or those that are named: one command, one JSON each.

python -m benchmarks [NAME ...] [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers import PEERS, missing
from benchmarks.table import environment

HERE = Path(__file__).resolve().parent


class Program(NamedTuple):
    """What makes a table: a file beside this one, which takes `--json PATH`."""

    file: str
    about: str
    quick: str
    """The smallest setting: shows that it runs, and measures nothing that could be quoted."""
    arguments: str = ""


TABLES: Mapping[str, Program] = {
    "start": Program("start.py", "a whole command until its first round", "--runs 1"),
    "engine": Program(
        "engine.py", "a simulated round over a bare training loop; pfl", "--rounds 3 --workers 1"
    ),
    "cohort": Program(
        "cohort.py", "what each of 1,000 tiny clients adds to a round", "--clients 20 --rounds 3"
    ),
    "growth": Program("growth.py", "the engine's cost by clients and parameters", "--rounds 1"),
    "ray": Program("ray.py", "the engine beside Flower's Ray simulation", "--runs 1 --sizes tiny"),
    "batched": Program(
        "batched_clients.py",
        "many small clients as one computation",
        "--clients 3 --repetitions 1",
    ),
    "dp": Program(
        "dp_step.py",
        "a private step over a plain one; Opacus",
        "--smallest --repetitions 2 --no-memory --only CNN",
    ),
    "gpu": Program(
        "gpu.py",
        "private steps, and clients side by side, on a GPU where there is one",
        "--device cpu --only 1x28x28 --steps 1 --turns 1 --processes 1 2",
    ),
    "masking": Program(
        "masking.py",
        "masked sums beside flwr's SecAgg+",
        "--clients 10 --parameters 20000 --repeats 1",
    ),
    "sealing": Program(
        "sealing.py", "sealed messages over in-place AES-GCM", "--megabytes 0.1 --repeats 2"
    ),
    "audit": Program(
        "audit.py", "what audits find at each promise, and cost", "--repeats 1 --runs 1"
    ),
    "deployment": Program(
        "deployment.py", "what machines of their own add to a round", "--rounds 2 --width 16"
    ),
    "parts": Program(
        "deployment_parts.py",
        "what a message with a model costs, part by part",
        "--parameters 1000 --repeats 1",
    ),
    "flower_app": Program(
        "flower_app.py",
        "a Flower app of somebody else's, before and after it is protected",
        "--sizes 1 --turns 1 --rounds 1",
    ),
    "modes": Program(
        "modes.py",
        "a whole run under every protection",
        "--repeats 1 --rounds 2",
        arguments="--command",
    ),
}


def _options() -> argparse.Namespace:
    known = [f"  {name:10}{program.about}" for name, program in TABLES.items()]
    peers = [f"  {name:10}{missing(name) or 'is compared with'}" for name in PEERS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure fedlearn beside its peers; every program takes more options.",
        epilog="\n".join(["tables:", *known, "", "peers that need not be there:", *peers]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a table (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="smallest settings: whether all runs, not how fast"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/benchmarks"),
        metavar="FOLDER",
        help="for the JSON (default: %(default)s)",
    )
    options = parser.parse_args()
    if unknown := set(options.names) - TABLES.keys():
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    return options


def main() -> int:
    """Run the tables one after another; 1 if one of them failed."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in options.names or TABLES:
        program = TABLES[name]
        print(f"== {name}: {program.about}\n", flush=True)
        arguments = program.quick if options.quick else program.arguments
        report = str(options.out / f"{name}.json")
        command = [sys.executable, str(HERE / program.file), *arguments.split(), "--json", report]
        if subprocess.run(command, env=environment(), check=False).returncode:
            failed.append(name)
        print(flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
