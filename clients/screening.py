"""What a site does with its training records when tables are compared before training.

It pays, gives where its records stand with all of its noise, and gets back the sum over all sites.
What it then finds is for its owner, in the log and in `screening.json` beside the ledger, and for
nobody else. Where the owner wants that (`policy.on_findings=refuse`), the site takes no part in the
run: whether it does follows from what it has given, noise included, and from what the coordinator
has sent, so that a refusal tells of no record what was not paid for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Final

import numpy as np
from flwr.app import ConfigRecord, Context
from numpy.typing import NDArray

from clients import payment
from clients.site import Site
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


def given(site: Site, context: Context, plan: PrivacyPlan | None) -> Whole:
    """The site's sums with its noise, `int64[size]`, which it remembers: they are to be told apart
    from those of the others."""
    found = noised(site, plan.screening if plan else None)
    context.state[_STATE] = ConfigRecord({"given": found.tobytes(), "refuses": False})
    return found


def noised(site: Site, paid: EvaluationPlan | None) -> Whole:
    """The sums as they leave the site, in steps."""
    found = exact_sums(site, paid)
    if paid is None:
        return found
    return noisy(found, paid, 1, site.noise_of_screening().stream())


def exact_sums(site: Site, paid: EvaluationPlan | None) -> Whole:
    """The sums without noise, in steps.

    Guarantees: one record moves them by no more than `paid.l2_sensitivity`.
    """
    layout, records = layout_in(site), site.data.train
    total = np.zeros((len(layout.classes), layout.width), np.int64)
    for start in range(0, len(records), _PIECE):
        rows = slice(start, start + _PIECE)
        added = layout.added(records.features[rows])
        if paid is None:
            whole = np.rint(added * EXACT).astype(np.int64)
        else:
            whole = whole_numbers(added, layout.sizes, [1.0] * len(layout.sizes), paid)
        np.add.at(total, records.labels[rows], whole)
    return total.reshape(-1)


# --- what is found -------------------------------------------------------------------------


def compare(
    site: Site, context: Context, plan: PrivacyPlan | None, opened: Whole, sites: Sequence[str]
) -> None:
    """Hold the own table against those of the others, for whom the coordinator vouches.

    Whatever comes of it the answer is the same: what goes wrong is for the log.
    """
    paid = plan.screening if plan else None
    try:
        found, released = _found(site, context, paid, opened, sites)
        _tell(site, found, len(sites))
    except Exception:
        log.exception("the tables could not be compared")
        return
    policy = site.owner.policy
    if policy is not None and policy.on_findings == "refuse" and any(one.grave for one in released):
        stored = config_record(context.state, _STATE)
        if stored is not None:
            stored["refuses"] = True


def _found(
    site: Site,
    context: Context,
    paid: EvaluationPlan | None,
    opened: Whole,
    sites: Sequence[str],
) -> tuple[list[TableFinding], list[TableFinding]]:
    """What the own records show, and what follows from what was given of them."""
    layout, stored = layout_in(site), config_record(context.state, _STATE)
    mine = np.frombuffer(bytes(stored["given"] if stored else b""), np.int64)  # type: ignore[arg-type]
    others = opened - mine if site.name in sites else opened
    many = len(set(sites) - {site.name})
    step, noise = step_of(paid), noise_in(paid)

    def table(sums: Whole, noise: float) -> SiteSums:
        shape = len(layout.classes), layout.width
        return SiteSums(layout=layout, sums=sums.reshape(shape) / step, noise=noise)

    there, alarm = table(others, noise * np.sqrt(many)), site.config.screening.alarm
    rows = site.data.train.features, site.data.train.labels
    found = findings(table(exact_sums(site, paid), 0.0), there, alarm, rows)
    released = found if paid is None else findings(table(mine, noise), there, alarm)
    known = site.owner.policy.known_findings if site.owner.policy else ()
    kept = [[one for one in part if one.where not in known] for part in (found, released)]
    return kept[0], kept[1]


def _tell(site: Site, found: Sequence[TableFinding], sites: int) -> None:
    """Write down what was found, for the owner alone."""
    for one in found:
        log.warning("site %s: %s: %s", site.name, one.where, one.text)
    if not found:
        log.info("site %s: nothing is wrong with its table by those of the others", site.name)
    content = {
        "schema": "fedlearn/screening/v1",
        "time": site.now().isoformat(timespec="seconds"),
        "terms": site.config.terms.hex(),
        "sites": sites,
        "findings": [asdict(one) for one in found],
    }
    path = site.owner.ledger.parent / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=2).encode(), PRIVATE)


def require(site: Site, context: Context) -> None:
    """Refuse to train where the owner wants that, by what was found.

    Raises:
        PrivacyError: it is so.
    """
    stored = config_record(context.state, _STATE)
    if stored is not None and stored["refuses"]:
        raise PrivacyError(
            f"site {site.name}: its owner lets no table train with which something seems wrong; "
            f"{FILE} beside its ledger says what"
        )
