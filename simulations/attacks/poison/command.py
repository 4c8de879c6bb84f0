"""`fedlearn audit demo=poison`: what its words ask for, what it prints and leaves on disk.

`fedlearn audit demo=poison experiment=NAME out=DIR` attacks a study; `fedlearn audit RUN
demo=poison` attacks that of the run in the folder RUN, and leaves the files there, for its
report.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.markup import escape

from fedlearn.core import terminal
from fedlearn.core.files import write_atomically
from fedlearn.report.page import write_report
from fedlearn.report.poison import FILE, Poison, write_poison
from server.stop import Stop, stop_on_interrupt
from simulations.attacks.poison.display import table
from simulations.attacks.poison.image import image
from simulations.attacks.poison.scores import found_in
from simulations.attacks.poison.study import plan
from simulations.attacks.poison.words import read_words
from simulations.attacks.progress import AuditProgress
from simulations.attacks.trials import check, run_all, todo

IMAGE: Final = "poison.png"


def command(words: Sequence[str]) -> None:
    """Make the runs that `words` describe, print what they come to, and write it down.

    Raises:
        ConfigError: the words make no sense, or the folder holds another audit.
        FedlearnError: a study could not be run.
        StoppedError: the user stopped it; what has ended is in the folder, and counted.
    """
    asked = read_words(words)
    study = plan(asked)
    cases, console = todo(study.cases), terminal.console()
    for why in study.left_out.values():
        console.print(f"left out: {escape(why)}", soft_wrap=True)
    check(cases)
    stop = Stop()
    try:
        with (
            AuditProgress(console, "liars at work", len(study.cases), len(cases)) as watch,
            stop_on_interrupt(stop, watch.say),
        ):
            run_all(cases, asked.settings.workers, stop, watch.heard)
    finally:
        found = found_in(study, "fedlearn audit demo=poison " + shlex.join(words))
        if found.rows:
            terminal.show(console, table(found))
            for path in write(asked.run or study.folder.parent, found):
                console.print(str(path), soft_wrap=True)


def write(folder: Path, found: Poison) -> list[Path]:
    """Write the figures, the image and a report."""
    write_poison(folder, found)
    write_atomically(folder / IMAGE, image(found))
    return [folder / FILE, folder / IMAGE, write_report(folder)]
