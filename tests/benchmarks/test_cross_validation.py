"""Programs behind tables of results: how records are dealt to folds, and what an error is of."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.table import ROOT
from fedlearn.data.pool import Pool
from fedlearn.tasks import ClassificationTask, TableInput

sys.path.append(str(ROOT / "benchmarks"))  # its programs are run as files

import cross_validation
import pooled


def test_parts__test_every_record_once_and_spread_sites_and_classes_evenly() -> None:
    rng = np.random.default_rng(1)
    n, folds = 403, 5
    sites, labels = rng.choice(["a", "b", "c"], n, p=[0.6, 0.3, 0.1]), rng.integers(0, 2, n)
    pool = Pool(
        name="made",
        task=ClassificationTask(input=TableInput(numeric=1), classes=("no", "yes")),
        features=np.zeros((n, 1), np.float32),
        labels=labels,
        is_train=np.ones(n, bool),
        natural_site=sites,
    )
    found = cross_validation.parts(pool, folds, 0)
    for site in "abc":
        for label in (0, 1):
            counts = np.bincount(found[(sites == site) & (labels == label)], minlength=folds)
            assert counts.max() - counts.min() <= 1
    assert {*found} == {*range(folds)}
    again, other = (cross_validation.parts(pool, folds, repeat) for repeat in (0, 1))
    assert (found == again).all()
    assert (found != other).any()


def test_interval__of_folds_is_wider_than_that_of_independent_runs() -> None:
    values = [0.78, 0.80, 0.82, 0.79, 0.81]
    middle, half = cross_validation.interval(values, 5)
    independent = 2.776 * np.std(values, ddof=1) / np.sqrt(5)
    # Nadeau and Bengio: 1/5 + 1/4 in the place of 1/5.
    assert (middle, half) == pytest.approx((0.80, independent * 1.5), rel=1e-3)


def test_error_of_an_auc__is_what_other_test_records_would_change() -> None:
    rng = np.random.default_rng(2)
    positive = rng.random(600) < 0.3
    scores = rng.normal(size=600) + positive
    area, error = pooled.auc(scores, positive)
    assert area == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    draws = rng.integers(0, 600, (400, 600))
    drawn = [roc_auc_score(positive[rows], scores[rows]) for rows in draws]
    assert error == pytest.approx(np.std(drawn), rel=0.15)
