from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from fedlearn.config import compose
from fedlearn.config.terms import terms_of
from fedlearn.core.errors import ConfigError
from fedlearn.mechanisms import client, derive, problems
from fedlearn.mechanisms.client import (
    ClientPlan,
    ClientPrivacy,
    ClientSum,
    Clip,
    noised,
    poisson_cohort,
)
from fedlearn.mechanisms.norms import clip_own, folded, room_to_round, smallest_clip_norm
from fedlearn.mechanisms.reach import Reach
from fedlearn.privacy.noise import SeededNoise
from fedlearn.privacy.rounded import grid_for
from fedlearn.stages import Form, ServerRound, Total, Update


def planned(config: ClientPrivacy, rounds: int) -> ClientPlan:
    return config.plan(sample_rate=1.0, steps_per_round=1, rounds=rounds, population=None)


def flat(noise: float = 1.0) -> ClientPlan:
    return planned(ClientPrivacy(noise_multiplier=noise), rounds=10)


def adaptive(noise: float = 1.0, quantile: float = 0.5) -> ClientPlan:
    config = ClientPrivacy(
        noise_multiplier=noise, clipping="adaptive", target_quantile=quantile, clip_norm=0.1
    )
    return planned(config, rounds=100)


def test_client_sum__is_the_mean_of_clipped_updates() -> None:
    total = ClientSum(flat(0.0), 2, 1.0)
    for update in ([0.3, 0.4], [30.0, 40.0], [0.0, 0.0]):
        total.add(np.array(update))
    released = total.release(expected_clients=4.0, noise=SeededNoise(b""))
    assert np.allclose(released.mean, np.array([0.9, 1.2]) / 4, rtol=1e-6)
    assert released.mean.dtype == np.float32
    assert released.next_clip_norm == 1.0


@pytest.mark.parametrize("size", [2, 3, 40])
def test_client_sum__moves_by_at_most_the_norm_in_exact_numbers(size: int) -> None:
    """Squares of fractions, which do not round: of 210 updates none is a last bit too long."""
    rng = np.random.default_rng(size)
    for norm in (1.0, 0.3, 1e-3):
        for _ in range(70):
            total = ClientSum(flat(), size, norm)
            total.add(rng.normal(size=size) * 10 ** rng.uniform(2, 6))
            length = sum(Fraction(float(value)) ** 2 for value in total.total)
            assert Fraction(norm) ** 2 * (1 - Fraction(1, 10**6)) < length <= Fraction(norm) ** 2


def test_adaptive_clip__splits_the_noise_as_theorem_1_says() -> None:
    """1/z^2 = 1/z_update^2 + 1/(2 stddev_of_count)^2: one event pays for both."""
    plan = adaptive(noise=3.0)
    parts = plan.update_noise_multiplier**-2 + (2 * plan.count_noise_stddev) ** -2
    assert parts == pytest.approx(3.0**-2)
    assert plan.round_event.noise_multiplier == 3.0
    assert flat(3.0).update_noise_multiplier == 3.0


def test_adaptive_clip__moves_each_count_by_a_half() -> None:
    total = ClientSum(adaptive(), 3, 1.0)
    for norm, count in ((0.9, 0.5), (1.1, 0.0), (50.0, -0.5)):
        total.add(np.array([norm, 0, 0]))
        assert total.centred_count == count


@pytest.mark.slow
@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_adaptive_clip__finds_the_quantile_of_the_norms(quantile: float) -> None:
    """From 30 times too small, with noise, within 15 percent of the true quantile."""
    plan, norms = adaptive(1.0, quantile), np.linspace(1.0, 5.0, 200)
    clip_norm, seen = plan.clip_norm, []
    for number in range(160):
        total = ClientSum(plan, 2, clip_norm)
        for norm in norms:
            total.add(np.array([norm, 0.0]))
        noise = SeededNoise(bytes([number]))
        clip_norm = total.release(expected_clients=200.0, noise=noise).next_clip_norm
        seen.append(clip_norm)
    assert np.mean(seen[-20:]) == pytest.approx(np.quantile(norms, quantile), rel=0.15)


def test_adaptive_clip__is_not_driven_by_noise_alone() -> None:
    """With one client the noisy share leaves [0, 1]; the norm still moves by a bounded step."""
    plan = adaptive(noise=1000.0)
    for number in range(30):
        total = ClientSum(plan, 1, 1.0)
        total.add(np.array([0.5]))
        after = total.release(expected_clients=1.0, noise=SeededNoise(bytes([number])))
        assert math.exp(-0.1) <= after.next_clip_norm * (1 + 1e-12) <= math.exp(0.1) * (1 + 1e-9)


@pytest.mark.parametrize(("length", "share"), [(0.5, 1.0), (2.0, 0.0)])
def test_adaptive_clip__goes_a_whole_step_where_all_updates_are_on_one_side(
    length: float, share: float
) -> None:
    plan = adaptive(noise=0.0, quantile=0.3)
    total = ClientSum(plan, 1, 1.0)
    for _ in range(10):
        total.add(np.array([length]))
    after = total.release(expected_clients=10.0, noise=SeededNoise(b"")).next_clip_norm
    assert after == pytest.approx(math.exp(-0.2 * (share - 0.3)), rel=1e-12)


@pytest.mark.parametrize("size", [1, 23, 10_000])
def test_smallest_clip_norm__leaves_half_of_itself_after_rounding(size: int) -> None:
    norm = smallest_clip_norm(size=size, resolution=2.0**-12)
    room = room_to_round(norm, size=size, resolution=2.0**-12)
    assert room == pytest.approx(norm / 2, rel=1e-5)


@pytest.mark.parametrize(
    "bad", [np.zeros(3), np.zeros(1), np.array([1.0, math.nan]), np.array([math.inf, 0.0])]
)
def test_client_sum__refuses_an_update_and_is_not_moved_by_it(bad: np.ndarray) -> None:
    total = ClientSum(flat(), 2, 1.0)
    with pytest.raises(ValueError, match=r"shape|NaN"):
        total.add(bad)
    assert np.array_equal(total.total, np.zeros(2))
    assert total.centred_count == 0.0


def test_client_sum__refuses_norms_and_counts_that_are_none() -> None:
    for norm in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="clip_norm"):
            ClientSum(flat(), 2, norm)
    with pytest.raises(ValueError, match="expected_clients"):
        ClientSum(flat(), 2, 1.0).release(expected_clients=0.0, noise=SeededNoise(b""))


def test_plan__of_an_outsider_needs_less_noise() -> None:
    config = ClientPrivacy(epsilon=2.0, client_sample_rate=0.05)
    inside = derive(config, sample_rate=0.5, steps_per_round=3, rounds=100)
    sampled = ClientPrivacy(epsilon=2.0, client_sample_rate=0.05, adversary="outsider")
    outside = derive(sampled, sample_rate=0.5, steps_per_round=3, rounds=100)
    assert inside is not None
    assert outside is not None
    assert outside.noise_multiplier < 0.3 * inside.noise_multiplier
    assert inside.epsilon <= 2.0
    assert outside.epsilon <= 2.0
    assert inside.sample_rate == 0.05


def test_problems__refuse_an_outsider_without_sampling() -> None:
    config = ClientPrivacy(epsilon=2.0, adversary="outsider")
    assert "privacy.adversary=outsider" in problems(config)[0]
    with pytest.raises(ConfigError):
        derive(config, sample_rate=1.0, steps_per_round=1, rounds=1)


def test_problems__ask_for_one_of_epsilon_and_noise() -> None:
    assert "give either" in problems(ClientPrivacy())[0]
    assert "Leave out" in problems(ClientPrivacy(epsilon=1.0, noise_multiplier=1.0))[0]


def test_poisson_cohort__flips_a_coin_per_client() -> None:
    """Sizes of 400 cohorts of 100 at rate 0.3: mean and variance within 6 deviations."""
    clients = [str(number) for number in range(100)]
    noise = SeededNoise(b"cohorts")
    sizes = [len(poisson_cohort(clients, 0.3, noise)) for _ in range(400)]
    assert np.mean(sizes) == pytest.approx(30, abs=6 * math.sqrt(21 / 400))
    assert np.var(sizes) == pytest.approx(21, abs=6 * 21 * math.sqrt(2 / 400))
    assert poisson_cohort(clients, 1.0, noise) == clients


@pytest.mark.parametrize("size", [1, 28, 10_000])
@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 1e6])
@pytest.mark.parametrize("resolution", [2.0**-12, 2.0**-30])
def test_clip_own__stays_within_the_norm_after_rounding_up_or_down(
    size: int, scale: float, resolution: float
) -> None:
    norm = 0.1  # whose nearest float32 is above it
    update = scale * np.random.default_rng(size).normal(size=size).astype(np.float32)
    own = clip_own(update, norm, resolution=resolution)
    steps = np.abs(own.update.astype(np.float64)) / resolution
    assert np.linalg.norm(np.ceil(steps)) * resolution <= norm
    assert own.within == (np.linalg.norm(update.astype(np.float64)) <= norm)


def test_clip_own__refuses_steps_that_are_longer_than_the_norm() -> None:
    with pytest.raises(ConfigError, match=r"Lower secagg\.resolution"):
        clip_own(np.zeros(100, np.float32), 1.0, resolution=0.1)


def test_sum__of_own_clips_is_the_sum_of_those_clipped_here() -> None:
    updates = [np.array([3.0, 4.0]), np.array([0.1, 0.2])]
    here = ClientSum(flat(), 2, 1.0)
    unseen = ClientSum(flat(), 2, 1.0)
    own = [clip_own(update, 1.0, resolution=1e-9) for update in updates]
    for update in updates:
        here.add(update)
    total = np.sum([one.update for one in own], axis=0, dtype=np.float64)
    unseen.add_sum(total, clients=2, within=sum(one.within for one in own), most_clients=2)
    np.testing.assert_allclose(unseen.total, here.total, atol=1e-5)
    assert unseen.centred_count == here.centred_count == 0.0


def test_folded__is_back_at_zero_where_the_ring_ends_and_moves_no_further_than_what_came() -> None:
    came = np.array([-9, -6, -5.5, -4, -3, -1, 0, 2.5, 3, 3.5, 5, 6, 7, 1e9])
    back = [0, 0, -0.5, -2, -3, -1, 0, 2.5, 3, 2.5, 1, 0, 0, 0]
    assert folded(came, 3.0).tolist() == back
    apart = np.abs(np.subtract.outer(back, back)) <= np.abs(np.subtract.outer(came, came))
    assert apart.all()


@pytest.mark.parametrize(
    ("within", "counted"), [(3, 1), (2, 0), (0, -2), (7, 5), (8, 4), (12, 0), (-5, -3), (900, 0)]
)
def test_count__of_sites_that_cannot_be_is_folded_at_half_of_those_that_can(
    within: int, counted: float
) -> None:
    total = ClientSum(flat(), 2, 1.0)
    total.add_sum(np.zeros(2), clients=4, within=within, most_clients=10)
    assert total.centred_count == counted


# --- the stage, by hand -------------------------------------------------------------

SAMPLED = ClientPrivacy(
    noise_multiplier=0.0, clip_norm=0.5, clipping="adaptive", client_sample_rate=0.5
)


def at_server(size: int, clip_norm: float, noise: SeededNoise | None = None) -> ServerRound:
    return ServerRound(
        np.zeros(size, np.float32), clip_norm, b"r", noise or SeededNoise(b""), sites=8
    )


@pytest.mark.parametrize(
    ("resolution", "norm"),
    [
        (None, 0.4 * math.exp(-0.2 * 0.125)),
        (1e-3, 0.4 * math.exp(-0.2 * 0.125)),
        (0.12, 0.24 * math.sqrt(3) * (1 + 2.0**-16)),  # half of it for rounding
        (0.2, 0.5),  # never more than the first
    ],
)
def test_clip__releases_the_mean_over_who_could_have_come_and_moves_the_norm(
    resolution: float | None, norm: float
) -> None:
    """Of eight at a rate of a half four are expected; three came, two of them within the norm."""
    at = at_server(3, 0.4)
    total = Total(values=np.array([0.2, -0.4, 0.6]), weight=3, counters=np.array([7, 8, 2]))
    released = Clip(planned(SAMPLED, 10), resolution).backward(total, at)
    assert released.values == pytest.approx([0.05, -0.1, 0.15], rel=1e-6)
    beyond = replace(total, values=np.array([2.0, -4.0, 6.0]))  # no sum of honest sites
    cut = Clip(planned(SAMPLED, 10), resolution).backward(beyond, at_server(3, 0.4))
    assert 4 * np.linalg.norm(cut.values) <= 8 * 0.4 * (1 + 1e-6)
    assert (released.weight, released.counters.tolist(), at.share) == (1, [7, 8], 0.5)
    assert at.clip_norm == pytest.approx(norm, rel=1e-12)


def test_clip__is_to_the_norm_of_the_round_and_takes_no_weight() -> None:
    plan, at = planned(SAMPLED, 10), at_server(2, 0.4)
    long = Update(values=np.array([3.0, 4.0], np.float32), weight=5, counters=(9,))
    for resolution, most in ((None, 0.4), (0.01, 0.4 - 0.01 * math.sqrt(2))):
        clip = Clip(plan, resolution)
        sent = clip.forward(long, at)
        assert most * (1 - 1e-5) < np.linalg.norm(sent.values.astype(np.float64)) <= most
        assert (sent.weight, sent.counters) == (1, (9, 0))
        assert np.array_equal(clip.bounded(long.values, at), sent.values)
        short = clip.forward(replace(long, values=long.values / 20), at)
        assert short.counters == (9, 1)
        none = clip.forward(replace(long, values=np.array([np.nan, 1], np.float32)), at)
        assert (none.values.tolist(), none.counters) == ([0, 0], (9, 1))
        form = clip.form(Form(values=2, counters=1, weighted=True))
        assert (form.counters, form.weighted) == (2, False)
    Clip(plan, 0.01).check(2)
    Clip(plan, None).check(2)
    with pytest.raises(ConfigError, match="rounding"):
        Clip(plan, 0.5).check(2)


def test_release__has_the_noise_of_the_round_and_the_count_its_own() -> None:
    """Both deviations from the chi-square of their squares, false alarm below 1e-7."""
    plan = adaptive(noise=3.0)
    total = ClientSum(plan, 20_000, 7.0)
    mean = total.release(expected_clients=2.0, noise=SeededNoise(b"sum")).mean
    z = mean.astype(np.float64) * 2 / (7.0 * 3.0 / math.sqrt(0.95))
    counts = []
    for i in range(400):
        few = ClientSum(plan, 1, 7.0)
        after = few.release(expected_clients=1000.0, noise=SeededNoise(b"%d" % i)).next_clip_norm
        counts.append(-math.log(after / 7.0) / 0.2 * 1000 / (0.5 * 3.0 / math.sqrt(0.05)))
    for drawn in (z, np.array(counts)):
        low, high = chi2.ppf([1e-8, 1 - 1e-8], len(drawn))
        assert low < (drawn**2).sum() < high


@dataclass
class Silent:
    """In the place of the sampler: no noise, and what was asked for."""

    stddev: float = 0.0

    def __call__(
        self, noise: object, sizes: list[int], stddev: float, device: object
    ) -> list[torch.Tensor]:
        self.stddev = stddev
        return [torch.zeros(size, dtype=torch.float64) for size in sizes]


@pytest.mark.parametrize("size", [1, 7, 5000])
@pytest.mark.parametrize("multiplier", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("norm", [1e-3, 0.7, 50.0])
def test_noise__is_for_what_a_client_moves_the_sum_by_on_its_grid(
    monkeypatch: pytest.MonkeyPatch, norm: float, multiplier: float, size: int
) -> None:
    """Of sums between two lines of the grid, which rounding takes apart by most of a step each."""
    silent, grid = Silent(), grid_for(multiplier, norm, size)
    monkeypatch.setattr(client, "rounded_normals", silent)
    rng = np.random.default_rng(size)
    step = Fraction(grid.step)
    for _ in range(20):
        apart = rng.normal(size=size)
        apart *= norm / np.linalg.norm(apart)
        total = (rng.integers(-1000, 1000, size) + 0.5) * grid.step - np.sign(apart) * grid.step / 9
        one, other = (
            noised(sums, multiplier, norm, SeededNoise(b"")) for sums in (total, total + apart)
        )
        assert all(Fraction(value) % step == 0 for value in one[:50])
        moved = math.hypot(*(other - one))
        assert moved * multiplier <= silent.stddev * grid.step * (1 + 1e-12)
        assert silent.stddev * grid.step <= multiplier * norm * (1 + 2**-11)


def test_noise__of_a_sum_lies_on_its_grid_and_is_gaussian() -> None:
    """By its mean and its variance; false alarm below 1e-7."""
    found = noised(np.full(200_000, 0.3), 2.0, 0.5, SeededNoise(b"grid"))
    step = grid_for(2.0, 0.5, 200_000).step
    assert np.array_equal(np.rint(found / step) * step, found)
    assert len(np.unique(found)) > 190_000
    z = found - 0.3
    assert abs(z.mean()) < 5.4 / math.sqrt(len(z))
    low, high = chi2.ppf([1e-8, 1 - 1e-8], len(z))
    assert low < (z**2).sum() < high


def test_noise__of_nothing_is_none_and_of_too_much_is_refused() -> None:
    total = np.array([0.1, 0.2])
    assert noised(total, 0.0, 1.0, SeededNoise(b"")).tolist() == [0.1, 0.2]
    with pytest.raises(ValueError, match="no grid holds such noise"):
        noised(total, 1e12, 1.0, SeededNoise(b""))


def test_reach__is_the_norm_of_the_round_and_unknown_over_rounds_that_move_it() -> None:
    terms = replace(
        terms_of(compose(["experiment=medical_heart", "privacy=client"])), step_share=1.0
    )
    assert flat().reach(terms) == Reach(signal=1.0, clips=True, noised=False)
    assert flat().reach(terms, 0.3) == Reach(signal=0.3, clips=True, noised=False)
    assert adaptive().reach(terms) is None
    assert adaptive().reach(terms, 0.3) == Reach(signal=0.3, clips=True, noised=False)
    assert flat().reach(replace(terms, step_share=None), 0.3) is None
