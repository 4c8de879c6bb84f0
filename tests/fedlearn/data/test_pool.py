from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedlearn.core.errors import DataError
from fedlearn.data.partition import Natural
from fedlearn.data.pool import Indices, Pool, deal, disjoint_notes, split_notes

Make = Callable[..., Pool]


def natural(pool: Pool) -> dict[str, Indices]:
    return Natural().assign(pool, np.random.default_rng(0))


def test_deal__hands_every_record_to_its_site_and_part(make_pool: Make) -> None:
    pool = make_pool(size=60, sites=4)
    sites = deal(pool, natural(pool))
    assert list(sites) == ["hospital 0", "hospital 1", "hospital 2", "hospital 3"]
    for i, site in enumerate(sites.values()):
        rows = np.concatenate([site.train.features[:, 0], site.test.features[:, 0]]).astype(int)
        np.testing.assert_array_equal(rows, np.arange(i, 60, 4))
        assert site.train.features[:, 0].max() < 40 <= site.test.features[:, 0].min()
        np.testing.assert_array_equal(site.train.labels, site.train.features[:, 0] % 3)


def test_deal__orders_sites_by_name(make_pool: Make) -> None:
    pool = make_pool(size=6, train=6)
    parts: dict[str, Indices] = {"b": np.array([0, 1]), "a": np.array([2]), "c": np.array([5])}
    assert list(deal(pool, parts)) == ["a", "b", "c"]


def test_deal__lists_every_problem_by_site(make_pool: Make) -> None:
    pool = make_pool(size=60, sites=4, train=3)
    features = pool.features.copy()
    features[5, 0], features[9, 1], features[2, 0] = np.nan, np.inf, -np.inf
    parts = {f"hospital {i}": np.arange(i, 60, 4) for i in range(4)}
    with pytest.raises(DataError) as caught:
        deal(replace(pool, features=features), parts)
    problems = str(caught.value).splitlines()
    assert [problem.split(":")[0] for problem in problems] == [
        "site hospital 1",
        "site hospital 2",
    ]
    assert "2 of 15 records hold NaN or infinite" in problems[0]
    assert "record 5" in problems[0]


def test_deal__notes_a_site_with_one_class_where_others_have_more(make_pool: Make) -> None:
    pool = make_pool(size=60, sites=3, classes=3)
    labels = pool.labels.copy()
    labels[1] = 2
    sites = deal(replace(pool, labels=labels), natural(pool))
    assert sites["hospital 0"].notes == ("site hospital 0: only class 'class 0' to learn from",)
    assert sites["hospital 1"].notes == ()


def test_notes__name_a_site_that_shares_no_class_with_others(make_pool: Make) -> None:
    pool = make_pool(size=60, sites=3, classes=4)
    labels = np.arange(60) // 3 % 2  # classes 0 and 1 at all sites
    assert list(disjoint_notes(pool.task, deal(replace(pool, labels=labels), natural(pool)))) == []
    labels[2::3] += 2
    sites = deal(replace(pool, labels=labels), natural(pool))
    (note,) = disjoint_notes(pool.task, sites)
    assert note.startswith("site hospital 2: no other site has any of its classes ('class 2', ")
    labels[2::3] = 3  # one class alone is no way of writing
    assert list(disjoint_notes(pool.task, deal(replace(pool, labels=labels), natural(pool)))) == []


def test_deal__refuses_a_pool_with_one_class_to_train_on(make_pool: Make) -> None:
    pool = make_pool()
    labels = np.where(pool.is_train, 1, pool.labels)
    with pytest.raises(DataError, match="of one class"):
        deal(replace(pool, labels=labels), natural(pool))


def test_deal__refuses_a_pool_without_training_records(make_pool: Make) -> None:
    pool = make_pool(train=0)
    with pytest.raises(DataError, match=r"no training records \(60 in all"):
        deal(pool, natural(pool))


def test_deal__notes_a_site_without_training_records(make_pool: Make) -> None:
    pool = make_pool(size=60, sites=4, train=3)
    sites = deal(pool, natural(pool))
    assert "no training records" in sites["hospital 3"].notes[0]
    assert [len(site.train) for site in sites.values()] == [1, 1, 1, 0]


def test_deal__takes_a_deployed_site_whatever_its_training_records(make_pool: Make) -> None:
    pool = make_pool(size=8, train=0)
    alone = deal(pool, {"own": np.arange(8)}, all_sites=False)["own"]
    assert (len(alone.train), len(alone.test)) == (0, 8)


def test_notes__name_a_class_that_is_in_one_part_alone(make_pool: Make) -> None:
    pool = make_pool(size=60, classes=3)
    assert [*split_notes(pool)] == []
    lone = replace(pool, is_train=pool.labels != 1)
    (said,) = split_notes(replace(lone, is_train=lone.is_train & (np.arange(60) > 2)))
    assert said.startswith("made: no training records of class 'class 1', of which there are 20:")
    found = [*split_notes(lone)]
    assert ["no test records of class 'class 0'" in note for note in found] == [False, True, False]
    assert [*split_notes(make_pool(train=60))] == ["made: no test records, so nothing is measured"]


def test_deal__notes_a_site_without_test_records(make_pool: Make) -> None:
    pool = make_pool(train=60)
    assert "no test records" in deal(pool, natural(pool))["hospital 0"].notes[0]


@pytest.mark.parametrize(
    "parts", [{}, {"a": [0, 0]}, {"a": [0], "b": [0]}, {"a": [60]}, {"a": [-1]}]
)
def test_deal__refuses_an_assignment_that_is_none(
    make_pool: Make, parts: dict[str, list[int]]
) -> None:
    with pytest.raises(ValueError, match="assignment"):
        deal(make_pool(), {name: np.array(rows) for name, rows in parts.items()})


def test_deal__standardises_by_the_sites_own_training_records(make_pool: Make) -> None:
    pool = replace(make_pool(), standardise_per_site=True)
    features = pool.features.copy()
    features[0, 0] = np.nan
    for site in deal(replace(pool, features=features), natural(pool)).values():
        np.testing.assert_allclose(site.train.features.mean(axis=0), 0, atol=1e-5)
        assert np.isfinite(site.train.features).all()
    features[4, 1] = np.inf
    with pytest.raises(DataError, match="site hospital 0: 1 of 15"):
        deal(replace(pool, features=features), natural(pool))


def test_pool__hash_changes_with_features_labels_and_split_only(make_pool: Make) -> None:
    pool = make_pool()
    changes: list[dict[str, Any]] = []
    for name in ("features", "labels", "is_train"):
        array = getattr(pool, name).copy()
        array[7] = array[8]
        array[0] = 1 - array[0] if array.dtype != bool else ~array[0]
        changes.append({name: array})
    changes.append({"features": pool.features.reshape(-1, 1, 2)})
    hashes = {pool.sha256, *(replace(pool, **change).sha256 for change in changes)}
    assert len(hashes) == len(changes) + 1
    same = replace(pool, name="other", natural_site=None, notes=("a",))
    assert same.sha256 == pool.sha256


def test_pool__hash_is_the_same_for_every_byte_order_and_layout(make_pool: Make) -> None:
    pool = make_pool()
    turned = np.asfortranarray(pool.features).astype(">f4", order="F")
    assert replace(pool, features=turned, labels=pool.labels.astype(">i8")).sha256 == pool.sha256


def test_pool__refuses_arrays_that_do_not_belong_together(make_pool: Make) -> None:
    pool = make_pool()
    with pytest.raises(ValueError, match="one entry per record"):
        replace(pool, labels=pool.labels[1:])
    with pytest.raises(ValueError, match="classes"):
        replace(pool, labels=pool.labels + 1)
