"""DP-SGD at one site: against a loop over records, and its noise against what was promised."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest
from torch import Tensor, nn
from torch.nn import functional

from fedlearn import models
from fedlearn.algorithms.pull import pull
from fedlearn.core.recompute import PASS
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, layout_of, load_vector, to_vector
from fedlearn.mechanisms import RecordPlan
from fedlearn.mechanisms.distributed import DistributedPrivacy, Population, make_plan
from fedlearn.models.finetune import stages
from fedlearn.models.slots import attach
from fedlearn.models.tabular import Tabular
from fedlearn.privacy import SeededNoise, SystemNoise
from fedlearn.privacy.rounded import grid_for
from fedlearn.tasks import ClassificationTask, TableInput
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training import private
from fedlearn.training.local import train
from fedlearn.training.parts import same_bits
from fedlearn.training.private import (
    PrivateOptimizer,
    clipped_gradient_sum,
    poisson_batch,
    train_private,
)
from fedlearn.training.settings import Training
from tests.effort import slow_but

CONFIG = Training(
    optimizer="sgd", learning_rate=0.5, momentum=0.0, weight_decay=0.0, local_steps=1,
    sample_rate=1.0, nominal_records=40, dp_engine="fast", max_batch=1024,
)  # fmt: skip
PLAN = RecordPlan(
    clip_norm=4.0, noise_multiplier=0.0, delta=1e-5, sample_rate=1.0, steps_per_round=1, rounds=1
)
TABLE = TableInput(numeric=3, cardinalities=(3, 2))


def network(architecture: str = "ft_transformer", seed: int = 0, dropout: float = 0.0) -> nn.Module:
    config = Tabular(
        architecture=architecture, width=8, depth=1, heads=2, norm="layer", dropout=dropout
    )  # type: ignore[arg-type]  # fmt: skip
    model = models.build(
        config, ClassificationTask(input=TABLE, classes=("a", "b", "c")), Streams(seed)
    ).model
    vector = to_vector(model)  # away from the zero head, so that every layer has a gradient
    moved = vector + np.random.default_rng(seed).normal(0, 0.2, len(vector))
    load_vector(model, moved.astype(np.float32))
    return model


def records(n: int = 8) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(3)
    numbers = rng.normal(0, 1, (n, 3)) * rng.exponential(1, (n, 1))  # some are clipped, some not
    rows = np.column_stack([numbers, rng.integers(0, 3, n), rng.integers(0, 2, n)])
    return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(rng.integers(0, 3, n))


def clipped(model: nn.Module, row: Tensor, label: Tensor, clip_norm: float) -> list[Tensor]:
    """The gradient of one record by autograd, scaled to at most `clip_norm`."""
    loss = functional.cross_entropy(model(row[None]), label[None])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
    return [g * min(1.0, clip_norm / norm) for g in gradients]


def oracle(
    model: nn.Module, data: tuple[Tensor, Tensor], config: Training, clip_norm: float, mu: float
) -> None:
    """Noiseless full-batch steps, record by record, in place."""
    anchor = [p.detach().clone() for p in model.parameters()]
    for _ in range(config.local_steps):
        total = [torch.zeros_like(p) for p in model.parameters()]
        for row, label in zip(*data, strict=True):
            for sum_, gradient in zip(total, clipped(model, row, label, clip_norm), strict=True):
                sum_ += gradient
        scale = config.sample_rate * config.nominal_records
        for parameter, sum_, start in zip(model.parameters(), total, anchor, strict=True):
            step = sum_ / scale + (config.weight_decay + mu) * parameter.detach() - mu * start
            parameter.data -= config.learning_rate * step


def update(
    model: nn.Module, data: tuple[Tensor, Tensor], config: Training = CONFIG,
    plan: RecordPlan = PLAN, *, noise: SystemNoise | SeededNoise | None = None, mu: float = 0.0,
) -> Vector:  # fmt: skip
    """What private training adds to the vector of `model`."""
    before = to_vector(model)
    train_private(
        model,
        *data,
        config,
        plan,
        loss=cross_entropy,
        correct=pull(model, to_vector(model), mu),
        noise=noise or SystemNoise(),
    )
    return to_vector(model) - before


@pytest.mark.parametrize(
    ("engine", "architecture"),
    [
        *itertools.product(["fast", "opacus"], ["linear", "mlp", "ft_transformer"]),
    ],
)
@pytest.mark.parametrize("max_batch", [1024, 3])
def test_private__equals_a_loop_over_records(
    architecture: str, max_batch: int, engine: Literal["fast", "opacus"]
) -> None:
    model, expected = network(architecture), network(architecture)
    config = replace(CONFIG, local_steps=2, max_batch=max_batch, dp_engine=engine)
    found = update(model, records(), config)
    assert np.linalg.norm(found) > 0.01
    oracle(expected, records(), config, PLAN.clip_norm, mu=0.0)
    np.testing.assert_allclose(to_vector(model), to_vector(expected), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("engine", ["fast", "opacus"])
def test_private__takes_batches_of_one_and_of_none(
    n: int, engine: Literal["fast", "opacus"]
) -> None:
    model, expected = network("mlp"), network("mlp")
    config = replace(CONFIG, dp_engine=engine)
    found = update(model, records(n), config)
    assert found.any() == (n > 0)
    oracle(expected, records(n), config, PLAN.clip_norm, mu=0.0)
    np.testing.assert_allclose(to_vector(model), to_vector(expected), rtol=1e-4, atol=2e-6)


def test_private__in_bf16_is_near_fp32_and_bounded_as_tightly() -> None:
    config = replace(CONFIG, precision="bf16")
    exact, near = update(network("mlp"), records()), update(network("mlp"), records(), config)
    apart = np.linalg.norm(near - exact) / np.linalg.norm(exact)
    assert 1e-6 < apart < 0.05  # bf16 has 8 bits: products are off by 0.4 percent each
    features, labels = records()
    plan = replace(PLAN, clip_norm=PLAN.clip_norm / 50)  # every record is clipped
    bound = config.learning_rate * plan.clip_norm / (config.sample_rate * config.nominal_records)
    for i in range(len(labels)):
        alone = update(network("mlp"), (features[i : i + 1], labels[i : i + 1]), config, plan)
        # Adding to weights of order one rounds an update of 1e-3 by some 1e-4 of itself.
        assert 0.99 * bound < np.linalg.norm(alone) <= bound * (1 + 1e-3)


def test_private__adds_weight_decay_and_the_proximal_pull_outside_the_clipping() -> None:
    model, expected = network("mlp"), network("mlp")
    config = replace(CONFIG, local_steps=3, weight_decay=0.05)
    update(model, records(), config, mu=0.5)
    oracle(expected, records(), config, PLAN.clip_norm, mu=0.5)
    np.testing.assert_allclose(to_vector(model), to_vector(expected), rtol=1e-4, atol=2e-6)


def test_private__some_records_of_these_tests_are_clipped_and_some_are_not() -> None:
    norms = []
    for row, label in zip(*records(), strict=True):
        whole = clipped(network(), row, label, math.inf)
        norms.append(math.sqrt(sum(float((g**2).sum()) for g in whole)))
    assert min(norms) < PLAN.clip_norm < max(norms)


def test_private__divides_by_public_constants_whatever_the_number_of_records() -> None:
    features, labels = records()
    once = update(network(), (features, labels))
    twice = update(network(), (features.repeat(2, 1), labels.repeat(2)))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-4, atol=1e-6)
    half = update(network(), (features, labels), replace(CONFIG, nominal_records=80))
    np.testing.assert_allclose(half, once / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_private__one_record_moves_the_noiseless_update_by_at_most_the_sensitivity(
    seed: int,
) -> None:
    features, labels = records()
    features[:, :3] *= 50  # gradients far beyond the clip norm
    model = network("linear", seed)
    before = to_vector(model)
    bound = CONFIG.learning_rate * PLAN.clip_norm / (CONFIG.sample_rate * CONFIG.nominal_records)
    whole = update(model, (features, labels))
    moved = []
    for left_out in range(len(labels)):
        kept = [i for i in range(len(labels)) if i != left_out]
        load_vector(model, before)
        moved.append(np.linalg.norm(whole - update(model, (features[kept], labels[kept]))))
    assert max(moved) <= bound * (1 + 1e-4)
    assert max(moved) > 0.9 * bound, "nothing was clipped: the test shows nothing"


def noise_of(updates: Vector, config: Training, plan: RecordPlan) -> Vector:
    """Updates in units of the standard deviation that the plan promises."""
    scale = config.learning_rate / (plan.sample_rate * config.nominal_records)
    return np.asarray(updates / (scale * plan.noise_stddev), np.float32)


@pytest.mark.parametrize("n", slow_but((0, 40).__contains__, [0, 1, 40]))
def test_private__noise_has_the_promised_deviation_however_many_records(n: int) -> None:
    """An empty site and an empty batch add the same noise as a full one."""
    model = network("mlp")
    before = to_vector(model)
    plan = replace(PLAN, noise_multiplier=2.5)
    signal = update(model, records(n))
    draws = []
    for _ in range(40):
        load_vector(model, before)
        draws.append(noise_of(update(model, records(n), plan=plan) - signal, CONFIG, plan))
    z = np.concatenate(draws).astype(np.float64)
    # Chi-squared with 1e-8 at either end; the KS test below 1e-8: false alarms below 3e-8.
    low, high = chi2.ppf([1e-8, 1 - 1e-8], len(z))
    assert low < (z**2).sum() < high
    assert kstest(z, "norm").pvalue > 1e-8


def test_optimizer__noise_is_the_multiplier_times_the_norm_over_the_expected_batch() -> None:
    """The gradient that is released, of 20,000 parameters and an empty batch."""
    model = nn.Linear(200, 100, bias=False)
    grid = private.grid_of(model, replace(PLAN, clip_norm=4.0, noise_multiplier=2.5))
    optimizer = PrivateOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.0), noise=SystemNoise(), grid=grid,
        noise_multiplier=2.5, max_grad_norm=4.0, expected_batch_size=8,
    )  # fmt: skip
    optimizer.zero_grad(set_to_none=True)
    optimizer.release()
    assert model.weight.grad is not None
    z = model.weight.grad.double().ravel() / (2.5 * 4.0 / 8)
    low, high = chi2.ppf([1e-8, 1 - 1e-8], len(z))
    assert low < float((z**2).sum()) < high


def test_private__every_parameter_gets_noise_and_every_step_its_own() -> None:
    plan = replace(PLAN, noise_multiplier=1.0, steps_per_round=2)
    for name, part in layout_of(network()).split(update(network(), records(0), plan=plan)).items():
        assert part.all(), name
    model = network()
    before = to_vector(model)
    draws = []
    for _ in range(30):
        load_vector(model, before)
        config = replace(CONFIG, local_steps=4)
        draws.append(noise_of(update(model, records(0), config, plan), config, plan) / 2)
    z = np.concatenate(draws).astype(np.float64)
    low, high = chi2.ppf([1e-8, 1 - 1e-8], len(z))
    assert low < (z**2).sum() < high, "four independent steps have twice the deviation of one"


@pytest.mark.parametrize("engine", ["fast", "opacus"])
def test_private__a_step_releases_whole_steps_of_a_public_grid_a_clip_norm_apart(
    engine: Literal["fast", "opacus"],
) -> None:
    """Bit for bit: what is released of neighbours with the same noise, its rounding included."""
    config = replace(CONFIG, learning_rate=1.0, nominal_records=1, dp_engine=engine)
    plan, (x, labels) = replace(PLAN, clip_norm=0.3, noise_multiplier=1e4), records(40)

    def released(n: int) -> Tensor:
        model = nn.Linear(5, 3).double()  # so that no digit of the sum is lost on its way out
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        grid = private.grid_of(model, plan)
        assert grid is not None
        train_private(
            model, x[:n].double() * 100, labels[:n], config, plan,
            loss=cross_entropy, noise=SeededNoise(b"grid"),
        )  # fmt: skip
        steps = torch.cat([p.detach().flatten() for p in model.parameters()]) / grid.step
        assert torch.equal(steps, steps.round())
        assert (steps % 2).any(), "nor on a coarser one"
        return steps * grid.step

    for n in (1, 7, 40):
        apart = torch.linalg.vector_norm(released(n) - released(n - 1))
        assert 0.29 < apart <= plan.clip_norm


@pytest.mark.parametrize(("slots", "counted"), [(0, 1 << 16), (7, 1 << 16), (70_000, 70_000)])
def test_grid__is_that_of_all_coordinates_that_are_trained(slots: int, counted: int) -> None:
    """Beside it one for 2^16 slots or more: the room for rounding grows with the dimension."""
    model = nn.Sequential(*(nn.Linear(300, 300) for _ in range(3)))
    model[0].weight.requires_grad = False  # the first of all
    attach(model, slots)
    plan = replace(PLAN, clip_norm=0.3, noise_multiplier=2.5)
    assert private.grid_of(model, plan) == grid_for(2.5, 0.3, 2 * 90_000 + 3 * 300 + counted)
    assert private.grid_of(model, PLAN) is None


@pytest.mark.parametrize("step_norm", [None, 6.5, 7.0, 1e3])
def test_optimizer__a_longer_sum_is_shortened_as_one_vector_and_no_other_is_moved(
    step_norm: float | None,
) -> None:
    model = nn.ParameterList([torch.zeros(2), torch.zeros(1, 3)])
    optimizer = PrivateOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0), noise=SystemNoise(), grid=None,
        step_norm=step_norm, noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=4,
    )  # fmt: skip
    parts = [[3.0, -2.0], [[0.0, 0.0, 6.0]]]  # of norm 7 together
    for parameter, part in zip(model, parts, strict=True):
        parameter.summed_grad = torch.tensor(part, dtype=torch.float64)
    optimizer.release()
    scale = 6.5 / 7 if step_norm == 6.5 else 1.0
    for parameter, part in zip(model, parts, strict=True):
        assert torch.allclose(parameter, -torch.tensor(part) * scale / 4, rtol=1e-6, atol=0)


@pytest.mark.parametrize("engine", ["fast", "opacus"])
def test_private__parameters_of_one_size_get_noise_of_their_own(
    engine: Literal["fast", "opacus"],
) -> None:
    """A vector that is used twice is no noise in the difference. False alarm below 1e-9: the
    correlation of 400 pairs, six deviations."""
    model = nn.Sequential(*(nn.Linear(20, 20) for _ in range(3)))
    plan = replace(PLAN, noise_multiplier=1.0)
    before = layout_of(model).split(to_vector(model))
    none = torch.zeros(0, 20), torch.zeros(0, dtype=torch.int64)
    train_private(
        model, *none, replace(CONFIG, dp_engine=engine), plan,
        loss=cross_entropy, noise=SystemNoise(),
    )  # fmt: skip
    after = layout_of(model).split(to_vector(model))
    drawn = [(after[name] - before[name]).astype(np.float64).ravel() for name in after]
    for one, other in itertools.combinations(drawn, 2):
        length = min(len(one), len(other))
        cosine = (
            one[:length]
            @ other[:length]
            / np.sqrt((one[:length] @ one[:length]) * (other[:length] @ other[:length]))
        )
        assert abs(cosine) < min(6 / math.sqrt(length), 0.93)


def test_private__poisson_batch_has_the_exact_rate_and_independent_coins() -> None:
    n, rate, times = 50, 0.3, 2000
    taken = np.zeros((times, n))
    for i in range(times):
        taken[i, poisson_batch(n, rate, SystemNoise())] = 1
    # 6.5 deviations of a mean of 100,000 coins: false alarm below 1e-10.
    assert abs(taken.mean() - rate) < 6.5 * math.sqrt(rate * (1 - rate) / taken.size)
    # The sizes vary as a binomial's: a fixed size would have variance 0.
    low, high = chi2.ppf([1e-8, 1 - 1e-8], times - 1) / (times - 1)
    assert low < taken.sum(1).var(ddof=1) / (n * rate * (1 - rate)) < high * 1.05
    # No pair of records goes together: 1,225 correlations, 7.5 deviations each.
    correlation = np.corrcoef(taken.T)[np.triu_indices(n, 1)]
    assert abs(correlation).max() < 7.5 / math.sqrt(times)


def test_private__samples_by_the_source_and_sums_what_was_sampled() -> None:
    """A seeded source says which records enter; the oracle sees just those."""
    config = replace(CONFIG, sample_rate=0.5, local_steps=1)
    plan = replace(PLAN, sample_rate=0.5)
    features, labels = records()
    taken = poisson_batch(len(labels), 0.5, SeededNoise(b"a"))
    assert 0 < len(taken) < len(labels)
    model, expected = network("mlp"), network("mlp")
    update(model, (features, labels), config, plan, noise=SeededNoise(b"a"))
    oracle(expected, (features[taken], labels[taken]), config, plan.clip_norm, mu=0.0)
    np.testing.assert_allclose(to_vector(model), to_vector(expected), rtol=1e-4, atol=2e-6)


def test_private__repeats_with_a_seeded_source_only() -> None:
    plan = replace(PLAN, noise_multiplier=1.0)
    one, same, other, real = (
        update(network(), records(), plan=plan, noise=noise)
        for noise in (SeededNoise(b"a"), SeededNoise(b"a"), SeededNoise(b"b"), SystemNoise())
    )
    assert (one == same).all()
    assert (one != other).mean() > 0.99
    assert (one != real).mean() > 0.99


def test_private__a_model_that_was_only_read_is_trained_as_one_that_trains() -> None:
    model = network().eval()
    update(model, records(0))
    assert model.training
    model.eval()
    clipped_gradient_sum(model, *records(0), CONFIG, PLAN, loss=cross_entropy, noise=SystemNoise())
    assert model.training


@pytest.mark.parametrize("n", [0, 8])
def test_private__leaves_nothing_on_the_model(n: int) -> None:
    """No per-record gradient, hook or attribute outlives the call, and it can be repeated."""
    model = network()

    def marks() -> list[object]:
        hooks = ("_forward_hooks", "_backward_hooks", "_forward_pre_hooks", "_backward_pre_hooks")
        found: list[object] = []
        for module in model.modules():
            found.append((type(module), sorted(vars(module)), module.training))
            found.append([len(vars(module)[hook]) for hook in hooks])
        for parameter in model.parameters():
            found.append((sorted(vars(parameter)), parameter.grad is None, parameter.requires_grad))
            found.append(len(parameter._backward_hooks or ()))
        return found

    model.train()
    before = marks()
    for _ in range(2):
        update(model, records(n), replace(CONFIG, max_batch=3))
        assert marks() == before


def test_private__adam_takes_the_noisy_gradient_once_a_step() -> None:
    """The first step of Adam is the sign of the gradient, in whatever parts it was summed."""
    config = replace(CONFIG, optimizer="adam", learning_rate=0.01, max_batch=3)
    plan = replace(PLAN, noise_multiplier=1.0)
    found = np.abs(update(network(), records(), config, plan))
    # Adam adds 1e-8 to the root, so a noisy gradient that is almost zero steps a little less.
    assert found.max() < 0.0101
    assert np.quantile(found, 0.02) > 0.0099


# --- The sum that sites share the noise of ------------------------------------------

SHARED = make_plan(
    DistributedPrivacy(noise_multiplier=1.0, clip_norm=0.5),
    Population(num_clients=4, dimension=3, records_per_step=8.0),
    sample_rate=1.0,
    rounds=1,
)


def shared_sum(model: nn.Module, n: int = 8, max_batch: int = 1024) -> np.ndarray:
    config = replace(CONFIG, max_batch=max_batch)
    features, labels = records(8)
    given = features[:n], labels[:n]
    return clipped_gradient_sum(
        model, *given, config, SHARED, loss=cross_entropy, noise=SeededNoise(b"s")
    )


@pytest.mark.parametrize("architecture", ["linear", "mlp", "ft_transformer"])
def test_shared_sum__is_that_of_a_loop_over_records(architecture: str) -> None:
    model = network(architecture)
    wanted = np.zeros(layout_of(model).size)
    for row, label in zip(*records(), strict=True):
        parts = clipped(model, row, label, SHARED.clip_norm)
        wanted += np.concatenate([part.double().numpy().ravel() for part in parts])
    before = to_vector(model)
    for max_batch in (3, 1024):
        np.testing.assert_allclose(shared_sum(model, max_batch=max_batch), wanted, atol=1e-5)
    np.testing.assert_array_equal(to_vector(model), before)


def test_shared_sum__is_made_by_our_own_engine_whatever_the_config_names() -> None:
    model = network()
    config = replace(CONFIG, dp_engine="opacus")
    found = clipped_gradient_sum(
        model, *records(), config, SHARED, loss=cross_entropy, noise=SystemNoise()
    )
    np.testing.assert_allclose(found, shared_sum(model), atol=1e-6)
    assert found.any()


def test_shared_sum__one_record_moves_it_by_at_most_the_clip_norm() -> None:
    model = network()
    moves = [np.linalg.norm(shared_sum(model, n) - shared_sum(model, n - 1)) for n in range(1, 9)]
    assert max(moves) <= SHARED.clip_norm * (1 + 1e-5)
    assert max(moves) > 0.99 * SHARED.clip_norm


def test_shared_sum__of_no_records_is_zero_and_of_full_length() -> None:
    model = network()
    assert not shared_sum(model, 0).any()
    assert shared_sum(model, 0).shape == (layout_of(model).size,)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ([1.0, math.nan], True),
        ([1.0 + 1e-9, math.nan], False),  # a record shows in the last bit as well
        ([1.0, 2.0], False),
        ([1.0], False),
        ([[1.0, math.nan]], False),
    ],
)
def test_buffers__are_the_same_bit_for_bit_or_put_back(other: list[float], same: bool) -> None:
    before = torch.tensor([1.0, math.nan], dtype=torch.float64)
    assert same_bits(before, torch.tensor(other, dtype=torch.float64)) == same


def test_seed_of_dropout__is_any_of_63_bits() -> None:
    model, seeds = nn.Linear(1, 1), set[int]()
    with torch.random.fork_rng(devices=[]):
        for name in range(40):
            private._seed_torch(private._secret_coins(SeededNoise(bytes([name]))), model)
            seeds.add(torch.default_generator.initial_seed())
    assert len(seeds) == 40
    assert 2**61 < max(seeds) < 2**63


def test_sums__of_parts_are_added_up_in_double_precision() -> None:
    """Two parts of one are not lost beside one of 2^24."""
    parameter = nn.Parameter(torch.zeros(1))
    for value in (2.0**24, 1.0, 1.0):
        private._add({"w": parameter}, {"w": torch.tensor([value])})
    assert parameter.summed_grad.tolist() == [2.0**24 + 2]  # type: ignore[attr-defined]


def test_private_step__releases_no_buffer_that_it_has_changed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Centre(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("centre", torch.zeros(5))

        def forward(self, x: Tensor) -> Tensor:
            self.centre.add_(x.mean(0))
            return x

    model, config = nn.Sequential(Centre(), nn.Linear(5, 3)), replace(CONFIG, dp_engine="opacus")
    train_private(model, *records(), config, PLAN, loss=cross_entropy, noise=SeededNoise(b"s"))
    assert not model.get_buffer("0.centre").any()
    assert "training changed 0.centre" in caplog.text


@pytest.mark.parametrize("engine", ["fast", "opacus"])
def test_private_step__shows_a_correction_nothing_without_noise(
    engine: Literal["fast", "opacus"],
) -> None:
    seen = []

    def look(model: nn.Module) -> None:
        for parameter in model.parameters():
            held = (getattr(parameter, n, None) for n in ("summed_grad", "grad_sample"))
            seen.extend(one is None for one in held)

    config = replace(CONFIG, dp_engine=engine)
    train_private(
        nn.Linear(5, 3), *records(), config, PLAN, loss=cross_entropy, correct=look,
        noise=SeededNoise(b"s"),
    )  # fmt: skip
    assert seen == [True] * 4


class Witness(nn.Module):
    """Notes in which passes it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(PASS.get())
        return x


@pytest.mark.parametrize("checkpointing", [False, True])
def test_checkpointing__is_of_every_way_of_training_and_over_afterwards(
    checkpointing: bool,
) -> None:
    config, data = replace(CONFIG, checkpointing=checkpointing), records(6)
    ways: list[Callable[[nn.Module], object]] = [
        lambda model: train_private(
            model, *data, config, PLAN, loss=cross_entropy, noise=SystemNoise()
        ),
        lambda model: clipped_gradient_sum(
            model, *data, config, PLAN, loss=cross_entropy, noise=SystemNoise()
        ),
        lambda model: train(model, *data, config, loss=cross_entropy, rng=np.random.default_rng(0)),
    ]
    for way in ways:
        witness = Witness()
        model = stages(body=nn.Sequential(nn.Linear(5, 3), witness), head=nn.Linear(3, 3))
        way(model)
        assert set(witness.passes) == ({"first", "again"} if checkpointing else {"only"})
        model(data[0]).sum().backward()
        assert witness.passes[-1] == "only"
