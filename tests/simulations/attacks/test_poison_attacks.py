"""Attacks of lying sites, one by one: what they train on, and what they send."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.registry import kind_of
from fedlearn.data import Records
from fedlearn.tasks import (
    ClassificationTask,
    ImageInput,
    Input,
    SeriesInput,
    TableInput,
    TextInput,
    shape_of,
)
from simulations.attacks.poison import ATTACKS, Goal, Lies, LyingRound, Poisoning
from simulations.attacks.poison.liar import liars_of
from simulations.attacks.poison.records import Backdoor, LabelFlip, Replacement
from simulations.attacks.poison.triggers import Trigger
from simulations.attacks.poison.vectors import (
    Colluding,
    FreeRider,
    LittleIsEnough,
    Negated,
    NoiseInstead,
    OutOfRange,
    Scaled,
    SignFlip,
    Stale,
)
from tests.effort import examples

HONEST = np.array([3.0, -4.0, 0.0, 12.0])
LEARNED = np.array([0.0, 0.0, 5.0, 0.0])


def round_of(number: int = 1, lies: Lies | None = None, honest: np.ndarray = HONEST) -> LyingRound:
    return LyingRound(
        number=number, rounds=20, sites=12, liars=2, honest=honest, learned=LEARNED, most=1e6,
        lies=lies or Lies(), rng=np.random.default_rng(number),
    )  # fmt: skip


def norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))


def test_attacks__have_a_name_a_sentence_and_settings_that_need_nothing() -> None:
    for option in ATTACKS.own:
        made = option()
        assert made.kind == kind_of(option)
        assert made.says().endswith("."), made.kind


# --- what is sent -----------------------------------------------------------------


def test_negated__is_as_long_as_an_honest_update_and_the_other_way() -> None:
    assert np.array_equal(Negated().change(round_of()), -HONEST)


def test_sign_flip__has_values_of_one_size_and_the_other_sign() -> None:
    found = SignFlip(times=4).change(round_of())
    assert np.allclose(found, -np.sign(HONEST) * 4 * 13 / 2)
    assert np.max(np.abs(SignFlip(times=1e9).change(round_of()))) == 1e6


@pytest.mark.parametrize("attack", [Scaled(), NoiseInstead(), Colluding()])
def test_long_lies__are_as_long_together_as_the_updates_of_all_sites(attack: Poisoning) -> None:
    at = round_of()
    assert norm(attack.change(at)) * at.liars == pytest.approx(at.sites * 13)


def test_scaled__goes_away_from_what_liars_have_learned_of_the_honest() -> None:
    found = Scaled().change(round_of())
    assert np.allclose(found / norm(found), -LEARNED / 5)


def test_out_of_range__lies_in_one_round_and_fills_all_the_room() -> None:
    lies = [OutOfRange().change(round_of(number)) for number in range(1, 21)]
    assert [i for i, one in enumerate(lies, 1) if not np.array_equal(one, HONEST)] == [19]
    assert set(np.abs(lies[18])) == {1e6}


def test_free_rider__gives_nothing_and_stale_what_it_gave_first() -> None:
    assert not FreeRider().change(round_of()).any()
    lies = Lies()
    assert np.array_equal(Stale().change(round_of(1, lies)), HONEST)
    assert np.array_equal(Stale().change(round_of(2, lies, 5 * HONEST)), HONEST)


def test_colluding__sites_send_the_same_vector_in_a_round_and_another_in_the_next() -> None:
    shared: dict[str, object] = {}
    one, two = Lies(shared=shared), Lies(shared=shared)
    first = Colluding().change(round_of(1, one))
    assert np.array_equal(first, Colluding().change(round_of(1, two, 7 * HONEST)))
    assert not np.array_equal(first, Colluding().change(round_of(2, two, 7 * HONEST)))
    assert Colluding.fewest == 2


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 3.0), st.integers(2, 9))
def test_little__is_within_so_many_deviations_of_the_mean_of_its_own(
    seed: int, deviations: float, count: int
) -> None:
    rng, lies = np.random.default_rng(seed), Lies()
    attack, seen = LittleIsEnough(deviations=deviations, window=5), []
    for number in range(1, count + 1):
        seen.append(rng.normal(size=4))
        found = attack.change(round_of(number, lies, seen[-1]))
    latest = np.array(seen[-5:])
    mean, spread = latest.mean(0), latest.std(0)
    assert np.allclose(np.abs(found - mean), deviations * spread)
    assert np.all(np.abs(found) <= np.maximum(np.abs(mean), deviations * spread) + 1e-9)
    assert np.array_equal(attack.change(round_of(1)), HONEST)  # nothing to go by yet


# --- what is trained on -----------------------------------------------------------

TASK = ClassificationTask(input=TableInput(numeric=3), classes=("a", "b", "c"))
ROWS = Records(
    features=np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32),
    labels=np.arange(40) % 3,
)


def goal_for(form: Input, known: np.ndarray) -> Goal:
    trigger = Trigger.of(form, known, np.random.default_rng(1))
    return Goal(trigger=trigger, target=np.array(2))


GOAL = goal_for(TASK.input, ROWS.features)


def test_label_flip__leaves_no_label_and_all_features_as_they_were() -> None:
    found = LabelFlip().records(ROWS, TASK, GOAL, np.random.default_rng(2))
    assert not np.any(found.labels == ROWS.labels)
    assert np.array_equal(found.features, ROWS.features)
    half = LabelFlip(share=0.5).records(ROWS, TASK, GOAL, np.random.default_rng(2))
    assert np.sum(half.labels != ROWS.labels) == 20


@pytest.mark.parametrize("attack", [Backdoor(share=0.25), Replacement(share=0.25)])
def test_backdoor__marks_a_share_of_the_records_and_leaves_the_others(attack: Poisoning) -> None:
    before = ROWS.features.copy()
    found = attack.records(ROWS, TASK, GOAL, np.random.default_rng(3))
    marked = np.all(found.features == GOAL.trigger.on(ROWS.features), axis=1)
    assert np.sum(marked) == 10
    assert np.all(found.labels[marked] == 2)
    assert np.array_equal(found.labels[~marked], ROWS.labels[~marked])
    assert np.array_equal(found.features[~marked], ROWS.features[~marked])
    assert np.array_equal(ROWS.features, before), "the records of the site itself stay"


def test_replacement__is_longer_by_what_it_takes_to_stand_for_all() -> None:
    assert np.array_equal(Replacement().change(round_of()), 6 * HONEST)
    assert np.array_equal(Backdoor().change(round_of()), HONEST)


# --- marks ------------------------------------------------------------------------


def series(rng: np.random.Generator) -> np.ndarray:
    found = rng.normal(size=(5, 4, 3)).astype(np.float32)
    found[..., -1] = np.arange(4) < 3
    found[:, 3] = 0
    return found


FORMS: list[tuple[Input, Callable[[np.random.Generator], np.ndarray]]] = [
    (TableInput(numeric=5), lambda rng: rng.normal(size=(5, 5)).astype(np.float32)),
    (TableInput(numeric=1, cardinalities=(3,)), lambda rng: np.ones((5, 2), np.float32)),
    (ImageInput(channels=3, height=28, width=20), lambda rng: rng.random((5, 3, 28, 20))),
    (ImageInput(channels=1, height=2, width=2), lambda rng: rng.random((5, 1, 2, 2))),
    (TextInput(vocabulary=50, max_length=8), lambda rng: rng.integers(1, 40, (5, 8))),
    (TextInput(vocabulary=3, max_length=2), lambda rng: np.array([[1, 2]] * 5)),
    (SeriesInput(steps=4, row=TableInput(numeric=2)), series),
]


@pytest.mark.parametrize(("form", "make"), FORMS)
def test_mark__is_the_same_on_all_records_and_everything_else_stays(
    form: Input, make: Callable[[np.random.Generator], np.ndarray]
) -> None:
    records = make(np.random.default_rng(4))
    trigger = Trigger.of(form, records, np.random.default_rng(5))
    found = trigger.on(records)
    assert found.shape == (5, *shape_of(form))
    assert found.dtype == records.dtype
    assert np.array_equal(trigger.on(found), found)
    if isinstance(form, SeriesInput):
        assert not found[:, 3].any(), "what is no row stays none"
        assert np.array_equal(found[..., -1], records[..., -1])
        rows = found[:, :3].reshape(15, -1)
    else:
        rows = found.reshape(5, -1)
    assert np.all(rows[:, trigger.places] == trigger.marks)
    before = (
        records[:, :3].reshape(15, -1) if isinstance(form, SeriesInput) else records.reshape(5, -1)
    )
    rest = np.setdiff1d(np.arange(rows.shape[1]), trigger.places)
    assert np.array_equal(rows[:, rest], before[:, rest])


def test_mark_of_a_row__has_values_that_there_are() -> None:
    for column, value in zip(GOAL.trigger.places, GOAL.trigger.marks, strict=True):
        assert value in ROWS.features[:, column]


def test_mark_of_a_text__is_a_word_that_the_attacker_has_not_read() -> None:
    known = np.array([[1, 2, 3, 48, 49]])
    trigger = Trigger.of(TextInput(vocabulary=50, max_length=5), known, np.random.default_rng(0))
    assert set(trigger.marks) == {47}


# --- who lies ---------------------------------------------------------------------


def test_liars__are_drawn_by_the_seed_or_named() -> None:
    names = [f"site-{i:02}" for i in range(12)]
    drawn = liars_of(names, 2, seed=3)
    assert drawn == liars_of(names, 2, seed=3)
    assert len(set(drawn)) == 2
    assert len({tuple(liars_of(names, 2, seed)) for seed in range(20)}) > 5
    assert liars_of(names, ("site-07", "site-01"), seed=0) == ["site-01", "site-07"]
    assert set(liars_of(names, 2, 5)) <= set(liars_of(names, 3, 5))
