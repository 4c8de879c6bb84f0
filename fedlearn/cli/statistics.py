"""The command `statistics`: figures of the sites' tables before anything is trained."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedlearn.cli.completion import words
from fedlearn.cli.form import command, takes


@command(
    "statistics",
    "statistics experiment=medical_heart privacy.epsilon=1 out=runs/heart-statistics",
    takes(
        "overrides",
        "whose tables and with what privacy, as for `fedlearn simulate`; "
        "statistics.columns=[...], statistics.quantiles=[...], statistics.tables=[[a,b]], "
        "statistics.correlations=[...] say which figures, statistics.by_site=true shows each "
        "site's own",
        "key=value",
        nargs="*",
        completed=words,
    ),
)
def statistics(options: argparse.Namespace) -> None:
    """Counts, gaps, means, quantiles, categories and survival of all sites' tables, private as the
    run says and paid from the ledgers; one page, and a file of ranges for the next run."""
    from fedlearn.core.files import shortest
    from fedlearn.report.figures_page import lines
    from fedlearn.results.statistics import USABLE
    from server.stop import Stop, stop_on_interrupt
    from simulations.display import Display
    from simulations.run import notes
    from simulations.statistics import composed, make

    config, stop = composed(options.overrides), Stop()
    with Display() as display, stop_on_interrupt(stop, display.say):
        for note in notes(config):
            display.note(note)
        found = make(config, stop)
        for line in lines(found):
            display.say(line)
    folder = Path(config.out)
    page, usable = shortest(folder / "report.html"), shortest(folder / USABLE)
    print(f"\n{page} shows it, {usable} has what the next run can use")
