"""What a site gives of its table for statistics: all records, once, with its noise, and paid for.

Training and test records count alike: no model is tested on them here. Without privacy what is
given is exact; a category, or a pair of two, of fewer records than its owner shows
(`policy.smallest_class`) is then given as none, and a category's records as gaps. Of fewer records
than an exact sum is to have (`policy.min_test_records`) the sums are those of nobody. Where records
are somebody's, few are few persons; the sums themselves are of persons where the promise is to
persons, and else of records. That such a table was given stands in the ledger.
"""

from __future__ import annotations

import logging
from typing import Final

import numpy as np
from flwr.app import ConfigRecord, Context
from numpy.typing import NDArray

from clients import evaluation, payment
from clients.site import Site
from clients.units import pieces_of
from fedlearn.config import statistics_layout
from fedlearn.core.errors import ProtocolError
from fedlearn.crypto.roster import SERVER
from fedlearn.data import Records
from fedlearn.figures import ChoicePart, CrossingPart, TableLayout, TableRows
from fedlearn.flower.records import config_record
from fedlearn.mechanisms import EvaluationPlan, PrivacyPlan
from fedlearn.mechanisms.evaluation import noisy
from fedlearn.privacy import Event
from fedlearn.rounds import RoundNote

log = logging.getLogger(__name__)

_STATE: Final = "statistics"
_NUMBERS: Final = 1 << 22
"""Of what records add, at a time."""

EXACT: Final = 1 << 20
"""Steps in 1 where there is no noise."""

Whole = NDArray[np.int64]


def begin(
    site: Site, context: Context, plan: PrivacyPlan | None, note: RoundNote
) -> tuple[Event, ...]:
    """Pay, where there is something to pay; what the run has spent here so far.

    Raises:
        ProtocolError: it was asked before.
        PrivacyError: the ledger does not allow it.
    """
    paid = plan.screening if plan else None
    before = payment.spent_so_far(site, note.run_id)
    if config_record(context.state, _STATE) or before or evaluation.written(site, note.run_id):
        raise ProtocolError(SERVER, "screen", "it was asked before")
    spent = before
    if plan is not None and paid is not None:
        spent = payment.pay(site, plan, note, "statistics", paid.event_at(1))
    if site.owner.policy is not None:
        with site.ledger() as ledger:
            seen = site.config.evaluation_seen
            ledger.note_evaluation(note.run_id, 1, seen, now=site.now())
    context.state[_STATE] = ConfigRecord({"run": note.run_id})
    return spent


def given(site: Site, plan: PrivacyPlan | None) -> Whole:
    """The site's sums as they leave it, `int64[size]`: with its noise, where the run has any."""
    layout = statistics_layout(site.config, site.task)
    paid = plan.screening if plan else None
    if paid is None:
        return layout.given(_of_many(site, layout, exact_sums(site, None)), exact_steps(layout))
    return noised(site, paid)


def noised(site: Site, paid: EvaluationPlan) -> Whole:
    """The sums with the site's noise."""
    layout = statistics_layout(site.config, site.task)
    exact = layout.given(exact_sums(site, paid), paid.steps)
    return noisy(exact, paid, 1, site.noise_of_screening().stream())


def exact_steps(layout: TableLayout) -> tuple[int, ...]:
    """Of what is given without noise."""
    return (EXACT,) * len(layout.parts)


def exact_sums(site: Site, paid: EvaluationPlan | None) -> Whole:
    """What all records add, in steps of `fedlearn.figures.layout.FIXED`.

    Guarantees: one record, or the mean over those of a person, moves them by no more than what
    one record adds.
    """
    layout, records = statistics_layout(site.config, site.task), all_records(site)
    total = np.zeros(layout.size, np.int64)
    size = max(1, _NUMBERS // layout.size)
    for piece in pieces_of(records, paid.unit if paid else "record", size):
        rows = TableRows(features=records.features[piece.rows], labels=records.labels[piece.rows])
        total += piece.added(layout.added(rows), np.ones(len(rows), np.bool_))
    return total


def all_records(site: Site) -> Records:
    """Those of all parts of a run: that are trained on, validated on and tested on."""
    parts = site.data.parts
    persons = [part.persons for part in parts if part.persons is not None]
    return Records(
        features=np.concatenate([part.features for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        persons=np.concatenate(persons) if len(persons) == len(parts) else None,
    )


def _of_many(site: Site, layout: TableLayout, sums: Whole) -> Whole:
    """Exact sums of records that are many, without categories and pairs of few."""
    policy, records = site.owner.policy, all_records(site)
    if policy is None:
        return sums
    if records.units < policy.min_test_records:
        log.info("policy.min_test_records=%d: no record is shown", policy.min_test_records)
        return np.zeros_like(sums)
    rows, found = TableRows(features=records.features, labels=records.labels), sums.copy()
    for _, part, at in layout.slices():
        if isinstance(part, ChoicePart | CrossingPart):
            own, many = found[at], _units(records, part.cells(rows), part.width)
            few = _hidden(part, many, policy.smallest_class)
            hidden = int(own[few].sum())
            own[few] = 0
            own[: part.first] += hidden
    return found


def _hidden(part: ChoicePart | CrossingPart, many: Whole, least: int) -> NDArray[np.bool_]:
    """Which cells are given as none, of those of so `many` units: none that is the rest of others.

    Of pairs, whose sums by row and column are known, all, where one is of few; of a column without
    a place for gaps the smallest that is left as well, where the others tell how many are hidden.
    """
    few = (many > 0) & (many < least)
    few[: part.first] = False
    if isinstance(part, CrossingPart):
        return np.full(len(many), few.any())
    if not part.first and few.any() and many[few].sum() < least and not few[many > 0].all():
        few |= many == many[~few & (many > 0)].min()
    return few


def _units(records: Records, cells: Whole, width: int) -> Whole:
    """Of how many records, or persons, each of so many cells is: `int64[width]`."""
    if records.persons is not None:
        owners = np.unique(records.persons, return_inverse=True)[1]
        cells = np.unique(np.stack([owners, cells]), axis=1)[1]
    return np.asarray(np.bincount(cells, minlength=width), np.int64)
