"""Many runs from Python, side by side, into one table and one report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedlearn.config.composition import split
from fedlearn.core.errors import StoppedError
from fedlearn.core.files import shortest
from fedlearn.core.interrupt import Interrupt
from fedlearn.report.comparison import FILE, Comparison, PointResult, read_comparison
from server.stop import Stop
from simulations.api.asking import check_something_to_learn, words_of
from simulations.api.progress import Line
from simulations.api.result import (
    Result,
    html_table,
    load_run,
    shown_of,
    up_to_date_report,
)
from simulations.api.running import (
    ONE_AT_A_TIME,
    interruptible,
    new_folder,
    parted,
    torch_for_a_run,
)
from simulations.api.study import Study, called_by_its_keywords
from simulations.sweeps import compare as sweeping
from simulations.sweeps.points import Point
from simulations.sweeps.workers import Ended, Event

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("fedlearn")

MOST_ROWS: Final = 50
"""Rows that a notebook shows of a table."""


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """Runs that differ in the values of some keys: what `fl.compare` returns.

    Attributes:
        folder: where everything is, absolute; each run has a folder in it.
    """

    folder: Path

    @cached_property
    def points(self) -> Sequence[PointResult]:
        """Every run: its name, the swept `values`, `status`, `epsilon`, `evaluate`, `seconds`."""
        return read_comparison(self.folder).points

    def run(self, name: str) -> Result:
        """The run of a point by its `name`, with its model.

        Raises:
            DataError: it has no result.
        """
        return load_run(self.folder / name)

    def to_frame(self) -> pd.DataFrame:
        """A row for every run: name, swept values as numbers or texts, status, metrics, costs.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame needs pandas: pip install pandas") from error
        return pd.DataFrame([_row(point) for point in self.points])

    def report(self) -> Path:
        """Write `report.html` where it is missing or out of date; its path. Opens nothing."""
        return up_to_date_report(self.folder, self.folder / FILE)

    def __repr__(self) -> str:
        done = sum(point.status == "finished" for point in self.points)
        return (
            f"Sweep({done} of {len(self.points)} runs finished, folder={shortest(self.folder)!r})"
        )

    def _repr_html_(self) -> str:
        keys = list(dict.fromkeys(key for point in self.points for key in point.values))
        names = shown_of(name for point in self.points for name in point.evaluate)
        rows = [
            [*([point.values.get(key, "") for key in keys] or [point.name]),
             "" if point.epsilon is None else f"{point.epsilon:.2f}",
             *(f"{point.evaluate[n]:.3f}" if n in point.evaluate else "" for n in names),
             point.status]
            for point in self.points[:MOST_ROWS]
        ]  # fmt: skip
        heads = [*(keys or ["run"]), "epsilon spent", *names, "status"]
        return html_table(repr(self), heads, rows, [])


def _row(point: PointResult) -> dict[str, Any]:
    swept = {key: _value(text) for key, text in point.values.items()}
    moved = {f"bytes_{way}": size for way, size in (point.bytes or {}).items()}
    facts = {"reference": point.reference, "site": point.site, "status": point.status}
    costs = {"epsilon": point.epsilon, "delta": point.delta, "seconds": point.seconds}
    return {"name": point.name} | swept | facts | costs | point.evaluate | moved


def _value(text: str) -> Any:
    """A swept value as a number where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def compare(
    *words: Study | str,
    out: Path | str | None = None,
    baselines: bool = False,
    workers: int | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Sweep:
    """Run every combination of the values given, side by side.

    Args:
        words: a study, or the words of `fedlearn compare`, such as "experiment=medical_heart"
            or "seed=0,1,2".
        out: the folder; the same call with a folder that holds some of the runs does the rest.
            By default a new one is made below `runs/`.
        baselines: add the same study without privacy, every site alone, and all in one place.
        workers: runs at a time; by default as many as fit the cores.
        progress: as for `fl.simulate`.
        settings: values by name, as for `fl.simulate`; of a list, range or array, every one.

    Returns:
        All runs as a table, and the folder that holds them. A run that failed is in it with its
        reason, and costs the others nothing.

    Raises:
        ConfigError, DataError: something could never run; nothing was started.
        KeyboardInterrupt: stopped by the user; the same call with `out` does the rest.

    Example:
        >>> import fedlearn as fl
        >>> fl.compare("experiment=medical_heart", epsilon=[0.5, 1, 2], seed=range(3)).to_frame()
        ...     # doctest: +SKIP
    """
    study, texts = parted(words)
    given = words_of(texts, settings, sweeps=True, base=study.words if study else ())
    check_something_to_learn(given)
    given += [] if out is None else words_of([], {"out": str(out)})
    given += ["compare.baselines=true"] if baselines else []
    given += [] if workers is None else [f"compare.workers={workers}"]
    with (
        called_by_its_keywords(study), ONE_AT_A_TIME, torch_for_a_run(),
        Line.shown(progress) as line,
    ):  # fmt: skip
        return _compared(given, line, study)


def _compared(words: list[str], line: Line, study: Study | None) -> Sweep:
    made = None
    if not any(split(word)[0] == "out" for word in words):
        planned = sweeping.planned_folder(words)
        made = new_folder(Path("runs", f"{study.name}-compare").resolve() if study else planned)
        words = [*words, *words_of([], {"out": str(made)})]
    listener, stop = _Listener(line), Stop()
    try:
        with interruptible(stop, line):
            sweeping.compare(words, listener, stop, holds_objects=study is not None)
    except StoppedError as error:
        raise Interrupt(f"{error}; what is done is in {listener.folder}") from None
    finally:
        if made is not None and not any(made.iterdir()):
            made.rmdir()
    return Sweep(listener.folder)


class _Listener:
    """Tells the line of progress, and warns of runs that fail."""

    def __init__(self, line: Line) -> None:
        self.line, self.folder = line, Path()
        self.done = self.runs = 0

    def say(self, message: str) -> None:
        """What is going on."""
        self.line.say(message)

    def planned(self, points: Sequence[Point], done: int, workers: int) -> None:
        """How much there is to do."""
        self.runs, self.done = len(points), done
        self.say(f"{done} of {len(points)} runs done, {workers} at a time")

    def heard(self, event: Event | None) -> None:
        """A run has ended."""
        if not isinstance(event, Ended):
            return
        self.done += 1
        if event.exit_code and event.exit_code != StoppedError.exit_code:
            log.warning("%s failed: %s", event.name, event.reason)
        self.say(f"{self.done} of {self.runs} runs done")

    def finished(self, comparison: Comparison, folder: Path) -> None:
        """Where everything is."""
        self.folder = folder
