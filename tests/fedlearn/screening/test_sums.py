"""What a record adds to the sums that tables are compared by, and what sums are possible."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.data.tables.scaling import Ranges, StandardisePerSite, Unscaled
from fedlearn.mechanisms import Besides, EvaluationPlan, Evaluations, RecordPrivacy, derive
from fedlearn.mechanisms.evaluation import noisy, whole_numbers
from fedlearn.privacy import SystemNoise
from fedlearn.screening import form_problem, layout_of, plausible, scaling_problem
from fedlearn.screening.sums import PlacedColumn, noise_in, step_of
from fedlearn.tasks import ImageInput, TableInput, TaskForm
from tests.effort import examples
from tests.fedlearn.screening.tables import FORM, SCALING, drawn, layout, squash

ANY = st.floats(allow_nan=True, allow_infinity=True, width=32)


def screening_plan(epsilon: float = 4.0, share: float = 0.1) -> EvaluationPlan:
    each = len(layout().sizes)
    wanted = Evaluations(
        rounds=1, every=1, share=share, weights=(1 / each,) * each, dimension=layout().size,
        hidden=False,
    )  # fmt: skip
    plan = derive(
        RecordPrivacy(epsilon=epsilon), sample_rate=0.2, steps_per_round=2, rounds=5,
        besides=Besides(screening=wanted),
    )  # fmt: skip
    assert plan is not None
    assert plan.screening is not None
    return plan.screening


@given(st.lists(st.lists(ANY, min_size=5, max_size=5), min_size=1, max_size=8))
@settings(max_examples=examples(200), deadline=None)
def test_record__moves_the_sums_by_no_more_than_is_paid_for_whatever_it_holds(
    rows: list[list[float]],
) -> None:
    made, plan = layout(), screening_plan()
    added = made.added(np.array(rows))
    assert np.isfinite(added).all()
    whole = whole_numbers(added, made.sizes, [1.0] * len(made.sizes), plan)
    norms = np.sqrt(np.square(whole.astype(object)).sum(1).astype(np.float64))
    assert (norms <= plan.l2_sensitivity).all()
    # Not far below either: one step's rounding in each column.
    assert plan.l2_sensitivity == pytest.approx(plan.steps[0] * math.sqrt(6), rel=1e-6)


def test_record__stands_where_the_units_say() -> None:
    age, dose = layout().columns[0], layout().columns[2]
    scaled = np.array([-1.0, 0.0, 1.0])
    assert age.values(scaled).tolist() == [20.0, 60.0, 100.0]
    assert [age.mean(float(place)) for place in age.places(scaled)[:, 0]] == [20.0, 60.0, 100.0]
    doses = np.array([0.01, 1.0, 100.0, 1e6, 1e9, -5.0, 0.0])
    assert dose.values(squash(doses)) == pytest.approx(doses)
    back = [dose.mean(float(place)) for place in dose.places(squash(doses))[:, 0]]
    assert back == pytest.approx([0.01, 1.0, 100.0, 1e6, 1e6, 0.01, 0.01])


def test_share__stands_from_minus_one_to_one_and_nothing_stands_beyond() -> None:
    """One of two values that a range maps to -1 and 1, and a gap's share that comes as it is."""
    columns = {column.name: column for column in layout().columns}
    male, age = columns["male"], columns["age"]
    assert (male.scale, age.scale) == ("share", "range")
    bare = PlacedColumn(name="gap", scale="share")
    assert bare.places(np.array([0.0, 0.25, 1.0]))[:, 0].tolist() == [-1.0, -0.5, 1.0]
    assert bare.values(np.array([0.0, 0.25, 1.0])).tolist() == [0.0, 0.25, 1.0]
    scaled = np.array([-1.0, 0.0, 1.0])
    assert male.places(scaled)[:, 0].tolist() == [-1.0, 0.0, 1.0]
    assert male.values(scaled).tolist() == [0.0, 0.5, 1.0]
    assert [male.mean(place) for place in (-1.0, 0.0, 1.0)] == [0.0, 0.5, 1.0]
    for column in (bare, male, age, columns["dose"]):
        far = column.places(np.array([-1e30, -1.1, 2.0, 1e30, math.inf]))
        assert np.abs(far).max() == 1.0
        assert far[0, 0] == -1.0


def test_layout__takes_categories_together_that_are_very_many() -> None:
    form = TaskForm(input=TableInput(numeric=0, cardinalities=(500,)), classes=("a", "b"))
    made = layout_of(form, Ranges())
    assert made is not None
    assert made.sizes == (1, 32)
    added = made.added(np.array([[0.0], [31.0], [499.0]]))
    assert added[:, 1:].argmax(1).tolist() == [0, 31, 31]


def test_layout__is_none_where_nothing_public_says_where_values_stand() -> None:
    image = TaskForm(input=ImageInput(channels=1, height=8, width=8), classes=("a", "b"))
    assert layout_of(image, SCALING) is None
    assert form_problem(image, SCALING)
    assert form_problem(FORM, SCALING) is None
    assert layout_of(FORM, StandardisePerSite()) is None
    assert layout_of(TaskForm(input=FORM.input), SCALING) is None  # no classes
    for scaling in (StandardisePerSite(), Unscaled(), None):
        assert scaling_problem(scaling)
    assert scaling_problem(SCALING) is None


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_plausible__takes_honest_sums_and_refuses_what_no_records_add_up_to(noise: float) -> None:
    rng = np.random.default_rng(0)
    for count in (0, 1, 500):
        table = drawn(rng, count).table(noise, rng)
        assert plausible(table.layout, table.sums, noise) is None
    for spoil in (lambda s: s * -1, lambda s: np.concatenate([s[:, :1] * 0, s[:, 1:] * 9], 1)):
        assert plausible(table.layout, spoil(table.sums), noise)


@pytest.mark.parametrize("noise", [0.0, 0.5, 3.0])
def test_plausible__bears_with_eight_deviations_of_noise_and_with_no_more(noise: float) -> None:
    """Of a record count below none, and of a column beyond its count by twice that; of a normal
    number one in 10^15 is so far out, of the difference of two fewer."""
    made, slack = layout(), 8 * noise + 1e-3

    def judged(records: float, column: float) -> str | None:
        sums = np.zeros((len(made.classes), made.width))
        sums[-1, 0], sums[-1, -1] = records, column
        return plausible(made, sums, noise)

    assert judged(-0.999 * slack, 0.0) is None
    assert "fewer than no records" in str(judged(-1.001 * slack, 0.0))
    for records in (-0.5 * slack, 0.0, 40.0):
        most = max(records, 0.0) + 2 * slack
        for sign in (1, -1):
            assert judged(records, sign * (most - 0.001 * slack)) is None
            assert "more than there are" in str(judged(records, sign * (most + 0.001 * slack)))


def test_noise__is_said_in_records_as_it_was_paid_for() -> None:
    plan = screening_plan()
    assert noise_in(plan) * step_of(plan) == plan.last_stddev
    assert step_of(plan) == plan.steps[0]
    assert (noise_in(None), step_of(None)) == (0.0, 2**20)
    released = [
        noisy(np.zeros(plan.dimension, np.int64), plan, 1, SystemNoise().stream()) / step_of(plan)
        for _ in range(100)
    ]
    count = 100 * plan.dimension
    # Six deviations of a sample variance.
    assert np.var(released) / noise_in(plan) ** 2 == pytest.approx(1, abs=6 * math.sqrt(2 / count))


def test_layout__places_shares_sizes_and_ranges_by_what_is_public_of_a_column() -> None:
    """A share from 0 to 1, a number of any size, a range, and categories of two at the least."""
    form = TaskForm(
        input=TableInput(
            numeric=4, cardinalities=(1, 3, 33), squashed=(1,), names=tuple("abcdefg")
        ),
        classes=("x", "y"),
    )
    made = layout_of(form, Ranges(columns={"a": (0.0, 1.0), "d": (-5.0, 15.0)}))
    assert made is not None
    assert [(c.name, c.scale, c.width) for c in made.columns] == [
        ("a", "share", 1), ("b", "size", 1), ("c", "share", 1), ("d", "range", 1),
        ("e", "share", 2), ("f", "share", 3), ("g", "share", 32),
    ]  # fmt: skip
    assert (made.width, made.size) == (1 + 4 + 37, 2 * 42)
    assert [part for _, _, part in made.parts][-3:] == [
        slice(5, 7), slice(7, 10), slice(10, 42),
    ]  # fmt: skip
