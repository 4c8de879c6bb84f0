"""Metrics from sums, against scikit-learn on the records themselves."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from fedlearn.metrics.confusion import names_one_class_only
from fedlearn.metrics.scores import SCORE_BINS
from fedlearn.metrics.sums import Sums, SumSpec, added
from fedlearn.tasks import ClassificationTask, TableInput
from tests.effort import examples

Arrays = tuple[NDArray[np.float64], NDArray[np.int64]]


def task_of(classes: int) -> ClassificationTask:
    return ClassificationTask(input=TableInput(numeric=1), classes=tuple("abcdefghij")[:classes])


def evaluation_sums(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> Sums:
    return task_of(probabilities.shape[1]).sums(probabilities, labels)


def metrics(sums: Sums) -> dict[str, float]:
    return task_of(len(sums["confusion"])).metrics(sums)


def records(n: int, classes: int, seed: int = 0) -> Arrays:
    """Probabilities that know something of the labels; every class occurs."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    odds = np.exp(logits)
    return odds / odds.sum(1, keepdims=True), labels


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("n", [7, 300])
def test_metrics__equal_those_of_scikit_learn(n: int, classes: int) -> None:
    probabilities, labels = records(n, classes)
    predicted = probabilities.argmax(1)
    found = metrics(evaluation_sums(probabilities, labels))
    expected = {
        "loss": sk.log_loss(labels, probabilities, labels=range(classes)),
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "macro_f1": sk.f1_score(labels, predicted, average="macro"),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert ("auc" in found) == (classes == 2)


def test_one_class_only__is_told_from_the_metrics_alone() -> None:
    """Of all ways to sort few records of two classes, against the predictions themselves."""
    for truth in ((3, 5), (4, 4), (1, 6)):
        for hits in itertools.product(range(truth[0] + 1), range(truth[1] + 1)):
            predicted = [0] * hits[0] + [1] * (truth[0] - hits[0])
            predicted += [1] * hits[1] + [0] * (truth[1] - hits[1])
            labels = np.repeat([0, 1], truth)
            found = metrics(evaluation_sums(np.eye(2)[predicted], labels))
            assert names_one_class_only(found, 2) == (len(set(predicted)) == 1), predicted


def test_one_class_only__holds_for_more_classes_and_not_for_no_records() -> None:
    probabilities, labels = records(30, 3)
    assert not names_one_class_only(metrics(evaluation_sums(probabilities, labels)), 3)
    same = np.tile([0.2, 0.5, 0.3], (30, 1))
    assert names_one_class_only(metrics(evaluation_sums(same, labels)), 3)
    assert not names_one_class_only({}, 3)


@pytest.mark.parametrize("odd", [None, -1.0, 1.5, math.nan])
@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_one_class_only__says_nothing_of_metrics_that_cannot_be(
    name: str, odd: float | None
) -> None:
    """As in the file of a run that somebody else has written."""
    found = {"accuracy": 0.5, "balanced_accuracy": 0.5, "macro_f1": 1 / 3}
    assert names_one_class_only(found, 2)
    found.pop(name) if odd is None else found.update({name: odd})
    assert not names_one_class_only(found, 2)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=60),
)
@settings(max_examples=examples(60), deadline=None)
def test_auc__is_within_half_the_share_of_pairs_that_share_a_bin(
    pairs: list[tuple[float, bool]],
) -> None:
    score = np.array([p for p, _ in pairs])
    labels = np.array([y for _, y in pairs], np.int64)
    found = metrics(evaluation_sums(np.stack([1 - score, score], 1), labels))
    if len(set(labels)) < 2:
        assert "auc" not in found
        return
    bins = np.minimum((score * SCORE_BINS).astype(int), SCORE_BINS - 1)
    shared = bins[labels == 0][:, None] == bins[labels == 1]
    assert abs(found["auc"] - sk.roc_auc_score(labels, score)) <= shared.mean() / 2 + 1e-12


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.sampled_from([2, 3]))
@settings(max_examples=examples(25), deadline=None)
def test_sums__of_sites_add_up_to_those_of_their_pooled_records(
    sizes: list[int], classes: int
) -> None:
    probabilities, labels = records(sum(sizes), classes)
    whole = evaluation_sums(probabilities, labels)
    stops = np.cumsum(sizes)[:-1]
    parts = [
        evaluation_sums(p, y)
        for p, y in zip(np.split(probabilities, stops), np.split(labels, stops), strict=True)
    ]
    total = added(parts)
    assert total.count == whole.count
    assert total["loss"] == pytest.approx(whole["loss"], rel=1e-12)
    assert (total["confusion"] == whole["confusion"]).all()
    assert (total["scores"] == whole["scores"]).all()


def test_sums__of_no_records_are_the_zero_of_addition_and_have_no_metrics() -> None:
    none = evaluation_sums(np.empty((0, 2)), np.empty(0, np.int64))
    some = evaluation_sums(*records(9, 2))
    assert none.count == none["loss"] == none["confusion"].sum() == none["scores"].sum() == 0
    assert metrics(none) == {}
    assert metrics(none + some) == metrics(some)


@pytest.mark.parametrize("classes", [2, 3])
def test_metrics__of_records_of_one_class_are_those_that_need_no_second(classes: int) -> None:
    """A perfect score for naming the only class there is would say that it tells them apart."""
    probabilities = np.full((3, classes), 0.1)
    probabilities[:, 1] = 0.8
    found = metrics(evaluation_sums(probabilities, np.array([1, 1, 1])))
    assert set(found) == {"loss", "accuracy"}
    assert found["accuracy"] == 1
    assert task_of(classes).one_sided(found) == "one class"
    both = metrics(evaluation_sums(probabilities, np.array([1, 1, 0])))
    assert task_of(classes).one_sided(both) == task_of(classes).one_sided({}) == ""


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_uninformed__is_what_scikit_learn_gets_without_looking_at_a_record(classes: int) -> None:
    labels = np.random.default_rng(classes).integers(0, classes, 41) ** 2 % classes
    labels[:classes] = np.arange(classes)
    prior = np.tile(np.bincount(labels, minlength=classes) / len(labels), (len(labels), 1))
    dummy = metrics(evaluation_sums(prior, labels))
    found = task_of(classes).uninformed(evaluation_sums(records(41, classes)[0], labels))
    assert found == pytest.approx({name: dummy[name] for name in found}, rel=1e-12)
    assert set(dummy) - set(found) == {"macro_f1"}, "in which guessing can do better"
    assert found["loss"] == pytest.approx(sk.log_loss(labels, prior, labels=range(classes)))


def test_uninformed__of_no_records_or_of_noise_alone_is_nothing_or_in_range() -> None:
    none = evaluation_sums(np.empty((0, 2)), np.empty(0, np.int64))
    assert task_of(2).uninformed(none) == {}
    noisy = replace(none, arrays={**none.arrays, "confusion": np.array([[-3, 1], [-2, -1]])})
    assert task_of(2).uninformed(noisy) == {}
    one = replace(none, arrays={**none.arrays, "confusion": np.array([[3, 1], [-2, -1]])})
    assert task_of(2).uninformed(one) == {"accuracy": 1.0, "loss": 0.0}


def test_metrics__average_over_the_classes_that_occur_of_many() -> None:
    probabilities, labels = records(60, 5)
    kept = (labels != 4) & (probabilities.argmax(1) != 4)
    probabilities, labels = probabilities[kept], labels[kept]
    found = metrics(evaluation_sums(probabilities, labels))
    predicted = probabilities.argmax(1)
    expected = sk.balanced_accuracy_score(labels, predicted)
    assert found["balanced_accuracy"] == pytest.approx(expected)
    assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))


def test_sums__take_the_first_of_equally_probable_classes() -> None:
    sums = evaluation_sums(np.full((1, 3), 1 / 3), np.array([2]))
    assert sums["confusion"].tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_loss__of_an_impossible_true_class_is_large_and_finite() -> None:
    sums = evaluation_sums(np.array([[1.0, 0.0]]), np.array([1]))
    assert 700 < sums["loss"] < math.inf


def test_loss__of_nan_probabilities_is_nan_and_every_record_still_counts() -> None:
    sums = evaluation_sums(np.array([[math.nan, math.nan], [0.1, 0.9]]), np.array([0, 1]))
    assert math.isnan(sums["loss"])
    assert math.isnan(metrics(sums)["loss"])
    assert sums.count == sums["confusion"].sum() == sums["scores"].sum() == 2


def test_scores__put_probability_one_into_the_last_bin() -> None:
    sums = evaluation_sums(np.array([[0.0, 1.0]]), np.array([1]))
    assert sums["scores"][1, -1] == sums["scores"].sum() == 1


LAYOUT = (
    SumSpec(name="square", unit=2.0**-10, bound=9.0),
    SumSpec(name="signed", shape=(2, 2), unit=0.5),
    SumSpec(name="hits", shape=(3,)),
)


def any_sums(seed: int) -> Sums:
    rng = np.random.default_rng(seed)
    arrays = {
        "square": np.asarray(rng.integers(0, 2**20) * 2.0**-10),
        "signed": rng.integers(-99, 99, (2, 2)) * 0.5,
        "hits": rng.integers(0, 9, 3),
    }
    return Sums(layout=LAYOUT, count=int(rng.integers(9)), arrays=arrays)


def test_counters__add_up_as_the_sums_do_negative_ones_too() -> None:
    parts = [any_sums(seed) for seed in range(3)]
    counters = np.sum([part.counters() for part in parts], axis=0)
    total, found = added(parts), Sums.of_counters(LAYOUT, counters)
    assert found.count == total.count
    for spec in LAYOUT:
        np.testing.assert_array_equal(found[spec.name], total[spec.name])
        assert found[spec.name].dtype == total[spec.name].dtype


def test_sums__of_another_form_are_refused() -> None:
    good = any_sums(0)
    for arrays in ({**good.arrays, "more": np.zeros(1, int)},
                   {**good.arrays, "hits": np.zeros(2, int)},
                   {**good.arrays, "hits": np.zeros(3)}):  # fmt: skip
        with pytest.raises(ValueError, match="another form"):
            Sums(layout=LAYOUT, count=1, arrays=arrays)
    with pytest.raises(ValueError, match="cannot be added"):
        good + evaluation_sums(*records(4, 2))


def test_counters__refuse_a_sum_that_is_not_finite() -> None:
    arrays = {**any_sums(0).arrays, "square": np.asarray(math.nan)}
    with pytest.raises(ValueError, match="square is not finite"):
        Sums(layout=LAYOUT, count=1, arrays=arrays).counters()
