"""`fedlearn audit`: what the words of the command ask for, and what it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedlearn.auditing.findings import NOT_JUDGED, Findings, refuse_broken
from fedlearn.core import terminal
from fedlearn.core.errors import ConfigError
from fedlearn.report.measured import MeasuredPrivacy, Row
from fedlearn.report.page import write_report
from fedlearn.results.folder import RunFolder
from server.stop import Stop, stop_on_interrupt
from simulations.attacks.audited_folder import open_run
from simulations.attacks.measure import DELTA, measure, plan_in, promise_in, trained_model
from simulations.attacks.membership import REFERENCES, attacks
from simulations.attacks.whole_update import checks_of_run
from simulations.derived import composed
from simulations.display import Display
from simulations.run import simulate


def _inversion(words: Sequence[str]) -> None:
    from simulations.attacks.inversion_command import command  # matplotlib takes a second

    command(words)


def _poison(words: Sequence[str]) -> None:
    from simulations.attacks.poison.command import command

    command(words)


def _exposure(words: Sequence[str]) -> None:
    from simulations.attacks.exposure.command import command

    command(words)


DEMOS: Final[Mapping[str, Callable[[Sequence[str]], None]]] = {
    "inversion": _inversion,
    "poison": _poison,
    "exposure": _exposure,
}
"""What `demo=NAME` calls, with the other words of the command (`key=value`)."""

_REFERENCES: Final = "references="
_MOST_REFERENCES: Final = 256


def audit(words: Sequence[str]) -> None:
    """Do what `fedlearn audit WORDS` asks for.

    Raises:
        FedlearnError: the words make no sense, or what they name cannot be measured.
        PromiseBrokenError: it was measured, and the run gives away more than it promises.
    """
    demos = [word.removeprefix("demo=") for word in words if word.startswith("demo=")]
    if demos:
        _demonstrate(demos[-1], [word for word in words if not word.startswith("demo=")])
        return
    own = [word for word in words if word.startswith(_REFERENCES)]
    rest, references = [word for word in words if word not in own], _references(own)
    folders = [word for word in rest if "=" not in word]
    if folders and len(rest) > 1:
        raise ConfigError(
            [f"audit {folders[0]}: the config of a run is its own; leave out {', '.join(rest[1:])}"]
        )
    folder = Path(folders[0]) if folders else _run(rest)
    found = measure_folder(folder, references, fresh=not folders)
    refuse_broken({str(folder): found})


def _demonstrate(name: str, words: Sequence[str]) -> None:
    if name not in DEMOS:
        known = ", ".join(DEMOS) or "nothing yet"
        raise ConfigError([f"demo={name}: must be one of {known}"])
    DEMOS[name](words)


def _references(words: Sequence[str]) -> int:
    text = words[-1].removeprefix(_REFERENCES) if words else str(REFERENCES)
    return checked_references(int(text) if text.isdecimal() else text)


def checked_references(number: object) -> int:
    """The number of reference models; raises ConfigError where it is none that can be asked for."""
    if isinstance(number, int) and 2 <= number <= _MOST_REFERENCES and number % 2 == 0:
        return number
    raise ConfigError(
        [f"{_REFERENCES}{number}: must be an even number from 2 to {_MOST_REFERENCES}; 8 or more "
         "add the attack LiRA"]
    )  # fmt: skip


def _run(overrides: Sequence[str]) -> Path:
    """A new run with canaries; its folder."""
    asked = any(word.lstrip("+").startswith("audit=") for word in overrides)
    config = composed([*overrides] if asked else [*overrides, "audit=slots"]).config
    stop = Stop()
    with Display() as display, stop_on_interrupt(stop, display.say):
        simulate(config, display, stop)
    return Path(config.out)


def measure_folder(folder: Path, references: int, *, fresh: bool = False) -> Findings:
    """Measure the run in `folder` as `measure_run` does, and show what was found."""
    found = measure_run(folder, references, fresh=fresh)
    show_findings(found, terminal.console())
    return found


def measure_run(folder: Path, references: int, *, fresh: bool = False) -> Findings:
    """Measure the run in `folder`, and write what was found into its result and report.

    A `fresh` run has looked at whole updates itself, with the program as it is now.

    Raises:
        FedlearnError: the run has not finished, or is not any more what it was.
    """
    run = open_run(folder)
    # Where the folder is now, which need not be where it was made.
    config = replace(run.config, out=str(folder.resolve()))
    plan = plan_in(config, run.result)
    found = measure(config, run.result) or Findings(
        kind="membership",
        seat="model",
        estimator="none",
        canaries=0,
        alpha=0.05,
        lower_bound=0.0,
        ceiling=0.0,
        verdict=NOT_JUDGED,
        p_value=None,
        promised=run.result.privacy.epsilon,
        delta=plan.delta if plan else DELTA,
    )
    model = trained_model(config, run.task, run.model)
    met = attacks(run, model, promise_in(plan, run.result), references)
    done = run.result.audit.checks if fresh and run.result.audit else None
    checks = checks_of_run(config, run.result) if done is None else done
    found = replace(found, attacks=met).checked(checks)
    RunFolder(folder).write_result(replace(run.result, audit=found))
    write_report(folder)
    return found


def show_findings(found: Findings, console: Console) -> None:
    """Bounds beside their ceilings, attacks beside theirs, and the verdict."""
    shown = MeasuredPrivacy(found=found)
    if shown.bounds:
        console.print(shown.texts["about"])
        terminal.show(console, _table(("an attacker who sees", *shown.columns), shown.bounds))
    if shown.attacks:
        console.print(shown.texts["attacks"])
        columns = ("attack", "AUC", "found at 1% false alarms", "at .1%")
        terminal.show(console, _table(columns, shown.attacks))
    if shown.checks:
        console.print(shown.texts["updates"])
        terminal.show(console, _table(("of whole updates", "p", ""), shown.checks))
    for note in found.notes:
        console.print(escape(note))
    style = "bold red" if shown.broken else "bold"
    console.print(f"[{style}]{escape(shown.texts['verdict'])}[/]")


def _table(columns: Sequence[str], rows: Sequence[Row]) -> Table:
    table = terminal.numbers(*columns)
    for row in rows:
        table.add_row(escape(row[0]), *row[1:])
    return table
