"""`fedlearn audit demo=exposure`: what its words ask for, what it prints and leaves on disk.

`fedlearn audit demo=exposure experiment=NAME out=DIR` audits a study; `fedlearn audit RUN
demo=exposure` audits that of the run in the folder RUN, and leaves the files there, for its
report.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich.markup import escape

from fedlearn.core import terminal
from fedlearn.core.errors import PromiseBrokenError
from fedlearn.core.files import write_atomically
from fedlearn.report.exposure import FILE, Exposure, write_exposure
from fedlearn.report.exposure_page import ExposurePage
from fedlearn.report.exposure_plot import png
from fedlearn.report.page import write_report
from server.stop import Stop, stop_on_interrupt
from simulations.attacks.exposure.display import tables
from simulations.attacks.exposure.measure import found_in
from simulations.attacks.exposure.study import plan
from simulations.attacks.exposure.words import read_words
from simulations.attacks.progress import AuditProgress
from simulations.attacks.trials import check, run_all, todo
from simulations.sweeps.workers import Event

IMAGE: Final = "exposure.png"


def command(words: Sequence[str]) -> None:
    """Make the runs that `words` describe, print what they come to, and write it down.

    Raises:
        ConfigError: the words make no sense, or the folder holds another audit.
        FedlearnError: a study could not be run.
        PromiseBrokenError: a run tells more than it promises; all of it is written down.
        StoppedError: the user stopped it; what has ended is in the folder.
    """
    console, stop = terminal.console(), Stop()
    made = _Made(words)
    with (
        AuditProgress(console, "runs with canaries", len(made.study.trials), made.todo) as watch,
        stop_on_interrupt(stop, watch.say),
    ):
        made.run(stop, watch.heard)
    console.print("looking for their secrets in the models", soft_wrap=True)
    found = made.measured()
    page = ExposurePage(found=found)
    for one in tables(page):
        terminal.show(console, one)
    for block in ("meaning", "units"):
        console.print(escape(page.texts[block]))
    for run in found.runs:
        style = "bold red" if run.broken else "bold"
        console.print(f"[{style}]{escape(page.verdict(run))}[/]")
    for path in made.write(found):
        console.print(str(path), soft_wrap=True)
    refuse_broken(made.folder, found)


class _Made:
    """An audit on its way."""

    def __init__(self, words: Sequence[str]) -> None:
        self.command = "fedlearn audit demo=exposure " + shlex.join(words)
        asked = read_words(words)
        self.study = plan(asked)
        self.folder = asked.run or Path(self.study.config.out)
        self.workers = asked.settings.workers
        self._missing = todo(self.study.trials)
        check(self._missing)

    @property
    def todo(self) -> int:
        """How many runs are still to be made."""
        return len(self._missing)

    def run(self, stop: Stop, tell: Callable[[Event | None], None]) -> None:
        """Make them."""
        run_all(self._missing, self.workers, stop, tell)

    def measured(self) -> Exposure:
        """What they come to."""
        return found_in(self.study, self.command)

    def write(self, found: Exposure) -> list[Path]:
        """Write the figures, the image and a report."""
        write_exposure(self.folder, found)
        write_atomically(self.folder / IMAGE, png(found))
        return [self.folder / FILE, self.folder / IMAGE, write_report(self.folder)]


def audited(
    words: Sequence[str], stop: Stop, tell: Callable[[Event | None], None]
) -> tuple[Path, Exposure]:
    """The same without a terminal: the folder that the files are in, and what was found."""
    made = _Made(words)
    made.run(stop, tell)
    found = made.measured()
    made.write(found)
    return made.folder, found


def refuse_broken(folder: Path, found: Exposure) -> None:
    """Let nobody take a broken promise for one that held.

    Raises:
        PromiseBrokenError: with every run whose models tell more than was promised.
    """
    broken = [run for run in found.runs if run.broken]
    if broken:
        raise PromiseBrokenError(
            "\n".join(
                f"PROMISE BROKEN: {run.called} repeats more than its epsilon allows; the report in "
                f"{folder} has the numbers"
                for run in broken
            )
        )
