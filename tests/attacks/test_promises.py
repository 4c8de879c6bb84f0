"""Noise that would not be where an epsilon says that it is, and what owners say to that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clients.app_owner import FileOwner, owner_at
from clients.ledger.report import verify
from clients.owner import describe
from clients.policy import Policy, refusals
from fedlearn.config import compose
from fedlearn.core.errors import PrivacyError
from fedlearn.crypto.identity import Identity
from fedlearn.flower.apps.owner import Expense, MaskedSum
from fedlearn.flower.apps.protection import Protection
from fedlearn.privacy.events import DiscreteSumEvent, Event, GaussianEvent
from fedlearn.secagg.settings import SecAggMasked

OPEN = Policy(epsilon_total=20.0, require_transport=None, require_secagg=None, evaluation=None)
SHARED = ("experiment=medical_heart", "privacy=distributed", "training.local_steps=1")


def refused(policy: Policy, *overrides: str, cohort: int | None = 5) -> str:
    run = describe(compose([*overrides, "out=unused"]), cohort)
    return "\n".join(refusals(policy, run))


@pytest.mark.parametrize("secagg", ["ring", "two_server"])
@pytest.mark.parametrize("unit", ["record", "client"])
@pytest.mark.parametrize("evaluation", ["none", "private", "pooled"])
def test_noise_in_shares__is_refused_where_one_place_sees_a_single_share(
    secagg: str, unit: str, evaluation: str
) -> None:
    words = (*SHARED, f"secagg={secagg}", f"privacy.unit={unit}", f"evaluation={evaluation}")
    for cohort in (None, 5):
        for policy in (OPEN, Policy(**{**vars(OPEN), "require_secagg": secagg})):
            demand = refused(Policy(**{**vars(policy), "unit": unit}), *words, cohort=cohort)
            assert "lets one place see a single one" in demand


def test_noise_in_shares__is_taken_under_masks_and_by_who_protects_nobody() -> None:
    assert refused(OPEN, *SHARED) == ""
    nobody = Policy(unit="none", require_transport=None, require_secagg=None)
    assert refused(nobody, *SHARED, "secagg=two_server") == ""


@pytest.mark.parametrize("secagg", ["off", "ring", "two_server"])
def test_noise_of_one_s_own__needs_no_sum(secagg: str) -> None:
    assert refused(OPEN, "experiment=medical_heart", f"secagg={secagg}") == ""


@pytest.mark.parametrize(("cohort", "withstood"), [(5, 4), (4, 4), (3, 2)])
def test_more_colluders_than_masks_withstand__are_not_counted(cohort: int, withstood: int) -> None:
    """Nobody may be left to hide among: the run could sum nothing, and promises nothing."""
    policy = Policy(**{**vars(OPEN), "min_colluders": withstood})
    words = (*SHARED, f"privacy.max_colluders={withstood}")
    assert "policy.min_colluders" in refused(policy, *words, cohort=cohort)
    assert refused(policy, *words, cohort=withstood + 2) == ""


# --- The same through the door for apps that are written with Flower ------------------


def owner(folder: Path, **policy: object) -> FileOwner:
    demands = {"epsilon_total": 50.0, "min_cohort": 3, **policy}
    text = f"name: north\ndata: register\nledger: ledger.jsonl\npolicy: {json.dumps(demands)}\n"
    (folder / "site.yaml").write_text(text)
    return owner_at(folder / "site.yaml", Identity.new)


def expense(masks: SecAggMasked | None, cohort: int) -> Expense:
    entered = None if masks is None else MaskedSum(cohort=cohort, masks=masks)
    return Expense(run_id="r", number=1, purpose="test", sum=entered)


def shares(count: int) -> Event:
    return DiscreteSumEvent(
        law="discrete_gaussian", unit="record", l2_sensitivity=10.0, share_stddev=40, shares=count,
        dimension=8, rounding_failure=0.0, sample_rate=1.0, steps=1,
    )  # fmt: skip


def test_app__is_refused_masks_that_withstand_less_than_its_owner_demands(tmp_path: Path) -> None:
    loose = Protection(corrupt_fraction=0.0).secagg(10)
    mine = owner(tmp_path)
    with pytest.raises(PrivacyError, match="min_corrupt_fraction=0"):
        mine.admit(expense(loose, 10), masked=True)
    mine.admit(expense(Protection().secagg(10), 10), masked=True)
    mine.admit(
        expense(Protection(corrupt_fraction=0.0, corrupt_sites=2).secagg(10), 10), masked=True
    )
    assert "min_corrupt_fraction" in verify(tmp_path / "ledger.jsonl").declined[-1].reason


@pytest.mark.parametrize(
    ("protection", "cohort", "count", "demand"),
    [
        (None, 5, 4, "lets one place see a single one"),
        (Protection(), 5, 4, "counts on 1 more sites than a sum must hold"),
        (Protection(min_cohort=4), 5, 4, "policy.min_colluders=1: the run's noise holds against 0"),
        (Protection(min_cohort=5), 5, 4, ""),
        (Protection(min_cohort=5), 5, 1, ""),
    ],
)
def test_app__is_refused_noise_in_shares_that_a_sum_may_lack(
    tmp_path: Path, protection: Protection | None, cohort: int, count: int, demand: str
) -> None:
    masks = protection and protection.secagg(cohort)
    mine, spent = owner(tmp_path), shares(count)
    if not demand:
        mine.reserve(spent, expense(masks, cohort))
        return
    for charge in (mine.require, mine.reserve):
        with pytest.raises(PrivacyError, match=demand):
            charge(spent, expense(masks, cohort))
    assert not verify(tmp_path / "ledger.jsonl").spent


def test_app__may_add_all_of_its_noise_outside_of_a_sum(tmp_path: Path) -> None:
    own = GaussianEvent(noise_multiplier=2.0, sample_rate=0.1, steps=1)
    owner(tmp_path).reserve(own, expense(None, 5))
