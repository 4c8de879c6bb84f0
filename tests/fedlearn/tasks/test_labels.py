"""Several labels a record: figures against scikit-learn, intervals against a bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_score, roc_auc_score

from fedlearn.metrics.intervals import measured
from fedlearn.metrics.labels import best_constant
from fedlearn.metrics.sums import Sums
from fedlearn.tasks import JOINED, LabelColumn, Labels, LabelsTask, TableInput, TaskForm
from fedlearn.tasks.logistic import fitted_labels

NAMES = ("cough", "fever", "pain", "rash")
TASK = LabelsTask(input=TableInput(numeric=3), classes=NAMES)

Floats = Any


def records(seed: int = 0, n: int = 300) -> tuple[Floats, Floats]:
    """Answers that tell something, in steps that fall between bins, and labels that go together."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 1))
    logits = common + rng.normal(0, 1, (n, 4)) + np.array([0.0, -1.0, -2.0, 0.5])
    targets = (logits + rng.normal(0, 1.5, (n, 4)) > 0).astype(np.int64)
    return np.round(512 / (1 + np.exp(-logits)) - 0.5) / 512 + 1 / 1024, targets


def column(cells: Sequence[str], classes: tuple[str, ...] = (), most: int = 50) -> LabelColumn:
    return LabelColumn(
        where="t.csv: label 'seen'", cells=cells, values=tuple(sorted({*cells})),
        numbers=lambda: np.full(len(cells), np.nan), classes=classes, most=most,
        places=lambda rows: f"lines {', '.join(str(i + 2) for i in rows)}",
        most_key="scenario.max_categories",
    )  # fmt: skip


# --- what is learned ---------------------------------------------------------------------


def test_loss__is_the_mean_of_the_binary_losses_of_a_record() -> None:
    logits, targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), records(n=6)[1]
    found = TASK.loss(logits, torch.from_numpy(targets))
    chances = torch.sigmoid(logits).double().numpy()
    for row in range(6):
        each = [log_loss([targets[row, i]], [chances[row, i]], labels=[0, 1]) for i in range(4)]
        assert found[row].item() == pytest.approx(np.mean(each), rel=1e-5)


def test_targets__are_zeros_and_ones_for_every_label() -> None:
    TASK.check(records()[1])
    for wrong in (
        np.zeros((3, 3), np.int64),
        np.zeros((3, 4)),
        np.full((3, 4), 2),
        np.zeros(3, int),
    ):
        with pytest.raises(ValueError, match="labels must be"):
            TASK.check(wrong)


def test_canary__has_one_answer_that_is_wrong() -> None:
    _, targets = records()
    words = np.random.default_rng(0).integers(2**64, size=len(targets), dtype=np.uint64)
    wrong = TASK.mislabelled(targets, words)
    assert (np.abs(wrong - targets).sum(1) == 1).all()
    assert np.abs(wrong - targets).sum(0).min() > 50


def test_records__that_all_have_the_same_labels_are_alike() -> None:
    assert TASK.alike(np.array([[1, 0, 1, 0]] * 3)) == "set of labels (cough, pain)"
    assert TASK.alike(np.zeros((2, 4), int)) == "set of labels (none)"
    assert TASK.alike(records()[1]) == ""
    assert TASK.strata(np.array([[0, 1, 1, 0], [0, 0, 0, 0]])).tolist() == [1, 4]


def test_label__that_no_record_of_a_part_has_is_named() -> None:
    targets = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0]])
    found = [*TASK.lacking(targets, np.array([False, True, False]))]
    assert found == [("label 'cough'", 2)]


# --- figures -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_metrics__are_those_of_scikit_learn(seed: int) -> None:
    answers, targets = records(seed)
    said, found = answers > 0.5, TASK.score(answers, targets)
    assert found["micro_f1"] == pytest.approx(f1_score(targets, said, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(targets, said, average="macro"))
    assert found["exact_match"] == pytest.approx(accuracy_score(targets, said))
    area = np.mean([roc_auc_score(targets[:, i], answers[:, i]) for i in range(4)])
    assert found["macro_auc"] == pytest.approx(area, abs=1e-9)
    each = [log_loss(targets[:, i], answers[:, i]) for i in range(4)]
    assert found["loss"] == pytest.approx(np.mean(each), rel=1e-5)


def test_label__by_itself_is_that_of_scikit_learn() -> None:
    answers, targets = records()
    found = TASK.by_class(TASK.sums(answers, targets), {}, np.random.default_rng(0))
    assert found is not None
    for i, name in enumerate(NAMES):
        truth, said, one = targets[:, i], answers[:, i] > 0.5, found.classes[name]
        assert (one.records, one.named) == (truth.sum(), said.sum())
        for share, wanted in (
            (one.f1, f1_score(truth, said)),
            (one.precision, precision_score(truth, said)),
            (one.auc, roc_auc_score(truth, answers[:, i])),
        ):
            assert share is not None
            assert share.value == pytest.approx(wanted)
            assert share.low is not None
            assert share.high is not None
            assert share.low < wanted < share.high


def test_sums__of_parts_add_up_and_travel_as_whole_numbers() -> None:
    answers, targets = records()
    whole = TASK.sums(answers, targets)
    parts = [TASK.sums(answers[rows], targets[rows]) for rows in np.split(np.arange(300), [7, 90])]
    total = TASK.added(parts)
    counters = np.array(total.counters())
    again = Sums.of_counters(TASK.sum_layout, counters)
    for name in ("cells", "moments", "exact", "scores"):
        np.testing.assert_array_equal(again[name], whole[name])
    TASK.check_sums(again)


@pytest.mark.parametrize(
    ("name", "place"), [("cells", (0, 0)), ("cells", (1, 1)), ("scores", (2, 0, 3)), ("exact", ())]
)
def test_sums__that_are_of_no_records_are_refused(name: str, place: tuple[int, ...]) -> None:
    sums = TASK.sums(*records())
    sums[name][place] += 1000
    with pytest.raises(ValueError, match="do not add up"):
        TASK.check_sums(sums)


def test_what_nobody_can_know__is_left_out() -> None:
    assert TASK.metrics(TASK.sums(np.zeros((0, 4)), np.zeros((0, 4), np.int64))) == {}
    nothing = np.zeros((5, 4), np.int64)
    found = TASK.score(np.full((5, 4), 0.25), nothing)
    assert not {"micro_f1", "macro_f1", "macro_auc"} & found.keys()
    assert found["exact_match"] == 1
    one = nothing.copy()
    one[0, 2] = 1  # the AUC of one label is all there is
    answers = np.full((5, 4), 0.25)
    answers[0, 2] = 0.9
    assert TASK.score(answers, one)["macro_auc"] == 1


def test_interval__covers_as_a_bootstrap_of_records_does() -> None:
    """Labels that go together make F1 less sure than independent ones would be."""
    answers, targets = records()
    sums, rng = TASK.sums(answers, targets), np.random.default_rng(1)
    found = measured(TASK.metrics(sums), TASK.resampled(sums, np.random.default_rng(0)))
    said, truth = answers > 0.5, targets == 1
    right, whole = 2 * (said & truth).sum(1), said.sum(1) + truth.sum(1)
    times = rng.multinomial(300, np.full(300, 1 / 300), 2000)
    drawn = times @ right / (times @ whole)
    low, high = np.quantile(drawn, (0.025, 0.975))
    one = found["micro_f1"]
    assert one.low == pytest.approx(low, abs=0.01)
    assert one.high == pytest.approx(high, abs=0.01)
    assert found["exact_match"].low is not None
    assert found["macro_f1"].low is None


def test_guessing__is_the_best_answer_that_looks_at_no_record() -> None:
    _, targets = records()
    sums = TASK.sums(np.full(targets.shape, 0.1), targets)
    answers = [np.array([int(bit) for bit in f"{n:04b}"]) for n in range(1, 16)]
    best = max(f1_score(targets, np.tile(answer, (300, 1)), average="micro") for answer in answers)
    assert best_constant(sums["cells"], 300) == pytest.approx(best)
    shares = np.tile(targets.mean(0), (300, 1))
    assert TASK.uninformed(sums)["loss"] == pytest.approx(
        TASK.score(shares, targets)["loss"], rel=1e-4
    )


def test_plain_model__is_a_regression_of_scikit_learn_for_each_label() -> None:
    _, targets = records()
    features = np.random.default_rng(3).normal(size=(300, 5)) + targets[:, :1]
    found = fitted_labels(features, targets)(features)
    for i in range(4):
        model = LogisticRegression(max_iter=1000).fit(features, targets[:, i])
        np.testing.assert_allclose(found[:, i], model.predict_proba(features)[:, 1], atol=2e-3)


# --- under noise -------------------------------------------------------------------------


def test_record__moves_private_sums_by_what_the_plan_counts() -> None:
    """However many labels it has: the evaluation cuts a row to the bound of its array."""
    task = Labels(counted=2).of(TaskForm(input=TASK.input, classes=NAMES))
    answers, targets = records()
    rows = task.contributions(answers, targets)
    layout = {spec.name: spec for spec in task.noised_layout}
    assert list(layout) == ["count", "cells", "loss"]
    assert layout["cells"].bound == pytest.approx(math.sqrt(2))
    assert rows.shape == (300, sum(spec.size for spec in task.noised_layout))
    np.testing.assert_array_equal(
        rows[:, 1:13].sum(0).reshape(4, 3), TASK.sums(answers, targets)["cells"]
    )
    assert (rows[:, 13] <= layout["loss"].bound).all()
    diverged = task.contributions(np.full((3, 4), np.nan), targets[:3])
    assert np.isfinite(diverged).all()


def noisy(seed: int, deviation: float = 4.0) -> Sums:
    answers, targets = records(n=1000)
    whole, rng, at, arrays = TASK.contributions(answers, targets).sum(0), None, 0, {}
    rng = np.random.default_rng(seed)
    for spec in TASK.noised_layout:
        part = whole[at : at + spec.size].reshape(spec.shape)
        arrays[spec.name], at = part + rng.normal(0, deviation, spec.shape), at + spec.size
    return TASK.opened(arrays, dict.fromkeys(arrays, deviation))


def test_noise__leaves_f1_without_bias_and_an_interval_that_covers() -> None:
    answers, targets = records(n=1000)
    true = TASK.score(answers, targets)["micro_f1"]
    values, covered = [], 0
    for seed in range(60):
        sums = noisy(seed)
        TASK.check_sums(sums)
        drawn = TASK.resampled_noised(sums, np.random.default_rng(seed))
        one = measured(TASK.metrics(sums), drawn)["micro_f1"]
        values.append(one.value)
        assert one.low is not None
        assert one.high is not None
        covered += one.low <= true <= one.high
    assert np.mean(values) == pytest.approx(true, abs=0.005)
    assert covered >= 55
    assert not {"macro_auc", "exact_match"} & TASK.metrics(noisy(0)).keys()


def test_noise__larger_than_a_label_leaves_no_mean_over_labels() -> None:
    assert "macro_f1" in TASK.metrics(noisy(0, 1.0))
    assert "macro_f1" not in TASK.metrics(noisy(0, 200.0))
    found = TASK.metrics(noisy(0, 1e5))
    assert all(0 <= value <= 2.1 for value in found.values())


# --- what cells say ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("fever; cough", ("fever", "cough")),
        ("fever;fever; ", ("fever",)),
        ("none", ()),
        (f"a; b{JOINED}c{JOINED}", ("a; b", "c")),
        (JOINED, ()),
    ],
)
def test_cell__lists_labels_each_once(cell: str, wanted: tuple[str, ...]) -> None:
    assert Labels().read(cell) == wanted


def test_labels__are_those_that_are_given_or_all_that_are_found() -> None:
    cells = ["rash;fever", "none", "fever"]
    classes, targets = Labels().encode(column(cells))
    assert classes == ("fever", "rash")
    assert targets.tolist() == [[1, 1], [0, 0], [1, 0]]
    classes, targets = Labels(separator="|").encode(column(["b|a"], ("a", "b", "c")))
    assert targets.tolist() == [[1, 1, 0]]


@pytest.mark.parametrize(
    ("cells", "classes", "words"),
    [
        ([], (), "no record has one"),
        (["none", "none"], (), "no record has any label"),
        (["a;b", "c"], ("a", "b"), "lines 3: not all of them are in scenario.classes"),
        (["a;none", "b"], (), "lines 2: 'none' stands beside labels"),
        ([f"l{i}" for i in range(60)], (), r"60 different labels, .*scenario.max_categories=50"),
    ],
)
def test_labels__that_cannot_be_learned_are_named(
    cells: list[str], classes: tuple[str, ...], words: str
) -> None:
    with pytest.raises(AssertionError, match=words):
        raise AssertionError("\n".join(Labels().problems(column(cells, classes))))


def test_site__leaves_out_a_label_that_is_not_public() -> None:
    found = Labels().unreadable(column(["a", "a;x", "none", "a;none"], ("a", "b")))
    assert found.tolist() == [False, True, False, True]


def test_answer__lists_what_is_likelier_than_not() -> None:
    assert TASK.answer_cells(np.array([0.9, 0.2, 0.7, 0.5]))[0] == "cough; pain"
    assert TASK.answer_cells(np.full(4, 0.1))[0] == "none"
    assert len(TASK.answer_columns) == 5
