"""Persons as samples: against a loop over persons in float64, and neighbours that lack one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedlearn.core.vector import load_vector, to_vector
from fedlearn.mechanisms.distributed import DistributedPrivacy, Population, make_plan
from fedlearn.models.slots import attach
from fedlearn.privacy import SeededNoise
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training import persons
from fedlearn.training.parts import BatchPart
from fedlearn.training.persons import People, depth_of, depths_of, made_up_counts
from fedlearn.training.private import clipped_gradient_sum, train_private
from fedlearn.training.trials import try_out
from tests.effort import examples
from tests.fedlearn.training.test_neighbours import CONFIG, KINDS, PLAN, POISON, World

SIZES = (1, 3, 2, 5, 1, 4, 2)
"""Records of each person; all fit into what a step computes."""
CLIP = replace(PLAN, clip_norm=0.5)


def owners_of(sizes: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Whose records are, in no order; the names of persons are not in the order of their rows."""
    names = [f"p{(7 * i) % 97:02d}" for i in range(len(sizes))]
    return np.random.default_rng(seed).permutation(np.repeat(names, sizes))


def summed(
    model: nn.Module, data: tuple[Tensor, Tensor], owners: np.ndarray, most: int = 8, **of: object
) -> np.ndarray:
    people = People.of(owners, most)
    chosen = {"noise": SeededNoise(b"n"), "loss": cross_entropy, **of}
    return clipped_gradient_sum(
        model, *data, CONFIG, CLIP, people=people, **chosen,  # type: ignore[arg-type]
    )  # fmt: skip


def of_person(model: nn.Module, features: Tensor, labels: Tensor, clip_norm: float) -> np.ndarray:
    """The gradient of the mean loss of one person's records in float64, clipped."""
    exact = to_double(model)
    wide = features.double() if features.is_floating_point() else features
    found = cross_entropy(exact(wide), labels).mean()
    parts = torch.autograd.grad(found, [p for p in exact.parameters() if p.requires_grad])
    flat = torch.cat([part.reshape(-1) for part in parts]).numpy()
    return flat * min(1.0, clip_norm / float(np.linalg.norm(flat)))


def to_double(model: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(model).double().train()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_persons__sum_is_that_of_a_loop_over_persons_in_float64(kind: str) -> None:
    world = World(kind, 1.0, 3)
    data, owners = world.records(sum(SIZES)), owners_of(SIZES)
    found = summed(world.model, data, owners)
    wanted = np.zeros_like(found)
    norms = []
    for person in np.unique(owners):
        rows = torch.from_numpy(np.flatnonzero(owners == person))
        own = of_person(world.model, data[0][rows], data[1][rows], CLIP.clip_norm)
        norms.append(np.linalg.norm(own))
        wanted[: len(own)] += own
    assert np.linalg.norm(found - wanted) <= 1e-4 * len(SIZES) * CLIP.clip_norm
    assert max(norms) >= CLIP.clip_norm * 0.999  # some are clipped


def test_persons__of_one_record_each_are_what_records_are() -> None:
    world = World("mlp", 1.0, 5)
    data = world.records(12)
    plain = clipped_gradient_sum(
        world.model, *data, CONFIG, CLIP, loss=cross_entropy, noise=SeededNoise(b"n")
    )
    by_person = summed(world.model, data, owners_of((1,) * 12))
    np.testing.assert_allclose(by_person, plain, rtol=0, atol=1e-6)


@settings(max_examples=examples(40, few=1), deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    scale=st.sampled_from([1.0, 100.0, 1e4, 1e15]),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=30).map(tuple),
    most=st.sampled_from([1, 2, 3, 8]),
    value=st.sampled_from(POISON),
    share=st.sampled_from([0.0, 0.0, 0.05, 1.0]),
    seed=st.integers(0, 2**20),
)
def test_neighbours__that_lack_all_records_of_a_person_are_one_clip_norm_apart(
    kind: str,
    scale: float,
    sizes: tuple[int, ...],
    most: int,
    value: float,
    share: float,
    seed: int,
) -> None:
    world = World(kind, scale, seed)
    try_out(world.model, world.records, CONFIG, loss=cross_entropy, depths=depths_of(most))
    features, labels = world.records(sum(sizes))
    data, owners = (world.poisoned(features, value, share), labels), owners_of(sizes, seed)
    kept = torch.from_numpy(np.flatnonzero(owners != owners[seed % len(owners)]))
    less = data[0][kept], data[1][kept]

    def sum_of(some: tuple[Tensor, Tensor], whose: np.ndarray) -> np.ndarray:
        # A person with too many draws its records by coins of the step; here by the same.
        return clipped_gradient_sum(
            world.model, *some, CONFIG, PLAN, loss=cross_entropy, noise=SeededNoise(b"n"),
            people=People.of(whose, most),
        )  # fmt: skip

    whole, rest = sum_of(data, owners), sum_of(less, owners[kept.numpy()])
    assert np.isfinite(whole).all()
    assert np.linalg.norm(whole - rest) <= PLAN.clip_norm * (1 + 1e-4)


def test_persons__clipped_by_record_would_move_a_sum_by_more_than_a_clip_norm() -> None:
    """The bound that the test above looks at is not kept by itself."""
    world = World("linear", 100.0, 1)
    row, label = world.records(1)
    data = row.expand(4, -1).contiguous(), label.expand(4).contiguous()
    as_records = clipped_gradient_sum(
        world.model, *data, CONFIG, CLIP, loss=cross_entropy, noise=SeededNoise(b"n")
    )
    assert np.linalg.norm(as_records) > 3.9 * CLIP.clip_norm
    assert np.linalg.norm(summed(world.model, data, owners_of((4,)))) <= CLIP.clip_norm * 1.0001


def test_persons__with_a_record_that_is_not_finite_add_nothing_and_change_nobody() -> None:
    world, owners = World("mlp", 1.0, 2), np.array(["a", "b", "a", "c", "b"])
    features, labels = world.records(5)
    broken = features.clone()
    broken[4, 0] = math.nan
    rest = torch.tensor([0, 2, 3])
    found = summed(world.model, (broken, labels), owners)
    others = summed(world.model, (features[rest], labels[rest]), owners[rest.numpy()])
    assert np.array_equal(found, others)


def test_persons__with_too_many_records_draw_some_by_coins_of_their_own() -> None:
    alone, together = People.of(np.repeat(["a"], 20), 4), People.of(np.repeat(["a", "b"], 20), 4)
    one = np.zeros(1, np.int64)
    rows, counts = alone.records(one, 4, [1, 2])
    assert np.array_equal(rows, together.records(one, 4, [1, 2])[0])  # whoever else is there
    assert len({*rows[0].tolist()}) == 4
    assert torch.equal(counts, torch.full((1, 4), 0.25))
    seen = {int(r) for step in range(60) for r in alone.records(one, 4, [step])[0][0]}
    assert seen == set(range(20))  # in the end all of them


def test_persons__are_filled_up_with_records_of_their_own_that_count_nothing() -> None:
    people = People.of(np.array(["a", "b", "a", "a"]), 8)
    rows, counts = people.records(np.zeros(1, np.int64), 4, [0])
    assert rows.tolist() == [[0, 2, 3, 0]]
    torch.testing.assert_close(counts, torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0]]))


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 24])
def test_depths__hold_every_number_of_records_and_are_all_tried(most: int) -> None:
    depths = depths_of(most)
    assert depths[-1] == most
    for count in range(1, most + 5):
        depth = depth_of(count, most)
        assert depth >= min(count, most)
        assert depth < 2 * min(count, most) or depth == 1
    for depth in depths:
        counts = made_up_counts(9, depth)
        torch.testing.assert_close(counts.sum(1), torch.ones(9))
        assert {depth_of(int((row > 0).sum()), depth) for row in counts} == {depth}


@pytest.mark.parametrize("dp_engine", ["fast", "opacus"])
def test_train_private__steps_on_persons_with_either_engine(
    dp_engine: Literal["fast", "opacus"],
) -> None:
    world, owners = World("mlp", 1.0, 4), owners_of(SIZES)
    data = world.records(sum(SIZES))
    before = to_vector(world.model)
    config = replace(CONFIG, dp_engine=dp_engine)
    wanted = -summed(world.model, data, owners) / (config.sample_rate * config.nominal_records)
    train_private(
        world.model, *data, config, CLIP, loss=cross_entropy, noise=SeededNoise(b"n"),
        people=People.of(owners, 8),
    )  # fmt: skip
    np.testing.assert_allclose(to_vector(world.model) - before, wanted, rtol=0, atol=1e-6)
    load_vector(world.model, before)


def test_shared_noise__has_neighbours_of_persons_within_what_its_plan_accounts_for() -> None:
    """The site's sum for `privacy=distributed`, masked or for two servers, before rounding."""
    settings_ = DistributedPrivacy(unit="person", epsilon=4.0, clip_norm=0.5, max_colluders=0)
    population = Population(num_clients=3, dimension=40, records_per_step=20)
    plan = make_plan(settings_, population, sample_rate=1.0, rounds=2)
    assert plan.unit == plan.round_event.unit == "person"
    assert plan.relation == "add or remove all records of one person"
    world, owners = World("linear", 10.0, 8), owners_of(SIZES)
    data = world.records(sum(SIZES))
    kept = torch.from_numpy(np.flatnonzero(owners != owners[0]))
    one, other = (
        clipped_gradient_sum(
            world.model, *some, CONFIG, plan, loss=cross_entropy, noise=SeededNoise(b"n"),
            people=People.of(whose, 8),
        )
        for some, whose in (
            (data, owners),
            ((data[0][kept], data[1][kept]), owners[kept.numpy()]),
        )
    )  # fmt: skip
    assert 0.4 < np.linalg.norm(one - other) <= plan.clip_norm * (1 + 1e-4)


def test_canaries__are_persons_of_as_many_records_as_one_may_have() -> None:
    world, owners = World("mlp", 1.0, 4), owners_of(SIZES)
    attach(world.model, 3)
    canaries = torch.tensor([0, 2])
    found = summed(world.model, world.records(sum(SIZES)), owners, canaries=canaries)
    np.testing.assert_allclose(found[-3:], [CLIP.clip_norm, 0, CLIP.clip_norm], rtol=1e-4)
    part = persons.alike(BatchPart(inputs=(canaries,), run=lambda x: 1.0 * x, rows=2), 8)
    assert part.inputs[1].shape == (2, 8)
    torch.testing.assert_close(part.losses(), canaries.float())
