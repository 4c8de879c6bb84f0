"""Intervals from sums, against records drawn anew one by one, and fairlearn on the records."""

from __future__ import annotations

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
)
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

from fedlearn.metrics import intervals
from fedlearn.metrics.confusion import counted_metrics
from fedlearn.metrics.intervals import RESAMPLES, Measured
from fedlearn.metrics.scores import auc
from fedlearn.metrics.sums import Sums
from tests.fedlearn.metrics.test_sums import evaluation_sums, metrics, records, task_of


def measured(sums: Sums, rng: np.random.Generator) -> dict[str, Measured]:
    task = task_of(len(sums["confusion"]))
    return intervals.measured(task.metrics(sums), task.resampled(sums, rng))


def split(n: int, classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.str_]]:
    """Records in three groups of different sizes; the classifier does worse for the last."""
    probabilities, labels = records(n, classes, seed=3)
    groups = np.where(np.arange(n) % 7 < 4, "a", np.where(np.arange(n) % 7 < 6, "b", "c"))
    flip = (groups == "c") & (np.arange(n) % 2 == 0)
    probabilities[flip] = probabilities[flip][:, ::-1]
    return probabilities, labels, groups


def sums_by_group(n: int, classes: int) -> dict[str, Sums]:
    probabilities, labels, groups = split(n, classes)
    return {
        name: evaluation_sums(probabilities[groups == name], labels[groups == name])
        for name in ("a", "b", "c")
    }


@pytest.mark.parametrize("classes", [2, 4])
def test_group_metrics__equal_those_of_fairlearn(classes: int) -> None:
    probabilities, labels, groups = split(200, classes)
    frame = MetricFrame(
        metrics={
            "accuracy": sk.accuracy_score,
            "balanced_accuracy": sk.balanced_accuracy_score,
            "macro_f1": lambda y, p: sk.f1_score(y, p, average="macro"),
        },
        y_true=labels,
        y_pred=probabilities.argmax(1),
        sensitive_features=groups,
    )
    for name, sums in sums_by_group(200, classes).items():
        found = metrics(sums)
        for metric, value in frame.by_group.loc[name].items():
            assert found[str(metric)] == pytest.approx(value, rel=1e-12)
    gap = task_of(classes).gap(sums_by_group(200, classes), np.random.default_rng(0))
    assert gap is not None
    assert gap.value == pytest.approx(frame.difference()["accuracy"], rel=1e-12)
    assert gap.worst == frame.by_group["accuracy"].idxmin()


def test_decision_gaps__equal_those_of_fairlearn() -> None:
    probabilities, labels, groups = split(210, 2)
    said = {"y_true": labels, "y_pred": probabilities.argmax(1), "sensitive_features": groups}
    assert task_of(2).decisions(sums_by_group(210, 2)) == pytest.approx(
        {
            "demographic_parity_difference": demographic_parity_difference(**said),
            "equalized_odds_difference": equalized_odds_difference(**said),
        },
        rel=1e-12,
    )


def test_decision_gaps__need_two_groups_and_two_classes() -> None:
    groups = sums_by_group(100, 2)
    assert task_of(2).decisions({"a": groups["a"]}) == {}
    assert task_of(3).decisions(sums_by_group(100, 3)) == {}


def test_counted_metrics__of_many_matrices_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    tables = rng.integers(0, 4, (50, 3, 3))
    tables[0] = 0
    many = counted_metrics(tables)
    for i, table in enumerate(tables):
        count = int(table.sum())
        arrays = {"loss": np.asarray(0.0), "confusion": table, "scores": np.zeros((2, 0), int)}
        one = metrics(Sums(layout=task_of(3).sum_layout, count=count, arrays=arrays))
        for name, values in many.items():
            if count:
                assert values[i] == one[name]
            else:
                assert np.isnan(values[i])


def test_interval__of_an_accuracy_has_the_quantiles_of_the_binomial_law() -> None:
    sums = evaluation_sums(*records(300, 2))
    found = measured(sums, np.random.default_rng(1))["accuracy"]
    law = stats.binom(300, found.value)
    assert found.low is not None
    assert found.high is not None
    # Of 1000 draws 25 lie below the end; were the end outside these quantiles,
    # 25 would be more than 3.4 times, or less than a third of, what is expected:
    # by a Chernoff bound less likely than 1e-6 at either end.
    assert RESAMPLES == 1000
    assert law.ppf(0.007) <= 300 * found.low <= law.ppf(0.06)
    assert law.ppf(0.94) <= 300 * found.high <= law.ppf(0.993)


def test_interval__of_each_metric_is_that_of_records_drawn_anew() -> None:
    probabilities, labels = records(120, 2, seed=5)
    found = measured(evaluation_sums(probabilities, labels), np.random.default_rng(2))
    rng = np.random.default_rng(3)
    drawn: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(2000):
        rows = rng.integers(0, 120, 120)
        for name, value in metrics(evaluation_sums(probabilities[rows], labels[rows])).items():
            if name in drawn:
                drawn[name].append(value)
    assert set(found) == {"accuracy", "balanced_accuracy", "macro_f1", "auc"}
    for name, one in found.items():
        # As above, with the error of the oracle's own 2000 draws: below 1e-6.
        assert one.low is not None
        assert one.high is not None
        assert np.quantile(drawn[name], 0.004) <= one.low <= np.quantile(drawn[name], 0.07)
        assert np.quantile(drawn[name], 0.93) <= one.high <= np.quantile(drawn[name], 0.996)


def test_interval__is_null_where_the_records_show_no_spread() -> None:
    right = np.tile([0.1, 0.9], (9, 1))
    found = measured(evaluation_sums(right, np.ones(9, np.int64)), np.random.default_rng(0))
    assert found["accuracy"].value == 1
    assert found["accuracy"].low is found["accuracy"].high is None
    none = evaluation_sums(np.empty((0, 2)), np.empty(0, np.int64))
    assert measured(none, np.random.default_rng(0)) == {}


def test_interval__repeats_with_its_stream_and_leaves_out_resamples_without_a_class() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    sums = evaluation_sums(probabilities, np.array([0, 1, 1, 0]))
    one, other = (measured(sums, np.random.default_rng(4)) for _ in range(2))
    assert one == other
    assert one["auc"].low is not None
    assert np.isnan(auc(np.zeros((1, 2, 3), np.int64))).all()


@pytest.mark.slow
def test_gap__by_chance_is_what_equally_good_groups_stay_below() -> None:
    """Of 400 studies in which the model does equally well, 5 percent exceed it; 40 are too many."""
    rng = np.random.default_rng(7)
    sizes, above = (20, 60, 100), 0
    for _ in range(400):
        groups = {}
        for size in sizes:
            right = rng.random(size) < 0.8
            both = np.stack([~right, right], 1).astype(float)
            groups[str(size)] = evaluation_sums(both, np.ones(size, np.int64))
        gap = task_of(2).gap(groups, rng)
        assert gap is not None
        above += gap.value > gap.by_chance
    # Binomial(400, 0.05) is above 44 with chance 1e-6; some excess is due to the
    # estimate of the common accuracy.
    assert 2 <= above <= 44


def test_gap__needs_two_groups_with_records() -> None:
    some = evaluation_sums(*records(9, 2))
    none = evaluation_sums(np.empty((0, 2)), np.empty(0, np.int64))
    assert task_of(2).gap({"a": some, "b": none}, np.random.default_rng(0)) is None
