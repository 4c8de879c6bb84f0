"""All tables of `docs/performance.md`, or those that are named: one command, one JSON each.

python -m benchmarks [NAME ...] [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import PEERS, missing

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Program:
    """What makes a table: a file beside this one, which takes `--json PATH`."""

    file: str
    about: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...]
    """The smallest setting: shows that it runs, and measures nothing that could be quoted."""


TABLES: Mapping[str, Program] = {
    "start": Program(
        file="start.py", about="a whole command until its first round", quick=("--runs", "1")
    ),
    "engine": Program(
        file="engine.py",
        about="a simulated round over a bare training loop; pfl",
        quick=("--rounds", "3", "--workers", "1"),
    ),
    "cohort": Program(
        file="cohort.py",
        about="what each of 1,000 tiny clients adds to a round",
        quick=("--clients", "20", "--rounds", "3"),
    ),
    "growth": Program(
        file="growth.py",
        about="the engine's cost by clients and parameters",
        quick=("--rounds", "1"),
    ),
    "ray": Program(
        file="ray.py",
        about="the engine beside Flower's Ray simulation",
        quick=("--runs", "1", "--sizes", "tiny"),
    ),
    "batched": Program(
        file="batched_clients.py",
        about="many small clients as one computation",
        quick=("--clients", "3", "--repetitions", "1"),
    ),
    "dp": Program(
        file="dp_step.py",
        about="a private step over a plain one; Opacus",
        quick=("--quick", "--repetitions", "2", "--no-memory", "--only", "CNN"),
    ),
    "gpu": Program(
        file="gpu.py",
        about="private steps, and clients side by side, on a GPU where there is one",
        quick=(
            "--device",
            "cpu",
            "--only",
            "CNN 1x28x28",
            "--steps",
            "1",
            "--turns",
            "1",
            "--processes",
            "1",
            "2",
        ),
    ),
    "masking": Program(
        file="masking.py",
        about="masked sums beside flwr's SecAgg+",
        quick=("--quick", "--parameters", "20000", "--repeats", "1"),
    ),
    "sealing": Program(
        file="sealing.py",
        about="sealed messages over in-place AES-GCM",
        quick=("--megabytes", "0.1", "--repeats", "2"),
    ),
    "audit": Program(
        file="audit.py",
        about="what audits find at each promise, and cost",
        quick=("--repeats", "1", "--runs", "1"),
    ),
    "deployment": Program(
        file="deployment.py",
        about="what machines of their own add to a round",
        quick=("--rounds", "2", "--width", "16"),
    ),
    "flower_app": Program(
        file="flower_app.py",
        about="a Flower app of somebody else's, before and after it is protected",
        quick=("--quick", "--rounds", "1"),
    ),
    "modes": Program(
        file="modes.py",
        about="a whole run under every protection",
        arguments=("--command",),
        quick=("--repeats", "1", "--rounds", "2"),
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
    environment = os.environ | {"PYTHONPATH": _path()}
    failed = []
    for name in options.names or TABLES:
        program = TABLES[name]
        print(f"== {name}: {program.about}\n", flush=True)
        arguments = program.quick if options.quick else program.arguments
        report = str(options.out / f"{name}.json")
        command = [sys.executable, str(HERE / program.file), *arguments, "--json", report]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
        print(flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def _path() -> str:
    """This project first, and what the caller had: peers may lie beside it."""
    return os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH", ""))))


if __name__ == "__main__":
    sys.exit(main())
