"""Checks by numbers whose law is known: what is as promised passes, and how far off something must
be to be seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlearn.auditing.draw_laws import Draws, draw_checks
from fedlearn.auditing.findings import CHECKS, Check, CheckName
from fedlearn.auditing.noise_laws import (
    Steps,
    noise_checks,
    record_checks,
    source_checks,
    sums_check,
)
from fedlearn.privacy.discrete import Law, integer_noise
from fedlearn.privacy.noise import Keystream
from tests.effort import examples, slow_but

SIZES = {"weight": 64, "bias": 8, "other": 64, "head": 2, "one": 1}
Noise = dict[str, NDArray[np.float64]]


def noise(seed: int, draws: int = 16) -> Noise:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(draws, size)) for name, size in SIZES.items()}


def drawn(seed: int, rate: float, *, records: int = 200, singles: int = 64) -> Draws:
    rng, steps = np.random.default_rng(seed), 5
    single = (rng.random((singles, records)) < rate).astype(np.int64)
    return Draws(single=single, several=rng.binomial(steps, rate, (8, records)), steps=steps)


def failed(found: list[Check]) -> set[CheckName]:
    return {check.name for check in found if not check.holds}


def of_draws(draws: Draws, rate: float, coins: int = 9) -> list[Check]:
    return draw_checks(draws, rate, np.random.default_rng([coins, 1]))


def chances(found: list[list[Check]]) -> NDArray[np.float64]:
    return np.array([check.p_value for checks in found for check in checks if check.p_value])


def few(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng([seed, 1]).normal(size=(24, 12))


def steps(seed: int) -> Steps:
    rng = np.random.default_rng([seed, 2])
    sums = rng.normal(size=(6, 90)) * (rng.random((6, 90)) < 0.5) * 10
    return Steps(noise=rng.normal(size=sums.shape), sums=sums, everybody=sums.sum(0))


def from_a_source(seed: int, size: int = 4096) -> tuple[NDArray[np.float64], Noise]:
    rng = np.random.default_rng([seed, 3])
    coins = (rng.random(size) < 0.1).astype(np.float64)
    return rng.normal(size=size), {"coins": coins, "more": rng.normal(size=size)}


def as_they_should_be(found: NDArray[np.float64]) -> bool:
    """At most a hundredth of chances lies below .01, and four deviations more."""
    share: float = (found < 0.01).mean()
    return found.min() > 1e-6 and share < 0.01 + 4 * np.sqrt(0.01 / len(found))


@pytest.mark.slow
def test_noise_checks__accuse_nobody_of_standard_normals() -> None:
    made = [noise_checks(noise(seed), others={"few": few(seed)}) for seed in range(300)]
    assert as_they_should_be(chances(made))


def test_record_and_source_checks__accuse_nobody_of_noise_on_its_own() -> None:
    assert as_they_should_be(chances([record_checks(steps(seed)) for seed in range(300)]))
    made = [source_checks(*from_a_source(seed)) for seed in range(300)]
    assert as_they_should_be(chances(made))


@pytest.mark.parametrize("where", ["row", "layer", "coordinate", "secret"])
def test_noise_checks__see_a_direction_without_noise(where: str) -> None:
    matrix = np.random.default_rng(0).normal(size=(16, 8, 10))
    others = {"few": few(0)}
    match where:
        case "row":
            matrix -= matrix.mean(2, keepdims=True)
        case "layer":
            matrix -= matrix.mean((1, 2), keepdims=True)
        case "coordinate":
            matrix[:, 3, 4] = 0
        case "secret":
            way = np.random.default_rng(7).normal(size=12)
            others["few"] -= np.outer(others["few"] @ way, way) / (way @ way)
    assert "noise_of_directions" in failed(noise_checks({"layer": matrix}, others=others))


def test_noise_checks__see_a_tail_that_is_cut_off_at_three_deviations() -> None:
    many = np.random.default_rng(0).normal(size=(2, 100_000))
    assert failed(noise_checks(noise(0), others={"many": many})) == set()
    found = noise_checks(noise(0), others={"many": many.clip(-3, 3)})
    assert "noise_law" in failed(found)


def test_record_checks__see_what_of_the_noise_has_to_do_with_records() -> None:
    honest = steps(0)
    for wrong in (
        honest.noise + 0.5 * honest.sums,
        honest.noise * (1 + (honest.sums != 0)),
        np.where(honest.sums != 0, np.abs(honest.noise) * np.sign(honest.sums), honest.noise),
        honest.noise - 0.4 * np.sign(honest.everybody),
    ):
        found = record_checks(Steps(noise=wrong, sums=honest.sums, everybody=honest.everybody))
        assert failed(found) == {"noise_of_records"}


def test_source_checks__see_one_key_for_two_draws() -> None:
    noise, others = from_a_source(0)
    large = (np.abs(noise) > 1.6).astype(np.float64)
    for again in (noise, large, np.roll(noise, 77), -noise):
        assert failed(source_checks(noise, others | {"again": again})) == {"source_draws"}


def test_draw_checks__see_neighbours_that_share_a_coin() -> None:
    fair = drawn(0, 0.1)
    for first in (0, 1):
        single = fair.single.copy()
        pairs = single[:, first : first + 198]
        pairs[:, 1::2] = pairs[:, ::2]
        found = of_draws(Draws(single=single, several=fair.several, steps=5), 0.1)
        assert failed(found) == {"draws_of_steps"}


def test_draw_checks__see_a_step_that_comes_again_later() -> None:
    single = drawn(0, 0.1).single.copy()
    single[50] = single[7]
    found = of_draws(Draws(single=single, several=drawn(0, 0.1).several, steps=5), 0.1)
    assert failed(found) == {"draws_of_steps"}


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.001, 0.02, 0.5, 0.97])
def test_draw_checks__accuse_nobody_of_independent_coins(rate: float) -> None:
    found = chances([of_draws(drawn(seed, rate), rate, seed) for seed in range(150)])
    assert as_they_should_be(found)


def test_noise_checks__see_a_tenth_of_the_noise_missing_on_one_layer() -> None:
    less = noise(0, draws=64)
    assert failed(noise_checks(less | {"weight": 0.9 * less["weight"]})) == {"noise_size"}


def test_noise_checks__see_too_much_of_it_too_but_not_what_rounding_adds() -> None:
    more = {name: 1.1 * values for name, values in noise(0).items()}
    assert failed(noise_checks(more)) == {"noise_size"}
    assert failed(noise_checks(more, rounding=0.21)) == set()


def test_noise_checks__see_the_same_noise_on_two_layers() -> None:
    same = noise(0)
    found = failed(noise_checks(same | {"other": same["weight"]}))
    assert "noise_of_layers" in found
    assert "noise_of_layers" in failed(noise_checks(same | {"other": -same["weight"]}))
    assert "noise_of_layers" in failed(noise_checks(same | {"bias": same["other"][:, :8]}))


def test_noise_checks__see_noise_of_the_same_size_under_other_signs() -> None:
    same, rng = noise(0, draws=32), np.random.default_rng(1)
    signs = rng.choice([-1, 1], same["weight"].shape)
    found = failed(noise_checks(same | {"other": signs * same["weight"]}))
    assert found == {"noise_of_layers"}


def test_noise_checks__see_a_draw_that_comes_again() -> None:
    again = {name: np.concatenate([values, values[:1]]) for name, values in noise(0).items()}
    assert failed(noise_checks(again)) == {"noise_of_draws"}


def test_noise_checks__see_a_block_that_begins_again_within_a_layer() -> None:
    block = np.random.default_rng(0).normal(size=(16, 50))
    found = failed(noise_checks({"layer": np.tile(block, (1, 4))}))
    assert "noise_at_a_distance" in found


def test_noise_checks__see_another_law_of_the_same_deviation() -> None:
    rng = np.random.default_rng(0)
    equal = {name: rng.uniform(-(3**0.5), 3**0.5, (200, size)) for name, size in SIZES.items()}
    assert "noise_law" in failed(noise_checks(equal))


def test_draw_checks__see_first_rows_in_place_of_a_sample() -> None:
    fair = drawn(0, 0.2)
    first = (np.arange(200) < fair.single.sum(1)[:, None]).astype(np.int64)
    found = of_draws(Draws(single=first, several=fair.several, steps=5), 0.2)
    assert "draws_of_records" in failed(found)


def test_draw_checks__see_batches_of_one_size() -> None:
    rng, fair = np.random.default_rng(0), drawn(0, 0.1)
    single = np.stack([rng.permutation(200) < 20 for _ in range(64)]).astype(np.int64)
    found = failed(of_draws(Draws(single=single, several=fair.several, steps=5), 0.1))
    assert found == {"draws_of_steps"}


def test_draw_checks__see_a_pass_and_a_batch_that_comes_again() -> None:
    fair = drawn(0, 0.5)
    half = fair.single[::2]
    for other in (1 - half, half):
        turns = np.stack([half, other], axis=1).reshape(-1, 200)
        found = of_draws(Draws(single=turns, several=fair.several, steps=5), 0.5)
        assert "draws_of_steps" in failed(found)


def test_draw_checks__see_coins_that_are_kept_for_a_round() -> None:
    fair = drawn(0, 0.3)
    kept = 5 * fair.single[:8]
    found = of_draws(Draws(single=fair.single, several=kept, steps=5), 0.3)
    assert "draws_of_records" in failed(found)


def test_draw_checks__see_a_record_that_takes_part_twice_or_by_halves() -> None:
    fair = drawn(0, 0.3)
    for wrong in (2, -1):
        single = np.where(np.arange(200) == 3, wrong, fair.single)
        found = of_draws(Draws(single=single, several=fair.several, steps=5), 0.3)
        assert failed(found) == {"draws"}


def test_draw_checks__of_whole_batches_want_everybody_in_every_step() -> None:
    everybody = Draws(
        single=np.ones((4, 50), np.int64), several=np.full((4, 50), 5, np.int64), steps=5
    )
    assert failed(of_draws(everybody, 1.0)) == set()
    fewer = Draws(single=everybody.single, several=everybody.several - 1, steps=5)
    assert failed(of_draws(fewer, 1.0)) == {"draws"}


def test_checks__have_a_sentence_each() -> None:
    names = {check.name for check in [*noise_checks(noise(0)), *of_draws(drawn(0, 0.5), 0.5)]}
    assert names < set(CHECKS)


def of_tests(coins: np.random.Generator, law: Law, deviation: int) -> Noise:
    """Whole-number noise of 96 runs on three sums, spread over its steps, in deviations."""
    drawn = integer_noise(law, deviation)
    found = {}
    for name, size in (("confusion", 4), ("loss", 1), ("scores", 32)):
        words = Keystream(coins.bytes(32))
        whole = drawn.draw(96 * size, words).reshape(96, size)
        found[name] = (whole + coins.uniform(-0.5, 0.5, whole.shape)) / deviation
    return found


@pytest.mark.slow
@pytest.mark.parametrize("law", slow_but("skellam".__eq__, ["discrete_gaussian", "skellam"]))
@pytest.mark.parametrize("deviation", slow_but((4).__eq__, [4, 300]))
def test_noise_of_tests__of_whole_numbers_is_accused_as_rarely_as_promised(
    law: Law, deviation: int
) -> None:
    coins = np.random.default_rng(deviation)
    dithered = 1 / 12 / deviation**2
    found = [
        sums_check(of_tests(coins, law, deviation), dithered=dithered).p_value or 0.0
        for _ in range(examples(60))
    ]
    assert min(found) > 1e-4


@pytest.mark.parametrize("name", ["confusion", "loss", "scores"])
@pytest.mark.parametrize("left", [0.5, 0.0])
def test_noise_of_tests__sees_one_sum_with_less(name: str, left: float) -> None:
    made = of_tests(np.random.default_rng(0), "discrete_gaussian", 300)
    made[name] *= left
    check = sums_check(made, dithered=1e-6)
    assert not check.holds
    assert check.name == "noise_of_tests"
    assert check.where
