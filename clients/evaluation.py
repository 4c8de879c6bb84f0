"""What a site does with its test records: asked, limited, paid for, and only then computed.

Whatever a coordinator asks, a run's config says which rounds are evaluated, each of them is
evaluated once and in its order, and none with a model of an earlier round than the site has
trained in. In a run that validates, rounds read validation records alone; the test is a number
after all rounds, so that it is read once, and nothing is validated after it. Private sums are paid
for in the ledger before a test record is read; every other evaluation of a site with a policy is
written down there as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from flwr.app import ConfigRecord, Context
from numpy.typing import NDArray

from clients import payment
from clients.site import Site
from clients.units import pieces_of
from clients.work import SiteRound
from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.core.vector import Vector
from fedlearn.crypto.roster import SERVER
from fedlearn.data import Records
from fedlearn.flower.records import config_record
from fedlearn.mechanisms import EvaluationPlan, PrivacyPlan
from fedlearn.mechanisms.evaluation import noisy, summed, whole_numbers
from fedlearn.metrics.fairness import GroupFairness, group_of, group_sums, groups_of, shown
from fedlearn.metrics.sums import length_of
from fedlearn.privacy import Event
from fedlearn.rounds import EvaluateReply, TrainRequest
from fedlearn.training.local import grade

_STATE: Final = "evaluation"
log = logging.getLogger(__name__)

_PIECE, _NUMBERS = 1 << 12, 1 << 22
"""Test records whose contributions are added up at a time, and numbers of these, at the most."""
_MOST_ROWS: Final = 128
"""Test records that are turned into whole numbers at a time."""


# --- what is asked ---------------------------------------------------------------------


def note_trained(context: Context, number: int) -> None:
    """Remember the last round that this site was asked to train in."""
    _remember(context, trained=max(number, _known(context)["trained"]))


def ends_round(context: Context, number: int) -> bool:
    """Whether an evaluation is that of a round that this site has trained in."""
    return number <= _known(context)["trained"]


def check(site: Site, context: Context, request: TrainRequest) -> None:
    """Refuse an evaluation that the run does not have, or has had; spends and reads nothing.

    Raises:
        ProtocolError: the run does not evaluate this round, has done so, or has gone on.
        DataError: the site's own model of this run is lost.
    """
    number, known = request.round, _known(context)
    if not site.config.evaluates(number):
        raise ProtocolError(SERVER, "evaluate", f"the run does not evaluate round {number}")
    site.evaluated(number)
    if number <= max(known["evaluated"], written(site, request.run_id)):
        raise ProtocolError(SERVER, "evaluate", "this round, or a later one, was evaluated")
    if number < known["trained"]:
        raise ProtocolError(SERVER, "evaluate", "the model is of a round before the last")
    if site.config.personal:
        _ = SiteRound(site, request).own_model


def begin(
    site: Site, context: Context, plan: PrivacyPlan | None, request: TrainRequest
) -> tuple[Event, ...]:
    """Pay for an evaluation and write it down; what the run has spent here so far.

    Raises:
        PrivacyError: the ledger does not allow it.
    """
    spent: tuple[Event, ...] = ()
    if site.config.evaluation == "private":
        event = plan_in(plan).event_at(request.round)
        spent = payment.pay(site, plan, request.note, "evaluation", event) if plan else ()
    if site.owner.policy is not None:
        with site.ledger() as ledger:
            ledger.note_evaluation(
                request.run_id, request.round, site.config.evaluation, now=site.now()
            )
    _remember(context, evaluated=request.round)
    return spent


def plan_in(plan: PrivacyPlan | None) -> EvaluationPlan:
    """The evaluation that a plan pays for.

    Raises:
        ConfigError: it pays for none.
    """
    if plan is None or plan.evaluation is None:
        raise ConfigError(["evaluation=private: no privacy budget pays for it"])
    return plan.evaluation


def written(site: Site, run_id: str) -> int:
    """The last round of a run that the ledger knows was evaluated."""
    if site.owner.policy is None or not site.owner.ledger.exists():
        return 0
    with site.ledger() as ledger:
        return ledger.evaluated(run_id)


def _known(context: Context) -> dict[str, int]:
    stored = config_record(context.state, _STATE)
    names = ("trained", "evaluated")
    return {name: int(str(stored[name])) if stored else 0 for name in names}


def _remember(context: Context, **changed: int) -> None:
    context.state[_STATE] = ConfigRecord({**_known(context), **changed})


# --- what is computed ------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """What models make of the records that are evaluated, a row each: the shared one, or what
    stands for it at this site; and beside it the site's own, where it has one."""

    shared: NDArray[np.float64]
    own: NDArray[np.float64] | None = None


def graded(site: Site, request: TrainRequest) -> Answers:
    """What the model of a request makes of the records that are evaluated, and what the site's own
    does.

    Where a part of the model is the site's own, the shared rest is no model: with its part it is.
    """
    if not site.config.personal:
        return Answers(_graded(site, request.model, request.round))
    own = SiteRound(site, request).own_model
    if not site.config.compares_own:
        return Answers(_graded(site, own, request.round))
    shared = _graded(site, request.model, request.round)
    return Answers(shared, _graded(site, own, request.round))


def _graded(site: Site, model: Vector, number: int) -> NDArray[np.float64]:
    """What a model makes of the records that are evaluated.

    Guarantees: where the sums are private nothing is raised for what records hold. A record that
    the model fails on has a grade that is not a number, and adds nothing; none at all are there
    where it fails on every one. The site's own log alone tells.
    """
    site.load(model)
    records = site.evaluated(number)
    if site.config.evaluation != "private":
        return _grades(site, records, slice(None))
    try:
        return _grades(site, records, slice(None))
    except Exception:  # what a refusal would tell is not paid for
        log.exception("round %d: test records are graded one by one", number)
    return _one_by_one(site, records)


def _grades(site: Site, records: Records, rows: slice) -> NDArray[np.float64]:
    features, targets = site.inputs(records)[0][rows], records.labels[rows]
    most, filled = site.training.max_batch, site.config.evaluation == "private"
    if filled:
        from fedlearn.training.even_rows import even_rows

        most = even_rows(site.model, site.made_up, min(most, _MOST_ROWS), site.task.graded)
    return grade(site.model, site.task, features, targets, most, filled=filled)


def _one_by_one(site: Site, records: Records) -> NDArray[np.float64]:
    found: list[NDArray[np.float64] | None] = []
    for row in range(len(records)):
        try:
            found.append(_grades(site, records, slice(row, row + 1))[0])
        except Exception:  # it adds nothing
            log.exception("a test record cannot be graded")
            found.append(None)
    blank = next((np.full_like(one, np.nan) for one in found if one is not None), None)
    if blank is None:
        return np.zeros(0)
    return np.stack([blank if one is None else one for one in found])


def noised(
    site: Site, plan: EvaluationPlan, request: TrainRequest, answers: Answers
) -> NDArray[np.int64]:
    """The site's whole numbers with its noise: of all that is evaluated, then of every group, then
    of all by its own model."""
    records = site.evaluated(request.round)
    everybody, *groups = _masks(site, records)
    totals = _totals(site, plan, records, answers.shared, [everybody, *groups])
    if answers.own is not None:
        own = _totals(site, plan, records, answers.own, [everybody])
        totals = np.concatenate([totals, own])
    given = np.concatenate([summed(total, len(records), plan) for total in totals])
    return noisy(given, plan, request.round, site.noise_of_tests(request.round).stream())


def _totals(
    site: Site,
    plan: EvaluationPlan,
    records: Records,
    answers: NDArray[np.float64],
    masks: Sequence[NDArray[np.bool_]],
) -> NDArray[np.int64]:
    """The sums without noise, a row for each of `masks`."""
    layout, targets = site.task.noised_layout, records.labels
    sizes, bounds = [spec.size for spec in layout], [spec.bound for spec in layout]
    totals = np.zeros((len(masks), sum(sizes)), np.int64)
    most = max(1, min(_PIECE, _NUMBERS // max(sum(sizes), 1)))
    for piece in pieces_of(records, plan.unit, most) if len(answers) else ():
        rows = piece.rows
        added = site.task.contributions(answers[rows], targets[rows])
        # Of a grade that is no number a task may still make a guess, and count it.
        added[~np.isfinite(answers[rows].reshape(len(added), -1)).all(1)] = 0.0
        whole = whole_numbers(added, sizes, bounds, plan)
        for total, mask in zip(totals, masks, strict=True):
            total += piece.added(whole, mask[rows])
    return totals


def _masks(site: Site, records: Records) -> list[NDArray[np.bool_]]:
    """Which records are in which sum: all of them, then those of every group, which only the test
    tells apart."""
    everybody, fairness = np.ones(len(records), np.bool_), site.config.fairness
    if not isinstance(fairness, GroupFairness):
        return [everybody]
    if records is not site.data.test:
        return [everybody, *(~everybody for _ in fairness.names)]
    groups = group_of(fairness, site.data.test_attributes[fairness.column])
    return [everybody, *(groups == i for i in range(len(fairness.names)))]


def exact(site: Site, number: int, given: Answers) -> EvaluateReply:
    """The site's exact sums, and those of its groups that are large enough to be shown.

    Those of fewer records than the owner allows are the sums of nobody: a refusal would tell how
    many there are, in a sum over sites too, where nothing else does. Where records are somebody's
    it is persons that are counted: many records of one are one person's.
    """
    fairness, policy, records = site.config.fairness, site.owner.policy, site.evaluated(number)
    shown_of = slice(None)
    if policy is not None and records.units < policy.min_test_records:
        log.info("policy.min_test_records=%d: no test record is shown", policy.min_test_records)
        shown_of = slice(0)
    answers, targets = given.shared[shown_of], records.labels[shown_of]
    sums = site.task.sums(answers, targets)
    own = None if given.own is None else site.task.sums(given.own[shown_of], targets)
    if not isinstance(fairness, GroupFairness) or records is not site.data.test:
        return EvaluateReply(site=site.name, sums=sums, own=own)
    attribute = site.data.test_attributes[fairness.column][shown_of]
    groups = group_sums(fairness, attribute, lambda who: site.task.sums(answers[who], targets[who]))
    smallest = max(fairness.smallest, policy.smallest_group if policy else 0)
    kinds = group_of(fairness, site.data.test_attributes[fairness.column])
    sizes = {n: site.data.test.units_in(kinds == i) for i, n in enumerate(fairness.names)}
    seen, hidden = shown(groups, smallest, sizes)
    return EvaluateReply(site=site.name, sums=sums, groups=seen, withheld=hidden, own=own)


def counters_of(site: Site, reply: EvaluateReply) -> tuple[int, ...]:
    """Exact sums as they enter a sum over sites; of a group that is not shown, zeros.

    In the order of `fedlearn.agreement.Tested`.
    """
    layout, total = site.task.sum_layout, reply.sums.counters()
    hidden = [0] * length_of(layout)
    named = groups_of(site.config.fairness)
    groups = [reply.groups[n].counters() if n in reply.groups else hidden for n in named]
    own = [] if reply.own is None else [reply.own.counters()]
    return tuple(count for one in (total, *groups, *own) for count in one)
