"""What a ledger says: as a report, and as `fedlearn ledger` prints it for the owner of the data.

Reads only: a run may be spending from the same ledger meanwhile.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from clients.ledger.ledger import load
from clients.ledger.receipts import contradictions, key_of, misfits, of_other_data
from clients.ledger.state import MOST_REASON, Spending, plain
from fedlearn.core import terminal
from fedlearn.core.errors import ConfigError, DataError, ReceiptError
from fedlearn.crypto.identity import fingerprint
from fedlearn.crypto.keyring import load_pinned
from fedlearn.privacy import accounting
from fedlearn.privacy.events import Event, Unit, unit_of
from fedlearn.results import receipts


@dataclass(frozen=True, kw_only=True)
class LedgerReport(Spending):
    """What a ledger says, and what was noticed about it.

    `head` is the hash of the last line: note it elsewhere and compare, to find
    a ledger that was replaced as a whole. `torn`: a crash has left an unfinished line.
    """

    head: str
    torn: bool


def verify(path: Path) -> LedgerReport:
    """Check a ledger without changing or locking it.

    Raises DataError, with file and line, if it is missing or not intact.
    """
    chain, state = load(path)
    return LedgerReport(**vars(state), head=chain.head, torn=bool(chain.torn))


def show(path: Path, delta: float) -> None:
    """Print what each run spent and what all of it amounts to at `delta`.

    Raises:
        ConfigError: `delta` is out of range.
        DataError: the ledger is missing or not intact.
    """
    if not accounting.SMALLEST_DELTA <= delta < 1:
        raise ConfigError([f"--delta={delta}: must be in [{accounting.SMALLEST_DELTA}, 1)"])
    report = verify(path)
    console = terminal.console()
    console.print(
        f"[bold]{escape(str(path))}[/]: site {escape(plain(report.site))}", soft_wrap=True
    )
    console.print(f"data {escape(plain(report.data))}", soft_wrap=True)
    terminal.show(console, _table(report, delta))
    for refusal in report.refusals:
        console.print(
            escape(
                f"refused: run {plain(refusal.run_id)}, round {refusal.round_number}, "
                f"{plain(refusal.purpose)}: {plain(refusal.reason, MOST_REASON)}"
            )
        )
    for declined in report.declined:
        run = f"run {plain(declined.run_id)}" if declined.run_id else "a run"
        reason = plain(declined.reason, MOST_REASON)
        console.print(escape(f"declined: {run}, {plain(declined.purpose)}: {reason}"))
    for note in _notes(report):
        console.print(note)


def show_head(path: Path, noted: str | None) -> None:
    """Print that a ledger is intact, and its head; `noted` is a head that it must have grown from.

    Raises:
        ConfigError: `noted` is not a hash.
        DataError: the ledger is missing, not intact, or another than the noted one.
    """
    if noted is not None and not re.fullmatch(r"[0-9a-f]{64}", noted):
        raise ConfigError([f"--head={noted}: must be 64 hex digits, as this command prints them"])
    report = verify(path)
    if noted is not None and noted not in load(path)[0].hashes:
        raise DataError(
            f"{path}: is intact by itself, but no line has the hash {noted}: it was replaced by "
            "another ledger or an older copy. Restore the file from a backup"
        )
    print(f"{path}: intact, {report.entries} entries of site {report.site}")
    print(f"data {report.data}")
    for note in _notes(report):
        print(note)
    print(f"head {report.head}")
    if noted is None:
        print("Note the head where nobody can change both, and pass it next time with --head.")
    else:
        print("It has grown from the noted head; note the new one in its place.")


def check_receipts(path: Path, places: Sequence[Path], roster: Path | None) -> None:
    """Print whether a ledger has grown from all its receipts in `places`: files, or folders.

    Of a folder those count that are of its site and data. `roster` is the pinned list with the
    key of the site; without one the fingerprint is printed.

    Raises:
        ConfigError: the roster is not in order, or has no such site.
        DataError: the ledger or a receipt is not intact, or a receipt is another's.
        ReceiptError: the ledger is not the one that was signed, with everything that does not fit.
    """
    site = verify(path).site
    given = {file: one for place in places for file, one in receipts.read(place).items()}
    named = {file: one for file, one in given.items() if file in places or one.site == site}
    others = of_other_data(path, named)
    mine = {file: one for file, one in named.items() if file not in others}
    if not mine:
        raise DataError(f"none of {len(given)} receipts is of site {site} and this ledger's data")
    key = None if roster is None else load_pinned(roster).public_of(site)
    signer = f"signed under the fingerprint {fingerprint(key_of(mine, key))}"
    if found := [*misfits(path, mine), *contradictions(named)]:
        raise ReceiptError("\n".join([*found, f"all {len(mine)} receipts are {signer}"]))
    print(f"{path}: has grown from {len(mine)} receipts of site {site}, {signer}")
    if key is None:
        print("Compare it with that of the site in the roster, or give that with --roster.")
    if others:
        print(f"{len(others)} receipts are of other data of the site: each has its own ledger")


def _table(report: LedgerReport, delta: float) -> Table:
    """A line per run, in the order of their first entry, and one for all of them."""
    pending = Counter(reservation.run_id for reservation in report.pending.values())
    refused = Counter(refusal.run_id for refusal in report.refusals)
    unit = _unit(report.spent)
    epsilon = f"epsilon\n(delta {delta:g}{', a person' if unit == 'person' else ''})"
    columns = ("steps", "noise", "sample rate", epsilon, "pending", "refused")
    table = terminal.numbers("run", *columns)
    for run in dict.fromkeys([*report.by_run, *refused]):
        events = report.by_run.get(run, ())
        counts = [str(pending[run] or "-"), str(refused[run] or "-")]
        table.add_row(
            escape(plain(run)), *_mechanism(events), _epsilon(events, delta, unit), *counts
        )
    table.add_section()
    table.add_row(
        "all runs",
        *_mechanism(report.spent),
        _epsilon(report.spent, delta, unit),
        str(len(report.pending) or "-"),
        str(len(report.refusals) or "-"),
        style="bold",
    )
    return table


def _mechanism(events: Iterable[Event]) -> list[str]:
    """Steps, noise multiplier and sample rate; a line each where a run had several."""
    events = list(events)
    if not events:
        return ["-", "-", "-"]
    return [
        "\n".join(f"{event.steps:,}" for event in events),
        "\n".join(f"{event.noise_multiplier:g}" for event in events),
        "\n".join(f"{event.sample_rate:g}" for event in events),
    ]


def _unit(events: Iterable[Event]) -> Unit:
    """Whom the table is about: persons, where all that was spent protects no less."""
    units = {unit_of(event) for event in events}
    return "person" if "person" in units and "record" not in units else "record"


def _epsilon(events: tuple[Event, ...], delta: float, unit: Unit) -> str:
    """Rounded up: never less than what was spent."""
    value = accounting.epsilon(events, delta, unit=unit)
    return "no limit" if math.isinf(value) else f"{math.ceil(value * 1000) / 1000:.3f}"


def _notes(report: LedgerReport) -> list[str]:
    notes = []
    kinds = Counter((noted.run_id, noted.evaluation) for noted in report.evaluations)
    notes += [
        escape(f"run {plain(run)}: test records were read {times} times, for evaluation={kind}")
        for (run, kind), times in kinds.items()
    ]
    if report.changes:
        notes.append(
            f"the records were changed {report.changes} times between runs; what was spent before "
            "stays spent, for the same people"
        )
    if report.receipts:
        notes.append(f"{len(report.receipts)} receipts of it were signed for coordinators to keep")
    if report.pending:
        notes.append(
            f"{len(report.pending)} reserved and not committed: a run is going on, or was cut "
            "off; they count as spent"
        )
    if report.repairs:
        notes.append(f"{report.repairs} unfinished lines, left by crashes, were cleared away")
    if report.torn:
        notes.append("the last line is unfinished, as a crash leaves it; the next run repairs it")
    return notes
