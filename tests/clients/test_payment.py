"""What a site pays for, and what it keeps back for figures that a run has promised."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from clients import payment, sitefile
from clients.ledger.ledger import load
from clients.owner import deployed_owner
from clients.site import Site, open_site
from fedlearn.core.errors import PrivacyError
from fedlearn.core.logs import EVENTS
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.rounds import RoundNote
from tests.attacks.lab import SITES, STRICT, Lab

RUN = "ab" * 16
ROUNDS = 20


def opened(folder: Path, *words: str, policy: str = STRICT) -> tuple[Site, PrivacyPlan]:
    """One site of a run of many rounds, and what it promises there."""
    lab = Lab.make(folder, f"rounds={ROUNDS}", *words, policy=policy)
    site = open_site(deployed_owner(sitefile.load(lab.world.site_file(SITES[0]))), lab.config)
    plan = site.plan(len(SITES))
    assert plan is not None
    return site, plan


def note(number: int) -> RoundNote:
    return RoundNote(round=number, run_id=RUN, cohort=len(SITES), terms="")


def train(site: Site, plan: PrivacyPlan, number: int) -> None:
    payment.could_pay(site, plan, note(number))
    payment.pay(site, plan, note(number), "training", plan.round_event)


def test_spare_rounds__that_are_used_up_leave_what_the_last_evaluation_costs(
    tmp_path: Path,
) -> None:
    site, plan = opened(tmp_path, "evaluate_every=20")
    assert plan.evaluation is not None
    for number in (1, *range(1, ROUNDS + 1)):  # the first was cut off, and made again
        train(site, plan, number)
    # The last one was cut off as well: there is room for it in the promise, but not for both.
    with site.ledger() as ledger:
        cost = payment.cost_of(site, note(ROUNDS), "training", plan.round_event)
        ledger.require(cost, now=site.now(), of_run=payment.promised(plan))
    with pytest.raises(PrivacyError, match="the budget of this run"):
        payment.could_pay(site, plan, note(ROUNDS))
    spent = payment.pay(site, plan, note(ROUNDS), "evaluation", plan.evaluation.event_at(ROUNDS))
    assert sum(event.steps for event in spent) >= ROUNDS


def test_run__that_loses_no_more_than_its_spare_rounds_pays_for_all_of_it(tmp_path: Path) -> None:
    site, plan = opened(tmp_path, "evaluate_every=7")
    assert plan.evaluation is not None
    for number in (1, *range(1, ROUNDS + 1)):
        train(site, plan, number)
        if site.config.evaluates(number):
            with site.ledger() as ledger:
                done = ledger.evaluated(RUN) >= number
            if not done:
                event = plan.evaluation.event_at(number)
                payment.pay(site, plan, note(number), "evaluation", event)
    assert not load(site.owner.ledger)[1].refusals


def test_budget__of_which_four_fifths_are_gone_is_said_at_home_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, EVENTS.name)
    site, plan = opened(tmp_path, policy=STRICT.replace("8.0", "5.0"))
    shares = []
    for number in range(1, ROUNDS + 1):
        train(site, plan, number)
        with site.ledger() as ledger:
            shares.append(ledger.share())
        said = [one for one in caplog.records if one.getMessage() == "budget"]
        assert len(said) == (shares[-1] >= 0.8)
    assert shares == sorted(shares)
    assert shares[0] < 0.8
