"""What all tables have in common: clocks, turns, medians with their spread, Markdown, JSON.

A program measures its sides in turns (`in_turns`), checks that they computed the
same, prints a `Table` as its rows come, and writes what it found (`write`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What was measured several times: the middle, and where half of the values lie."""

    median: float
    low: float
    high: float
    """Quartiles; with one or two values the least and the most."""
    runs: int

    def times(self, factor: float) -> Spread:
        """The same in another unit."""
        low, high = sorted((factor * self.low, factor * self.high))
        return Spread(median=factor * self.median, low=low, high=high, runs=self.runs)

    def shown(self, form: str, unit: str = "") -> str:
        """The median, and the spread where there are several values."""
        middle = f"{self.median:{form}}{unit}"
        return middle if self.runs == 1 else f"{middle} ({self.quartiles(form)})"

    def quartiles(self, form: str) -> str:
        """The spread alone."""
        return f"{self.low:{form}} to {self.high:{form}}"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one value."""
    low, high = min(values), max(values)
    if len(values) > 2:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median=statistics.median(values), low=low, high=high, runs=len(values))


def ratios(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Of neighbours: what was measured in the same turn met the same load."""
    return spread([mine / other for mine, other in zip(values, base, strict=True)])


def in_turns(
    sides: Mapping[str, Callable[[], float]], turns: int, *, warm_up: int = 0
) -> dict[str, list[float]]:
    """What each side says it took, one after the other, turn by turn.

    The first `warm_up` turns do not count; who begins changes with every turn.
    """
    names, taken = list(sides), {name: list[float]() for name in sides}
    for turn in range(warm_up + turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken[name].append(sides[name]())
    return {name: values[warm_up:] for name, values in taken.items()}


# --- clocks and commands -----------------------------------------------------------------


def taken(call: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of one call: of CPU, or by another clock."""
    began = clock()
    call()
    return clock() - began


def cpu_of_all() -> float:
    """CPU seconds so far of this process and of the children that it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def environment() -> dict[str, str]:
    """That of this process, with the project first on the path; peers may lie beside it."""
    path = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def python(*words: str, folder: Path = ROOT, **own: str) -> str:
    """Run Python with these arguments to its end, `own` in its environment; what it printed."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder, env=environment() | own, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def result_of(run: Path) -> dict[str, Any]:
    """The `result.json` of a run."""
    found: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return found


# --- what is shown and written -----------------------------------------------------------


class Table:
    """A Markdown table that is printed row by row, for what takes an hour is watched.

    Args:
        columns: by the key of a value in a row its heading, or this, the form of a number and
            its unit.
    """

    def __init__(self, **columns: str | tuple[str, ...]) -> None:
        named = {key: (one,) if isinstance(one, str) else one for key, one in columns.items()}
        self.columns = {key: (*one, "", "")[:3] for key, one in named.items()}
        self.rows: list[dict[str, Any]] = []
        self._print([heading for heading, _, _ in self.columns.values()])
        self._print(["---"] * len(self.columns))

    def row(self, row: Mapping[str, Any]) -> None:
        """Print a row, and keep it: it has a value for every column, and may have more."""
        self._print([_cell(row[key], *form) for key, (_, *form) in self.columns.items()])
        self.rows.append({**row})

    @staticmethod
    def _print(cells: Sequence[str]) -> None:
        print(f"| {' | '.join(cells)} |", flush=True)


def _cell(value: Spread | float | str | None, form: str, unit: str) -> str:
    if isinstance(value, Spread):
        return value.shown(form, unit)
    return "" if value is None else f"{value:{form}}{unit}"


def parser(doc: str | None, **options: Any) -> argparse.ArgumentParser:
    """What all programs take, and the `options` of one: a number, several, or False for a switch.

    `doc` is the module's docstring.
    """
    found = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    found.add_argument("--json", type=Path, metavar="PATH", help="write what was found there")
    for name, default in options.items():
        flag = f"--{name.replace('_', '-')}"
        if default is False:
            found.add_argument(flag, action="store_true")
        elif isinstance(default, list):
            found.add_argument(flag, type=type(default[0]), nargs="+", default=default)
        else:
            found.add_argument(flag, type=type(default), default=default)
    return found


def write(path: Path | None, found: Mapping[str, Any]) -> None:
    """Say on what machine this was, and write all of it where a path is given."""
    here = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }
    print(
        f"\n{here['cores']} cores, {here['machine']}, Python {here['python']}; "
        f"load at the end {here['load']}"
    )
    if path is not None:
        # Dataclasses, of which `Spread` is one, as their fields.
        path.write_text(json.dumps({**found, "environment": here}, indent=1, default=asdict) + "\n")
