"""What a site does with its training records when tables are compared before training.

It pays, gives where its records stand with all of its noise, and gets back the sum over all sites.
What it then finds is for its owner, in the log and in `screening.json` beside the ledger, and for
nobody else. Where the owner wants that (`policy.on_findings=refuse`), the site takes no part in the
run: whether it does follows from what it has given, noise included, and from what the coordinator
has sent, so that a refusal tells of no record what was not paid for, or shown. It is settled before
the records are looked at again, and written down, so that a run that is resumed is refused as well.

Without privacy what is given is exact. There a class of few records is given as one of none: the
sums of one are that record.

What the coordinator sends may be anything, and whether a site then refuses says on which side of it
the site is. So a site compares once in a run: masks hide its own sums, and one answer is one bit.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.app import ConfigRecord, Context
from numpy.typing import NDArray

from clients import payment
from clients.owner import Owner
from clients.site import Site
from clients.units import pieces_of
from fedlearn.config import screened_layout
from fedlearn.core.errors import PrivacyError, ProtocolError
from fedlearn.core.files import PRIVATE, write_atomically
from fedlearn.crypto.roster import SERVER
from fedlearn.flower.records import config_record
from fedlearn.mechanisms import EvaluationPlan, PrivacyPlan
from fedlearn.mechanisms.evaluation import noisy, whole_numbers
from fedlearn.privacy import Event
from fedlearn.rounds import RoundNote
from fedlearn.screening import (
    EXACT,
    ScreeningLayout,
    SiteSums,
    TableFinding,
    findings,
    noise_in,
    step_of,
)

_STATE: Final = "screening"
_PIECE: Final = 1 << 14
FILE: Final = "screening.json"

log = logging.getLogger(__name__)

Whole = NDArray[np.int64]


def layout_in(site: Site) -> ScreeningLayout:
    """The sums of the run.

    Raises:
        ProtocolError: it compares no tables.
    """
    layout = screened_layout(site.config, site.task)
    if layout is None:
        raise ProtocolError(SERVER, "screen", "the run compares no tables")
    return layout


# --- what is given -------------------------------------------------------------------------


def begin(
    site: Site, context: Context, plan: PrivacyPlan | None, note: RoundNote
) -> tuple[Event, ...]:
    """Pay, where there is something to pay; what the run has spent here so far.

    Raises:
        ProtocolError: the run has no screening, or has had it.
        PrivacyError: the ledger does not allow it, or the run that it comes before.
    """
    layout_in(site)
    paid = plan.screening if plan else None
    before = payment.spent_so_far(site, note.run_id)
    mine = {replace(event, steps=1) for event in before}
    if config_record(context.state, _STATE) or (paid and paid.event_at(1) in mine):
        raise ProtocolError(SERVER, "screen", "it was asked before")
    if plan is None or paid is None:
        return before
    payment.could_pay(site, plan, note)
    return payment.pay(site, plan, note, "screening", paid.event_at(1))


def given(site: Site, context: Context, plan: PrivacyPlan | None, run_id: str) -> Whole:
    """The site's sums with its noise, `int64[size]`, which it remembers: they are to be told apart
    from those of the others."""
    paid = plan.screening if plan else None
    found = noised(site, paid) if paid else of_many(site, exact_sums(site, None))
    context.state[_STATE] = ConfigRecord(
        {"given": found.tobytes(), "run": run_id, "compared": False, "grave": list[str]()}
    )
    return found


def noised(site: Site, paid: EvaluationPlan) -> Whole:
    """The sums as they leave the site where there is something to pay, in steps."""
    return noisy(exact_sums(site, paid), paid, 1, site.noise_of_screening().stream())


def of_many(site: Site, exact: Whole) -> Whole:
    """Exact sums as they leave the site: a class with fewer records than its owner shows, or of
    fewer persons, is given as one without any, and nothing else tells how many it has."""
    policy, layout = site.owner.policy, layout_in(site)
    if policy is None:
        return exact
    found = exact.reshape(len(layout.classes), layout.width).copy()
    for label, sums in enumerate(found):
        if site.data.train.units_in(site.data.train.labels == label) < policy.smallest_class:
            sums[:] = 0
    return found.reshape(-1)


def exact_sums(site: Site, paid: EvaluationPlan | None) -> Whole:
    """The sums without noise, in steps.

    Guarantees: one record, or person, moves them by no more than `paid.l2_sensitivity`.
    """
    layout, records = layout_in(site), site.data.train
    total = np.zeros((len(layout.classes), layout.width), np.int64)
    for piece in pieces_of(records, paid.unit if paid else "record", _PIECE):
        rows = piece.rows
        added = layout.added(records.features[rows])
        if paid is None:
            whole = np.rint(added * EXACT).astype(np.int64)
        else:
            whole = whole_numbers(added, layout.sizes, [1.0] * len(layout.sizes), paid)
        if piece.owners is None:
            np.add.at(total, records.labels[rows], whole)
            continue
        for label, sums in enumerate(total):
            sums += piece.added(whole, records.labels[rows] == label)
    return total.reshape(-1)


# --- what is found -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Compared:
    """A site's sums and those of others, of whom there are `many` by the coordinator's word."""

    site: Site
    paid: EvaluationPlan | None
    given: Whole
    others: Whole
    many: int

    def released(self) -> list[TableFinding]:
        """What follows from what was given and received."""
        return findings(self._table(self.given, noise_in(self.paid)), self._there, self._alarm)

    def found(self) -> list[TableFinding]:
        """What the own records show."""
        records = self.site.data.train
        own = self._table(exact_sums(self.site, self.paid), 0.0)
        return findings(own, self._there, self._alarm, (records.features, records.labels))

    @property
    def _there(self) -> SiteSums:
        return self._table(self.others, noise_in(self.paid) * math.sqrt(self.many))

    @property
    def _alarm(self) -> float:
        return self.site.config.screening.alarm

    def _table(self, sums: Whole, noise: float) -> SiteSums:
        layout = layout_in(self.site)
        shape = len(layout.classes), layout.width
        return SiteSums(layout=layout, sums=sums.reshape(shape) / step_of(self.paid), noise=noise)


def compare(
    site: Site, context: Context, plan: PrivacyPlan | None, opened: Whole, sites: Sequence[str]
) -> None:
    """Hold the own table against those of the others, for whom the coordinator vouches.

    Whatever comes of it the answer is the same: what goes wrong is for the log.

    Raises:
        ProtocolError: the site has given nothing to compare, or has compared it before.
    """
    stored = config_record(context.state, _STATE)
    if stored is None or stored["compared"]:
        raise ProtocolError(SERVER, "compare", "it was asked before, or before anything was given")
    stored["compared"] = True
    mine = np.frombuffer(bytes(stored["given"]), np.int64)  # type: ignore[arg-type]
    others = opened - mine if site.name in sites else opened
    paid, many = plan.screening if plan else None, len(set(sites) - {site.name})
    seen = _Compared(site, paid, mine, others, many)
    grave, found, run = list[str](), list[TableFinding](), str(stored["run"])
    # First, and by itself: nothing that is made of the records below can change it.
    with _only_logged():
        grave = sorted({one.where for one in seen.released() if one.grave})
    stored["grave"] = grave
    with _only_logged():
        found = [one for one in seen.found() if one.where not in _known(site)]
        _tell(site, found)
    with _only_logged():
        _write(site, found, len(sites), {run: grave} if grave else {})


@contextmanager
def _only_logged() -> Iterator[None]:
    """What goes wrong is for the log of the site alone."""
    try:
        yield
    except Exception:
        log.exception("the tables could not be compared")


def _known(site: Site) -> tuple[str, ...]:
    """What the owner has looked at."""
    return site.owner.policy.known_findings if site.owner.policy else ()


def _tell(site: Site, found: Sequence[TableFinding]) -> None:
    """Say to the owner what was found."""
    for one in found:
        log.warning("%s", _sentence(site.name, one))
    if not found:
        log.info("site %s: nothing is wrong with its table by those of the others", site.name)


def _write(
    site: Site, found: Sequence[TableFinding], sites: int, grave: Mapping[str, Sequence[str]]
) -> None:
    """Write it down, for the owner alone, and for which runs the table is not fit."""
    content = {
        "schema": "fedlearn/screening/v1",
        "time": site.now().isoformat(timespec="seconds"),
        "terms": site.config.terms.hex(),
        "sites": sites,
        "findings": [asdict(one) for one in found],
        "grave": {**_graves(site.owner), **grave},
    }
    path = _file(site.owner)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=2).encode(), PRIVATE)


def kept_findings(owner: Owner, terms: bytes) -> list[str]:
    """What was found at a site in a run under these terms, in sentences, for who owns its records.

    Raises:
        PrivacyError: the file cannot be read.
    """
    with _readable(owner):
        kept = _kept(owner)
        if not kept or kept["terms"] != terms.hex():
            return []
        return [_sentence(owner.name, TableFinding(**one)) for one in kept["findings"]]


def _sentence(site: str, found: TableFinding) -> str:
    return f"site {site}: {found.where}: {found.text}"


def _graves(owner: Owner) -> dict[str, list[str]]:
    """By what was given in each run: the columns, and `label`, that something grave was found of.

    Raises:
        PrivacyError: the file cannot be read.
    """
    with _readable(owner):
        found = _kept(owner)
        graves = found["grave"].items() if found else ()
        return {str(run): [str(one) for one in where] for run, where in graves}


def _file(owner: Owner) -> Path:
    return owner.ledger.parent / FILE


def _kept(owner: Owner) -> dict[str, Any]:
    """What was written down last; nothing before there was a comparison."""
    path = _file(owner)
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


@contextmanager
def _readable(owner: Owner) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise PrivacyError(
            f"site {owner.name}: {_file(owner)} cannot be read, and says which runs were refused. "
            "Put it back, or remove it once you have looked at the table"
        ) from None


def require(site: Site, context: Context, run_id: str) -> None:
    """Refuse to take part where the owner wants that, by what was found.

    What the owner has found right since then is no reason any more.

    Raises:
        PrivacyError: it is so.
    """
    policy, stored = site.owner.policy, config_record(context.state, _STATE)
    if policy is None or policy.on_findings != "refuse":
        return
    here = stored["grave"] if stored else ()
    if {*map(str, here), *_graves(site.owner).get(run_id, ())} - {*policy.known_findings}:  # type: ignore[arg-type]
        raise PrivacyError(
            f"site {site.name}: its owner lets no table train with which something seems wrong; "
            f"{FILE} beside its ledger says what"
        )
