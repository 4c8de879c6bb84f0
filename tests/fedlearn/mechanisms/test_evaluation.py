"""Private evaluation: what one record moves, what all of it costs, and what is read from it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from fedlearn.agreement import noised_sums_of
from fedlearn.core.errors import ConfigError
from fedlearn.mechanisms import (
    Besides,
    ClientPrivacy,
    DistributedPrivacy,
    EvaluationPlan,
    Evaluations,
    Population,
    Privacy,
    PrivacyPlan,
    RecordPrivacy,
    derive,
    evaluation,
)
from fedlearn.mechanisms.evaluation import _in_digits, noisy, summed, whole_numbers
from fedlearn.metrics.fairness import GroupFairness, SiteFairness
from fedlearn.metrics.intervals import measured
from fedlearn.metrics.sums import added, shares_of
from fedlearn.privacy import SystemNoise
from fedlearn.privacy.calibration import noise_multiplier
from fedlearn.privacy.events import DiscreteSumEvent
from fedlearn.tasks import ClassificationTask, TableInput
from tests.effort import examples, slow_but

TWO = ClassificationTask(input=TableInput(numeric=2), classes=("no", "yes"))
FIVE = ClassificationTask(input=TableInput(numeric=2), classes=tuple("abcde"))
POPULATION = Population(num_clients=5, dimension=40, records_per_step=50.0)


def evaluations_of(
    task: ClassificationTask = TWO, every: int = 1, share: float = 0.1, hidden: bool = False
) -> Evaluations:
    layout = task.noised_layout
    return Evaluations(
        rounds=10,
        every=every,
        share=share,
        weights=shares_of(layout),
        dimension=sum(spec.size for spec in layout),
        hidden=hidden,
    )


def plan_of(privacy: Privacy, evaluations: Evaluations, rate: float = 0.2) -> PrivacyPlan:
    plan = derive(
        privacy,
        sample_rate=rate,
        steps_per_round=1,
        rounds=evaluations.rounds,
        population=POPULATION,
        besides=Besides(evaluation=evaluations),
    )
    assert plan is not None
    assert plan.evaluation is not None
    return plan


def evaluation_of(unit: str, task: ClassificationTask) -> EvaluationPlan:
    privacy = RecordPrivacy(epsilon=4.0) if unit == "record" else ClientPrivacy(epsilon=4.0)
    found = plan_of(privacy, evaluations_of(task)).evaluation
    assert found is not None
    return found


def rows_of(task: ClassificationTask, graded: NDArray[np.float64], plan: EvaluationPlan) -> (
    NDArray[np.int64]
):  # fmt: skip
    layout = task.noised_layout
    targets = np.arange(len(graded)) % len(task.classes)
    added = task.contributions(graded, targets)
    return whole_numbers(added, [s.size for s in layout], [s.bound for s in layout], plan)


# --- what one record moves --------------------------------------------------------------


@given(
    st.sampled_from(["record", "client"]),
    st.sampled_from([TWO, FIVE]),
    st.lists(
        st.lists(st.floats(allow_nan=True, allow_infinity=True, width=64), min_size=5, max_size=5),
        min_size=1,
        max_size=6,
    ),
)
@settings(max_examples=examples(60), deadline=None)
def test_row__moves_the_sum_by_no_more_than_is_accounted(
    unit: str, task: ClassificationTask, answers: list[list[float]]
) -> None:
    plan = evaluation_of(unit, task)
    graded = np.array(answers)[:, : len(task.classes)]
    rows = rows_of(task, graded, plan)
    most = sum(step * step for step in plan.steps)
    assert most <= plan.l2_sensitivity**2 <= most * (1 + 1e-8)
    assert (np.square(rows.astype(object)).sum(1) <= most).all(), "exactly, in whole numbers"
    given_ = summed(rows.sum(0), len(rows), plan)
    if unit == "record":
        without = summed(rows[1:].sum(0), len(rows) - 1, plan)
        assert (given_ - without).tolist() == rows[0].tolist()
    else:
        assert sum(int(n) ** 2 for n in given_) <= most, "all records of a client together"


@given(st.lists(st.lists(st.floats(-1e308, 1e308), min_size=7, max_size=7), min_size=1, max_size=8))
@settings(max_examples=examples(100), deadline=None)
def test_whole_numbers__of_any_contribution_are_within_the_steps_of_its_arrays(
    added: list[list[float]],
) -> None:
    plan = replace(evaluation_of("record", TWO), steps=(181, 128, 3))
    whole = whole_numbers(np.array(added), [3, 1, 3], [1.0, 2.04, 0.7], plan)
    for start, size, step in ((0, 3, 181), (3, 1, 128), (4, 3, 3)):
        part = whole[:, start : start + size].astype(object)
        assert (np.square(part).sum(1) <= step * step).all()


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=6), st.integers(1, 90))
def test_within__is_told_in_whole_numbers(row: list[int], step: int) -> None:
    found = evaluation._within(np.array([row], np.float64), step)
    assert bool(found.all()) == (sum(x * x for x in row) <= step * step)


def test_whole_numbers__that_came_out_too_long_are_taken_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As float64 could have it where a number lies at a whole one: by the next one below."""
    monkeypatch.setattr(evaluation, "_within", lambda whole, step: np.zeros((1, 1), bool))
    for row, lower in (([3.0, -4.0], [2, -3]), ([5.0], [4]), ([0.0, 2.5], [0, 2])):
        assert evaluation._steps_of(np.array([row]), 5.0, 5).tolist() == [lower]


def test_groups__of_a_client_move_together_no_more_than_all_of_its_records() -> None:
    plan = evaluation_of("client", TWO)
    rows = rows_of(TWO, np.random.default_rng(1).dirichlet([1, 1], 40), plan)
    parts = np.arange(40) % 3
    groups = [summed(rows[parts == i].sum(0), 40, plan) for i in range(3)]
    moved = sum(int(n) ** 2 for group in groups for n in group)
    assert moved <= sum(step * step for step in plan.steps)


# --- what it costs ----------------------------------------------------------------------


@pytest.mark.parametrize("every", slow_but((4).__eq__, [1, 4, 10]))
@pytest.mark.parametrize(
    ("privacy", "rate"),
    [
        (RecordPrivacy(epsilon=1.0), 0.2),
        (RecordPrivacy(epsilon=4.0), 1.0),
        (ClientPrivacy(epsilon=8.0), 1.0),
        (DistributedPrivacy(epsilon=4.0, max_dropouts=1), 0.2),
    ],
)
def test_plan__costs_no_more_than_its_epsilon_by_another_accountant(
    privacy: Privacy, rate: float, every: int
) -> None:
    from dp_accounting.pld import privacy_loss_distribution as pld

    plan = plan_of(privacy, evaluations_of(every=every), rate)
    composed = None
    for event in plan.events:
        one = pld.from_gaussian_mechanism(
            event.noise_multiplier,
            sampling_prob=event.sample_rate,
            value_discretization_interval=1e-3,
        ).self_compose(event.steps)
        composed = one if composed is None else composed.compose(one)
    assert composed is not None
    found = composed.get_epsilon_for_delta(plan.delta)
    target = getattr(privacy, "epsilon", math.nan)
    assert found <= target * 1.003, "its grid is coarser than ours"
    assert 0.98 * target <= plan.epsilon <= target


def precision(plan: EvaluationPlan, stddev: int) -> float:
    """Of one evaluation with that noise at each site: its squared signal over its variance."""
    return plan.l2_sensitivity**2 / (plan.shares * stddev**2) if stddev else 0.0


@pytest.mark.parametrize("share", [0.1, 0.8])
@pytest.mark.parametrize("every", [1, 20])
@pytest.mark.parametrize(
    "privacy",
    [
        RecordPrivacy(epsilon=4.0),
        ClientPrivacy(epsilon=1.0),
        DistributedPrivacy(unit="client", epsilon=4.0, max_dropouts=1),
        RecordPrivacy(noise_multiplier=2.0),
        ClientPrivacy(noise_multiplier=30.0),
    ],
    ids=lambda one: f"{one.unit}-{one.epsilon}",
)
def test_evaluations__get_their_share_and_the_last_three_quarters_of_it(
    privacy: Privacy, every: int, share: float
) -> None:
    """Precision adds up, and that of one Gaussian with all of the budget is to be had."""
    evaluations = evaluations_of(every=every, share=share, hidden=True)
    plan = plan_of(privacy, evaluations, rate=1.0)
    found = plan.evaluation
    assert found is not None
    others = len(evaluations.numbers) - 1
    assert (found.stddev > 0) == (others > 0)
    last, rest = precision(found, found.last_stddev), others * precision(found, found.stddev)
    whole = noise_multiplier(plan.epsilon, plan.delta, 1.0, 1)
    assert (last + rest) * whole**2 == pytest.approx(share, rel=0.01)
    assert last / (last + rest) == pytest.approx(0.75 if others else 1.0, rel=0.01)
    target = getattr(privacy, "epsilon", None)
    assert target is None or 0.99 * target <= plan.epsilon <= target


def test_plan__keeps_to_its_epsilon_where_the_first_try_is_over_it() -> None:
    """As with Skellam noise, which costs more than a Gaussian of its variance."""
    asked = DistributedPrivacy(unit="client", epsilon=4.0, mechanism="skellam")
    plan = plan_of(asked, evaluations_of(hidden=True), rate=1.0)
    assert 0.99 * 4.0 <= plan.epsilon <= 4.0


def test_event__of_an_evaluation_is_charged_for_every_record_and_all_of_the_noise() -> None:
    plan = EvaluationPlan(
        unit="record", law="skellam", rounds=10, every=4, steps=(3, 4, 12), stddev=77,
        last_stddev=50, shares=3, dimension=9,
    )  # fmt: skip
    last = DiscreteSumEvent(
        law="skellam", unit="record", l2_sensitivity=13 * (1 + 1e-9), share_stddev=50, shares=3,
        dimension=9, rounding_failure=0.0, sample_rate=1.0, steps=1,
    )  # fmt: skip
    other = replace(last, share_stddev=77)
    assert [plan.event_at(number) for number in (4, 8, 10)] == [other, other, last]
    assert plan.events == (replace(other, steps=2), last)
    assert replace(plan, every=20).events == (last,)


def test_evaluations__are_of_one_round_of_so_many_and_the_last() -> None:
    due = {every: evaluations_of(every=every).numbers for every in (1, 4, 5, 20)}
    assert due == {1: tuple(range(1, 11)), 4: (4, 8, 10), 5: (5, 10), 20: (10,)}


@pytest.mark.parametrize("epsilon", [8.0, 0.5, 0.03])
@pytest.mark.parametrize("every", slow_but((4).__eq__, [1, 4, 20]))
def test_evaluations__are_on_the_finest_grid_whose_noise_a_table_holds(
    epsilon: float, every: int
) -> None:
    """Of 256 steps and their halves, with the noise of every evaluation within 2^15."""
    evaluations = evaluations_of(every=every)
    plan = plan_of(RecordPrivacy(epsilon=epsilon), evaluations).evaluation
    assert plan is not None
    grids = [
        tuple(round(256 / 2**i * math.sqrt(weight)) for weight in evaluations.weights)
        for i in range(7)
    ]
    largest = max(plan.stddev, plan.last_stddev)
    assert plan.steps in grids
    assert largest <= 2**15
    if plan.steps != grids[0]:
        finer = grids[grids.index(plan.steps) - 1]
        assert largest * math.hypot(*finer) / math.hypot(*plan.steps) > 2**15 * 0.999


def test_evaluations__have_the_law_of_the_training_and_are_refused_where_all_is_noise() -> None:
    skellam = DistributedPrivacy(unit="client", noise_multiplier=2.0, mechanism="skellam")
    for privacy, law in ((skellam, "skellam"), (ClientPrivacy(epsilon=4.0), "discrete_gaussian")):
        found = plan_of(privacy, evaluations_of()).evaluation
        assert found is not None
        assert found.law == law
    with pytest.raises(ConfigError, match="leave nothing of a test figure"):
        plan_of(RecordPrivacy(noise_multiplier=2.0), evaluations_of(share=1e-12))


# --- what is added, by hand ---------------------------------------------------------------

BY_HAND = EvaluationPlan(
    unit="record", law="discrete_gaussian", rounds=1, every=1, steps=(10, 100), stddev=0,
    last_stddev=50, shares=1, dimension=3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("row", "steps"),
    [
        ([0.34, 3.0, 4.0], [3, 30, 40]),
        ([0.36, 3.37, -4.02], [4, 33, -40]),
        ([-0.36, 30.0, 40.0], [-4, 60, 80]),
        ([2.0, 0.0, 0.0], [10, 0, 0]),
        ([math.nan, 3.0, 4.0], [0, 30, 40]),
        ([0.5, math.inf, 4.0], [5, 0, 0]),
        ([-1e300, 1e200, 1e200], [-10, 70, 70]),
        ([1e-320, -1e-320, 0.0], [0, 0, 0]),
    ],
)
def test_whole_numbers__are_cut_to_the_norm_and_towards_zero(
    row: list[float], steps: list[int]
) -> None:
    both = np.array([row, [0.1, 1.0, 0.0]])
    found = whole_numbers(both, [1, 2], [1.0, 10.0], BY_HAND)
    assert found.tolist() == [steps, [1, 10, 0]]


@pytest.mark.parametrize(
    ("value", "cut"), [(3.99949, 3.9994), (0.0123456, 0.012345), (12345.67, 12345.0), (8.0, 8.0)]
)
def test_budget_of_training__has_five_digits(value: float, cut: float) -> None:
    assert _in_digits(value) == pytest.approx(cut, rel=1e-12)


def test_summed__is_a_sum_of_records_and_for_a_client_a_mean_towards_zero() -> None:
    total = np.array([7, -7, 0, 2])
    client = replace(BY_HAND, unit="client")
    assert summed(total, 3, BY_HAND).tolist() == total.tolist()
    assert summed(total, 3, client).tolist() == [2, -2, 0, 0]
    assert summed(np.zeros(4, np.int64), 0, client).tolist() == [0] * 4


def test_plan__pays_for_every_evaluation_once_and_most_for_the_last() -> None:
    plan = plan_of(RecordPrivacy(epsilon=4.0), evaluations_of(every=4)).evaluation
    assert plan is not None
    due = [number for number in range(1, 11) if number in (4, 8, 10)]
    each = [plan.event_at(number) for number in due]
    assert sum(event.steps for event in plan.events) == len(each) == 3
    assert each[0] == each[1]
    assert each[2].share_stddev < each[0].share_stddev
    for number in (0, 1, 9, 11):
        with pytest.raises(ValueError, match="not evaluated"):
            plan.event_at(number)


def test_noise__is_all_of_it_at_each_site_unless_masks_and_shares_hide_single_sums() -> None:
    def shares(privacy: Privacy, hidden: bool) -> int:
        plan = plan_of(privacy, evaluations_of(hidden=hidden)).evaluation
        assert plan is not None
        return plan.shares

    shared = DistributedPrivacy(epsilon=4.0, max_dropouts=1, max_colluders=1)
    assert shares(RecordPrivacy(epsilon=4.0), True) == 1
    assert shares(ClientPrivacy(epsilon=4.0), True) == 1
    assert shares(shared, False) == 1
    assert shares(shared, True) == 3, "without one that drops out and one that colludes"


def test_noise_multiplier__stays_and_the_evaluation_adds_its_share() -> None:
    asked = RecordPrivacy(noise_multiplier=1.0)
    plan = plan_of(asked, evaluations_of())
    alone = derive(asked, sample_rate=0.2, steps_per_round=1, rounds=10)
    assert alone is not None
    assert plan.noise_multiplier == 1.0
    assert alone.epsilon < plan.epsilon < 1.2 * alone.epsilon
    with pytest.raises(ConfigError, match="evaluation=private"):
        plan_of(RecordPrivacy(noise_multiplier=0.0), evaluations_of())


# --- what is read from it ---------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(0, 3), st.sampled_from([TWO, FIVE]))
@settings(max_examples=examples(60), deadline=None)
def test_metrics__of_nothing_but_noise_are_in_range_and_never_fail(
    seed: int, records: int, task: ClassificationTask
) -> None:
    rng = np.random.default_rng(seed)
    plan = evaluation_of("record", task)
    fairness = GroupFairness(column="sex", values=("f", "m"), smallest=1)
    wide = replace(plan, dimension=4 * plan.dimension)
    graded = rng.dirichlet([1.0] * len(task.classes), records)
    row = rows_of(task, graded, plan).sum(0)
    noised = noisy(np.concatenate([row] * 4), wide, 10, SystemNoise().stream())
    found = noised_sums_of(noised, task, fairness, wide, 10, 1)
    total, groups = found.total, found.groups
    for sums in (total, *groups.values()):
        found = task.metrics(sums)
        assert all(value >= 0 for value in found.values())
        assert all(value <= 1 for name, value in found.items() if name != "loss")
        for one in measured(found, task.resampled_noised(sums, rng)).values():
            assert one.low is None or 0 <= one.low <= one.high <= 1  # type: ignore[operator]
    task.gap(groups, rng)
    assert all(0 <= value <= 1 for value in task.decisions(groups).values())
    assert task.calibration(total, rng) is None


@pytest.mark.slow
@settings(max_examples=examples(60), deadline=None)
@given(
    task=st.sampled_from([TWO, FIVE]), sites=st.integers(1, 6), spread=st.sampled_from([3, 10**6]),
    seed=st.integers(0, 10**6),
)  # fmt: skip
def test_sums_of_sites__that_were_opened_one_by_one_are_those_of_a_sum_opened_once(
    task: ClassificationTask, sites: int, spread: int, seed: int
) -> None:
    """Whatever is cut off for each: else there would be more records than there are."""
    plan = plan_of(RecordPrivacy(epsilon=1), evaluations_of(task)).evaluation
    assert plan is not None
    told = np.random.default_rng(seed).integers(-spread, spread, (sites, plan.dimension))
    opened = partial(noised_sums_of, task=task, fairness=SiteFairness(), plan=plan, number=10)
    found = task.added([opened(one, sites=1).total for one in told])
    once = opened(told.sum(axis=0), sites=sites).total
    assert found.count == once.count
    assert found.noise == pytest.approx(once.noise)
    for name in once.arrays:
        assert found[name] == pytest.approx(once[name])
    assert all(map(math.isfinite, task.metrics(found).values()))
    if sites > 1:
        with pytest.raises(ValueError, match="added by their task"):
            added([opened(one, sites=1).total for one in told])


@pytest.mark.slow
def test_intervals__hold_the_truth_about_as_often_as_they_say() -> None:
    rng, plan, trials = np.random.default_rng(3), evaluation_of("record", TWO), 120
    layout = TWO.noised_layout

    def drawn(records: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        yes = rng.integers(0, 2, records)
        score = 1 / (1 + np.exp(-(rng.normal(size=records) + 1.6 * (yes - 0.5))))
        return np.stack([1 - score, score], 1), yes

    truth = TWO.score(*drawn(200_000))
    held = dict.fromkeys(("accuracy", "auc", "macro_f1"), 0)
    for _ in range(trials):
        added = TWO.contributions(*drawn(400))
        rows = whole_numbers(added, [s.size for s in layout], [s.bound for s in layout], plan)
        noised = noisy(rows.sum(0), plan, 10, SystemNoise().stream())
        sums = noised_sums_of(noised, TWO, SiteFairness(), plan, 10, 1).total
        found = measured(TWO.metrics(sums), TWO.resampled_noised(sums, rng))
        for name in held:
            low, high = found[name].low, found[name].high
            held[name] += low is None or high is None or low <= truth[name] <= high
    # 95 percent, and 120 draws of that are fewer than 104 once in 1000 times.
    assert min(held.values()) >= 104, held


@pytest.mark.parametrize("number", [1, 9, 10])
def test_noisy__adds_the_noise_of_that_round_to_the_sum(number: int) -> None:
    """Chi-squared of 20,000 draws, 1e-8 at either end."""
    plan = replace(evaluation_of("record", TWO), dimension=20_000)
    total = np.arange(20_000) - 10_000
    drawn = noisy(total, plan, number, SystemNoise().stream()) - total
    event = plan.event_at(number)
    low, high = chi2.ppf([1e-8, 1 - 1e-8], drawn.size)
    assert low < np.sum((drawn / event.noise_stddev) ** 2) < high
    assert (event.noise_stddev < plan.events[0].noise_stddev) == (number == 10)


def test_noisy__refuses_a_sum_of_another_length() -> None:
    plan = evaluation_of("record", TWO)
    with pytest.raises(ValueError, match="expected"):
        noisy(np.zeros(3, np.int64), plan, 10, SystemNoise().stream())
