"""Settings by rule: from public numbers alone, the user's first, and never worse than none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.config import RunConfig, compose
from fedlearn.config.defaults import (
    ADAM,
    LONGEST,
    MOST_DECAY,
    NOISE,
    STEP_OF_ADAM,
    Derived,
    derived,
    rate_of_adam,
    step_length,
)
from fedlearn.models.tabular import OneHot, Tabular
from fedlearn.privacy.calibration import fitting_delta
from fedlearn.tasks import (
    ClassificationTask,
    ImageInput,
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
    absolute = float(features.abs().sum(1).mean()) + 1
    assert model.absolute_sum(TASK) == pytest.approx(absolute, rel=0.03)


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
    assert found["training.learning_rate"] == 0.0094  # 4,000 records, 427 features
    assert found["training.weight_decay"] == 0.0025  # as of ten records
    few = rules("privacy=none", "training.nominal_records=100")
    assert few["training.learning_rate"].value == 0.005
    assert few["training.weight_decay"].value == MOST_DECAY
    assert "privacy.delta" not in found


@given(st.integers(1, 10**9), st.integers(1, 10**5), st.floats(0.01, 1.0))
@settings(max_examples=examples(60), deadline=None)
def test_rate_of_adam__moves_no_logit_by_more_than_it_may(
    records: int, width: int, mean: float
) -> None:
    """By its law: every weight moves by the rate, so a logit by the sum of what it reads."""
    rate = rate_of_adam(records, width, mean * width)
    assert 0 < rate <= ADAM[1]
    assert rate * mean * width <= STEP_OF_ADAM * (1 + 1e-9)
    assert rate_of_adam(2 * records, width, mean * width) >= rate


def test_derived__of_what_is_pretrained_learns_the_head_alone() -> None:
    text = ClassificationTask(input=TextInput(vocabulary=9, max_length=4), classes=("a", "b"))
    found = rules("model=text", task=text)
    assert found["training.finetune"].value == "head"
    assert found["training.learning_rate"].reason  # of the head: of the whole model it has no law
    assert rules("model=text", "training.finetune=full", task=text) == {}
    assert rules("model=text", "model.pretrained=''", task=text) == {}


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


@pytest.mark.parametrize(
    "words", [("model.sketch=16",), ("model.words=false", "model.sketch=512"), ("model.depth=1",)]
)
def test_square_norm__of_a_text_is_a_tenth_of_what_its_head_reads(words: tuple[str, ...]) -> None:
    text = ClassificationTask(input=TextInput(vocabulary=50, max_length=9), classes=("a", "b"))
    small = ("model=text", "model.pretrained=''", "model.width=24", *words)
    model = compose(small).model
    tokens = torch.from_numpy(np.random.default_rng(0).integers(1, 50, (64, 9)))
    with torch.no_grad():
        features = model.network(text)[:-1](tokens)
    square = float(features.square().sum(1).mean()) + 1
    assert model.square_norm(text, "head") == pytest.approx(square / 10, rel=1e-4)
    absolute = float(features.abs().sum(1).mean())
    assert absolute <= model.absolute_sum(text) * 1.2


def test_square_norm__of_a_part_that_is_trained_is_unknown() -> None:
    text = ClassificationTask(input=TextInput(vocabulary=9, max_length=4), classes=("a", "b"))
    assert compose(["model=text"]).model.square_norm(text, "full") is None
    series = ClassificationTask(input=SeriesInput(steps=3, row=TABLE), classes=("a", "b"))
    assert compose(["model=sequence"]).model.square_norm(series, "full") is None


def test_square_norm__of_an_image_is_what_the_head_of_squeezenet_reads() -> None:
    image = ClassificationTask(
        input=ImageInput(channels=1, height=29, width=29), classes=("a", "b")
    )
    model = compose(["model=squeezenet", "model.pretrained=false", "model.resolution=48"]).model
    with torch.no_grad():
        features = model.network(image)[:-1](torch.rand(3, 1, 29, 29))
    square = float(features.square().sum(1).mean()) + 1
    assert model.square_norm(image, "head") == pytest.approx(square, rel=0.03)
    assert model.square_norm(image, "full") is None
    assert model.last_width(image) == features.shape[1]
    assert float(features.abs().sum(1).mean()) <= model.absolute_sum(image) * 1.2
