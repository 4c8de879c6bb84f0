"""Classes by themselves and other thresholds, against scikit-learn on the records themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from fedlearn.metrics.by_class import COSTS, MOST, ByClass
from fedlearn.metrics.scores import NOISED_BINS, SCORE_BINS
from fedlearn.tasks import TableInput
from fedlearn.tasks.classification import ClassificationTask
from tests.effort import examples

Records = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def task(classes: int = 2) -> ClassificationTask:
    names = tuple(f"class {i}" for i in range(classes))
    return ClassificationTask(input=TableInput(numeric=1), classes=names)


def records(n: int, classes: int = 2, seed: int = 0, skill: float = 1.5) -> Records:
    """Probabilities of a model that knows something, and what is true."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(classes, n, p=np.arange(classes, 0, -1) / (classes * (classes + 1) / 2))
    logits = rng.standard_normal((n, classes)) + skill * np.eye(classes)[truth]
    odds = np.exp(logits)
    return odds / odds.sum(1, keepdims=True), truth


def by_class(probabilities: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> ByClass:
    kind = task(probabilities.shape[1])
    found = kind.by_class(kind.sums(probabilities, truth), {}, np.random.default_rng(0))
    assert found is not None
    return found


@pytest.mark.parametrize("classes", [2, 5])
def test_classes__have_the_precision_recall_and_f1_of_scikit_learn(classes: int) -> None:
    probabilities, truth = records(700, classes)
    said = probabilities.argmax(1)
    expected = precision_recall_fscore_support(truth, said, labels=range(classes))
    for i, figures in enumerate(by_class(probabilities, truth).classes.values()):
        shares = (figures.precision, figures.recall, figures.f1)
        for share, values in zip(shares, expected[:3], strict=True):
            assert share is not None
            assert share.value == pytest.approx(values[i])
            assert share.low is not None
            assert share.high is not None
            assert share.low < share.value < share.high
        assert figures.records == expected[3][i]
        assert figures.named == (said == i).sum()


def test_average_precision__is_scikit_learns_of_binned_scores() -> None:
    probabilities, truth = records(2000)
    binned = np.floor(probabilities[:, 1] * SCORE_BINS)
    found = by_class(probabilities, truth).average_precision
    assert found is not None
    assert found.value == pytest.approx(average_precision_score(truth, binned))


@settings(max_examples=examples(25), deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(40, 400))
def test_alarms__are_the_mean_over_orders_of_records_in_one_bin(seed: int, n: int) -> None:
    probabilities, truth = records(n, seed=seed)
    rng, binned = np.random.default_rng(seed), np.floor(probabilities[:, 1] * SCORE_BINS)
    orders = [np.lexsort((rng.random(n), -binned)) for _ in range(400)]
    for figures in by_class(probabilities, truth).alarms:
        quota = figures.rate * n
        whole, part = int(quota), quota - int(quota)
        hits = np.mean([truth[o[:whole]].sum() + part * truth[o[whole]] for o in orders])
        assert figures.recall.value == pytest.approx(hits / truth.sum(), abs=0.06)
        assert figures.precision.value == pytest.approx(hits / quota, abs=0.06 * n / quota)
        assert ((binned / SCORE_BINS) > figures.threshold).sum() <= quota + 1e-6


def test_alarms__that_only_chance_would_choose_are_left_out() -> None:
    probabilities, truth = np.full((200, 2), 0.5), np.arange(200) % 2
    assert by_class(probabilities, truth).alarms == []


def test_costs__are_those_of_deciding_at_that_threshold_record_by_record() -> None:
    probabilities, truth = records(3000)
    found = by_class(probabilities, truth).costs
    assert [one.ratio for one in found] == list(COSTS)
    for one in found:
        assert one.threshold == pytest.approx(1 / (1 + one.ratio), rel=0.2)
        for threshold, cost in ((one.threshold, one.cost), (0.5, one.at_half)):
            named = np.floor(probabilities[:, 1] * SCORE_BINS) / SCORE_BINS >= threshold
            missed, wrongly = (truth[~named] == 1).sum(), (truth[named] == 0).sum()
            assert cost == pytest.approx(1000 * (wrongly + one.ratio * missed) / 3000)
        assert one.without == pytest.approx(
            min((truth == 0).sum(), one.ratio * truth.sum()) / 3, rel=1e-9
        )


def test_curve__has_a_place_for_every_threshold_or_some_of_them() -> None:
    probabilities, truth = records(500)
    binned = np.floor(probabilities[:, 1] * SCORE_BINS) / SCORE_BINS
    curve = by_class(probabilities, truth).curve
    assert len(curve) <= 64
    assert curve[-1].recall == 1
    for place in curve:
        named = binned >= place.threshold
        assert place.alarms == pytest.approx(named.mean())
        assert place.recall == pytest.approx(truth[named].sum() / truth.sum())
        assert place.precision == pytest.approx(truth[named].mean())


@pytest.mark.parametrize("truth", [0, 1])
def test_records__of_one_class_say_nothing_that_they_cannot_know(truth: int) -> None:
    probabilities, _ = records(60)
    pooled = by_class(probabilities, np.full(60, truth))
    mine, other = (pooled.classes[f"class {i}"] for i in (truth, 1 - truth))
    assert mine.recall is not None
    assert (mine.precision, mine.f1, other.recall, other.f1) == (None,) * 4
    assert [pooled.alarms, pooled.costs, pooled.curve] == [[], [], []]
    assert pooled.average_precision is None


@pytest.mark.parametrize(("few", "shown"), [(0, False), (9, False), (10, True)])
def test_counts__of_a_class_with_few_records_are_given_of_no_site_nor_of_all(
    few: int, shown: bool
) -> None:
    probabilities, truth = records(80)
    kept = np.concatenate([np.flatnonzero(truth == 0), np.flatnonzero(truth == 1)[:few]])
    kind, large = task(), records(300)
    one = kind.sums(probabilities[kept], truth[kept])
    found = kind.by_class(kind.sums(*large), {"small": one}, np.random.default_rng(0))
    assert found is not None
    assert ("small" in found.per_site) is shown
    assert found.confusion
    alone = kind.by_class(one, {"small": one}, np.random.default_rng(0))
    assert alone is not None
    assert bool(alone.confusion) is shown


@pytest.mark.slow
def test_intervals__hold_the_truth_about_as_often_as_they_say() -> None:
    large, truth = records(200_000, seed=99)
    exact = by_class(large, truth)
    held = []
    for seed in range(150):
        part = np.random.default_rng(seed).integers(0, len(truth), 400)
        found = by_class(large[part], truth[part])
        pairs = [(found.average_precision, exact.average_precision)]
        pairs += [(found.classes["class 1"].recall, exact.classes["class 1"].recall)]
        pairs += [(found.alarms[-1].recall, exact.alarms[-1].recall)]
        held.append([one.low <= all_.value <= one.high for one, all_ in pairs])  # type: ignore[union-attr,operator]
    assert (np.mean(held, axis=0) > 0.88).all()


def test_figures__of_noisy_sums_are_near_the_exact_ones_and_say_how_near() -> None:
    kind = task()
    probabilities, truth = records(4000)
    exact = by_class(probabilities, truth)
    parts = kind.contributions(probabilities, truth).sum(0)
    rng, held = np.random.default_rng(5), []
    for _ in range(40):
        noise = {"confusion": 20.0, "loss": 20.0, "scores": 20.0}
        noisy = parts + 20 * rng.standard_normal(parts.shape)
        arrays = {"confusion": noisy[:4].reshape(2, 2), "loss": noisy[4],
                  "scores": noisy[5:].reshape(2, NOISED_BINS)}  # fmt: skip
        found = kind.by_class(kind.noised(arrays, noise), {}, np.random.default_rng(0))
        assert found is not None
        assert all(isinstance(cell, int) for row in found.confusion for cell in row)
        recall, all_ = found.classes["class 1"].recall, exact.classes["class 1"].recall
        assert recall is not None
        assert all_ is not None
        assert recall.value == pytest.approx(all_.value, abs=0.08)
        held.append(recall.low <= all_.value <= recall.high)  # type: ignore[operator]
        assert [one.ratio for one in found.costs] == [1.0, 2.0, 5.0]
    assert np.mean(held) > 0.8


def test_very_many_classes__have_no_matrix_that_nobody_reads() -> None:
    found = by_class(*records(900, MOST + 1))
    assert found.confusion == []
    assert len(found.classes) == MOST + 1


def test_nothing__is_said_of_no_records() -> None:
    kind = task()
    nothing = kind.sums(np.zeros((0, 2)), np.zeros(0, np.int64))
    assert kind.by_class(nothing, {}, np.random.default_rng(0)) is None
