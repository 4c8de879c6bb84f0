"""Records that are kept from training to validate on: who is drawn, and what that leaves alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlearn.core.errors import DataError
from fedlearn.core.rng import Streams
from fedlearn.data.pool import Pool, deal, split_notes, taken, with_validation
from fedlearn.tasks import ClassificationTask, TableInput
from tests.effort import examples

TASK = ClassificationTask(input=TableInput(numeric=2), classes=("no", "yes"))


def pool_of(values: NDArray[np.float32], persons: NDArray[np.str_] | None = None) -> Pool:
    """Records of two numbers, of which every fourth is for the test."""
    n = len(values)
    return Pool(
        name="made",
        task=TASK,
        features=np.stack([values, -values], 1).astype(np.float32),
        labels=np.arange(n) % 2,
        is_train=np.arange(n) % 4 > 0,
        persons=persons,
    )


def made(n: int = 400, seed: int = 0) -> Pool:
    return pool_of(np.random.default_rng(seed).normal(size=n).astype(np.float32))


def test_validation__is_about_a_share_of_what_is_not_tested_on() -> None:
    pool = made(4000)
    found = with_validation(pool, 0.2, Streams(1))
    np.testing.assert_array_equal(found.is_test, ~pool.is_train)
    assert found.validated.sum() == pytest.approx(0.2 * pool.is_train.sum(), abs=100)
    assert not (found.is_train & found.validated).any()


def test_validation__of_nothing_changes_nothing() -> None:
    pool = made()
    assert with_validation(pool, 0.0, Streams(1)) is pool
    assert with_validation(pool, 0.1, Streams(1)).sha256 != pool.sha256


def test_validation__has_a_key_of_its_own() -> None:
    """Who is tested on by a share says nothing of who of the others is validated on."""
    pool = replace(made(), is_train=np.ones(400, np.bool_))
    one, other = (with_validation(pool, 0.5, Streams(s)).validated for s in (1, 2))
    assert 0.3 < (one == other).mean() < 0.7


@given(st.integers(0, 50), st.integers(1, 39), st.floats(0.05, 0.9))
@settings(max_examples=examples(40))
def test_record__decides_about_itself_alone(seed: int, left_out: int, share: float) -> None:
    pool = made(40)
    rows = np.delete(np.random.default_rng(seed).permutation(40), left_out)
    whole = with_validation(pool, share, Streams(seed))
    part = with_validation(taken(pool, rows), share, Streams(seed))
    np.testing.assert_array_equal(part.validated, whole.validated[rows])


def test_copies__are_in_one_part() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=100), 2).astype(np.float32)
    pool = replace(pool_of(values), labels=np.zeros(200, np.int64), is_train=np.ones(200, np.bool_))
    pairs = with_validation(pool, 0.4, Streams(0)).validated.reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert 0 < pairs[:, 0].sum() < 100


def test_person__is_never_in_two_parts() -> None:
    rng = np.random.default_rng(0)
    persons = np.array([f"p{i}" for i in rng.integers(0, 60, 400)])
    pool = pool_of(rng.normal(size=400).astype(np.float32), persons)
    tested = np.isin(persons, np.unique(persons)[:15])
    found = with_validation(replace(pool, is_train=~tested), 0.3, Streams(0))
    parts = [set(persons[part]) for part in (found.is_train, found.validated, found.is_test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set(persons))


def test_record__in_two_parts_is_no_pool() -> None:
    with pytest.raises(ValueError, match="for training or for validation"):
        replace(made(), is_validation=np.ones(400, np.bool_))


def test_site__without_validation_records_has_no_say_and_is_told() -> None:
    pool = with_validation(made(), 0.3, Streams(0))
    alone = np.flatnonzero(pool.is_train)[:20]
    rest = np.setdiff1d(np.arange(400), alone)
    sites = deal(pool, {"alone": alone, "rest": rest})
    assert sites["alone"].validation is not None
    assert len(sites["alone"].validation) == 0
    assert any("no say in what is kept" in note for note in sites["alone"].notes)
    assert sum(len(part) for site in sites.values() for part in site.parts) == 400


def test_share__that_leaves_no_record_is_refused_with_the_way_out() -> None:
    pool = with_validation(made(20), 1e-9, Streams(0))
    with pytest.raises(DataError, match=r"scenario\.validation_fraction leaves none"):
        deal(pool, {"all": np.arange(20)})
    greedy = with_validation(made(20), 1 - 1e-9, Streams(0))
    with pytest.raises(DataError, match=r"no training records .*scenario\.validation_fraction"):
        deal(greedy, {"all": np.arange(20)})


def test_numbers__of_validation_records_are_standardised_by_training_alone() -> None:
    pool = replace(with_validation(made(), 0.3, Streams(0)), standardise_per_site=True)
    (site,) = deal(pool, {"all": np.arange(400)}).values()
    train = pool.features[pool.is_train]
    assert site.validation is not None
    np.testing.assert_allclose(
        site.validation.features,
        (pool.features[pool.validated] - train.mean(0)) / train.std(0),
        rtol=1e-4,
        atol=1e-5,
    )


def test_notes__know_a_test_part_that_validation_has_not_touched() -> None:
    pool = with_validation(replace(made(), is_train=np.ones(400, np.bool_)), 0.3, Streams(0))
    assert [*split_notes(pool)] == ["made: no test records, so nothing is measured"]
