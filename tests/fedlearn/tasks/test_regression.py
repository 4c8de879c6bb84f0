"""Regression: losses against formulas of others, metrics against scikit-learn, sums in private."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torch.nn import functional

from fedlearn.core.errors import ConfigError
from fedlearn.metrics.intervals import measured
from fedlearn.metrics.sums import Sums
from fedlearn.tasks import LabelColumn, Regression, RegressionTask, TableInput, TaskForm
from tests.fedlearn.tasks.noised import noised

LOW, HIGH = -10.0, 90.0
FORM = TaskForm(input=TableInput(numeric=3))


def task(**settings: Any) -> RegressionTask:
    return Regression(low=LOW, high=HIGH, **settings).of(FORM)


def records(seed: int, n: int = 400, spread: float = 10.0) -> tuple[Any, Any]:
    """Answers and labels in the range, heavier below than above."""
    rng = np.random.default_rng(seed)
    labels = np.clip(rng.gamma(2.0, 15.0, n) + LOW, LOW, HIGH).astype(np.float32)
    answers = np.clip(labels + rng.normal(2.0, spread, n), LOW, HIGH)[:, None]
    return answers, labels


# --- the loss ---


@pytest.mark.parametrize("loss", ["squared", "huber", "quantile"])
def test_loss__is_that_of_the_books_in_half_ranges(loss: Any) -> None:
    made = task(loss=loss, huber=0.3, quantile=0.8)
    outputs = torch.linspace(-3, 3, 41)[:, None].requires_grad_()
    labels = torch.full((41,), 50.0)  # 0.2 in half ranges from the middle, which is 40
    errors = outputs[:, 0] - 0.2
    wanted = {
        "squared": functional.mse_loss(errors, torch.zeros(41), reduction="none") / 2,
        "huber": functional.huber_loss(errors, torch.zeros(41), reduction="none", delta=0.3),
        "quantile": torch.maximum(-0.8 * errors, 0.2 * errors),
    }[loss]
    found = made.loss(outputs, labels)
    torch.testing.assert_close(found, wanted)
    ours, theirs = (torch.autograd.grad(one.sum(), outputs)[0] for one in (found, wanted))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("loss", "constant"), [("squared", np.mean), ("quantile", lambda y: np.quantile(y, 0.8))]
)
def test_loss__is_least_for_what_it_is_said_to_learn(loss: Any, constant: Any) -> None:
    made, (_, labels) = task(loss=loss, quantile=0.8), records(0, 2001)
    grid = torch.linspace(-1, 1, 2001)
    losses = [made.loss(z.expand(len(labels), 1), torch.from_numpy(labels)).mean() for z in grid]
    best = grid[int(torch.stack(losses).argmin())].expand(1, 1)
    assert float(made.answers(best)) == pytest.approx(constant(labels), abs=0.2)


def test_answers__are_within_the_range_and_undo_the_scale_of_the_loss() -> None:
    made = task()
    answers = made.answers(torch.tensor([[-5.0], [-1.0], [0.0], [0.5], [1.0], [7.0]]))
    assert answers.flatten().tolist() == [-10, -10, 40, 65, 90, 90]
    labels = torch.tensor([12.0, 77.0])
    exact = ((labels - 40) / 50)[:, None]
    torch.testing.assert_close(made.answers(exact).flatten(), labels.double())
    assert not made.loss(exact, labels).any()


# --- metrics ---


@pytest.mark.parametrize("seed", range(3))
def test_metrics__are_those_of_scikit_learn_over_all_sites(seed: int) -> None:
    made, (answers, labels) = task(loss="quantile", quantile=0.7), records(seed)
    parts = [made.sums(answers[i::3], labels[i::3]) for i in range(3)]
    counters = sum(np.array(one.counters(), np.int64) for one in parts)
    found = made.metrics(Sums.of_counters(made.sum_layout, counters))
    assert found == pytest.approx(
        {
            "loss": sklearn.mean_pinball_loss(labels, answers[:, 0], alpha=0.7) / 50,
            "mae": sklearn.mean_absolute_error(labels, answers[:, 0]),
            "rmse": sklearn.root_mean_squared_error(labels, answers[:, 0]),
            "r2": sklearn.r2_score(labels, answers[:, 0]),
            "bias": float((answers[:, 0] - labels).mean()),
            "coverage": float((answers[:, 0] >= labels).mean()),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("loss", ["squared", "huber", "quantile"])
def test_metrics__of_the_loss_are_the_mean_of_what_training_makes_small(loss: Any) -> None:
    made, (answers, labels) = task(loss=loss), records(4)
    outputs = torch.from_numpy((answers - 40) / 50)
    wanted = float(made.loss(outputs, torch.from_numpy(labels).double()).mean())
    assert made.score(answers, labels)["loss"] == pytest.approx(wanted, rel=1e-6)


def test_metrics__that_do_not_exist_are_left_out() -> None:
    made = task()
    assert made.score(np.zeros((0, 1)), np.zeros(0, np.float32)) == {}
    alike = made.score(np.full((3, 1), 5.0), np.full(3, 7.0, np.float32))
    assert "r2" not in alike
    assert alike["mae"] == pytest.approx(2.0)
    assert "coverage" not in alike


def test_intervals__are_as_wide_as_a_bootstrap_of_the_records() -> None:
    made, (answers, labels) = task(), records(5, 600)
    rng = np.random.default_rng(1)
    found = measured(made.score(answers, labels), made.resampled(made.sums(answers, labels), rng))
    draws = [rng.integers(0, 600, 600) for _ in range(600)]
    again = [made.score(answers[rows], labels[rows]) for rows in draws]
    for name in ("mae", "rmse", "r2", "bias"):
        low, high = np.quantile([one[name] for one in again], (0.025, 0.975))
        assert found[name].low is not None
        assert found[name].high is not None
        assert found[name].high - found[name].low == pytest.approx(high - low, rel=0.15)


@pytest.mark.parametrize("loss", ["squared", "quantile"])
def test_private_sums__are_bounded_by_their_layout_and_come_near_with_noise(loss: Any) -> None:
    made, (answers, labels) = task(loss=loss, quantile=0.9), records(6, 4000)
    answers[:2, 0], labels[:2] = (LOW, HIGH), (HIGH, LOW)  # the largest errors that there are
    rows = made.contributions(answers, labels)
    rng = np.random.default_rng(2)
    sums = noised(made, rows, rng)
    found, exact = made.metrics(sums), made.score(answers, labels)
    assert found.keys() == exact.keys() - {"bias"}
    intervals = measured(found, made.resampled_noised(sums, rng))
    for name in ("mae", "rmse", "r2", *(["coverage"] if loss == "quantile" else [])):
        low, high = intervals[name].low, intervals[name].high
        assert low is not None
        assert high is not None
        assert low - (high - low) / 2 < exact[name] < high + (high - low) / 2


def test_private_sums__of_nothing_but_noise_give_metrics_that_can_be() -> None:
    made, rng = task(loss="huber"), np.random.default_rng(3)
    for _ in range(50):
        arrays = {s.name: rng.normal(0, 20, s.shape) for s in made.noised_layout}
        sums = made.noised(arrays, {s.name: 20.0 for s in made.noised_layout})
        for name, value in made.metrics(sums).items():
            assert np.isfinite(value)
            assert name == "r2" or 0 <= value <= 100
            assert value <= 1 or name != "r2"


def test_gap__is_by_chance_where_groups_differ_by_chance_alone() -> None:
    made, rng = task(), np.random.default_rng(4)
    alike = {str(i): made.sums(*records(i, 200)) for i in range(4)}
    gap = made.gap(alike, rng)
    assert gap is not None
    assert gap.value < 1.5 * gap.by_chance
    worse = {**alike, "worse": made.sums(*records(9, 200, spread=25.0))}
    gap = made.gap(worse, rng)
    assert gap is not None
    assert gap.value > 2 * gap.by_chance
    assert gap.worst == "worse"
    assert made.gap({"alone": alike["0"]}, rng) is None


# --- labels ---


def column(*cells: str) -> LabelColumn:
    def numbers() -> Any:
        return np.array([float(c) if c.lstrip("-").replace(".", "").isdigit() else np.nan
                         for c in cells])  # fmt: skip

    return LabelColumn(
        where="t.csv: label 'days'", cells=cells, values=tuple(sorted(set(cells))),
        numbers=numbers, places=lambda rows: f"rows {[*rows]}", most=50, most_key="k",
    )  # fmt: skip


def test_labels__that_cannot_be_learned_are_named_by_their_rows() -> None:
    made = Regression(low=LOW, high=HIGH)
    found = [*made.problems(column("3", "many", "900", "-11"))]
    assert found == [
        "t.csv: label 'days': rows [1]: not a number",
        "t.csv: label 'days': rows [2, 3]: outside of task.low=-10 to task.high=90; widen the "
        "range to what is possible, leave the records out, or set task.outside=clip",
    ]
    assert made.unreadable(column("3", "many", "900", "-11")).tolist() == [False, True, True, True]
    assert [*made.problems(column("7", "7"))] == [
        "t.csv: label 'days': every record has 7; there is nothing to learn"
    ]
    assert "no record" in next(made.problems(column()))
    clipping = Regression(low=LOW, high=HIGH, outside="clip")
    assert [*clipping.problems(column("3", "900"))] == []
    names, targets = clipping.encode(column("3", "900", "-11"))
    assert (names, targets.tolist(), targets.dtype) == ((), [3, 90, -10], np.float32)
    clipping.of(FORM).check(targets)


@pytest.mark.parametrize(
    "wrong", [np.zeros(2, np.int64), np.zeros((2, 1), np.float32),
              np.array([91.0], np.float32), np.array([np.nan], np.float32)],
)  # fmt: skip
def test_check__refuses_what_is_no_number_of_the_range(wrong: Any) -> None:
    with pytest.raises(ValueError, match="labels must be"):
        task().check(wrong)


def test_check__takes_the_ends_of_a_range_that_float32_cannot_say() -> None:
    made = Regression(low=0.1, high=0.7).of(FORM)
    made.check(np.array([0.1, 0.7], np.float32))


def test_mislabelled__are_labels_of_the_other_half() -> None:
    made, (_, labels) = task(), records(7)
    words = np.random.default_rng(5).integers(0, 2**64, len(labels), np.uint64)
    wrong = made.mislabelled(labels, words)
    made.check(wrong)
    assert ((wrong >= 40) == (labels < 40)).all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"low": 5.0, "high": 5.0}, "low=5: must be below high=5"),
        ({"low": 0.0, "high": float("inf")}, "high=Infinity"),
        ({"low": 0.0, "high": 1.0, "quantile": 1.0}, "quantile=1.0"),
        ({"low": 0.0, "high": 1.0, "huber": 0.0}, "huber=0.0"),
    ],
)
def test_settings__that_cannot_be_are_refused(settings: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Regression(**settings)
