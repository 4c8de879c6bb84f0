"""The bound of honest sums, the ring that is sized to it, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm
from torch import nn

from fedlearn.agreement import bound_of, payload_of, route_of, stack_of
from fedlearn.config import compose, plan_of
from fedlearn.config.terms import terms_of
from fedlearn.core.errors import ConfigError
from fedlearn.crypto.keystream import SecureWords
from fedlearn.mechanisms import RecordPlan
from fedlearn.mechanisms.client import ClientPlan, ClientSum
from fedlearn.mechanisms.reach import FALSE_ALARM, Reach, SumBound
from fedlearn.mechanisms.record import NoisyTraining
from fedlearn.privacy import SeededNoise
from fedlearn.robust import Bounded, Within, left_out, suspects
from fedlearn.secagg.settings import SecAggRing
from fedlearn.stages import Form, Total, Update
from fedlearn.training.private import train_private
from tests.effort import examples, slow_but

HEART = "experiment=medical_heart"
RULE = Bounded()


def total_of(values: np.ndarray, weight: float) -> Total:
    return Total(values=np.asarray(values, np.float64), weight=weight, counters=np.zeros(0))


NOTHING = total_of(np.zeros(1), 0)

reaches = st.builds(
    Reach,
    signal=st.floats(1e-3, 10),
    noise=st.sampled_from([0.0, 1e-3, 0.05, 1.0]),
    loose=st.sampled_from([1.0, 3.0]),
)
bounds = st.builds(
    SumBound,
    reach=reaches,
    size=st.sampled_from([1, 2, 28, 1000]),
    rounds=st.integers(1, 500),
    step=st.just(2.0**-10),
)


# --- the bound --------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 28, 1000, 100_000, 10_000_000])
def test_bound__holds_noise_with_the_stated_chance_and_little_room(size: int) -> None:
    """Against the exact quantiles of the norm and of the largest value."""
    bound = SumBound(reach=Reach(signal=0.0, noise=1.0), size=size, rounds=20)
    each = FALSE_ALARM / (2 * 3 * 20)
    exact = math.sqrt(chi2.isf(each, size))
    assert exact <= bound.sum_norm(1) <= 1.2 * exact
    largest = norm.isf(each / (2 * size))
    assert largest <= bound.sum_value(1) <= 1.1 * largest


@pytest.mark.parametrize("size", [1, 28, 100_000])
def test_bound__of_noise_is_that_of_the_lemma_for_all_that_a_run_may_hold(size: int) -> None:
    """Half of the chance for either end, over three events of a sum and two of 4096 sites."""
    bound = SumBound(reach=Reach(signal=0.0, noise=0.5), size=size, rounds=20)
    for events, norm_, value in (
        (3, 2 * bound.sum_norm(1), 2 * bound.sum_value(1)),
        (8192, 2 * bound.site_norm, 2 * bound.site_value),
    ):
        x = math.log(events * 20) + 41 * math.log(2)
        assert norm_**2 == pytest.approx(size + 2 * math.sqrt(size * x) + 2 * x, rel=1e-12)
        # Two tails of each of its values.
        assert size * 2 * math.exp(-(value**2) / 2) == pytest.approx(math.exp(-x), rel=1e-9, abs=0)
    for sites in (4, 9):
        assert bound.sum_norm(sites) == pytest.approx(math.sqrt(sites) * bound.sum_norm(1))
        assert bound.sum_value(sites) == pytest.approx(math.sqrt(sites) * bound.sum_value(1))
    thrice = replace(bound, reach=replace(bound.reach, loose=3.0))
    assert thrice.site_norm == thrice.site_value == 3 * bound.site_norm
    assert thrice.sum_norm(4) == thrice.sum_value(4) == 4 * thrice.site_norm


@given(
    bound=bounds,
    weight=st.integers(1, 100),
    loose=st.sampled_from([1.0, 1.5, 3.0]),
    per_value=st.booleans(),
)
def test_bound__without_noise_is_what_sites_that_agree_come_to(
    bound: SumBound, weight: int, loose: float, per_value: bool
) -> None:
    """To the last step of their rounding."""
    reach = replace(bound.reach, noise=0.0, loose=loose, per_value=per_value)
    bound, root = replace(bound, reach=reach), math.sqrt(bound.size)
    norm_ = loose * reach.signal * (root if per_value else 1)
    value = reach.signal if loose == 1 else norm_
    assert bound.site_norm == pytest.approx(norm_)
    assert bound.site_value == pytest.approx(value)
    assert bound.sum_norm(weight) == pytest.approx(weight * (norm_ + bound.step * root))
    assert bound.sum_value(weight) == pytest.approx(weight * (value + bound.step))


@pytest.mark.parametrize("sites", [3, 31])
@pytest.mark.parametrize("size", [1, 28, 5000])
def test_bound__no_honest_sum_is_refused_however_much_the_sites_agree(
    sites: int, size: int
) -> None:
    reach = Reach(signal=0.1, noise=0.01, adds_up=True)
    bound = SumBound(reach=reach, size=size, rounds=40)
    rng = np.random.default_rng(size)
    pull = np.full(size, 0.1 / math.sqrt(size))
    before = NOTHING
    for _ in range(40):
        total = total_of(sites * pull + rng.normal(0, 0.01 * math.sqrt(sites), size), sites)
        assert RULE.refuses(bound, total, before) is None
        before = total_of(before.values + total.values, before.weight + sites)


@given(bound=bounds, weight=st.integers(1, 100))
def test_bound__of_a_sum_is_never_more_than_that_of_its_sites(bound: SumBound, weight: int) -> None:
    """But for rounding, and grows no faster than the number of sites."""
    plain = replace(bound, step=0.0)
    assert plain.sum_norm(weight) <= weight * plain.site_norm * (1 + 1e-9)
    assert plain.sum_value(weight) <= weight * plain.site_value * (1 + 1e-9)
    assert plain.sum_norm(weight + 1) > plain.sum_norm(weight)


def test_refuses__what_is_beyond_a_bound_by_any_of_them() -> None:
    bound = SumBound(reach=Reach(signal=1.0, noise=0.01, adds_up=True), size=400, rounds=10)
    even = np.full(400, 1 / 20)
    for sites in (3, 8):
        norm_, value = bound.sum_norm(sites), bound.sum_value(sites)
        good = total_of(even * norm_ * 0.99, sites)
        assert RULE.refuses(bound, good, NOTHING) is None
        long = RULE.refuses(bound, total_of(even * norm_ * 1.01, sites), NOTHING)
        assert long is not None
        assert "its norm" in long
        spike = np.zeros(400)
        spike[7] = -1.01 * value
        assert "a value" in str(RULE.refuses(bound, total_of(spike, sites), NOTHING))


def test_refuses__a_steady_pull_that_hides_in_the_room_of_noise() -> None:
    """Each sum is within its bound; noise of two rounds does not point the same way."""
    bound = SumBound(reach=Reach(signal=0.0, noise=1.0, adds_up=True), size=10_000, rounds=10)
    pull = total_of(np.full(10_000, 0.999 * bound.sum_norm(4) / 100), 4)
    assert RULE.refuses(bound, pull, NOTHING) is None
    assert "all sums so far" in str(RULE.refuses(bound, pull, pull))


def test_refuses__says_what_it_found_and_what_honest_sites_reach() -> None:
    """And sums of rounds are taken together only where their noises add up."""
    bound = SumBound(reach=Reach(signal=1.0), size=4, rounds=10)
    spike, even = total_of(np.array([0, 0, -7.0, 0]), 3), total_of(np.full(4, 2.5), 3)
    assert RULE.refuses(bound, spike, NOTHING) == "a value is 7, and honest sites reach 3"
    assert RULE.refuses(bound, even, NOTHING) == "its norm is 5, and honest sites reach 3"
    infinite = total_of(np.array([math.inf, 0, 0, 0]), 3)
    assert "a value is no number" in str(RULE.refuses(bound, infinite, NOTHING))
    good = total_of(np.array([3.0, 0, 0, 0]), 3)
    wild = total_of(np.array([999.0, 0, 0, 0]), 3)
    assert RULE.refuses(bound, good, wild) is None
    together = replace(bound, reach=replace(bound.reach, adds_up=True))
    assert RULE.refuses(together, good, good) is None
    assert "is 1e+03, and honest sites reach 6" in str(RULE.refuses(together, good, wild))


# --- the ring ---------------------------------------------------------------------


@settings(max_examples=examples(60), deadline=None)
@given(bound=bounds, sites=st.integers(3, 40))
def test_ring__holds_the_largest_honest_sum_and_not_twice_as_much(
    bound: SumBound, sites: int
) -> None:
    """Every lane at both ends of what the bound allows decodes exactly, in as few bits as that."""
    plain = SecAggRing(clip=1e4, resolution=bound.step, rounding="nearest")
    form = Form(values=bound.size, weighted=False)
    payload = payload_of(form, plain, sites, bound)
    largest = payload.fixed_point.max_integer
    most = min(math.ceil(bound.sum_value(sites) / bound.step), sites * largest)
    assert most < 2 ** (payload.lane_bits - 1)
    assert payload.lane_bits == 8 or most >= 2 ** (payload.lane_bits - 2)
    # The sites' parts of the largest sum, some with more than their share.
    rng = np.random.default_rng(sites)
    signs = rng.choice([-1, 1], bound.size)
    shares = np.full(sites, most // sites)
    values = np.minimum(shares, largest)[:, None] * signs
    total = payload.ring.zeros(payload.length)
    for one in values:
        exact = (one * bound.step).astype(np.float32)
        total += payload.encode(exact, 1, (), SecureWords())
    decoded = payload.decode(payload.ring.reduce(total))
    assert np.allclose(decoded.values, values.sum(0) * bound.step, rtol=1e-6, atol=bound.step)
    assert decoded.weight == sites


def test_ring__has_fewer_bits_than_before_and_more_where_they_are_set() -> None:
    for extra, bits in (((), 17), (("secagg.bits=24",), 24), (("robust=none",), 32)):
        config = compose([HEART, *extra])
        plan = plan_of(config)
        form = route_of(config, plan).form(stack_of(config, 28))
        payload = payload_of(form, config.secagg, 4, bound_of(config, plan, form))
        assert payload.lane_bits == bits


def test_ring__of_too_few_bits_is_refused_with_a_way_out_that_works() -> None:
    config = compose([HEART, "secagg.bits=12"])
    plan = plan_of(config)
    form = route_of(config, plan).form(stack_of(config, 28))
    with pytest.raises(ConfigError, match=r"takes 17 bits.*Leave secagg\.bits out"):
        payload_of(form, config.secagg, 4, bound_of(config, plan, form))


# --- what a mechanism reaches -----------------------------------------------------


class OneGradient(nn.Module):
    """A model whose every record pulls the same way."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(features, self.weight[None])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("steps", [1, 5])
def test_record__reach_is_what_a_site_moves_whose_records_all_pull_one_way(
    momentum: float, steps: int
) -> None:
    """Far more records than are expected: the bound is met, and not passed."""
    config = compose(
        [
            *(HEART, "privacy.epsilon=null", "privacy.noise_multiplier=0"),
            *(f"training.momentum={momentum}", f"training.local_steps={steps}"),
        ]
    )
    plan = plan_of(config)
    assert plan is not None
    form = route_of(config, plan).form(stack_of(config, 3))
    bound = bound_of(config, plan, form)
    assert bound is not None
    model = OneGradient()
    features = torch.ones(500, 3) * 10
    source = route_of(config, plan).source
    train_private(
        model, features, torch.zeros(500, dtype=torch.int64), config.training, plan,
        loss=lambda outputs, labels: outputs[:, 0], noise=SeededNoise(b"x"),
        step_norm=source.step_norm,
    )  # fmt: skip
    moved = float(model.weight.detach().norm())
    assert moved == pytest.approx(bound.reach.signal, rel=1e-3)
    assert moved <= bound.reach.signal
    assert bound.reach.noise == 0


@pytest.mark.slow
def test_record__noise_of_the_reach_is_that_of_all_its_steps() -> None:
    config = compose(
        [HEART, "training.momentum=0.5", "training.local_steps=3", "training.sample_rate=0.5"]
    )
    plan = plan_of(config)
    assert plan is not None
    form = route_of(config, plan).form(stack_of(config, 3))
    reach = bound_of(config, plan, form).reach  # type: ignore[union-attr]
    drawn = []
    for i in range(300):
        model = OneGradient()
        nobody = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
        train_private(
            model, *nobody, config.training, plan,
            loss=lambda outputs, labels: outputs[:, 0], noise=SeededNoise(b"%d" % i),
        )  # fmt: skip
        drawn.append(model.weight.detach().numpy())
    assert np.std(drawn) == pytest.approx(reach.noise, rel=0.1)


STEPS = RecordPlan(
    clip_norm=2.0, noise_multiplier=3.0, delta=1e-5, sample_rate=0.5, steps_per_round=2, rounds=7
)
TERMS = replace(
    terms_of(compose([HEART])),
    optimizer="sgd", learning_rate=0.1, momentum=0.5, weight_decay=0.0, local_steps=2,
    nominal_records=80, step_share=0.25, corrected=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("share", "expected"), [(0.25, 20.0), (1.0, 80.0), (0.03, 2.4), (0.02, 2.0), (None, None)]
)
def test_record__a_step_is_held_to_a_share_of_its_records_and_never_to_less_than_one(
    share: float | None, expected: float | None
) -> None:
    terms = replace(TERMS, step_share=share)
    source = STEPS.source(terms)
    assert isinstance(source, NoisyTraining)
    assert source.step_norm == pytest.approx(expected)
    assert (STEPS.reach(terms) is None) == (share is None)


def test_record__reach_by_hand_and_thrice_that_where_more_moves_the_steps() -> None:
    """Of two steps the first moves twice: by itself, and by the half that momentum keeps."""
    reach = STEPS.reach(TERMS)
    assert reach is not None
    assert reach.signal == pytest.approx(0.1 / 40 * 20 * (1 + 1.5), rel=2e-3)
    assert reach.signal > 0.1 / 40 * 20 * (1 + 1.5) * (1 + 2.0**-12)
    assert reach.noise == pytest.approx(0.1 / 40 * 6 * math.sqrt(1 + 1.5**2))
    assert (reach.loose, reach.adds_up, reach.per_value, reach.clips) == (1, True, False, False)
    for change in ({"corrected": True}, {"weight_decay": 0.01}):
        moved = STEPS.reach(replace(TERMS, **change))
        assert moved == replace(reach, loose=3.0, adds_up=False)
    adam = STEPS.reach(replace(TERMS, optimizer="adam"))
    assert adam is not None
    assert adam == Reach(signal=adam.signal, per_value=True)
    assert STEPS.reach(replace(TERMS, optimizer="adam", corrected=True)) == replace(adam, loose=3.0)


@pytest.mark.slow
def test_record__reach_of_adam_is_what_its_longest_steps_move() -> None:
    """A gradient after so long a silence that all averages are forgotten, at torch's betas."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    adam = torch.optim.Adam([weight], lr=0.1)
    for gradient in (*[0.0] * 7000, 1.0):
        weight.grad = torch.full((1,), gradient, dtype=torch.float64)
        adam.step()
    reach = STEPS.reach(replace(TERMS, optimizer="adam", local_steps=1))
    assert reach is not None
    assert abs(float(weight.detach())) <= reach.signal <= 1.02 * abs(float(weight.detach()))
    twice = STEPS.reach(replace(TERMS, optimizer="adam"))
    assert twice == replace(reach, signal=2 * reach.signal)


@settings(deadline=None, max_examples=examples(25))
@given(st.data())
def test_step_norm__brings_no_two_sums_further_apart(data: st.DataObject) -> None:
    """One record more moves the scaled sum by its clip norm at most."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    bound = data.draw(st.floats(0.5, 20))
    rows = rng.normal(size=(data.draw(st.integers(1, 40)), 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    config = compose([HEART, "privacy.epsilon=null", "privacy.noise_multiplier=0"])
    plan = plan_of(config)
    assert plan is not None

    def scaled(records: np.ndarray) -> np.ndarray:
        model = OneGradient()
        model.weight = nn.Parameter(torch.zeros(4))
        features = torch.from_numpy(records.astype(np.float32))
        train_private(
            model, features, torch.zeros(len(records), dtype=torch.int64), config.training, plan,
            loss=lambda outputs, labels: outputs[:, 0], noise=SeededNoise(b"x"), step_norm=bound,
        )  # fmt: skip
        return model.weight.detach().numpy() * 125 / 0.2

    whole, less = scaled(rows), scaled(rows[:-1])
    assert np.linalg.norm(whole) <= bound * (1 + 1e-5)
    assert np.linalg.norm(whole - less) <= 1 + 1e-4


@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
@pytest.mark.parametrize("unit", slow_but(lambda unit: unit == "record", ["record", "client"]))
def test_distributed__integers_of_sites_that_agree_are_within_the_bound(
    mechanism: str, unit: str
) -> None:
    config = compose(
        [HEART, "privacy=distributed", f"privacy.mechanism={mechanism}", f"privacy.unit={unit}"]
    )
    plan = plan_of(config, sites=4, dimension=28)
    assert plan is not None
    form = route_of(config, plan).form(stack_of(config, 28))
    bound = bound_of(config, plan, form)
    assert bound is not None
    rng = np.random.default_rng(0)
    pull = rng.normal(size=28)
    pull *= 1e6 / np.linalg.norm(pull)
    payload = payload_of(form, config.secagg, 4, bound)
    stage = route_of(config, plan).at_site[-1]

    class At:
        public = b"round 1"

    for i in range(50):
        total = payload.ring.zeros(payload.length)
        for site in range(4):
            At.noise = SeededNoise(b"%d %d" % (i, site))  # type: ignore[attr-defined]
            update = stage.forward(Update(values=pull.astype(np.float32)), At())  # type: ignore[arg-type]
            total += payload.contribution(update, SecureWords())
        opened = payload.decode(payload.ring.reduce(total))
        assert RULE.refuses(bound, opened, NOTHING) is None
        longer = replace(opened, values=opened.values * 10)
        assert RULE.refuses(bound, longer, NOTHING) is not None


def test_within__leaves_an_honest_update_as_it_is_and_shortens_a_longer_one() -> None:
    stage = Within(Reach(signal=1.0), rounds=5)
    honest = np.array([0.59, 0.79], np.float32)
    assert np.array_equal(stage.bounded(honest, None), honest)  # type: ignore[arg-type]
    long = np.array([6.0, 8.0], np.float32)
    assert stage.bounded(long, None) == pytest.approx([0.6, 0.8])  # type: ignore[arg-type]
    for factor in (1 - 5e-5, 1 + 5e-5, 1.1):
        given = Update(values=factor * np.array([0.6, 0.8], np.float32), weight=3, counters=(7,))
        sent = stage.forward(given, None)  # type: ignore[arg-type]
        assert np.linalg.norm(sent.values.astype(np.float64)) <= 1 + 1e-7
        assert (sent.weight, sent.counters, sent.values.dtype) == (3, (7,), np.float32)


def test_bounds__are_part_of_the_terms() -> None:
    plain = compose([HEART])
    for change in ("robust.share=0.4", "robust.norm=3", "robust.repeats=1", "robust=none"):
        assert compose([HEART, change]).terms != plain.terms


# --- who is left out --------------------------------------------------------------


@given(sites=st.integers(4, 12), liar=st.integers(0, 11), seed=st.integers(0, 99))
def test_left_out__finds_a_site_that_lies_in_every_round(sites: int, liar: int, seed: int) -> None:
    names = [f"site {i}" for i in range(sites)]
    lying = names[liar % sites]
    refused: list[list[str]] = []
    while (gone := left_out(refused, seed)) != lying:
        there = [name for name in names if name != gone]
        assert lying in there
        refused.append(there)
        assert len(refused) <= sites
    assert lying in suspects(refused)
    assert len(refused) <= sites


def test_left_out__is_nobody_where_no_single_site_explains_it() -> None:
    assert left_out([], 0) is None
    assert left_out([["a", "b"], ["c", "d"]], 0) is None
    assert suspects([["a", "b", "c"], ["b", "c", "d"]]) == ["b", "c"]


@cache
def client_plan() -> ClientPlan:
    plan = plan_of(compose([HEART, "privacy=client"]), sites=4, dimension=6)
    assert isinstance(plan, ClientPlan)
    return plan


@settings(deadline=None)
@given(
    offset=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=6, max_size=6),
    way=st.lists(st.floats(-1, 1), min_size=6, max_size=6),
    clip_norm=st.sampled_from([0.01, 1.0, 7.5]),
    count=st.integers(-(2**63), 2**63 - 2),
)
def test_client__one_site_moves_a_sum_by_its_norm_whatever_another_has_sent(
    offset: list[int], way: list[float], clip_norm: float, count: int
) -> None:
    """Also where that other one has put the sum next to the end of its ring."""
    step, sites = 4 * 4 * clip_norm / 2**16, 4  # the ring holds twice what four sites reach
    change = np.array(way)
    change *= clip_norm / max(1.0, float(np.linalg.norm(change)))
    moved = np.trunc(change / step).astype(np.int64)

    def added(whole: np.ndarray, within: int) -> ClientSum:
        found = ClientSum(client_plan(), 6, clip_norm)
        ring = (whole + 2**15) % 2**16 - 2**15
        found.add_sum(ring * step, clients=sites, within=within, most_clients=sites)
        return found

    without, with_ = added(np.array(offset), count), added(np.array(offset) + moved, count + 1)
    assert np.linalg.norm(with_.total - without.total) <= np.linalg.norm(moved * step) + 1e-9
    assert abs(with_.centred_count - without.centred_count) <= 1


def test_refuses__nothing_of_a_sum_that_has_no_noise_yet() -> None:
    bound = SumBound(reach=Reach(signal=1.0, clips=True, noised=False), size=3, rounds=2)
    total = Total(values=np.array([1e6, 0.0, math.nan]), weight=4, counters=())
    assert Bounded().refuses(bound, total, total) is None
