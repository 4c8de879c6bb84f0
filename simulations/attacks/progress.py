"""How far the runs of an attack are, in a terminal: a bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedlearn.core.errors import StoppedError
from simulations.sweeps.workers import Ended, Event


class AuditProgress:
    """A bar over the runs of an audit; it says how long the rest will take once one has ended."""

    def __init__(self, console: Console, doing: str, runs: int, todo: int) -> None:
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
        self.task = self.progress.add_task(doing, total=todo)
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
