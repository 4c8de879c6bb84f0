"""Sums over test records by person: how far all records of one can move them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import evaluation, screening
from clients.owner import Owner
from clients.policy import Policy
from clients.records import simulated_sites
from clients.site import Site, open_site
from clients.units import pieces_of
from fedlearn.config import compose
from fedlearn.core.errors import FedlearnError
from fedlearn.data import Records
from fedlearn.mechanisms.evaluation import EvaluationPlan, by_persons, whole_numbers
from fedlearn.privacy import Unit
from tests.effort import examples

SIZES, BOUNDS = (3, 1, 4), (1.0, 2.0, 0.5)
GROUPS = 3


def plan(unit: Unit) -> EvaluationPlan:
    """Of sums of all records and of those of every group, as private evaluation has them."""
    steps = (40, 25, 70) * 2
    return EvaluationPlan(
        unit=unit, law="discrete_gaussian", rounds=1, every=1, steps=steps, stddev=0,
        last_stddev=100, shares=1, dimension=sum(SIZES) * (1 + GROUPS),
    )  # fmt: skip


def sums(
    added: np.ndarray, groups: np.ndarray, owners: np.ndarray, unit: Unit, size: int = 7
) -> np.ndarray:
    """All that a site would give, without noise: of everybody, then of every group."""
    records = Records(features=added, labels=np.zeros(len(added), np.int64), persons=owners)
    total = np.zeros((1 + GROUPS, added.shape[1]), np.int64)
    for piece in pieces_of(records, unit, size):
        whole = whole_numbers(added[piece.rows], SIZES, BOUNDS, plan(unit))
        total[0] += piece.added(whole, np.ones(len(piece.rows), np.bool_))
        for group in range(GROUPS):
            total[1 + group] += piece.added(whole, groups[piece.rows] == group)
    return total.reshape(-1)


@settings(max_examples=examples(200, few=10), deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    scale=st.sampled_from([1e-3, 1.0, 1e3, 1e300]),
    size=st.sampled_from([1, 5, 1000]),
    seed=st.integers(0, 2**20),
)
def test_sums__of_neighbours_that_lack_a_person_are_within_what_is_paid_for(
    sizes: list[int], scale: float, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    owners = rng.permutation(np.repeat([f"p{i}" for i in range(len(sizes))], sizes))
    added = rng.normal(size=(len(owners), sum(SIZES))) * scale
    added[rng.random(len(owners)) < 0.1] = np.nan
    groups = rng.integers(0, GROUPS, len(owners))
    rest = owners != owners[0]
    whole = sums(added, groups, owners, "person", size)
    less = sums(added[rest], groups[rest], owners[rest], "person", size)
    assert np.linalg.norm(whole - less) <= plan("person").l2_sensitivity
    # However they are cut into pieces.
    assert np.array_equal(whole, sums(added, groups, owners, "person", 3))


def test_sums__by_record_would_go_beyond_it() -> None:
    added = np.tile(np.linspace(1, 2, sum(SIZES)), (9, 1))
    owners, groups = np.repeat("one", 9), np.zeros(9, np.int64)
    paid = plan("person").l2_sensitivity
    assert np.linalg.norm(sums(added, groups, owners, "record")) > 8 * paid
    assert 0.9 * paid < np.linalg.norm(sums(added, groups, owners, "person")) <= paid


def test_by_persons__is_the_mean_of_each_rounded_towards_zero() -> None:
    rows = np.array([[5, -5], [2, -2], [-9, 9]])
    found = by_persons(rows, np.array([0, 0, 1]), np.array([2, 2]))
    assert found.tolist() == [[3, -3], [-4, 4]]  # of the second person one record is elsewhere


def test_pieces__hold_every_record_once_and_whole_persons() -> None:
    owners = np.random.default_rng(0).permutation(np.repeat(["a", "b", "c", "d"], [1, 9, 2, 5]))
    records = Records(features=np.zeros((17, 1)), labels=np.zeros(17), persons=owners)
    pieces = [*pieces_of(records, "person", 6)]
    assert np.array_equal(np.sort(np.concatenate([p.rows for p in pieces])), np.arange(17))
    whose = [{*owners[piece.rows].tolist()} for piece in pieces]
    assert sum(map(len, whose)) == 4
    for piece in pieces:
        assert piece.owners is not None
        assert piece.records is not None
        assert np.array_equal(np.bincount(piece.owners), piece.records)


def test_pieces__of_records_that_are_nobodys_are_refused_where_persons_are_protected() -> None:
    nobodys = Records(features=np.zeros((2, 1)), labels=np.zeros(2))
    with pytest.raises(FedlearnError, match="nothing says whose the records are"):
        [*pieces_of(nobodys, "person", 6)]
    assert len([*pieces_of(nobodys, "record", 6)]) == 1


# --- exact sums, that are of many ---------------------------------------------------------


def site_of(folder: Path, persons_with_illness: int) -> Site:
    """60 records of illness by so many persons, and 240 of 120 others; half are women's."""
    ill = [f"I{i % persons_with_illness},{i},f,yes" for i in range(60)]
    rows = [*ill, *(f"H{i // 2},{i},m,no" for i in range(240))]
    path = folder / "visits.csv"
    path.write_text("\n".join(["patient,age,sex,ill", *rows]) + "\n")
    config = compose(
        [
            "scenario=csv", f"scenario.path={path}", "scenario.label=ill",
            "scenario.test_fraction=0.5",
            "scenario.person=patient", "scenario.numeric=[age]", "scenario.categories={sex:[f,m]}",
            "scenario.scaling.columns={age:[0,300]}", "partition=iid", "partition.num_sites=1",
            "privacy=none", "screening=sums", "fairness=groups", "fairness.column=sex",
            "fairness.values=[f,m]", "fairness.smallest=1", "evaluation=per_site",
        ]
    )  # fmt: skip
    policy = Policy(unit="none", smallest_group=10, smallest_class=10, min_test_records=1)
    [name] = simulated_sites(config)
    return open_site(Owner(name=name, ledger=folder / "l.jsonl", policy=policy), config)


@pytest.mark.parametrize(("persons", "shown"), [(60, True), (4, False)])
def test_exact_sums__of_a_class_or_group_of_few_persons_stay_whatever_records_they_have(
    tmp_path: Path, persons: int, shown: bool
) -> None:
    site = site_of(tmp_path, persons)
    given_ = screening.of_many(site, screening.exact_sums(site, None))
    by_class = given_.reshape(2, -1).any(1)
    assert by_class.tolist() == [True, shown]
    reply = evaluation.exact(site, 1, evaluation.Answers(np.zeros((len(site.data.test), 2))))
    assert ("f" in reply.groups) is shown
    if not shown:
        assert min((site.data.test.labels == 1).sum(), (site.data.train.labels == 1).sum()) >= 10
        assert "f" in reply.withheld
