"""Neighbouring data sets: what they add up to is one clip norm apart, whatever it takes.

A coordinator chooses the weights and may plant what it likes in them; a record may hold
anything. On machines whose products depend in the last bit on a record's place in its batch,
weights a hundred times too large make another gradient of that bit: one record less then moved
the sum by 8.4 clip norms in 129 records. Rows that are alike leave nothing to be blown up.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedlearn import models
from fedlearn.core.rng import Streams
from fedlearn.core.vector import to_vector
from fedlearn.mechanisms import RecordPlan
from fedlearn.models.cnn import Cnn
from fedlearn.models.tabular import Tabular
from fedlearn.models.text import Text
from fedlearn.models.validate import made_up_records
from fedlearn.privacy import SeededNoise
from fedlearn.tasks import ClassificationTask, ImageInput, Input, TableInput, TextInput
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training import parts, trials
from fedlearn.training.parts import ALONE, ROWS, sizes_of, split
from fedlearn.training.private import clipped_gradient_sum, train_private
from fedlearn.training.settings import Training
from fedlearn.training.trials import try_out
from tests.effort import examples, thinned

CONFIG = Training(
    optimizer="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0, local_steps=1,
    sample_rate=1.0, nominal_records=60, dp_engine="fast", max_batch=1024,
)  # fmt: skip
PLAN = RecordPlan(
    clip_norm=1e-5, noise_multiplier=0.0, delta=1e-5, sample_rate=1.0, steps_per_round=1, rounds=1
)
CLASSES = ("a", "b", "c")
KINDS: dict[str, tuple[models.Model, Input]] = {
    "text": (
        Text(pretrained="", width=8, depth=2, heads=2, words=False, sketch=0, dropout=0.0),
        TextInput(vocabulary=11, max_length=9),
    ),
    "cnn": (
        Cnn(width=4, depth=2, groups=2, dropout=0.0),
        ImageInput(channels=1, height=8, width=8),
    ),
    **{
        one: (
            Tabular(architecture=one, width=16, depth=2, heads=2, norm="layer", dropout=0.0),  # type: ignore[arg-type]
            TableInput(numeric=4, cardinalities=(3,)),
        )
        for one in ("linear", "mlp", "ft_transformer")
    },
}
POISON = (math.nan, math.inf, -math.inf, 1e38, -3e38)


class World:
    """A model with weights of any size, and records of which some may be poisoned."""

    def __init__(self, kind: str, scale: float, seed: int) -> None:
        self.coins = torch.Generator().manual_seed(seed)
        config, shape = KINDS[kind]
        self.task = ClassificationTask(input=shape, classes=CLASSES)
        self.model = models.build(config, self.task, Streams(seed)).model
        with torch.no_grad():
            for p in self.model.parameters():
                p.add_(torch.randn(p.shape, generator=self.coins) * 0.1).mul_(scale)

    def records(self, n: int) -> tuple[Tensor, Tensor]:
        features = made_up_records(self.task, n, self.coins)
        return features, torch.randint(0, len(CLASSES), (n,), generator=self.coins)

    def poisoned(self, features: Tensor, value: float, share: float) -> Tensor:
        """Some numbers become `value`; ids and codes of categories have no such values."""
        if features.dtype != torch.float32:
            return features
        numbers = features.clone()
        hit = torch.rand(len(features), generator=self.coins) < share
        numbers[hit, 0] = value
        return numbers

    def sum(self, data: tuple[Tensor, Tensor], config: Training) -> np.ndarray:
        return clipped_gradient_sum(
            self.model, *data, config, PLAN, loss=cross_entropy, noise=SeededNoise(b"n")
        )


def without(data: tuple[Tensor, Tensor], row: int) -> tuple[Tensor, Tensor]:
    kept = torch.arange(len(data[1])) != row
    return data[0][kept], data[1][kept]


def put(data: tuple[Tensor, Tensor], row: int, other: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """The same with another record in the place of one."""
    return tuple(torch.cat([a[:row], b, a[row + 1 :]]) for a, b in zip(data, other, strict=True))


@settings(max_examples=examples(60, few=1), deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    scale=st.sampled_from([1.0, 10.0, 100.0, 1e3, 1e4, 1e15]),
    n=st.integers(1, 130),
    max_batch=st.sampled_from([5, 32, 50, 64, 1024]),
    value=st.sampled_from(POISON),
    share=st.sampled_from([0.0, 0.0, 0.05, 1.0]),
    seed=st.integers(0, 2**20),
)
@example(kind="text", scale=100.0, n=129, max_batch=1024, value=0.0, share=0.0, seed=6)
def test_neighbours__are_one_clip_norm_apart_whatever_weights_and_records_hold(
    kind: str, scale: float, n: int, max_batch: int, value: float, share: float, seed: int
) -> None:
    world, config = World(kind, scale, seed), replace(CONFIG, max_batch=max_batch)
    try_out(world.model, world.records, config, loss=cross_entropy)
    features, labels = world.records(n)
    data = world.poisoned(features, value, share), labels
    whole, row = world.sum(data, config), seed % n
    assert np.isfinite(whole).all()
    bound = PLAN.clip_norm * (1 + 1e-4)
    assert np.linalg.norm(whole - world.sum(without(data, row), config)) <= bound
    assert np.linalg.norm(whole - world.sum(without(data, 0), config)) <= bound
    other, label = world.records(1)
    replaced = put(data, row, (world.poisoned(other, value, 0.5), label))
    assert np.linalg.norm(whole - world.sum(replaced, config)) <= 2 * bound


class Placed(nn.Module):
    """Computes in the last bits what depends on a row's place, as some libraries do, and blows
    that up, as weights that were planted do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        places = 1 + torch.arange(len(x)).view(-1, 1) * 2.0**-23
        return self.linear(torch.sin(x[:, :5] * places * 1e8))


@pytest.mark.slow
def test_neighbours__are_as_near_where_a_library_looks_at_places() -> None:
    torch.random.default_generator.manual_seed(1)
    model, world = Placed(), World("linear", 1.0, 6)
    world.model = model
    data = world.records(100)

    def apart() -> float:
        return float(np.linalg.norm(world.sum(data, CONFIG) - world.sum(without(data, 0), CONFIG)))

    assert apart() > 5 * PLAN.clip_norm, "the control shows nothing"
    try_out(model, world.records, CONFIG, loss=cross_entropy)
    assert apart() <= PLAN.clip_norm * (1 + 1e-5)


@pytest.mark.parametrize("value", POISON)
@pytest.mark.parametrize("engine", ["fast", "opacus"])
def test_neighbours__a_record_without_a_finite_gradient_adds_nothing_in_any_engine(
    engine: Literal["fast", "opacus"], value: float
) -> None:
    config = replace(CONFIG, dp_engine=engine)

    def update(data: tuple[Tensor, Tensor]) -> np.ndarray:
        model = nn.Linear(5, 3)
        with torch.no_grad():
            model.weight.copy_(torch.linspace(-30, 30, 15).view(3, 5))
            model.bias.zero_()
        before = to_vector(model)
        plan = replace(PLAN, clip_norm=60.0)
        train_private(model, *data, config, plan, loss=cross_entropy, noise=SeededNoise(b"n"))
        return to_vector(model) - before

    world = World("linear", 1.0, 1)
    features, labels = world.records(40)
    features[7] = value
    found, expected = update((features, labels)), update(without((features, labels), 7))
    assert np.isfinite(found).all()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


class Chokes(nn.Module):
    """Fails on some records, as only a look at them shows: an assertion, an index out of range."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        if (x[:, 0] > 100).any():
            raise ValueError(f"row {x[x[:, 0] > 100]} is too large")
        return self.linear(x)


@pytest.mark.parametrize("engine", ["fast", "opacus"])
def test_neighbours__a_record_that_fails_adds_nothing_and_takes_nobody_with_it(
    engine: Literal["fast", "opacus"], caplog: pytest.LogCaptureFixture
) -> None:
    model, config = Chokes(), replace(CONFIG, dp_engine=engine)
    world = World("linear", 1.0, 2)
    features, labels = world.records(70)
    features[41, 0] = 1e3
    before = to_vector(model)

    def update(data: tuple[Tensor, Tensor]) -> np.ndarray:
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(torch.from_numpy(before), model.parameters())
        train_private(model, *data, config, PLAN, loss=cross_entropy, noise=SeededNoise(b"n"))
        return to_vector(model) - before

    found, expected = update((features, labels)), update(without((features, labels), 41))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
    assert caplog.text.count("a record could not be trained on") == 1


def test_neighbours__sizes_of_parts_depend_on_public_constants_alone() -> None:
    assert sizes_of(replace(CONFIG, nominal_records=1)) == (ROWS,)
    assert sizes_of(replace(CONFIG, nominal_records=125)) == (32, 64, 128, 256)
    assert sizes_of(replace(CONFIG, nominal_records=1000, sample_rate=0.1)) == (32, 64, 128, 256)
    assert sizes_of(replace(CONFIG, nominal_records=10**6, max_batch=100)) == (32, 64)
    assert sizes_of(replace(CONFIG, nominal_records=10**6))[-1] == 512
    assert sizes_of(replace(CONFIG, nominal_records=10**6), torch.device("cuda"))[-1] == 1024
    assert sizes_of(replace(CONFIG, max_batch=7)) == (7,)
    assert sizes_of(replace(CONFIG, max_batch=64, augmentations=4)) == (16,)


@given(count=st.integers(0, 5000), most=st.integers(0, 6))
def test_parts__have_rows_for_all_and_few_to_spare(count: int, most: int) -> None:
    sizes = tuple(ROWS * 2**i for i in range(most + 1))
    found = split(count, sizes)
    assert set(found) <= set(sizes)
    assert sum(found[:-1]) < max(1, count) <= max(1, sum(found))
    assert sum(found) <= 1.5 * count + ROWS


@pytest.mark.parametrize("rows", [5, 8])
def test_part__goes_through_the_model_filled_up_to_its_rows(rows: int) -> None:
    """With its first record, whoever else there is: shapes decide how a library computes."""
    labels, values = torch.arange(5), torch.arange(15.0).view(5, 3)
    seen = list[tuple[Tensor, Tensor]]()

    def run(some_labels: Tensor, some_values: Tensor) -> Tensor:
        seen.append((some_labels, some_values))
        return some_values.sum(1)

    part = parts.BatchPart(inputs=(labels, values), run=run, rows=rows)
    assert (part.count, len(part.losses())) == (5, rows)
    assert [len(one.losses()) for one in part.single()] == [rows] * 5
    order = [*range(5), *[0] * (rows - 5)]
    for places, (some_labels, some_values) in zip(
        [order, *([i] * rows for i in range(5))], seen, strict=True
    ):
        assert some_labels.tolist() == places
        assert torch.equal(some_values, values[places])


@pytest.mark.parametrize("sizes", ["one", "none"])
def test_neighbours__where_rows_are_not_alike_parts_have_one_size_or_one_record(
    sizes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, config = World("mlp", 1.0, 3), CONFIG
    data = world.records(70)
    together = world.sum(data, config)

    def moved(one: list[Tensor], other: list[Tensor], *rows: object) -> float:
        whole, others = len(one[0]) == sizes_of(config)[-1], len(one[0]) == len(other[0])
        return 1e-7 if whole and others == (sizes == "none") else 0.0

    monkeypatch.setattr(trials, "_moved", moved)
    try_out(world.model, world.records, config, loss=cross_entropy)
    counts, real = list[tuple[int, int]](), parts.BatchPart.losses

    def counting(part: parts.BatchPart) -> Tensor:
        counts.append((part.count, part.rows))
        return real(part)

    monkeypatch.setattr(parts.BatchPart, "losses", counting)
    np.testing.assert_allclose(world.sum(data, config), together, rtol=1e-4, atol=1e-9)
    assert counts == ([(70, 128)] if sizes == "one" else [(1, 1)] * 70)


@pytest.mark.parametrize("kind", thinned(sorted(KINDS)))
def test_trial__finds_rows_alike_on_this_machine_and_leaves_the_model_as_it_was(kind: str) -> None:
    """On a machine where this fails all is still right, and slow."""
    world = World(kind, 100.0, 5)
    before, modes = to_vector(world.model), [m.training for m in world.model.modules()]
    state = torch.random.get_rng_state()
    try_out(world.model, world.records, CONFIG, loss=cross_entropy)
    np.testing.assert_array_equal(to_vector(world.model), before)
    assert [m.training for m in world.model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    sizes = sizes_of(CONFIG)
    assert parts._alike[world.model] == {(ALONE, sizes): sizes}


def test_trial__is_made_on_records_that_nobody_has_and_once() -> None:
    world, asked = World("mlp", 1.0, 4), list[int]()

    def records(n: int) -> tuple[Tensor, Tensor]:
        asked.append(n)
        return world.records(n)

    for _ in range(3):
        try_out(world.model, records, CONFIG, loss=cross_entropy)
    assert asked == [sizes_of(CONFIG)[-1]]
    # Every site, in every round, brings a loss of its own that is the same.
    for weights in ({}, {"a": 2.0}, {"a": 3.0}):
        for _ in range(3):
            task = ClassificationTask(input=TableInput(numeric=5), classes=("a", "b", "c"))
            loss = task.training_loss(weights, torch.device("cpu"))
            try_out(world.model, records, CONFIG, loss=loss)
    assert asked == [sizes_of(CONFIG)[-1]] * 4


def test_private__dropout_draws_from_secret_coins_and_not_from_torchs_seed() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    data, before = World("linear", 1.0, 2).records(20), to_vector(model)
    found = []
    for seed, name in itertools.product((1, 2), (b"a", b"b")):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(before.copy()), model.parameters())
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            plan = replace(PLAN, clip_norm=1.0)
            train_private(model, *data, CONFIG, plan, loss=cross_entropy, noise=SeededNoise(name))
        found.append(to_vector(model))
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])
    assert (found[0] != found[1]).any()
