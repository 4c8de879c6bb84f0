"""What protection adds to a Flower app that is not ours: examples/flower-quickstart, both ways.

    python benchmarks/flower_app.py [--command] [--json PATH]

The plain and the protected app take turns in one process, on our engine: the same model,
records and rounds. Seconds are of a whole run; ratios are of neighbours. Bytes are what the
messages of a run hold. `--command` measures `flwr run` as well, in Flower's simulation
runtime on Ray, from the command until its result is there.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict
from table import Table, in_turns, parser, ratios, spread, write

from fedlearn.flower.records import size_of
from simulations.engines.local import InProcessGrid, make_contexts

APPS = Path(__file__).resolve().parents[1] / "examples" / "flower-quickstart"
KINDS = ("plain", "protected")
SIZES = ((5, 2), (5, 10), (20, 2))
"""Sites and epochs."""


class CountingGrid(InProcessGrid):
    """The engine's grid, with the bytes that crossed it."""

    crossed = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Count what is sent."""
        pushed = list(messages)
        self.crossed += sum(map(size_of, pushed))
        return super().push_messages(pushed)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Count what comes back."""
        arrived = list(super().pull_messages(message_ids))
        self.crossed += sum(map(size_of, arrived))
        return arrived


def apps(kind: str) -> tuple[Any, Any]:
    """Server and client of one of the two; both packages have the same name."""
    for name in [name for name in sys.modules if name.split(".")[0] == "digits"]:
        del sys.modules[name]
    sys.path.insert(0, str(APPS / kind))
    try:
        server = importlib.import_module("digits.server_app").app
        return server, importlib.import_module("digits.client_app").app
    finally:
        sys.path.pop(0)


def settings(epochs: int, rounds: int, result: str = "") -> dict[str, Any]:
    """A run config of the app."""
    return {
        "num-server-rounds": rounds,
        "local-epochs": epochs,
        "learning-rate": 0.1,
        "result": result,
    }


def run(pair: tuple[Any, Any], sites: int, epochs: int, rounds: int, sizes: list[int]) -> float:
    """Seconds of a whole run in this process."""
    config, (server, client) = settings(epochs, rounds), pair
    grid = CountingGrid(client, make_contexts(sites, config))
    start = time.perf_counter()
    server(grid, Context(1, 1, node_config={}, state=RecordDict(), run_config=config))
    sizes[:] = [grid.crossed]
    return time.perf_counter() - start


def flwr_run(kind: str, port: int) -> float:
    """Seconds of `flwr run` until its result is there."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        result = Path(folder, "result.json")
        environment = os.environ | {
            "FLWR_HOME": folder,
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        federation = "num-supernodes=5 client-resources-num-cpus=1"
        command = ["flwr", "run", ".", "--federation-config", federation]
        command += ["-c", f'result="{result}"']
        start = time.perf_counter()
        try:
            subprocess.run(
                command, cwd=APPS / kind, env=environment, check=True, capture_output=True
            )
            while not result.exists() and time.perf_counter() - start < 300:
                time.sleep(0.1)
            return time.perf_counter() - start
        finally:
            _end(folder)


def _end(home: str) -> None:
    """End the SuperLink that `flwr run` has left running."""
    mark = f"FLWR_HOME={home}\0".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGTERM)
        except OSError:
            continue  # it has ended, or is not ours


def main() -> None:
    """The command line."""
    # `sizes`: how many of them; `command`: `flwr run` as well.
    options = parser(__doc__, rounds=3, turns=7, sizes=len(SIZES), command=False).parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    pairs = {kind: apps(kind) for kind in KINDS}
    table = Table(
        sites="sites", epochs="epochs", plain=("plain", ".2f", " s"),
        protected=("protected", ".2f", " s"), ratio=("ratio", ".2f"),
        plain_mb=("bytes, plain", ".2f", " MB"), protected_mb=("protected", ".2f", " MB"),
    )  # fmt: skip
    for sites, epochs in SIZES[: options.sizes]:
        crossed: dict[str, list[int]] = {kind: [] for kind in KINDS}
        sides = {
            kind: partial(run, pairs[kind], sites, epochs, options.rounds, crossed[kind])
            for kind in KINDS
        }
        taken = in_turns(sides, options.turns, warm_up=1)
        row = {"sites": sites, "epochs": epochs}
        row |= {kind: spread(taken[kind]) for kind in KINDS}
        row |= {f"{kind}_mb": crossed[kind][0] / 1e6 for kind in KINDS}
        table.row(row | {"ratio": ratios(taken["protected"], taken["plain"])})
    found: dict[str, Any] = {"rows": table.rows}
    if options.command:
        sides = {kind: partial(flwr_run, kind, 39210 + i) for i, kind in enumerate(KINDS)}
        taken = in_turns(sides, min(3, options.turns))
        found["flwr_run"] = {kind: spread(taken[kind]) for kind in KINDS}
        shown = [f"{kind} {spread(taken[kind]).shown('.1f', ' s')}" for kind in KINDS]
        print(f"\n`flwr run`, 5 sites, 3 rounds: {', '.join(shown)}")
    write(options.json, found)


if __name__ == "__main__":
    main()
