from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import pytest
from scipy import stats

from fedlearn.config import compose
from fedlearn.config.terms import terms_of
from fedlearn.core.errors import ConfigError, PrivacyError
from fedlearn.mechanisms import derive, encoding
from fedlearn.mechanisms.distributed import (
    DistributedPlan,
    DistributedPrivacy,
    Population,
    _coarsest,
    make_plan,
)
from fedlearn.mechanisms.encoding import decode, encode
from fedlearn.mechanisms.norms import clipped, length
from fedlearn.privacy.calibration import noise_multiplier
from fedlearn.privacy.events import DiscreteSumEvent
from fedlearn.privacy.integer_bounds import rounded_sensitivity
from fedlearn.privacy.noise import WORDS, SeededNoise
from fedlearn.privacy.rotation import block_of, padded
from fedlearn.report.statement import statement
from fedlearn.stages import Form, ServerRound, Total, Trained, Update
from tests.effort import slow_but

SITES, DIMENSION = 8, 20_000
POPULATION = Population(num_clients=SITES, dimension=DIMENSION, records_per_step=1.0)
CLIENT = DistributedPrivacy(unit="client", epsilon=4.0, clip_norm=1.0, max_colluders=0)


def plan_of(config: DistributedPrivacy, population: Population = POPULATION) -> DistributedPlan:
    return make_plan(config, population, sample_rate=1.0, rounds=1)


def summed(plan: DistributedPlan, updates: list[np.ndarray], seed: bytes = b"") -> np.ndarray:
    noise = SeededNoise(seed)
    words = [encode(plan, update, context=b"r1", stream=noise.stream()) for update in updates]
    total = np.sum(words, axis=0, dtype=words[0].dtype)
    return decode(plan, total, context=b"r1")


def updates(kind: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    if kind == "spike":
        return [np.eye(1, DIMENSION, 7)[0]] * SITES
    common = rng.normal(size=DIMENSION)
    drawn = [common + rng.normal(size=DIMENSION) for _ in range(SITES)]
    return [vector / np.linalg.norm(vector) for vector in drawn]


@pytest.mark.parametrize("kind", slow_but("spike".__eq__, ["alike", "spike"]))
def test_sum__has_the_error_of_central_noise_at_20_bits(kind: str) -> None:
    """At equal epsilon. 20,000 squares scatter by 1 percent: 6 deviations for the sample,
    and for the plan itself the 2 percent that are asked for; no coordinate wraps around.
    """
    plan, given = plan_of(CLIENT), updates(kind)
    central = noise_multiplier(4.0, 1e-5, 1.0, 1)
    error = summed(plan, given) - np.sum(given, axis=0)
    assert (plan.noise_stddev / central) ** 2 < 1.02
    assert np.mean(error**2) / central**2 == pytest.approx(1.0, abs=0.06)
    assert np.abs(error).max() < 7.5 * central
    assert stats.kstest(error / plan.noise_stddev, "norm").pvalue > 1e-7


@pytest.mark.slow
def test_sum__is_unbiased_on_a_coarse_grid() -> None:
    """40 sums at 13 bits against the truth: every mean within 6.5 deviations."""
    plan = plan_of(replace(CLIENT, bits=13))
    given = updates("alike")
    mean = np.mean([summed(plan, given, bytes([i])) for i in range(40)], axis=0)
    off = (mean - np.sum(given, axis=0)) / plan.noise_stddev * math.sqrt(40)
    assert np.abs(off).max() < 6.5
    assert off.std() == pytest.approx(1.0, abs=0.06)


def test_plan__pays_for_rounding_with_fewer_bits() -> None:
    stddevs = [plan_of(replace(CLIENT, bits=bits)).noise_stddev for bits in (20, 16, 14, 12)]
    assert stddevs == sorted(stddevs)
    assert stddevs[-1] < math.sqrt(2.2) * stddevs[0]


@pytest.mark.parametrize("unit", ["client", "record"])
@pytest.mark.parametrize("law", ["discrete_gaussian", "skellam"])
@pytest.mark.parametrize("bits", [10, 16])
def test_plan__meets_its_budget_where_a_gaussian_of_that_noise_would_not(
    bits: int, law: Literal["discrete_gaussian", "skellam"], unit: Literal["client", "record"]
) -> None:
    small = Population(num_clients=SITES, dimension=1000, records_per_step=1.0)
    config = replace(CLIENT, unit=unit, mechanism=law, bits=bits)
    plan = plan_of(config, small)
    assert 3.9 < plan.epsilon <= 4.0
    same = plan_of(
        replace(config, epsilon=None, noise_multiplier=noise_multiplier(4, 1e-5, 1, 1)), small
    )
    assert same.epsilon > 4.0 or law == "discrete_gaussian"


@pytest.mark.parametrize("noise", [0.05, 1.0])
def test_plan__is_on_the_finest_grid_whose_sums_keep_six_deviations_of_room(noise: float) -> None:
    """Of updates that agree, spread over a block, and of noise and rounding of every site."""
    small = Population(num_clients=SITES, dimension=1000, records_per_step=1.0)
    config = replace(CLIENT, bits=16, epsilon=None, noise_multiplier=noise)
    plan = make_plan(config, small, sample_rate=1.0, rounds=7)
    spread = SITES / plan.granularity / math.sqrt(block_of(1000))
    deviation = math.sqrt(spread**2 + SITES * (plan.share_stddev**2 + 0.25))
    assert 0.95 * 2**16 < 2 * 6 * deviation <= 2**16
    assert plan.total_event == replace(plan.round_event, steps=7)


def test_plan__refuses_too_few_bits_and_says_how_many() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.bits=9: too few .* Set privacy\.bits=(\d+)"):
        plan_of(replace(CLIENT, bits=9))
    with pytest.raises(ConfigError) as caught:
        plan_of(replace(CLIENT, bits=9))
    needed = int(str(caught.value).split("Set privacy.bits=")[1].split(" ")[0])
    assert plan_of(replace(CLIENT, bits=needed)).epsilon <= 4.0
    with pytest.raises(ConfigError):
        plan_of(replace(CLIENT, bits=needed - 1))


def test_plan__refuses_a_sum_that_no_ring_holds() -> None:
    huge = Population(num_clients=10_000, dimension=10, records_per_step=1e9)
    with pytest.raises(ConfigError, match="Fewer sites, fewer records"):
        plan_of(replace(CLIENT, unit="record"), huge)


def test_plan__sizes_shares_for_dropouts_and_colluders() -> None:
    """Fewest survivors: the budget exactly. Everybody there: less is spent. Below: nothing."""
    plan = plan_of(replace(CLIENT, max_dropouts=3, max_colluders=2))
    careless = plan_of(CLIENT)
    assert plan.share_stddev / careless.share_stddev * plan.granularity == pytest.approx(
        careless.granularity * math.sqrt(8 / 3), rel=0.02
    )
    assert (plan.event(5).shares, plan.event(8).shares) == (3, 6)
    assert plan.event(8).noise_multiplier == pytest.approx(
        plan.event(5).noise_multiplier * math.sqrt(2)
    )
    for survivors in (4, 9):
        with pytest.raises(PrivacyError, match=f"holds {survivors} sites"):
            plan.event(survivors)


def test_plan__refuses_when_no_honest_noise_is_left() -> None:
    with pytest.raises(ConfigError, match="leave none of 8 sites"):
        plan_of(replace(CLIENT, max_dropouts=5, max_colluders=3))


def test_plan__counts_on_a_single_honest_share_where_one_is_left() -> None:
    plan = plan_of(replace(CLIENT, max_dropouts=5, max_colluders=2))
    assert plan.round_event.shares == 1
    assert plan.epsilon <= 4.0


@pytest.mark.parametrize(("unit", "failure"), [("record", 2.0**-60), ("client", math.exp(-0.5))])
def test_coarsest_grid__is_where_rounding_doubles_what_noise_costs(
    unit: Literal["record", "client"], failure: float
) -> None:
    """The largest norm of neighbours, in steps, is the root of two of what it was."""
    config = replace(CLIENT, unit=unit, clip_norm=3.0)
    steps = config.clip_norm / _coarsest(config, POPULATION)
    bound = rounded_sensitivity(steps, 20_480, failure)
    assert bound == pytest.approx(math.sqrt(2) * steps, rel=1e-4)


@pytest.mark.parametrize(("records", "norm"), [(0.2, 1.5), (1.0, 1.5), (4.0, 6.0)])
def test_site_sum__is_never_scaled_below_what_a_single_record_may_add(
    records: float, norm: float
) -> None:
    """Of sites that expect less than one record in a step as well."""
    config = replace(CLIENT, unit="record", clip_norm=1.5)
    assert plan_of(config, replace(POPULATION, records_per_step=records)).range_norm == norm


def test_plan__of_records_gains_from_their_sampling() -> None:
    config = replace(CLIENT, unit="record", epsilon=1.0)
    few = make_plan(config, POPULATION, sample_rate=0.05, rounds=50)
    all_of_them = make_plan(config, POPULATION, sample_rate=1.0, rounds=50)
    assert few.epsilon <= 1.0
    assert few.noise_stddev < 0.3 * all_of_them.noise_stddev
    client = make_plan(replace(config, unit="client"), POPULATION, sample_rate=0.05, rounds=50)
    assert client.sample_rate == 1.0


def test_derive__needs_a_population_and_one_step_per_round() -> None:
    config = replace(CLIENT, unit="record")
    with pytest.raises(ValueError, match="population"):
        derive(config, sample_rate=1.0, steps_per_round=1, rounds=1)
    with pytest.raises(ConfigError, match=r"training\.local_steps=5"):
        derive(config, sample_rate=1.0, steps_per_round=5, rounds=1, population=POPULATION)
    kept = derive(CLIENT, sample_rate=1.0, steps_per_round=5, rounds=1, population=POPULATION)
    assert kept is not None
    assert kept.steps_per_round == 1


def test_encode__is_a_function_of_its_arguments() -> None:
    plan, update = plan_of(CLIENT), updates("alike")[0]
    one = encode(plan, update, context=b"c", stream=SeededNoise(b"a").stream())
    assert np.array_equal(
        one, encode(plan, update, context=b"c", stream=SeededNoise(b"a").stream())
    )
    other = encode(plan, update, context=b"c", stream=SeededNoise(b"b").stream())
    assert (one != other).mean() > 0.99
    assert one.dtype == np.dtype("<u4")
    assert int(one.max()) < 2**20
    assert one.shape == (padded(DIMENSION),)


def test_encode__uses_16_bit_words_where_they_suffice() -> None:
    plan = plan_of(replace(CLIENT, bits=14))
    word = encode(plan, updates("alike")[0], context=b"c", stream=SeededNoise(b"a").stream())
    assert word.dtype == np.dtype("<u2")


def test_encode__hides_how_large_an_update_was() -> None:
    """A million times the update is the same update: both are scaled to the bound."""
    plan, update = plan_of(CLIENT), updates("alike")[0]
    given = [
        encode(plan, factor * update, context=b"c", stream=SeededNoise(b"a").stream())
        for factor in (3.0, 3e6, 3e150)
    ]
    assert np.mean(given[0] == given[1]) > 0.999
    assert np.mean(given[0] == given[2]) > 0.999


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_encode__refuses_what_is_not_finite(value: float) -> None:
    update = np.zeros(DIMENSION)
    update[3] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode(plan_of(CLIENT), update, context=b"c", stream=SeededNoise(b"a").stream())


@pytest.mark.slow
def test_encode__fails_closed_when_no_rounding_is_within_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DistributedPlan, "rounded_norm", 1.0)
    with pytest.raises(RuntimeError, match="no rounding within the bound"):
        encode(
            plan_of(CLIENT), updates("alike")[0], context=b"c", stream=SeededNoise(b"a").stream()
        )


def test_rounding__has_coins_for_every_block_of_a_long_vector() -> None:
    """Half of the last 5,000 go up, six deviations at most off, and none of them twice."""
    rounded = encoding._rounded(np.full(2 * WORDS + 5000, 0.5), SeededNoise(b"long").stream())
    assert set(rounded.tolist()) == {0, 1}
    for block in (rounded[:WORDS], rounded[WORDS : 2 * WORDS], rounded[2 * WORDS :]):
        assert abs(block.mean() - 0.5) < 3 / math.sqrt(len(block))


def test_encode__of_many_records_is_longer_than_one_may_move_it() -> None:
    """Its rounding is not repeated for that: the bound on a record is no bound on a sum."""
    many = Population(num_clients=SITES, dimension=100, records_per_step=50.0)
    plan = make_plan(replace(CLIENT, unit="record"), many, sample_rate=1.0, rounds=1)
    update = np.eye(1, 100)[0] * 50
    whole = encoding.integers(plan, update, context=b"c", stream=SeededNoise(b"").stream())
    assert np.linalg.norm(whole) > 10 * plan.rounded_norm


def test_rounding__is_repeated_until_it_is_within_the_bound() -> None:
    """Of single tries at a tight bound many fail; of the results none does."""
    values = np.full(64, 0.3)
    stream = SeededNoise(b"tries").stream()
    bound = math.sqrt(18)
    single = [np.linalg.norm(encoding._rounded(values, stream)) > bound for _ in range(200)]
    assert 20 < sum(single) < 180
    for _ in range(200):
        assert np.linalg.norm(encoding._rounded_within(values, bound, stream)) <= bound


def test_decode__refuses_a_wrong_length() -> None:
    with pytest.raises(ValueError, match="expected"):
        decode(plan_of(CLIENT), np.zeros(5, np.uint32), context=b"c")


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1.0, 1e160, 1e300])
def test_length__is_that_of_numbers_whose_squares_are_out_of_range(scale: float) -> None:
    assert length(np.array([3.0, -4.0]) * scale) == pytest.approx(5 * scale, rel=1e-15, abs=0)
    assert length(np.zeros(3)) == length(np.zeros(0)) == 0.0


def test_clipped__is_a_projection() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        one, other = rng.normal(size=(2, 5)) * 10 ** rng.uniform(-2, 2)
        far = np.linalg.norm(clipped(one, 1.0) - clipped(other, 1.0))
        assert far <= np.linalg.norm(one - other) * (1 + 1e-12)
        assert np.linalg.norm(clipped(one, 1.0)) <= 1 + 1e-12
    assert np.array_equal(clipped(np.zeros(3), 1.0), np.zeros(3))
    assert np.array_equal(clipped(np.array([0.3, 0.4]), 1.0), [0.3, 0.4])
    # Squares of these leave the range of float64; a length beyond it scales to zero.
    assert np.linalg.norm(clipped(np.full(4, 1e300), 2.0)) == pytest.approx(2.0)
    assert np.array_equal(clipped(np.full(4, 1e-300), 2.0), np.full(4, 1e-300))
    assert np.linalg.norm(clipped(np.full(400, 1.7e308), 2.0)) <= 2.0


def test_statement__tells_who_could_break_it() -> None:
    plan = plan_of(replace(CLIENT, max_dropouts=1, max_colluders=2))
    said = partial(statement, epsilon=1.0, noise_is_private=True, sum_only=True, record="a row")
    text = said(plan)
    assert "up to 2 of the sites" in text
    assert "at least 5 of 8 sites" in text
    alone = said(plan_of(CLIENT))
    assert "does not hold against another site" in alone


# --- the stages, by hand ------------------------------------------------------------

TERMS = replace(
    terms_of(compose(["experiment=medical_heart", "privacy=distributed"])),
    learning_rate=0.1, weight_decay=0.5, sample_rate=0.25, nominal_records=20, step_share=1.0,
)  # fmt: skip


def test_source__of_records_is_one_step_on_the_sum_over_public_constants() -> None:
    source = plan_of(replace(CLIENT, unit="record")).source(TERMS)
    assert isinstance(source, encoding.CommonStep)
    assert source.records == SITES * 0.25 * 20
    assert not source.gives_model
    at = ServerRound(np.array([1, 2], np.float32), 1.0, b"r1", SeededNoise(b""), SITES)
    total = Total(values=np.array([10.0, -20.0]), weight=1, counters=np.zeros(0, np.int64))
    # The mean gradient (1/4, -1/2), and half of the model for its decay.
    assert source.backward(total, at).values == pytest.approx([1 - 0.075, 2 - 0.05])
    assert isinstance(plan_of(CLIENT).source(TERMS), Trained)


@pytest.mark.parametrize("unit", slow_but("client".__eq__, ["client", "record"]))
def test_stage__gives_the_mean_of_clients_and_the_sum_of_records(
    unit: Literal["client", "record"],
) -> None:
    plan = plan_of(replace(CLIENT, unit=unit))
    (stage,) = plan.stages(TERMS)
    assert stage.form(Form(values=DIMENSION)) == Form(values=padded(DIMENSION), bits=plan.bits)
    at = ServerRound(np.zeros(DIMENSION), 1.0, b"r1", SeededNoise(b""), SITES)
    whole = sum(stage.forward(Update(values=each), at).values for each in updates("alike"))
    total = Total(values=whole, weight=SITES, counters=np.zeros(0, np.int64))
    released = stage.backward(total, at)
    clients = SITES if unit == "client" else 1
    assert released.weight == 1
    assert np.array_equal(released.values * clients, summed(plan, updates("alike")))


@pytest.mark.parametrize(("law", "heavier"), [("discrete_gaussian", 1), ("skellam", 2)])
def test_reach__is_in_steps_of_the_grid(
    law: Literal["discrete_gaussian", "skellam"], heavier: int
) -> None:
    for unit in ("client", "record"):
        plan = plan_of(replace(CLIENT, unit=unit, mechanism=law))
        reach = plan.reach(TERMS)
        assert reach is not None
        assert reach.clips
        rounding = 0.25 if unit == "record" else 0
        assert reach.noise == pytest.approx(
            math.sqrt(heavier * plan.share_stddev**2 + rounding), rel=1e-14
        )
        steps = plan.range_norm / plan.granularity
        assert reach.signal == (plan.rounded_norm if unit == "client" else steps * (1 + 1e-9))
        assert reach.signal > steps
        assert plan.reach(replace(TERMS, step_share=None)) is None


@pytest.mark.parametrize(
    ("unit", "rate", "failure", "repeated"),
    [("record", 0.25, 2.0**-60, 2.0**-60), ("client", 1.0, 0.0, math.exp(-0.5))],
)
def test_event__is_charged_for_all_that_can_happen_in_a_round(
    unit: Literal["record", "client"], rate: float, failure: float, repeated: float
) -> None:
    """Of records the chance that rounding moves them further than the bound is paid for; a
    client's rounding is repeated until it does not."""
    asked = replace(CLIENT, unit=unit, max_dropouts=2, max_colluders=1,
                    epsilon=None, noise_multiplier=2.0)  # fmt: skip
    plan = make_plan(asked, POPULATION, sample_rate=0.25, rounds=3)
    apart = (plan.clip_norm + 1e-9 * plan.range_norm) / plan.granularity
    bound = rounded_sensitivity(apart, 20_480, repeated)
    expected = DiscreteSumEvent(
        law=plan.law, unit=unit, l2_sensitivity=bound * (1 + 1e-9), shares=SITES - 3,
        share_stddev=plan.share_stddev, dimension=20_480, rounding_failure=failure,
        sample_rate=rate, steps=1,
    )  # fmt: skip
    assert padded(DIMENSION) == 20_480
    assert plan.round_event == expected
    assert plan.total_event == replace(expected, steps=3)


def test_cost__of_a_sum_that_was_not_released_is_that_of_the_fewest() -> None:
    plan = plan_of(replace(CLIENT, max_dropouts=3))
    assert [plan.cost(n) for n in (0, 4, 5, 8)] == [plan.event(n) for n in (5, 5, 5, 8)]
