"""What is asked of a run in which sites prove their norms, and what they prove."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.agreement import bound_of, payload_of, route_of, stack_of
from fedlearn.config import RunConfig, compose, plan_of
from fedlearn.core.errors import ConfigError
from fedlearn.crypto.keystream import SecureWords
from fedlearn.robust import Bounded, Proofs
from fedlearn.secagg.proven_payload import ProvenPayload
from fedlearn.stages import Total, Update
from tests.effort import examples

HEART = ("experiment=medical_heart", "secagg=two_server", "robust=proofs")
PRIVACY = ["none", "record", "client", "distributed"]


def payload(config: RunConfig, size: int, sites: int = 4) -> ProvenPayload:
    """The form of a contribution, as both ends derive it."""
    plan = plan_of(config, sites=sites, dimension=size)
    form = route_of(config, plan).form(stack_of(config, size))
    found = payload_of(form, config.secagg, sites, bound_of(config, plan, form), proved=True)  # type: ignore[arg-type]
    assert isinstance(found, ProvenPayload)
    return found


@pytest.mark.parametrize("secagg", ["off", "ring", "masked"])
def test_proofs__are_for_two_servers_and_nothing_else(secagg: str) -> None:
    with pytest.raises(ConfigError, match=r"robust=proofs.*Set secagg=two_server, or robust="):
        compose(["experiment=medical_heart", f"secagg={secagg}", "robust=proofs"])


@pytest.mark.parametrize("rule", ["groups", "fltrust"])
def test_rule_over_groups__has_proofs_where_it_is_asked_for_them(rule: str) -> None:
    words = ["experiment=medical_heart", f"robust={rule}"]
    assert not compose([*words, "secagg=two_server"]).robust.proves
    assert compose([*words, "secagg=two_server", "robust.proofs=true"]).robust.proves
    with pytest.raises(ConfigError, match=r"Set secagg=two_server, or robust\.proofs=false"):
        compose([*words, "robust.proofs=true"])


def test_proofs__are_refused_where_the_norm_of_a_round_moves() -> None:
    config = compose([*HEART, "privacy=client", "privacy.clipping=adaptive"])
    with pytest.raises(ConfigError, match=r"robust=proofs.*privacy\.clipping=flat"):
        payload(config, 100)


def test_proofs__say_how_many_bits_they_take_where_fewer_are_set() -> None:
    config = compose([*HEART, "privacy=none"])
    least = payload(config, 5000).bound.bits
    payload(replace(config, secagg=replace(config.secagg, bits=least)), 5000)  # type: ignore[type-var]
    few = replace(config, secagg=replace(config.secagg, bits=least - 1))  # type: ignore[type-var]
    with pytest.raises(ConfigError, match=r"secagg\.bits=.*Leave secagg\.bits out"):
        payload(few, 5000)


@pytest.mark.parametrize("privacy", PRIVACY)
@pytest.mark.parametrize("size", [100, 300_000])
def test_norm__that_is_proved_is_that_of_the_bound_in_steps(privacy: str, size: int) -> None:
    config = compose([*HEART, f"privacy={privacy}"])
    plan = plan_of(config, sites=4, dimension=size)
    form = route_of(config, plan).form(stack_of(config, size))
    bound = bound_of(config, plan, form)
    assert bound is not None
    found = payload(config, size)
    step = found.fixed_point.resolution if found.fixed_point else 1.0
    steps = bound.site_norm / step + (math.sqrt(form.values) if found.fixed_point else 0)
    assert found.bound.norm == math.ceil(steps * (1 + 1e-6))
    assert found.length == form.values + form.counters
    if found.fixed_point:
        # The ring has room for the sum that honest sites come to, weights included.
        weight = 4 * found.max_weight
        largest = min(weight * min(bound.site_value, found.clip), bound.sum_value(weight))
        assert 2 ** (found.bound.bits - 1) >= largest / step


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([3, 200, 5000]))
def test_update_at_its_bound__is_within_the_norm_however_it_is_rounded(
    seed: int, size: int
) -> None:
    config = compose([*HEART, "privacy=none", "robust.norm=1.5"])
    found = payload(config, size)
    drawn = np.random.default_rng(seed).standard_normal(size)
    values = np.float32(drawn * 1.5 / np.linalg.norm(drawn) * (1 - 1e-4))
    update = Update(values=values, weight=1)
    vector = found.contribution(update, SecureWords(seed.to_bytes(32, "big")))
    assert float(np.linalg.norm(found.ring.centred(vector).astype(float))) <= found.bound.norm
    total = found.decode(vector, 1)
    assert total.weight == 1
    np.testing.assert_allclose(total.values, values, atol=found.fixed_point.resolution)  # type: ignore[union-attr]


def test_whole_numbers__enter_as_they_are() -> None:
    found = payload(compose([*HEART, "privacy=distributed"]), 100)
    numbers = np.arange(-50, found.bound.values - 50)
    vector = found.contribution(Update(values=numbers), SecureWords(bytes(32)))
    assert np.array_equal(found.decode(vector).values, numbers)
    assert found.clip == math.inf
    for values in (numbers[1:], np.append(numbers, 1)):
        with pytest.raises(ValueError, match="values and 0 counters"):
            found.contribution(Update(values=values), SecureWords(bytes(32)))
    with pytest.raises(ValueError, match="sum of shape"):
        found.decode(vector[1:])


def test_weight__that_is_signed_is_that_of_the_records_up_to_the_largest() -> None:
    weighted = payload(compose([*HEART, "privacy=none", "secagg.max_weight=50"]), 100)
    assert [weighted.weight(n) for n in (0, 49, 50, 51)] == [0, 49, 50, 50]
    assert payload(compose([*HEART, "privacy=record"]), 100).weight(77) == 1


def test_hash__differs_with_every_field() -> None:
    one = payload(compose([*HEART, "privacy=none"]), 100)
    others = [
        replace(one, bound=replace(one.bound, norm=one.bound.norm - 1)),
        replace(one, bound=replace(one.bound, bits=one.bound.bits + 1)),
        replace(one, fixed_point=None),
        replace(one, max_weight=1),
        replace(one, max_clients=7),
    ]
    assert len({one.hash(), *(other.hash() for other in others)}) == 6


def test_sum__is_held_to_what_bounded_holds_it_to() -> None:
    config = compose([*HEART, "privacy=record"])
    plan = plan_of(config, sites=4, dimension=100)
    bound = bound_of(config, plan, route_of(config, plan).form(stack_of(config, 100)))
    assert bound is not None
    nothing = Total(values=np.zeros(1), weight=0, counters=np.zeros(0))
    for size in (1e-3, 1e3):
        total = Total(values=np.full(100, size), weight=3, counters=np.zeros(0))
        found = Proofs().refuses(bound, total, nothing)
        assert found == Bounded().refuses(bound, total, nothing)
        assert (found is None) == (size < 1)
    rules = Proofs(share=0.5, norm=2.0, repeats=1), Bounded(share=0.5, norm=2.0, repeats=1)
    for name in ("step_share", "change_norm", "most_refused"):
        assert len({getattr(rule, name) for rule in rules}) == 1
    assert (Proofs().proves, Bounded().proves) == (True, False)
