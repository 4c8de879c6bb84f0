"""One battery for every mechanism, found from the union of configs."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedlearn.mechanisms import (
    MECHANISMS,
    ClientPrivacy,
    DistributedPlan,
    DistributedPrivacy,
    NoPrivacy,
    Population,
    Privacy,
    PrivacyPlan,
    RecordPlan,
    RecordPrivacy,
    derive,
    encoding,
)
from fedlearn.mechanisms.client import ClientSum
from fedlearn.mechanisms.encoding import decode, encode
from fedlearn.mechanisms.norms import clipped
from fedlearn.privacy.accounting import epsilon, epsilon_rdp
from fedlearn.privacy.discrete import IntegerNoise
from fedlearn.privacy.events import DiscreteSumEvent, Event, GaussianEvent, from_json, to_json
from fedlearn.privacy.noise import SeededNoise
from fedlearn.report.statement import statement
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.private import train_private
from fedlearn.training.settings import Training
from tests.effort import examples, thinned
from tests.fedlearn.privacy import tight

POPULATION = Population(num_clients=10, dimension=50, records_per_step=20.0)


_CLIENT, _SHARES = ClientPrivacy(epsilon=2.0), DistributedPrivacy(epsilon=2.0)
VARIANTS: dict[type[Privacy], list[Privacy]] = {
    NoPrivacy: [],
    RecordPrivacy: [RecordPrivacy(epsilon=2.0)],
    ClientPrivacy: [
        _CLIENT,
        replace(_CLIENT, clipping="adaptive"),
        replace(_CLIENT, client_sample_rate=0.1),
        replace(_CLIENT, client_sample_rate=0.1, adversary="outsider"),
    ],
    DistributedPrivacy: [
        *(
            replace(_SHARES, unit=unit, mechanism=law, bits=bits)
            for unit, law, bits in itertools.product(
                ("record", "client"), ("discrete_gaussian", "skellam"), (14, 20)
            )
        ),
        replace(_SHARES, max_dropouts=3, max_colluders=2),
    ],
}
"""Every way to use a kind of privacy; a kind of ours that is not among them fails all of this."""

CONFIGS = [config for kind in MECHANISMS.own for config in VARIANTS[kind]]
PLANS = [
    derive(config, sample_rate=1.0, steps_per_round=1, rounds=10, population=POPULATION)
    for config in CONFIGS
]


def name(value: object) -> str:
    parts = [value.kind] if isinstance(value, Privacy) else []
    fields = ("unit", "mechanism", "bits", "clipping", "adversary", "max_dropouts")
    return "-".join([*parts, *(str(getattr(value, f)) for f in fields if hasattr(value, f))])


# Opacus hooks the first layer, whose inputs need no gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

battery = pytest.mark.parametrize(
    ("config", "plan"), list(zip(CONFIGS, PLANS, strict=True)), ids=map(name, CONFIGS)
)


def gradient_sum(plan: RecordPlan, features: np.ndarray, noise: SeededNoise) -> np.ndarray:
    """What one step of local training releases: the clipped, noisy sum, read off the weights."""
    model = nn.Linear(features.shape[1], 2, bias=False)
    nn.init.zeros_(model.weight)
    settings = Training(
        optimizer="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0, local_steps=1,
        sample_rate=1.0, nominal_records=1, dp_engine="opacus", max_batch=64,
    )  # fmt: skip
    labels = torch.arange(len(features)) % 2
    inputs = torch.from_numpy(features.astype(np.float32))
    train_private(model, inputs, labels, settings, plan, loss=cross_entropy, noise=noise)
    return -model.weight.detach().numpy().astype(np.float64).ravel()


def released(plan: PrivacyPlan, rows: np.ndarray, seed: bytes) -> np.ndarray:
    """What one round of one party releases for `rows`: its sum with all its noise."""
    noise = SeededNoise(seed)
    match plan:
        case RecordPlan():
            return gradient_sum(plan, rows, noise)
        case DistributedPlan():
            plan = replace(plan, dimension=rows.shape[1])
            word = encode(plan, rows.sum(0), context=b"c", stream=noise.stream())
            return decode(plan, word, context=b"c")
        case _:
            total = ClientSum(plan, rows.shape[1], plan.clip_norm)
            for row in rows:
                total.add(row)
            return total.release(expected_clients=1.0, noise=noise).mean.astype(np.float64)


def noiseless(plan: PrivacyPlan) -> PrivacyPlan:
    return plan if isinstance(plan, DistributedPlan) else replace(plan, noise_multiplier=0.0)


@dataclass
class Silent:
    """Integer noise of zero, so that rounding can be looked at alone."""

    def draw(self, size: int, stream: object) -> np.ndarray:
        return np.zeros(size, np.int64)


@battery
@settings(max_examples=examples(25), deadline=None)
@given(scale=st.floats(-3, 3), spiked=st.booleans(), seed=st.integers(0, 2**32))
def test_mechanism__moves_by_at_most_its_sensitivity(
    config: Privacy, plan: PrivacyPlan, scale: float, spiked: bool, seed: int
) -> None:
    """One unit more or less, without noise: the released sum moves by at most what is accounted."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, 50)) * 10**scale
    if spiked:
        rows[-1, 1:] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "integer_noise", lambda law, stddev: Silent())
        if isinstance(plan, DistributedPlan) and plan.unit == "record":
            rows = np.stack([clipped(row, plan.clip_norm) for row in rows])
        if isinstance(plan, DistributedPlan) and plan.unit == "client":
            rows = np.stack([np.zeros(50), rows[-1]])
        moved = released(noiseless(plan), rows, b"s") - released(noiseless(plan), rows[:-1], b"s")
    allowed = plan.clip_norm
    if isinstance(plan, DistributedPlan):
        allowed = plan.round_event.l2_sensitivity * plan.granularity
    assert np.linalg.norm(moved) <= allowed * (1 + 1e-5)


@battery
def test_mechanism__adds_the_noise_that_its_plan_says(config: Privacy, plan: PrivacyPlan) -> None:
    """Variance and mean over 80,000 coordinates of a zero input: within 6.5 deviations (1e-10)."""
    size = 40_000
    shares = plan.num_clients if isinstance(plan, DistributedPlan) else 1
    if isinstance(plan, RecordPlan):
        size *= 2  # two outputs per input
    zeros = np.zeros((2, 40_000 if isinstance(plan, RecordPlan) else 80_000))
    drawn = released(plan, zeros, b"v")
    variance = plan.noise_stddev**2 / shares
    assert len(drawn) == 80_000
    assert abs(drawn.var() / variance - 1) < 6.5 * np.sqrt(2.1 / len(drawn))
    assert abs(drawn.mean()) < 6.5 * np.sqrt(variance / len(drawn))


@battery
def test_mechanism__costs_what_an_independent_accountant_says(
    config: Privacy, plan: PrivacyPlan
) -> None:
    """Epsilon at least the true one, and at most 2 percent above it where only rounding is lost."""
    event = plan.total_event
    reported = plan.epsilon
    if getattr(plan, "adversary", None) == "outsider":
        # Less than without sampling, at least that of one sampled round.
        assert tight.sampled_gaussian_delta(event.noise_multiplier, 0.1, reported) < plan.delta
        assert reported < epsilon([event], plan.delta, unit="client")
        return
    noise = event.noise_multiplier / np.sqrt(event.steps)
    assert tight.gaussian_delta(noise, reported) <= plan.delta * (1 + 1e-9)
    assert reported <= epsilon_rdp([event], plan.delta, unit=plan.unit)
    if not (isinstance(event, DiscreteSumEvent) and event.law == "skellam"):
        assert tight.gaussian_delta(noise, reported / 1.02) > plan.delta


@battery
def test_mechanism__meets_its_budget_and_wastes_little(config: Privacy, plan: PrivacyPlan) -> None:
    assert 0.97 * config.epsilon < plan.epsilon <= config.epsilon
    again = derive(
        replace(config, epsilon=None, noise_multiplier=plan.noise_multiplier),
        sample_rate=1.0, steps_per_round=1, rounds=10, population=POPULATION,
    )  # fmt: skip
    assert again.epsilon == pytest.approx(plan.epsilon, rel=0.03)
    assert again.noise_multiplier >= plan.noise_multiplier * (1 - 1e-6)


@battery
def test_mechanism__event_travels_as_json(config: Privacy, plan: PrivacyPlan) -> None:
    event = plan.round_event
    assert from_json(json.loads(json.dumps(to_json(event)))) == event
    assert replace(event, steps=plan.rounds) == plan.total_event


@battery
def test_mechanism__says_whom_it_protects(config: Privacy, plan: PrivacyPlan) -> None:
    text = statement(
        plan,
        epsilon=1.0,
        noise_is_private=True,
        sum_only=isinstance(plan, DistributedPlan),
        record="a row",
    )
    assert f"Each {'client' if plan.unit == 'client' else 'single record'} is protected" in text
    assert ("secure aggregation" in text) == isinstance(plan, DistributedPlan)
    assert ("trusted" in text) == isinstance(config, ClientPrivacy)
    assert ("only against those who cannot tell" in text) == (
        getattr(plan, "adversary", None) == "outsider"
    )


# --- 200 random mechanisms -----------------------------------------------------------


def random_event(rng: np.random.Generator) -> tuple[Event, str]:
    noise, steps = 10 ** rng.uniform(0, 1.2), int(rng.integers(1, 12))
    kind = str(rng.choice(["gaussian", "sampled", "discrete_gaussian", "skellam"]))
    if kind == "gaussian":
        return GaussianEvent(noise_multiplier=noise, sample_rate=1.0, steps=steps), kind
    if kind == "sampled":
        rate = rng.uniform(0.01, 0.9)
        return GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=1), kind
    shift = int(rng.integers(20, 200))
    stddev = max(4, round(noise * shift))
    event = DiscreteSumEvent(
        law=kind, unit="record", l2_sensitivity=float(shift), share_stddev=stddev, shares=1,
        dimension=1, rounding_failure=0.0, sample_rate=1.0, steps=1 if kind == "skellam" else steps,
    )  # fmt: skip
    return event, kind


def tight_delta(event: Event, kind: str, at: float) -> float:
    match event, kind:
        case GaussianEvent(), "gaussian":
            return tight.gaussian_delta(event.noise_multiplier / np.sqrt(event.steps), at)
        case GaussianEvent(), _:
            return tight.sampled_gaussian_delta(event.noise_multiplier, event.sample_rate, at)
        case DiscreteSumEvent(law="skellam"), _:
            return tight.skellam_delta(event.share_stddev**2, int(event.l2_sensitivity), at)
        case DiscreteSumEvent(), _:
            shift = int(event.l2_sensitivity)
            return tight.discrete_gaussian_delta(event.share_stddev, shift, event.steps, at)
    raise AssertionError(event)


@pytest.mark.parametrize("seed", thinned(range(200)))
def test_epsilon__of_a_random_mechanism_is_true_and_tight(seed: int) -> None:
    event, kind = random_event(np.random.default_rng([7, seed]))
    delta = 1e-5
    reported = epsilon([event], delta)
    assert tight_delta(event, kind, reported) <= delta * (1 + 1e-6)
    assert reported <= epsilon_rdp([event], delta) * (1 + 1e-9)
    # A sampled mechanism may be tight at epsilon zero; Skellam has Renyi divergences only.
    if kind != "skellam" and reported > 0.01:
        assert tight_delta(event, kind, reported / 1.02) > delta


def test_battery__draws_its_noise_from_the_tables() -> None:
    """The stand-in of the sensitivity test replaces nothing but this class."""
    assert isinstance(encoding.integer_noise("skellam", 5), IntegerNoise)
