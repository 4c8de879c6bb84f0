"""Settings by rule: from public numbers alone, the user's first, and never worse than none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.config import RunConfig, compose
from fedlearn.config.defaults import LONGEST, NOISE, Derived, derived, step_length
from fedlearn.models.tabular import OneHot, Tabular
from fedlearn.privacy.calibration import fitting_delta
from fedlearn.tasks import (
    ClassificationTask,
    Regression,
    SeriesInput,
    TableInput,
    TaskForm,
    TextInput,
)
from tests.effort import examples

TABLE = TableInput(numeric=7, cardinalities=(3, 5, 2), squashed=(0, 1, 2, 3, 4))
TASK = ClassificationTask(input=TABLE, classes=("a", "b"))
CSV = ("scenario=csv", "scenario.path=x.csv", "scenario.label=y")


def rules(*words: str, sites: int = 4, task: ClassificationTask = TASK) -> dict[str, Derived]:
    given_keys = {word.partition("=")[0] for word in words}
    found = derived(compose([*CSV, *words]), task, sites, given_keys)
    return {one.key: one for one in found}


def resolved(*words: str, sites: int = 4) -> RunConfig:
    return compose([*CSV, *words, *(one.word for one in rules(*words, sites=sites).values())])


def test_square_norm__is_the_mean_square_of_what_a_record_gives_to_the_head() -> None:
    """Over records of numbers of any size, against the features themselves."""
    rng = np.random.default_rng(0)
    rows = np.zeros((4000, TABLE.width))
    sizes = rng.choice([-1, 1], (4000, 5)) * 10 ** rng.uniform(-1, 6, (4000, 5))
    rows[:, :5] = np.sign(sizes) * np.log1p(np.abs(sizes)) / math.log(1001)
    rows[:, 5:7] = rng.choice([-1.0, 1.0], (4000, 2))  # at the ends of their range
    rows[:, 7:] = [[rng.integers(n) for n in TABLE.cardinalities] for _ in rows]
    features = OneHot(TABLE)(torch.from_numpy(rows.astype(np.float32)))
    mean = float(features.square().sum(1).mean()) + 1
    model = compose(CSV).model
    assert isinstance(model, Tabular)
    assert model.square_norm(TASK, "full") == pytest.approx(mean, rel=0.03)


def test_derived__of_a_private_table_takes_many_short_steps() -> None:
    found = rules("training.nominal_records=1000")
    assert [*found] == [
        "training.local_steps", "training.sample_rate", "training.learning_rate"
    ]  # fmt: skip
    assert (found["training.local_steps"].value, found["training.sample_rate"].value) == (10, 0.2)
    assert all(one.reason for one in found.values())


@given(
    st.integers(20, 10**6), st.integers(2, 40), st.sampled_from([0.3, 1, 4, 10]),
    st.integers(1, 40), st.sampled_from([1, 10]), st.sampled_from([0.1, 0.2, 1.0]),
)  # fmt: skip
@settings(max_examples=examples(15), deadline=None)
def test_rate__keeps_steps_and_noise_in_their_bounds_whatever_the_sizes(
    nominal: int, sites: int, epsilon: float, rounds: int, steps: int, share: float
) -> None:
    """Of the noise that is in a logit at the end, by the law of the mechanism itself."""
    config = resolved(
        f"training.nominal_records={nominal}", f"privacy.epsilon={epsilon}", f"rounds={rounds}",
        f"training.local_steps={steps}", f"training.sample_rate={share}", sites=sites,
    )  # fmt: skip
    square = config.model.square_norm(TASK, "full")
    assert square is not None
    training, clip = config.training, getattr(config.privacy, "clip_norm", 0.0)
    noise = config.privacy.plan(
        sample_rate=share, steps_per_round=steps, rounds=rounds, population=None
    )
    assert noise is not None
    # One step's noise on one weight at a site; all steps; the mean of the sites; a whole record.
    of_step = training.learning_rate * noise.noise_multiplier * clip / (share * nominal)
    at_end = of_step * math.sqrt(steps * rounds / sites) * math.sqrt(square)
    longest = training.learning_rate * clip * math.sqrt(square)
    assert at_end <= NOISE * 1.06  # two digits
    assert longest <= LONGEST * 1.06
    assert max(at_end / NOISE, longest / LONGEST) >= 0.94, "shorter than it has to be"


def test_rate__grows_with_epsilon_records_and_sites_and_never_falls() -> None:
    def length(epsilon: float, nominal: int, sites: int) -> float:
        words = (f"privacy.epsilon={epsilon}", f"training.nominal_records={nominal}")
        return step_length(resolved(*words, sites=sites), TASK, sites)

    assert length(0.5, 100, 4) < length(1, 100, 4) < length(4, 100, 4)
    assert length(1, 100, 4) < length(1, 300, 4) < length(1, 10_000, 4) == LONGEST
    assert length(1, 100, 4) < length(1, 100, 16)


def test_derived__of_noise_in_shares_is_a_step_that_is_stable_in_one_round_of_sums() -> None:
    (found,) = rules("privacy=distributed").values()
    config = compose([*CSV, "privacy=distributed"])
    assert found.key == "training.learning_rate"
    square = config.model.square_norm(TASK, "full")
    assert square is not None
    length = found.value * config.privacy.clip_norm * math.sqrt(square)  # type: ignore[attr-defined]
    assert length == pytest.approx(LONGEST, rel=0.05)


def test_derived__of_a_number_to_learn_steps_as_much_shorter_as_outputs_lie_together() -> None:
    number = Regression(low=0, high=1).of(TaskForm(input=TABLE))
    for words in (("privacy=distributed",), ("privacy=record", "training.nominal_records=9000")):
        config = compose([*CSV, *words])
        lengths = [step_length(config, task, 4) for task in (number, TASK)]
        assert lengths[0] == pytest.approx(number.scale * lengths[1])


def test_derived__leaves_what_a_user_has_set_and_follows_it() -> None:
    base = ("training.nominal_records=1000",)
    assert "training.learning_rate" not in rules(*base, "training.learning_rate=0.1")
    one = rules(*base, "training.local_steps=1", "training.sample_rate=1")
    assert "training.local_steps" not in one
    narrow = rules(*base, "privacy.clip_norm=1")["training.learning_rate"].value
    wide = rules(*base, "privacy.clip_norm=4")["training.learning_rate"].value
    assert narrow == pytest.approx(4 * wide, rel=0.03)


def test_derived__without_privacy_takes_an_optimizer_that_needs_no_scale() -> None:
    words = ("privacy=none", "training.nominal_records=1000")
    found = {key: one.value for key, one in rules(*words).items()}
    assert found["training.optimizer"] == "adam"
    assert found["training.learning_rate"] == 0.04  # 4,000 records, 427 features
    few = rules("privacy=none", "training.nominal_records=100")
    assert few["training.learning_rate"].value == 0.0056
    wide = replace(TASK, input=TableInput(numeric=40, squashed=tuple(range(40))))
    slow = rules("privacy=none", "training.nominal_records=500", task=wide)
    assert slow["training.learning_rate"].value == 0.005
    assert "privacy.delta" not in found


@pytest.mark.parametrize(
    "words", [("model.architecture=mlp",), ("strategy=fedadam",), ("privacy=client",)]
)
def test_derived__says_nothing_of_what_it_knows_no_law_of(words: tuple[str, ...]) -> None:
    assert rules(*words, "training.nominal_records=100") == {}


def test_delta__is_a_tenth_over_all_records_where_that_is_less() -> None:
    large = rules("training.nominal_records=15000", sites=10)
    assert large["privacy.delta"].value == 1e-7
    assert "privacy.delta" not in rules("training.nominal_records=1000")
    assert "privacy.delta" not in rules("training.nominal_records=15000", "privacy.delta=1e-4")


@given(st.integers(1, 10**12))
@settings(max_examples=examples(60), deadline=None)
def test_fitting_delta__is_the_largest_power_of_ten_that_fits(units: int) -> None:
    delta = fitting_delta(units)
    assert delta * units <= 0.1 * (1 + 1e-9) < 10 * delta * units * (1 + 1e-8)


def test_square_norm__of_a_text_is_that_of_its_head_alone() -> None:
    text = ClassificationTask(input=TextInput(vocabulary=9, max_length=4), classes=("a", "b"))
    model = compose(["model=text"]).model
    assert model.square_norm(text, "full") is None
    assert model.square_norm(text, "head") == 2
    series = ClassificationTask(input=SeriesInput(steps=3, row=TABLE), classes=("a", "b"))
    assert compose(["model=sequence"]).model.square_norm(series, "full") is None
