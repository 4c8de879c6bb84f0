"""The policy of a site: each demand is refused on its own, all together, and never silently."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from clients.policy import Policy, RunDescription, refusals
from fedlearn.secagg.settings import SecAggMasked

STRICT = Policy(
    epsilon_total=8.0,
    delta=1e-5,
    unit="record",
    min_cohort=3,
    require_transport="sealed",
    require_secagg="masked",
    allow_models=("tabular", "cnn"),
    approved_code=("ab12", "cd34"),
    allow_custom={"nets:wide": "ab"},
)
NONE = SecAggMasked(corrupt_fraction=0.0)
SHARES = {"in_shares": True, "colluders": 1, "masks": SecAggMasked(), "cohort": 5}
GOOD = RunDescription(
    model="cnn",
    unit="record",
    delta=1e-5,
    cohort=3,
    transport="sealed",
    secagg="masked",
    code="ab12",
)


def test_refusals__are_none_for_a_run_that_meets_the_policy() -> None:
    assert refusals(STRICT, GOOD) == []
    assert refusals(STRICT, replace(GOOD, delta=1e-6, cohort=9)) == []
    assert refusals(STRICT, replace(GOOD, masks=SecAggMasked(), cohort=10)) == []
    assert refusals(STRICT, replace(GOOD, masks=SecAggMasked(), cohort=None)) == []
    assert refusals(STRICT, replace(GOOD, opens=3)) == []
    loose = replace(STRICT, min_corrupt_fraction=0.0)
    assert refusals(loose, replace(GOOD, masks=NONE, cohort=10)) == []
    # What holds counts: of so many sites as these, without asking for it.
    assert refusals(STRICT, replace(GOOD, masks=NONE, cohort=4)) == []
    assert refusals(STRICT, replace(GOOD, masks=NONE.against(2), cohort=10)) == []
    assert refusals(STRICT, replace(GOOD, custom=(("nets:wide", "ab"),))) == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"unit": "none", "delta": None}, "policy.unit=record"),
        ({"unit": "client"}, "policy.unit=record"),
        ({"delta": 1.1e-5}, "policy.delta=1e-05"),
        ({"cohort": 2}, "policy.min_cohort=3"),
        ({"opens": 2}, "policy.min_cohort=3"),
        ({"transport": "plain"}, "policy.require_transport=sealed"),
        ({"secagg": "off"}, "policy.require_secagg=masked"),
        ({"masks": NONE, "cohort": 10}, "policy.min_corrupt_fraction=0.2"),
        ({"masks": NONE, "cohort": None}, "policy.min_corrupt_fraction=0.2"),
        ({"masks": NONE.against(1), "cohort": 10}, "policy.min_corrupt_fraction=0.2"),
        ({"in_shares": True, "colluders": 1}, "policy.unit=record"),
        ({**SHARES, "colluders": 0}, "policy.min_colluders=1"),
        ({**SHARES, "missing_shares": 1}, "policy.unit=record"),
        ({"code": "ef56"}, "policy.approved_code"),
        ({"model": "llm"}, "policy.allow_models=['tabular', 'cnn']"),
        ({"custom": (("mine:net", "12"),)}, "policy.allow_custom"),
        ({"custom": (("nets:wide", "12"),)}, "policy.allow_custom"),
        ({"custom": (("nets:wide", ""),)}, "policy.allow_custom"),
    ],
)
def test_refusals__name_the_demand_that_is_not_met(change: dict[str, object], path: str) -> None:
    (refusal,) = refusals(STRICT, replace(GOOD, **change))  # type: ignore[arg-type]
    assert refusal.startswith(path + ":")


SMALL = SecAggMasked(dropout_fraction=0.34)
"""Of three sites one may fall silent, and none work with the coordinator; of more one may."""


@pytest.mark.parametrize("cohort", [None, 12])
def test_refusals__are_by_what_the_masks_of_a_group_withstand(cohort: int | None) -> None:
    """However many sites the run has, and before it is known how many."""
    whole = replace(GOOD, masks=SMALL, cohort=cohort)
    assert refusals(STRICT, whole) == []
    assert refusals(STRICT, replace(whole, masks=SecAggMasked(), group=3)) == []
    (refusal,) = refusals(STRICT, replace(whole, group=3))
    assert refusal.startswith("policy.min_corrupt_fraction=0.2: the run withstands 0 of 3 sites")
    assert refusals(replace(STRICT, min_corrupt_fraction=0.0), replace(whole, group=3)) == []


def test_refusals__count_colluders_against_the_masks_of_a_group() -> None:
    policy = replace(STRICT, min_colluders=2, min_corrupt_fraction=0.0)
    shares = {"in_shares": True, "colluders": 2, "masks": SecAggMasked().against(2)}
    whole = replace(GOOD, **{**shares, "cohort": 12})  # type: ignore[arg-type]
    assert refusals(policy, whole) == []
    (refusal,) = refusals(policy, replace(whole, group=3))
    assert refusal.startswith("policy.min_colluders=2: the run's noise holds against 0 sites")
    assert refusals(policy, replace(whole, group=4)) == []


def test_refusals__are_listed_all_together() -> None:
    bad = RunDescription(
        model="llm",
        unit="none",
        delta=None,
        cohort=1,
        transport="plain",
        secagg="off",
        code="ef56",
    )
    assert len(refusals(STRICT, bad)) == 6


def test_policy__protects_records_masked_sealed_and_among_three_by_default() -> None:
    anything = RunDescription(
        model="llm",
        unit="record",
        delta=1e-6,
        cohort=1,
        transport="plain",
        secagg="off",
        code="ab12",
    )
    loose = Policy(min_cohort=1, require_transport=None, require_secagg=None)
    assert refusals(loose, anything) == []
    (refusal,) = refusals(replace(loose, approved_code=()), anything)
    assert "approved is none" in refusal
    assert len(refusals(loose, replace(anything, unit="none", delta=None))) == 1
    assert len(refusals(Policy(), anything)) == 3
    assert Policy().budget.epsilon == math.inf


def test_policy__hands_its_total_to_the_ledger() -> None:
    assert (STRICT.budget.epsilon, STRICT.budget.delta) == (8.0, 1e-5)
