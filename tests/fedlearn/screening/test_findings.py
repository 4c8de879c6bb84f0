"""What is found in a table, and how often something is found where nothing is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedlearn.screening import TableFinding, findings
from fedlearn.screening.choice import log_chance, most_variance
from fedlearn.screening.contrast import Contrast
from fedlearn.screening.findings import _of_form
from tests.effort import examples, slow_but
from tests.fedlearn.screening.tables import AGE, DOSE, GAP, MALE, WARD, Records, drawn, squash

ALARM = 0.01
NOISE = 6.0


def found_in(
    own: Records, others: Records, noise: float = 0.0, seed: int = 1
) -> list[TableFinding]:
    rng = np.random.default_rng(seed) if noise else None
    return findings(own.table(), others.table(noise, rng), ALARM, own.rows)


def kinds(found: list[TableFinding]) -> set[tuple[str, str]]:
    return {(one.kind, one.where) for one in found}


def people(seed: int = 0, count: int = 400, **of: float) -> tuple[Records, Records]:
    rng = np.random.default_rng(seed)
    return drawn(rng, count, **of), drawn(rng, 1200)


# --- what is found -------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_honest_tables__of_other_people_are_left_alone(noise: float) -> None:
    for of in ({}, {"older": 0.3}, {"older": -0.3}, {"ill": 0.2}, {"ill": 0.75}):
        assert found_in(*people(**of), noise) == [], of


@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_swapped_labels__are_found_and_nothing_else(noise: float) -> None:
    own, others = people()
    assert kinds(found_in(replace(own, labels=1 - own.labels), others, noise)) == {
        ("labels", "label")
    }


@pytest.mark.parametrize("noise", [0.0, NOISE])
@pytest.mark.parametrize(
    ("column", "changed"),
    [
        (AGE, lambda age: np.clip(((age + 1) * 40 + 20) / 12, 20, 100) / 40 - 1.5),
        (DOSE, lambda dose: squash(np.expm1(dose * np.log(1001)) * 1000)),
    ],
)
def test_other_unit__is_found_in_its_column(column: int, changed: object, noise: float) -> None:
    own, others = people()
    features = own.features.copy()
    features[:, column] = changed(features[:, column])  # type: ignore[operator]
    found = found_in(replace(own, features=features), others, noise)
    assert ("unit", own.table().layout.columns[column].name) in kinds(found)
    assert {one.kind for one in found if one.grave} == {"unit"}
    text = next(one.text for one in found if one.kind == "unit")
    if column == DOSE:
        assert "1000 (as g and mg)" in text
        assert "far above" in text


def test_value_that_stands_for_a_gap__is_named() -> None:
    own, others = people()
    features = own.features.copy()
    features[:300, AGE] = -1
    found = found_in(replace(own, features=features), others)
    assert "300 of 400 are 20" in next(one.text for one in found if one.column == "age")


def test_shares__that_are_far_off_are_told_and_not_grave() -> None:
    own, others = people()
    features = own.features.copy()
    features[:, GAP], features[:, WARD] = 1.0, 2.0
    found = found_in(replace(own, features=features), others)
    assert {("share", "gap"), ("share", "ward")} <= kinds(found)
    assert not any(one.grave for one in found)
    rare = drawn(np.random.default_rng(3), 400, ill=0.02)
    assert ("share", "label") in kinds(found_in(rare, others))


def test_labels_of_several_classes__that_were_moved_on_by_one_are_found() -> None:
    own, others = people()
    three = replace(own.table().layout, classes=("a", "b", "c"))

    def table(rng: np.random.Generator, moved: int) -> tuple[object, object]:
        labels = rng.integers(0, 3, 600)
        features = drawn(rng, 600).features
        features[:, AGE] = np.clip(rng.normal(np.array([-0.6, 0.0, 0.6])[labels], 0.3), -1, 1)
        labels = (labels + moved) % 3
        added = three.added(features)
        sums = np.stack([added[labels == at].sum(0) for at in range(3)])
        return replace(own.table(), layout=three, sums=sums), (features, labels)

    rng = np.random.default_rng(0)
    there, _ = table(rng, 0)
    for moved, wanted in ((0, False), (1, True), (2, True)):
        here, rows = table(rng, moved)
        found = findings(here, there, ALARM, rows)  # type: ignore[arg-type]
        assert any(one.kind == "labels" for one in found) == wanted, moved
    assert others.labels.size


def test_nobodys_records__are_compared_with_nothing() -> None:
    own, others = people()
    nobody = Records(own.features[:0], own.labels[:0])
    assert found_in(nobody, others) == found_in(own, nobody) == []
    few = Records(own.features[:3], 1 - own.labels[:3])
    assert not any(one.kind == "labels" for one in found_in(few, others)), "too few to say"


# --- how often -----------------------------------------------------------------------------


def test_noise__makes_something_of_nothing_as_rarely_as_was_said() -> None:
    """The hardest honest cases: means just so far apart as is allowed, labels that tell nothing.

    One in a hundred runs is allowed a finding; a binomial bound says that more are not seen here.
    """
    rng, runs = np.random.default_rng(0), examples(4000)
    own = drawn(rng, 200)
    features = own.features.copy()
    features[:, AGE] = 0.25  # a quarter of the range, on this scale a half, from the others'
    own = Records(features, rng.integers(0, 2, 200))
    there = drawn(rng, 300)
    other = there.features.copy()
    other[:, AGE], other[:, DOSE] = -0.25, features[0, DOSE]
    features[:, DOSE] = features[0, DOSE]
    there = Records(other, rng.integers(0, 2, 300))
    mine, exact = own.table(), there.table()
    alarms = told = 0
    for _ in range(runs):
        noisy = replace(exact, sums=exact.sums + rng.normal(0, 20, exact.sums.shape), noise=20.0)
        alarms += bool(findings(mine, noisy, ALARM, own.rows))
        given = replace(mine, sums=mine.sums + rng.normal(0, 20, mine.sums.shape), noise=20.0)
        told += bool(findings(given, noisy, ALARM))
    most = stats.binom.isf(1e-6, runs, ALARM)
    assert alarms <= most
    assert told <= most


def test_choice_of_records__swaps_no_labels_as_rarely_as_was_said() -> None:
    """Labels that have nothing to do with anything go against the others' half of the time."""
    rng, runs = np.random.default_rng(0), examples(2000)
    there = drawn(rng, 2000).table()
    alarms = 0
    for _ in range(runs):
        own = drawn(rng, 40)
        own = Records(own.features, rng.permutation(own.labels))
        found = findings(own.table(), there, ALARM * 10, own.rows)
        alarms += any(one.kind == "labels" for one in found)
    assert alarms <= stats.binom.isf(1e-6, runs, ALARM * 10)


def few_ill(rng: np.random.Generator, count: int, ill: int, male: float) -> Records:
    """So many ill people, among whom men are three times as frequent; else they are all alike."""
    labels = (np.arange(count) < ill).astype(np.int64)
    features = drawn(rng, count).features
    features[:, MALE] = np.where(rng.random(count) < male * (1 + 2 * labels), 1.0, 0.0)
    features[:, [AGE, DOSE, GAP, WARD]] = 0.0
    return Records(features, labels)


@pytest.mark.parametrize(("count", "ill", "male"), [(1000, 5, 0.1), (5000, 10, 0.05)])
def test_few_of_a_class__among_whom_something_rare_is_not_have_no_swapped_labels(
    count: int, ill: int, male: float
) -> None:
    """It goes with the class as it does elsewhere; of a few there is nobody a sixth of the time."""
    rng, runs = np.random.default_rng(0), examples(600)
    there = few_ill(rng, 4000, 2000, male).table()
    alarms = 0
    for _ in range(runs):
        own = few_ill(rng, count, ill, male)
        found = findings(own.table(), there, ALARM, own.rows)
        alarms += any(one.kind == "labels" for one in found)
    assert alarms <= stats.binom.isf(1e-6, runs, ALARM)


def test_what_was_given__makes_nothing_of_chance_whatever_the_records_are() -> None:
    """The hardest honest tables for somebody who has the sums alone, without and with noise: coins
    whose mean is just as far away as is allowed, many and few; labels that go with nothing; a few
    of a class among whom something rare is not."""
    rng, runs = np.random.default_rng(0), examples(1500)
    there = drawn(rng, 4000)
    middle = float(there.features[:, AGE].mean())
    tells, rare = there.table(), few_ill(rng, 4000, 2000, 0.05).table()
    seen = {"coin": 0, "labels": 0, "rare": 0}
    for at in range(runs):
        count, noise = (3, 12, 60, 400)[at % 4], (0.0, 6.0)[at % 2]
        own = drawn(rng, count)
        own.features[:, AGE] = np.where(rng.random(count) < (1 + middle + 0.5) / 2, 1.0, -1.0)
        own.features[:, DOSE] = there.features[0, DOSE]
        found = findings(own.table(noise, rng if noise else None), tells, ALARM)
        seen["coin"] += any(one.kind == "unit" for one in found)
        none = drawn(rng, 20 * count)
        none = Records(none.features, rng.permutation(none.labels))
        found = findings(none.table(noise, rng if noise else None), tells, ALARM)
        seen["labels"] += any(one.kind == "labels" for one in found)
        few = few_ill(rng, 1000, 5, 0.1)
        seen["rare"] += any(one.kind == "labels" for one in findings(few.table(), rare, ALARM))
    most = stats.binom.isf(1e-6, runs, ALARM)
    assert all(count <= most for count in seen.values()), seen


def test_what_was_given__shows_mistakes_of_enough_records() -> None:
    own, others = people(count=900)
    swapped = replace(own, labels=1 - own.labels)
    months = own.features.copy()
    months[:, AGE] = np.clip(((months[:, AGE] + 1) * 40 + 20) / 12, 20, 100) / 40 - 1.5
    for noise in (0.0, NOISE):
        rng = np.random.default_rng(2) if noise else None
        there = others.table(noise, rng)
        assert findings(own.table(noise, rng), there, ALARM) == []
        found = findings(swapped.table(noise, rng), there, ALARM)
        assert kinds(found) == {("labels", "label")}
        found = findings(replace(own, features=months).table(noise, rng), there, ALARM)
        assert ("unit", "age") in kinds(found)


@pytest.mark.parametrize("mean", [-0.9, -0.2, 0.0, 0.6])
@pytest.mark.parametrize("records", [1, 5, 40, 300])
def test_log_chance__is_no_less_than_that_of_coins(records: int, mean: float) -> None:
    """An exact binomial tail is the oracle; with noise, its mixture with a normal one."""
    heads = np.arange(records + 1)
    weights = stats.binom.pmf(heads, records, (1 + mean) / 2)
    for deviation in (0.5, 1.0, 2.0, 4.0):
        for noise in (0.0, 1.0, 7.0):
            excess = deviation * np.sqrt(records * (1 - mean**2) + noise**2)
            sums = 2 * heads - records - records * mean
            if noise:
                exact = float(weights @ stats.norm.sf((excess - sums) / noise))
            else:
                exact = float(weights[sums >= excess - 1e-9].sum())
            bound = float(np.exp(log_chance(excess, mean, records, noise)))
            assert exact <= bound * (1 + 1e-9)
            if records > 5 and abs(mean) < 0.9:  # by no more than a Chernoff bound loses
                assert bound <= 1.3 * np.exp(-(deviation**2) / 2) + 0.1


@settings(max_examples=examples(60, few=15), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 30))
def test_most_variance__is_no_less_than_that_of_columns_that_go_together_two_by_two(
    seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    own = drawn(rng, count)
    own.features[:, AGE] = rng.choice([-1.0, 1.0, rng.uniform(-1, 1)], count)
    own.features[:, MALE] = own.features[:, AGE] if seed % 2 else -own.features[:, AGE]
    layout = own.table().layout
    added = layout.added(own.features)[:, 1:]
    parts = {column.name: slice(p.start - 1, p.stop - 1) for _, column, p in layout.parts}
    for names in (("age", "male"), ("dose", "ward"), ("age",), ("gap", "male"), ("ward",)):
        along = np.zeros(added.shape[1])
        for name in names:
            along[parts[name]] = rng.normal(0, 1, along[parts[name]].shape)
        most = most_variance(layout, added.sum(0), count, along)
        true = float(np.var(added @ along))
        assert true <= most * (1 + 1e-9) + 1e-9, names
        if names == ("ward",):  # of categories it is known
            assert 2 * true == pytest.approx(most, abs=1e-9)


# --- variances, by drawing -------------------------------------------------------------------


@pytest.mark.parametrize(("here", "there"), [(0.0, 5.0), (5.0, 0.0), (5.0, 5.0)])
def test_variance__of_a_bilinear_form_is_that_of_what_is_drawn(here: float, there: float) -> None:
    rng = np.random.default_rng(0)
    form, o, q = rng.normal(size=(2, 2)), np.array([200.0, 30.0]), np.array([400.0, -70.0])
    values = [
        (o + rng.normal(0, here, 2)) @ form @ (q + rng.normal(0, there, 2)) for _ in range(40_000)
    ]
    said = _of_form(form, o, q, here**2, there**2)
    assert np.var(values) == pytest.approx(said, rel=0.04)


@pytest.mark.parametrize(
    ("here", "there"),
    slow_but((4.0, 4.0).__eq__, [(0.0, 4.0), (4.0, 0.0), (4.0, 4.0)], several=True),
)
def test_variance__of_labels_is_that_of_what_is_drawn(here: float, there: float) -> None:
    rng = np.random.default_rng(0)
    own, others = (one.table() for one in people())

    def contrast(table: object, noise: float, drawn: bool) -> Contrast:
        sums = table.sums + (rng.normal(0, noise, table.sums.shape) if drawn else 0)  # type: ignore[attr-defined]
        return Contrast.of(replace(table, sums=sums, noise=noise), 1)  # type: ignore[type-var]

    values = [contrast(own, here, True).along(contrast(others, there, True)) for _ in range(20_000)]
    said = contrast(own, here, False).variance(contrast(others, there, False))
    assert np.var(values) <= said * 1.04
    assert np.var(values) >= said * 0.9, "and not far below it"
