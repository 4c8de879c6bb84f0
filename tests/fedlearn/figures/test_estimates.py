"""Figures of noisy sums: right without noise, and in their intervals as often as they say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fedlearn.figures import OutcomePart, TableLayout, TableRows
from fedlearn.figures.held import HeldSums, RecordTotal, agreed
from fedlearn.figures.parts import CountPart
from fedlearn.figures.spread import isotonic
from fedlearn.figures.table import Estimate, TableFigures
from fedlearn.metrics.survival import kaplan_meier
from fedlearn.tasks.survival import Survival
from tests.fedlearn.figures.tables import LAYOUT, OVER_TIME, figures_of, people


def of(table: TableFigures) -> dict[str, Estimate]:
    """Some figures, by what they are."""
    age = table.numbers[0]
    assert age.missing is not None
    assert age.mean is not None
    assert age.sd is not None
    smoker, pair, both = table.choices[0], table.crossings[0], table.correlations[0]
    assert pair.odds_ratio is not None
    assert both.value is not None
    return {
        "records": table.records, "missing": age.missing, "mean": age.mean, "sd": age.sd,
        "quarter": age.quantiles["0.25"], "median": age.quantiles["0.5"],
        "smokers": smoker.categories[1].count, "share": smoker.categories[1].share,
        "odds": pair.odds_ratio, "correlation": both.value,
    }  # fmt: skip


def truth(rows: TableRows) -> dict[str, float]:
    """The same by other means, of the records themselves."""
    there = rows.features[:, 1] < 0.5
    age = np.round((rows.features[there, 0].astype(np.float64) + 1) * 35 + 20)
    dose = (rows.features[there, 2].astype(np.float64) + 1) * 4
    smoker, ill = rows.features[:, 3], rows.labels
    cells = Counter(zip(smoker.tolist(), ill.tolist(), strict=True))
    low, middle = np.quantile(age, [0.25, 0.5], method="inverted_cdf")
    return {
        "records": len(rows), "missing": (~there).sum(), "mean": age.mean(), "sd": age.std(),
        "quarter": low, "median": middle, "smokers": (smoker == 2).sum(),
        "share": (smoker == 2).mean(), "correlation": np.corrcoef(age, dose)[0, 1],
        "odds": cells[1, 0] * cells[2, 1] / (cells[1, 1] * cells[2, 0]),
    }  # fmt: skip


def test_figures__are_those_of_the_records_where_there_is_no_noise() -> None:
    rng = np.random.default_rng(0)
    rows = people(600, rng)
    found, known = of(figures_of(rows, 0.0, rng).figures()), truth(rows)
    for name, value in known.items():
        assert found[name].value == pytest.approx(value, rel=2e-3), name
        assert found[name].low - 1e-6 <= value <= found[name].high + 1e-6, name
    assert found["records"].low == found["records"].high == 600


@pytest.mark.parametrize("tries", [pytest.param(30), pytest.param(400, marks=pytest.mark.slow)])
def test_intervals__hold_counts_of_the_records_and_all_else_of_those_they_are_drawn_from(
    tries: int,
) -> None:
    rng = np.random.default_rng(7)
    population, missed = truth(people(200_000, rng)), Counter[str]()
    for _ in range(tries):
        rows = people(1500, rng)
        own = truth(rows)
        for name, figure in of(figures_of(rows, 6.0, rng).figures()).items():
            counted = name in ("records", "missing", "smokers")
            value = own[name] if counted else population[name]
            missed[name] += not figure.low <= value <= figure.high
    most = 0.05 * tries + 4 * (0.05 * 0.95 * tries) ** 0.5
    assert all(missed[name] <= most for name in population), missed


def test_intervals__of_a_column_that_noise_drowns_are_wide_and_say_so() -> None:
    rng = np.random.default_rng(1)
    few = figures_of(people(12, rng), 60.0, rng).figures()
    assert few.numbers[0].unsure
    many = figures_of(people(3000, rng), 6.0, rng).figures()
    assert not many.numbers[0].unsure
    assert len(many.numbers[0].edges) > 3


def test_figures__of_no_records_are_none() -> None:
    rng = np.random.default_rng(1)
    table = figures_of(people(0, rng), 0.0, rng).figures()
    assert table.records.value == 0
    assert table.numbers[0].mean is None
    assert table.numbers[0].unsure
    assert table.crossings[0].odds_ratio is None
    assert table.correlations[0].value is None


def test_figures__of_one_class_alone_have_no_odds() -> None:
    rng = np.random.default_rng(1)
    rows = people(300, rng)
    ill = TableRows(features=rows.features, labels=np.ones(300, np.int64))
    table = figures_of(ill, 2.0, rng).figures()
    assert table.crossings[0].odds_ratio is None
    assert table.choices[1].categories[1].share.value > 0.95


def test_survival__is_that_of_the_counts() -> None:
    rng = np.random.default_rng(3)
    labels = np.column_stack([rng.integers(0, 3, 400), rng.integers(0, 2, 400)])
    rows = TableRows(features=np.zeros((400, 1), np.float32), labels=labels)
    counts = np.zeros((2, 4))
    np.add.at(counts, (labels[:, 1], labels[:, 0]), 1)
    (found,) = figures_of(rows, 0.0, rng, OVER_TIME).figures().survival
    assert [one.value for one in found.surviving] == pytest.approx(kaplan_meier(counts).tolist())
    assert all(one.low <= one.value <= one.high for one in found.surviving)


def product_limit(times: np.ndarray, events: np.ndarray, at: float) -> float:
    """By Kaplan and Meier's own formula, event by event."""
    alive = 1.0
    for time in sorted({*times[(events == 1) & (times <= at)].tolist()}):
        died = ((times == time) & (events == 1)).sum()
        alive *= 1 - died / (times >= time).sum()
    return float(alive)


def test_survival__without_noise_is_kaplan_and_meiers_where_intervals_end_at_the_times() -> None:
    rng = np.random.default_rng(9)
    times = np.minimum(np.ceil(rng.exponential(5, 300)), 12.0)
    events = (rng.random(300) < 0.7).astype(np.float64)
    cuts = tuple(float(time) for time in range(1, 13))
    settings = Survival(horizon=12.0, cuts=cuts)
    rows = TableRows(
        features=np.zeros((300, 1), np.float32), labels=settings.outcomes(times, events)
    )
    part = OutcomePart(name="time", ends=cuts, unit="days")
    layout = TableLayout((CountPart(name=""), part))
    (found,) = figures_of(rows, 0.0, rng, layout).figures().survival
    expected = [product_limit(times, events, time) for time in cuts]
    assert [one.value for one in found.surviving] == pytest.approx(expected, abs=1e-6)


def test_held__is_least_squares_with_the_total_known() -> None:
    rng = np.random.default_rng(5)
    whole, given = rng.normal(size=6), rng.normal(size=6) * 10
    held = HeldSums(
        given=given, noise=2.0, whole=whole, known=RecordTotal(value=9.0, variance=0.25)
    )
    # The same as a regression with one more observation, in units of its deviation.
    design = np.vstack([np.eye(6) / 2.0, whole / 0.5])
    seen = np.append(given / 2.0, 9.0 / 0.5)
    expected = np.linalg.solve(design.T @ design, design.T @ seen)
    assert held.values == pytest.approx(expected)
    function = rng.normal(size=6)
    variance = function @ np.linalg.inv(design.T @ design) @ function
    assert held.deviation(function) == pytest.approx(variance**0.5)


def test_totals__of_all_but_one_are_those_of_the_others() -> None:
    one, two, three = (
        RecordTotal(value=v, variance=s) for v, s in ((9.0, 4.0), (12.0, 1.0), (8.0, 2.0))
    )
    left = agreed([one, two, three]).without(two)
    expected = agreed([one, three])
    assert (left.value, left.variance) == pytest.approx((expected.value, expected.variance))


def test_isotonic__is_what_nothing_rising_is_nearer_to() -> None:
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=30))
    found = isotonic(values)
    assert (np.diff(found) >= 0).all()
    for _ in range(200):
        other = np.sort(found + rng.normal(size=30) * 0.3)
        assert np.square(found - values).sum() <= np.square(other - values).sum() + 1e-9


def test_layout__of_the_tests_has_every_kind_of_part() -> None:
    assert len({type(part) for part in (*LAYOUT.parts, *OVER_TIME.parts)}) == 6
