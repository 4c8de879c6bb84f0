"""What an audit by lying sites looks like in a terminal: a bar over its runs, then a table."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedlearn.core import terminal
from fedlearn.core.errors import StoppedError
from fedlearn.report.poison import COLUMNS, HONEST, Level, Poison, cells, meaning
from simulations.sweeps.workers import Ended, Event

_STYLES: dict[Level, str] = {"held": "", "hurt": "yellow", "lost": "bold red"}


class AuditProgress:
    """A bar over the runs of an audit; it says how long the rest will take once one has ended."""

    def __init__(self, console: Console, runs: int, todo: int) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("runs"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            auto_refresh=False,
        )
        self.task = self.progress.add_task("liars at work", total=todo)
        self.runs, self.todo, self.ended = runs, todo, 0

    def __enter__(self) -> AuditProgress:
        kept = f", {self.runs - self.todo} of them made before" if self.todo < self.runs else ""
        self.say(f"{self.runs} runs{kept}; Ctrl-C stops, and the same command goes on")
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, message: str) -> None:
        """A sentence above the bar."""
        self.console.print(message, soft_wrap=True)

    def heard(self, event: Event | None) -> None:
        """Move the bar."""
        if isinstance(event, Ended) and event.exit_code != StoppedError.exit_code:
            self.ended += 1
            self.progress.advance(self.task)
            if self.ended == 1:
                minutes = event.cpu_seconds * self.todo / 60
                self.say(
                    f"the first run took {event.cpu_seconds:.0f} s of a core; all that are left "
                    f"take about {max(1, round(minutes))} minutes of one"
                )
        self.progress.refresh()


def table(found: Poison) -> Table:
    """One line for every attack against every rule."""
    shown = terminal.numbers("rule", "attack", *COLUMNS, title=escape(meaning(found)))
    shown.columns[1].justify = "left"
    for row in found.rows:
        style = _STYLES[row.level] if row.attack != HONEST else "dim"
        last = row.attack == found.rows[-1].attack
        name = row.rule if row.attack == HONEST else ""
        shown.add_row(
            escape(name),
            escape(found.called(row)),
            *cells(found, row),
            style=style,
            end_section=last,
        )
    return shown
