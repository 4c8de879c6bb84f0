"""What a run costs a site: asked of its ledger, reserved before a record is read, committed once
the replies have left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from clients.ledger.ledger import Budget
from clients.ledger.state import Cost
from clients.site import Site
from fedlearn.core.alerts import BUDGET_SHARE
from fedlearn.core.logs import EVENTS
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.privacy import Event
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.events import merged
from fedlearn.rounds import RoundNote


def promised(plan: PrivacyPlan) -> Budget:
    """What a run may cost a site that takes part in all rounds, whoever knows of it."""
    total = epsilon(plan.events, plan.delta, unit=plan.unit)
    return Budget(epsilon=total, delta=plan.delta, unit=plan.unit)


def could_pay(site: Site, plan: PrivacyPlan, note: RoundNote) -> None:
    """Ask the ledger whether the site can pay for a round; spends nothing.

    A run whose test figures are private has planned them at its start, most of them for its end:
    the site must be able to pay for all that the run has not spent yet, or figures of a model
    that was paid for would be missing. So no round is made beyond those of the plan, spare ones
    included, from what the run has promised to spend on figures that are still to come.

    What this run has reserved before is committed: its replies have left, or the coordinator would
    not be at the next round.

    Raises:
        PrivacyError: it cannot; the refusal is in the ledger.
        DataError: the ledger is not intact, or not that of these records.
    """
    with site.ledger() as ledger:
        ledger.commit_all(note.run_id, now=site.now())
        cost = cost_of(site, note, "training", plan.round_event)
        ledger.require(cost, now=site.now(), of_run=promised(plan))
        if plan.besides:
            rest = unspent(plan.events, ledger.spent_by(note.run_id))
            purpose = f"the rest of the run, {site.config.experiment}, with its evaluations"
            cost = replace(cost, purpose=purpose)
            ledger.require_all(cost, rest, now=site.now())
            to_come = (plan.round_event, *_evaluations(site, plan, note.round))
            ledger.require_all(cost, to_come, now=site.now(), of_run=promised(plan))


def _evaluations(site: Site, plan: PrivacyPlan, number: int) -> Iterator[Event]:
    """What the evaluations of a round and of those after it cost."""
    if plan.evaluation is not None:
        for later in site.config.evaluated:
            if later >= number:
                yield plan.evaluation.event_at(later)


def unspent(planned: Iterable[Event], spent: Iterable[Event]) -> tuple[Event, ...]:
    """What is left of a plan once `spent` has been."""
    steps = {replace(event, steps=1): event.steps for event in merged(spent)}
    wanted = merged(planned)  # one mechanism may stand in a plan for two purposes
    left = ((event, event.steps - steps.get(replace(event, steps=1), 0)) for event in wanted)
    return tuple(replace(event, steps=count) for event, count in left if count > 0)


def pay(
    site: Site, plan: PrivacyPlan, note: RoundNote, purpose: str, event: Event
) -> tuple[Event, ...]:
    """Reserve what a round costs; what this run has spent here so far, the round included.

    Raises:
        PrivacyError: the ledger does not allow it.
    """
    with site.ledger() as ledger:
        cost, before = cost_of(site, note, purpose, event), ledger.share()
        ledger.reserve(cost, now=site.now(), of_run=promised(plan))
        if site.owner.deployed and before < BUDGET_SHARE <= ledger.share():
            fields = {"site": site.name, "share": round(ledger.share(), 3)}
            EVENTS.warning("budget", extra={"fields": fields})
        return ledger.spent_by(note.run_id)


def spent_so_far(site: Site, run_id: str) -> tuple[Event, ...]:
    """What a run has spent here."""
    if site.config.privacy.unit == "none":
        return ()
    with site.ledger() as ledger:
        return ledger.spent_by(run_id)


def commit(site: Site, run_id: str) -> None:
    """Note that the replies of this run have left, or the coordinator would not come back."""
    if site.config.privacy.unit != "none" and site.owner.ledger.exists():
        with site.ledger() as ledger:
            ledger.commit_all(run_id, now=site.now())


def cost_of(site: Site, of: RoundNote, purpose: str, event: Event) -> Cost:
    """What is asked of the ledger for a round: for `training`, an `evaluation` or `screening`."""
    return Cost(
        event=event,
        run_id=of.run_id,
        round_number=of.round,
        purpose=f"{purpose} {site.config.experiment}",
        terms=of.terms,
    )
