"""What a run looks like in a terminal: a line of progress, a line per round, a table at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedlearn.algorithms import cohort_size
from fedlearn.config import RunConfig
from fedlearn.core import terminal
from fedlearn.core.errors import counted, some
from fedlearn.core.files import shortest
from fedlearn.report.facts import Facts, degree_in
from fedlearn.report.verdict import Light, verdict
from fedlearn.results.reading import task_of
from fedlearn.results.result import ResultFile, RoundResult, total_of
from fedlearn.tasks import metric_called
from server.federation import Federation
from simulations.run import findings

_STYLES: Final[Mapping[Light, str]] = {"red": "bold red", "amber": "yellow", "green": "green"}


class Display:
    """A listener that draws on the terminal; plain lines where there is none."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or terminal.console()
        self.progress = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.task = self.progress.add_task("enrolling sites", total=None)
        self.config: RunConfig | None = None

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:  # elsewhere it would end a bar that was never begun
            self.progress.stop()

    def say(self, message: str) -> None:
        """Show a sentence above the bar."""
        self.console.print(message)

    def note(self, sentence: str) -> None:
        """Show what is unusual in the data."""
        self.console.print(f"[yellow]note:[/] {escape(sentence)}")

    def started(self, federation: Federation, first_round: int) -> None:
        """Say who takes part and under which privacy."""
        sites, config = federation.grid.sites, federation.config
        self.config = config
        shown = some(sites, 6)
        self.console.print(
            f"[bold]{escape(config.experiment)}[/]: {counted(len(sites), 'site')} "
            f"({escape(shown)}), "
            f"{federation.enrolment.trainable.size:,} parameters"
        )
        if plan := federation.plan:
            self.console.print(
                f"privacy: per {plan.unit}, epsilon {plan.epsilon:.3g} at delta {plan.delta:g} for "
                f"all {_rounds(config)}; noise multiplier {plan.noise_multiplier:g}, "
                f"clip norm {plan.clip_norm:g}"
            )
        else:
            self.console.print("privacy: none")
        cohort = cohort_size(config.strategy, len(sites))
        together = config.robust.together(cohort)
        if masks := degree_in(config, together):
            self.console.print(
                f"masks: of {counted(together, 'site')} in a sum {masks.corrupt} may work with the "
                f"coordinator, and {masks.dropped} fall silent"
            )
        for sentence in federation.enrolment.declined:
            self.note(f"without a site that was asked: {sentence}")
        for note in federation.notes:
            self.note(note)
        self.progress.update(
            self.task, total=config.rounds, completed=first_round - 1, description="training"
        )

    def round_finished(self, entry: RoundResult) -> None:
        """Move the bar and show the numbers of the round."""
        self.progress.update(self.task, completed=entry.round, description=describe(entry))
        if not self.console.is_terminal:
            self.console.print(f"round {entry.round}: {describe(entry)}")

    def finished(self, result: ResultFile) -> None:
        """The final table and where everything is."""
        self.progress.stop()
        show_verdict(self.console, result)
        terminal.show(self.console, final_table(result))
        if (own := own_table(result)) is not None:
            terminal.show(self.console, own)
        for sentence in findings(self.config, result.data.sites) if self.config else ():
            self.note(sentence)
        self.console.print(escape(result.privacy.statement))
        # Plots take a second to import: not before there is something to show.
        from fedlearn.report.page import write_report

        folder = Path(str(result.config["out"]))
        report, data = shortest(write_report(folder)), shortest(folder / "result.json")
        self.console.print(f"\n[bold]{escape(report)}[/] shows it, {escape(data)} holds all of it")


def _rounds(config: RunConfig) -> str:
    """Those that a site can pay for."""
    spare = f" and {config.spare_rounds} spare" if config.spare_rounds else ""
    return f"{config.rounds} rounds{spare}"


def describe(entry: RoundResult) -> str:
    """One line on a round: pooled metrics, the largest epsilon so far, who was missing."""
    parts = [
        f"{short} {value:.3f}"
        for name, value in entry.evaluate.items()
        if value is not None and (short := metric_called(name).short)
    ]
    spent = [value for value in entry.epsilon.values() if value is not None]
    if spent:
        parts.append(f"epsilon {max(spent):.2f}")
    if entry.refused:
        parts.append(f"refused: {entry.refused.reason}")
    parts += [f"from here without {one.site}, which {one.reason}" for one in entry.named]
    if entry.clients.dropped:
        parts.append(f"without {', '.join(entry.clients.dropped)}")
    return "  ".join(parts)


def show_verdict(console: Console, result: ResultFile) -> None:
    """What to know of the run before anything else, the worst first."""
    table = Table.grid("light", "says", padding=(0, 2))
    for remark in verdict(Facts(result=result, hashes={})):
        light, says = f"[{_STYLES[remark.light]}]{remark.light}[/]", escape(remark.says)
        table.add_row(light, says)
        if not console.is_terminal:  # a table would fill up its lines
            console.print(f"{remark.light}: {says}")
    if console.is_terminal:
        console.print(table)


def final_table(result: ResultFile) -> Table:
    """Test metrics and epsilon by site, and pooled."""
    heading = {name: metric_called(name).short for name in result.final.evaluate}
    names = [name for name, short in heading.items() if short]
    metrics = [heading[name] for name in names]
    columns = ("site", "train", "test", *metrics, "epsilon")
    table = terminal.numbers(*columns, title="test metrics, * worst site")
    for site, found in result.final.per_site.items():
        size, privacy = result.data.sites[site], result.privacy.per_site.get(site)
        mark = " *" if site == result.final.worst_site else ""
        table.add_row(
            escape(site) + mark,
            _count(size.train),
            _count(size.test),
            *(f"{found[name]:.3f}" if name in found else "-" for name in names),
            f"{privacy.epsilon:.2f}" if privacy else "-",
        )
    table.add_section()
    sizes = result.data.sites.values()
    table.add_row(
        "all sites",
        _count(total_of(size.train for size in sizes)),
        _count(total_of(size.test for size in sizes)),
        *(f"{result.final.evaluate[name]:.3f}" for name in names),
        "-" if result.privacy.epsilon is None else f"{result.privacy.epsilon:.2f}",
        style="bold",
    )
    return table


def own_table(result: ResultFile) -> Table | None:
    """What each site's own model does beside the shared one, and which it is to take."""
    if result.own is None or not result.own.per_site:
        return None
    names = [one.name for one in task_of(result).compared() if one.name in result.own.all_sites]
    heads = [f"{metric_called(name).title}, {which}" for name in names for which in _MODELS]
    table = terminal.numbers("site", *heads, "to take", title="models of the sites' own")
    shared = result.final.per_site
    for site, found in result.own.per_site.items():
        both = shared.get(site, {}), {name: one.value for name, one in found.items()}
        values = [values.get(name) for name in names for values in both]
        cells = ["-" if value is None else f"{value:.3f}" for value in values]
        table.add_row(escape(site), *cells, result.own.take.get(site, "-"))
    return table


_MODELS: Final = ("shared", "own")


def _count(records: int | None) -> str:
    return "-" if records is None else str(records)
