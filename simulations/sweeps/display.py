"""What a comparison looks like in a terminal: a bar over all rounds of all runs, then a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedlearn.core import terminal
from fedlearn.core.files import shortest
from fedlearn.report.comparison import Comparison, PointResult
from fedlearn.report.measured import measured_cell
from fedlearn.tasks import metric_called
from simulations.sweeps.points import Point
from simulations.sweeps.workers import Ended, Event, RoundDone


class CompareDisplay:
    """A listener that draws on the terminal; plain lines where there is none."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or terminal.console()
        # Drawn from the loop that hears of events: a thread of its own would
        # hold locks at the moment of a fork.
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("rounds"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            auto_refresh=False,
        )
        self.task = self.progress.add_task("preparing", total=None)
        self.rounds: dict[str, int] = {}
        self.running: dict[str, int] = {}
        self.runs = self.done = 0

    def __enter__(self) -> CompareDisplay:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, message: str) -> None:
        """Show a sentence above the bar."""
        self.console.print(message, soft_wrap=True)

    def planned(self, points: Sequence[Point], done: int, workers: int) -> None:
        """Say how much there is to do; the estimate counts rounds, as runs may differ in them."""
        self.rounds = {point.name: point.config.rounds for point in points}
        self.runs, self.done = len(points), done
        kept = f", {done} of them finished before" if done else ""
        self.say(f"{len(points)} runs{kept}; {workers} at a time")
        # What was finished before took no time now and would spoil the estimate.
        total = sum(self.rounds.values()) * (len(points) - done) // max(1, len(points))
        self.progress.update(self.task, total=total)
        self._draw()

    def heard(self, event: Event | None) -> None:
        """Move the bar."""
        match event:
            case RoundDone(name=name, round=number):
                self.progress.advance(self.task, number - self.running.get(name, 0))
                self.running[name] = number
            case Ended(name=name):
                reached = self.running.pop(name, 0)
                self.progress.advance(self.task, self.rounds[name] - reached)
                self.done += 1
                self._ended(event)
            case None:
                pass
        self._draw()

    def finished(self, comparison: Comparison, folder: Path) -> None:
        """The table, what failed, and where everything is."""
        self.progress.stop()
        terminal.show(self.console, _table(comparison))
        for point in comparison.points:
            if point.status not in ("finished", "planned"):
                reason = escape(point.reason or "")
                self.say(f"[red]{escape(point.name)} {point.status}:[/] {reason}")
        shown = escape(shortest(folder))
        self.say(f"\n[bold]{shown}/report.html[/] shows it; compare.json and compare.csv hold it")

    def _draw(self) -> None:
        text = f"{self.done} of {self.runs} runs done, {len(self.running)} running"
        self.progress.update(self.task, description=text)
        self.progress.refresh()

    def _ended(self, event: Ended) -> None:
        if event.exit_code:
            self.say(f"[red]{escape(event.name)} failed:[/] {escape(event.reason or '')}")
        elif not self.console.is_terminal:
            self.say(f"{escape(event.name)} finished")


def _table(comparison: Comparison) -> Table:
    points = comparison.points
    found = dict.fromkeys(name for point in points for name in point.evaluate if name != "loss")
    heading = {name: short for name in found if (short := metric_called(name).short)}
    audited = ["measured"] if any(point.audit for point in points) else []
    names, metrics = list(heading), list(heading.values())
    table = terminal.numbers("run", "epsilon", *audited, *metrics, "seconds")
    for point in points:
        table.add_row(escape(point.name), *_cells(point, names, measured=bool(audited)))
    return table


def _cells(point: PointResult, names: Sequence[str], *, measured: bool) -> list[str]:
    audit = [measured_cell(point.audit)] if measured else []
    if point.status != "finished":
        return [point.status, *("" for _ in (*audit, *names)), ""]
    epsilon = "-" if point.epsilon is None else f"{point.epsilon:.2f}"
    found = [f"{point.evaluate[name]:.3f}" if name in point.evaluate else "-" for name in names]
    return [epsilon, *audit, *found, "-" if point.seconds is None else f"{point.seconds:.0f}"]
