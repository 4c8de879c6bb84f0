"""Survival: likelihood, curves, concordance and Brier's score against loops over records."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.metrics import survival
from fedlearn.metrics.intervals import measured
from fedlearn.metrics.sums import Sums
from fedlearn.tasks import LabelColumn, Survival, SurvivalTask, TableInput, TaskForm
from tests.fedlearn.tasks.noised import noised

FORM = TaskForm(input=TableInput(numeric=3))
HORIZON = 100.0


def task(**settings: Any) -> SurvivalTask:
    return Survival(**{"horizon": HORIZON, "intervals": 8, **settings}).of(FORM)


def records(seed: int, n: int = 200, number: int = 8) -> tuple[Any, Any]:
    """Curves that tell something, and what became of the records."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    times = rng.exponential(60 * np.exp(-risk))
    lost = rng.exponential(80, n)
    made = Survival(horizon=HORIZON, intervals=number)
    seen = np.minimum(times, lost)
    targets = made.outcomes(seen, (times <= lost).astype(float))
    hazards = 1 / (1 + np.exp(-(risk + rng.normal(0, 0.7, n) - 2)))
    curves = np.cumprod(1 - hazards[:, None] * np.linspace(0.8, 1.2, number), 1)
    return curves, targets


# --- what became of a record ---


@pytest.mark.parametrize(
    ("time", "event", "wanted"),
    [
        (0.0, 1, (0, 1)),
        (0.0, 0, (0, 0)),
        (12.5, 1, (0, 1)),  # intervals end with their last moment
        (12.6, 1, (1, 1)),
        (18.7, 0, (1, 0)),  # not yet half of the second
        (18.8, 0, (2, 0)),
        (100.0, 1, (7, 1)),
        (100.1, 1, (8, 0)),  # after the horizon nothing is looked at
        (5000.0, 0, (8, 0)),
    ],
)
def test_outcomes__are_intervals_lived_through_and_an_event_in_the_next(
    time: float, event: int, wanted: tuple[int, int]
) -> None:
    settings = Survival(horizon=HORIZON, intervals=8)
    found = settings.outcomes(np.array([time]), np.array([float(event)]))
    assert tuple(found[0]) == wanted


def test_outcomes__go_by_the_cuts_where_there_are_some() -> None:
    settings = Survival(horizon=100.0, cuts=(1.0, 10.0, 100.0), degree=1)
    found = settings.outcomes(np.array([0.5, 6.0, 5.0, 60.0]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert found.tolist() == [[0, 1], [2, 0], [1, 0], [2, 1]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cuts": (10.0, 5.0, 100.0), "degree": 1}, "rising"),
        ({"cuts": (10.0, 50.0), "degree": 1}, "horizon"),
        ({"intervals": 3, "degree": 3}, "below the number of intervals"),
        ({"intervals": 10**12}, "intervals"),  # of which every site would make tables
        ({"cuts": tuple(np.linspace(0.1, 100.0, 10**4).tolist())}, "cuts"),
    ],
)
def test_settings__that_are_no_intervals_are_refused(settings: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Survival(horizon=HORIZON, **settings)


# --- the loss ---


@pytest.mark.parametrize("degree", [0, 3, 7])
def test_loss__is_the_likelihood_of_what_became_of_each_record(degree: int) -> None:
    made, (_, targets) = task(degree=degree), records(0, 40)
    outputs = torch.randn(40, degree + 1, generator=torch.Generator().manual_seed(1)).double()
    curves = made.answers(outputs).numpy()
    found = made.loss(outputs, torch.from_numpy(targets))
    for curve, (lived, ended), loss in zip(curves, targets, found.tolist(), strict=True):
        before = curve[lived - 1] if lived else 1.0
        chance = before - curve[lived] if ended else before
        assert loss == pytest.approx(-np.log(chance), rel=1e-9)
    likely = made.likelihood(curves, targets)
    assert likely == pytest.approx(np.exp(-found.numpy()), rel=1e-2)  # rare hazards are cut off


def test_loss__of_a_record_is_its_own() -> None:
    made, (_, targets) = task(), records(1, 30)
    outputs = torch.randn(30, 4, generator=torch.Generator().manual_seed(2))
    together = made.loss(outputs, torch.from_numpy(targets))
    alone = [made.loss(outputs[i : i + 1], torch.from_numpy(targets[i : i + 1])) for i in range(30)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_loss__of_a_new_model_says_that_half_live_through_the_horizon() -> None:
    assert task().answers(torch.zeros(1, 4))[0, -1] == pytest.approx(0.5)


def test_degree__that_is_full_leaves_every_hazard_free() -> None:
    made = task(degree=7)
    wanted = np.linspace(0.05, 0.6, 8)
    logits = np.log(wanted / (1 - wanted)) - made._usual
    outputs = torch.from_numpy(np.linalg.solve(made._polynomials, logits))[None]
    assert 1 - np.cumprod(1 - wanted) == pytest.approx(1 - made.answers(outputs)[0].numpy())


def test_plain__is_logistic_regression_of_intervals() -> None:
    rng = np.random.default_rng(3)
    made, features = task(degree=0), rng.normal(size=(120, 3))
    times = rng.exponential(50 * np.exp(-features[:, 0]))
    targets = made.settings.outcomes(times, np.ones(120))
    rows, labels = [], []
    for row, (lived, ended) in zip(features, targets, strict=True):
        rows += [row] * (lived + ended)
        labels += [0] * lived + [1] * ended
    theirs = LogisticRegression(tol=1e-8, max_iter=1000).fit(rows, labels)
    hazards = theirs.predict_proba(features)[:, 1]
    ours = made.plain(features, targets)(features)
    assert ours[:, 2] == pytest.approx((1 - hazards) ** 3, abs=2e-3)


# --- metrics ---


def _concordance(risks: Any, targets: Any) -> float:
    right = pairs = 0.0
    for risk, (lived, ended) in zip(risks, targets, strict=True):
        if ended:
            later = targets[:, 0] > lived
            right += (risks[later] < risk).sum() + 0.5 * (risks[later] == risk).sum()
            pairs += later.sum()
    return float(right / pairs)


def _curve(targets: Any, number: int = 8) -> list[float]:
    share, found = 1.0, []
    for at in range(number):
        ended = ((targets[:, 0] == at) & (targets[:, 1] == 1)).sum()
        at_risk = (targets[:, 0] > at).sum() + ended
        share *= 1 - ended / at_risk if at_risk else 1
        found.append(share)
    return found


def _seen(targets: Any, number: int = 8) -> list[float]:
    share, found = 1.0, []
    for at in range(number):
        lost = ((targets[:, 0] == at) & (targets[:, 1] == 0)).sum()
        there = (targets[:, 0] >= at).sum()
        share *= 1 - lost / there if there else 1
        found.append(share)
    return found


def _brier(curves: Any, targets: Any) -> float:
    seen, total = _seen(targets), 0.0
    for curve, (lived, ended) in zip(curves, targets, strict=True):
        for at in range(8):
            if at < lived:
                total += (1 - curve[at]) ** 2 / seen[at]
            elif ended:
                total += curve[at] ** 2 / seen[lived]
    return float(total / 8 / len(targets))


@pytest.mark.parametrize("seed", range(3))
def test_metrics__are_those_of_loops_over_the_records_of_all_sites(seed: int) -> None:
    made, (curves, targets) = task(), records(seed)
    parts = [made.sums(curves[i::3], targets[i::3]) for i in range(3)]
    counters = np.sum([one.counters() for one in parts], axis=0)
    sums = Sums.of_counters(made.sum_layout, counters)
    made.check_sums(sums)
    bins = np.minimum(((1 - curves.mean(1)) * 256).astype(int), 255)
    found = made.metrics(sums)
    observed = np.array(_curve(targets))
    assert found == pytest.approx(
        {
            "loss": -np.log(made.likelihood(curves, targets)).mean(),
            "c_index": _concordance(bins, targets),
            "brier": _brier(curves, targets),
            "survival": observed[-1],
            "survival_predicted": curves[:, -1].mean(),
            "calibration_gap": np.abs(observed - curves.mean(0)).max(),
        },
        rel=1e-6,
    )
    assert found["c_index"] == pytest.approx(_concordance(1 - curves.mean(1), targets), abs=0.01)
    same = np.repeat(observed[None], len(targets), 0)
    uninformed = made.uninformed(sums)
    assert uninformed["brier"] == pytest.approx(_brier(same, targets))
    assert uninformed["loss"] == pytest.approx(-np.log(made.likelihood(same, targets)).mean())


def test_metrics__without_anybody_lost_are_means_of_squares() -> None:
    made, (curves, targets) = task(), records(5)
    targets = targets[targets[:, 1] == 1]
    curves = curves[: len(targets)]
    alive = np.arange(8)[None] < targets[:, :1]
    wanted = ((alive - curves) ** 2).mean()
    assert made.score(curves, targets)["brier"] == pytest.approx(wanted)


def test_metrics__that_do_not_exist_are_left_out() -> None:
    made, (curves, targets) = task(), records(6, 20)
    assert made.score(curves[:0], targets[:0]) == {}
    lost = np.column_stack([targets[:, 0], np.zeros(20, np.int64)])
    found = made.score(curves, lost)
    assert "c_index" not in found
    assert found["survival"] == 1.0
    assert made.gap({"a": made.sums(curves, lost)}, np.random.default_rng(0)) is None


def test_sums__that_no_records_add_up_to_are_refused() -> None:
    made, (curves, targets) = task(), records(7)
    sums = made.sums(curves, targets)
    wrong = sums["outcomes"].copy()
    wrong[0, 0] += 1
    with pytest.raises(ValueError, match="number of records"):
        made.check_sums(Sums(layout=sums.layout, count=sums.count,
                             arrays={**sums.arrays, "outcomes": wrong}))  # fmt: skip


@pytest.mark.parametrize("name", ["loss", "squares", "curves"])
def test_sums__that_no_chances_add_up_to_are_refused(name: str) -> None:
    made, (curves, targets) = task(), records(7)
    for seen in (curves, np.zeros_like(curves), np.ones_like(curves), curves * np.nan):
        sums = made.sums(seen, targets)
        made.check_sums(sums)
    sums = made.sums(curves, targets)
    made.check_sums(Sums.of_counters(sums.layout, np.array(sums.counters())))
    for lie in (-1.0, 1e6, -np.inf, np.inf):
        said = np.array(sums[name])
        said[(0,) * said.ndim] = lie
        with pytest.raises(ValueError, match="no chances of the records"):
            made.check_sums(Sums(layout=sums.layout, count=sums.count,
                                 arrays={**sums.arrays, name: said}))  # fmt: skip


def test_intervals__are_as_wide_as_a_bootstrap_of_the_records() -> None:
    made, (curves, targets) = task(), records(8, 300)
    rng = np.random.default_rng(1)
    found = measured(made.score(curves, targets), made.resampled(made.sums(curves, targets), rng))
    draws = [rng.integers(0, 300, 300) for _ in range(400)]
    again = [made.score(curves[rows], targets[rows]) for rows in draws]
    for name in ("c_index", "survival"):
        low, high = np.quantile([one[name] for one in again], (0.025, 0.975))
        ours = found[name]
        assert ours.low is not None
        assert ours.high is not None
        assert ours.high - ours.low == pytest.approx(high - low, rel=0.15)


def test_private_sums__are_bounded_by_their_layout_and_come_near_with_noise() -> None:
    made, (curves, targets) = task(), records(9, 6000)
    curves[:2] = [[np.nan] * 8, [0.0] * 8]
    rows = made.contributions(curves, targets)
    curves[0] = 0.0
    rng = np.random.default_rng(2)
    sums = noised(made, rows, rng)
    found, exact = made.metrics(sums), made.score(curves, targets)
    assert found.keys() == exact.keys() - {"brier"}
    assert found["survival_predicted"] == pytest.approx(exact["survival_predicted"], abs=0.02)
    intervals = measured(found, made.resampled_noised(sums, rng))
    for name in ("c_index", "survival"):
        low, high = intervals[name].low, intervals[name].high
        assert low is not None
        assert high is not None
        assert low - (high - low) / 2 < exact[name] < high + (high - low) / 2


def test_noise__that_is_all_there_is_still_gives_metrics_in_their_range() -> None:
    made, rng = task(), np.random.default_rng(3)
    noise = {spec.name: 50.0 for spec in made.noised_layout}
    for _ in range(20):
        arrays = {s.name: rng.normal(0, 50, s.shape) for s in made.noised_layout}
        sums = made.noised(arrays, noise)
        for name, value in made.metrics(sums).items():
            assert 0.0 <= value <= (made._largest_loss if name == "loss" else 1.0)
        made.resampled_noised(sums, rng)
        made.uninformed(sums)
        made.gap({"a": sums, "b": sums}, rng)


# --- labels ---


def column(times: Any, events: Any) -> LabelColumn:
    return LabelColumn(
        where="a.csv: label 'T'",
        cells=[str(one) for one in times],
        values=(),
        numbers=lambda: np.array(times, np.float64),
        events=None if events is None else lambda: np.array(events, np.float64),
        places=lambda some: f"lines {list(some)}",
        most=50,
        most_key="scenario.max_categories",
    )


@pytest.mark.parametrize(
    ("times", "events", "words"),
    [
        ([1.0, 2.0], None, "scenario.event"),
        ([], [], "no record"),
        ([1.0, -2.0], [1, 0], r"\[1\]: a time below zero"),
        ([np.nan, 2.0], [1, 0], r"\[0\]: no time"),
        ([1.0, 2.0], [1, np.nan], r"\[1\]: neither 1 nor 0"),
        ([1.0, 2.0], [0, 0], "no record has an event"),
    ],
)
def test_labels__that_are_no_outcomes_are_named(times: Any, events: Any, words: str) -> None:
    problems = list(Survival(horizon=HORIZON).problems(column(times, events)))
    assert any(re.search(words, one) for one in problems)


def test_labels__without_a_column_of_events_are_not_learned_from() -> None:
    with pytest.raises(DataError, match=r"scenario\.event"):
        Survival(horizon=HORIZON).encode(column([1.0, 2.0], None))


def test_labels__that_cannot_be_read_are_those_of_single_records() -> None:
    found = column([1.0, -2.0, np.nan, 4.0], [1, 0, 0, np.nan])
    assert Survival(horizon=HORIZON).unreadable(found).tolist() == [False, True, True, True]


def test_canaries__have_an_event_in_the_other_half() -> None:
    made, (_, targets) = task(), records(10)
    words = np.random.default_rng(4).integers(0, 2**64, len(targets), np.uint64)
    found = made.mislabelled(targets, words)
    made.check(found)
    assert (found[:, 1] == 1).all()
    assert ((found[:, 0] < 4) != (targets[:, 0] < 4)).all()


def test_answers__are_a_chance_and_a_median() -> None:
    made = task()
    early, late = np.linspace(0.9, 0.1, 8), np.full(8, 0.75)
    assert made.answer_cells(late) == ["0.250000", ">100"]
    chance, median = made.answer_cells(early)
    assert chance == "0.900000"
    assert float(median) == pytest.approx(np.interp(-0.5, -early, made.settings.ends))


def test_curves__of_noisy_counts_never_rise() -> None:
    rng = np.random.default_rng(5)
    found = survival.kaplan_meier(rng.normal(0, 10, (50, 2, 9)))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found, axis=-1) <= 0).all()
