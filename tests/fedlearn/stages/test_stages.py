"""What travels as one, and stages forward at the site and backwards on the sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedlearn.agreement import dimension_of, route_of
from fedlearn.config import compose, encode, plan_of
from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.mechanisms import ClientPrivacy
from fedlearn.privacy.noise import SeededNoise
from fedlearn.stages import (
    MODEL,
    Difference,
    Form,
    Mean,
    RandomMask,
    Route,
    ServerRound,
    Stack,
    Total,
    Trained,
    Update,
)

NOTHING = np.zeros(0, np.int64)


def at(base: np.ndarray, *, clip_norm: float = 1.0, public: bytes = b"r1") -> ServerRound:
    return ServerRound(base, clip_norm, public, SeededNoise(b"stages"), 2)


def test_stack__joins_and_splits_vectors_by_name() -> None:
    stack = Stack(3, ("control",))
    model, control = np.arange(3, dtype=np.float32), np.ones(3, np.float32)
    whole = stack.join({"control": control, MODEL: model})
    assert whole.tolist() == [0, 1, 2, 1, 1, 1]
    parts = stack.split(whole)
    assert list(parts) == [MODEL, "control"]
    assert parts["control"].tolist() == [1, 1, 1]
    assert stack.base(model).tolist() == [0, 1, 2, 0, 0, 0]
    with pytest.raises(ValueError, match="not of 3"):
        stack.join({MODEL: model, "control": control[:2]})
    with pytest.raises(KeyError):
        stack.join({MODEL: model})
    with pytest.raises(ValueError, match="not of 6"):
        stack.split(model)


@pytest.mark.parametrize("secagg", ["off", "ring"])
def test_clip__bounds_all_vectors_of_a_stack_by_one_norm(secagg: str) -> None:
    """A second vector moves the sum of the stack by no more than the first alone could."""
    config = compose(["experiment=medical_heart", "privacy=client", f"secagg={secagg}"])
    route = route_of(config, plan_of(config))
    stack = Stack(4, ("control",))
    here = at(stack.base(np.ones(4, np.float32)))
    long = np.concatenate([np.full(4, 31.0), np.full(4, 40.0)]).astype(np.float32)
    sent = Update(values=long, weight=1000)
    for stage in (*route.at_site, *route.on_arrival):
        sent = stage.forward(sent, here)
    assert 0.9 < float(np.linalg.norm(sent.values)) <= 1.0
    assert (sent.weight, sent.counters) == (1, (0,))
    assert np.all(sent.values[4:] != 0), "the second vector is clipped with the first"


def test_route__counts_its_counters_wherever_the_clip_is() -> None:
    for secagg in ("off", "ring"):
        config = compose(["experiment=medical_heart", "privacy=client", f"secagg={secagg}"])
        route = route_of(config, plan_of(config))
        assert route.counters == 1
        assert route.form(Stack(5)).counters == (1 if secagg == "ring" else 0)


def test_route__undoes_on_the_sum_what_it_did_to_updates() -> None:
    route = Route(Trained(weighted=True), (Difference(), Mean()))
    base = np.array([1.0, 2.0, 3.0], np.float32)
    ends = [base + 1, base + 4]
    changes = [Difference().forward(Update(values=end), at(base)).values for end in ends]
    total = Total(values=3.0 * changes[0] + 1.0 * changes[1], weight=4, counters=NOTHING)
    after = route.backward(total, at(base))
    assert after.dtype == np.float32
    np.testing.assert_allclose(after, base + (3 * 1 + 4) / 4)


def test_mean__of_no_records_is_refused() -> None:
    with pytest.raises(ProtocolError, match="no site has a record"):
        Mean().backward(Total(values=np.zeros(2), weight=0, counters=NOTHING), at(np.zeros(2)))


def test_clip__noise_is_that_of_the_plan_and_no_weight_counts() -> None:
    config = ClientPrivacy(noise_multiplier=2.0, clip_norm=0.5)
    plan = config.plan(sample_rate=1.0, steps_per_round=1, rounds=1, population=None)
    (clip,) = plan.stages(replace_terms())
    size = 20_000
    here = at(np.zeros(size, np.float32), clip_norm=0.5)
    total = Total(values=np.zeros(size), weight=2, counters=np.array([2]))
    mean = clip.backward(total, here).values
    assert float(np.std(mean)) == pytest.approx(2.0 * 0.5 / 2, rel=0.03)


def replace_terms():
    from fedlearn.config.terms import terms_of

    terms = terms_of(compose(["experiment=medical_heart", "privacy=client", "secagg=off"]))
    return replace(terms, resolution=None)


# --- the stages that can be chosen --------------------------------------------------


def test_random_mask__sends_a_part_that_is_the_same_everywhere_and_new_every_round() -> None:
    stage, values = RandomMask(share=0.25), np.arange(1, 41, dtype=np.float32)
    base = np.zeros(40, np.float32)
    sent = stage.forward(Update(values=values), at(base)).values
    assert len(sent) == stage.form(Form(values=40)).values == 10
    assert np.array_equal(sent, stage.forward(Update(values=values), at(base)).values)
    other = stage.forward(Update(values=values), at(base, public=b"r2")).values
    assert not np.array_equal(sent, other)
    back = stage.backward(Total(values=sent, weight=1, counters=NOTHING), at(base)).values
    assert np.array_equal(back[back != 0], sent)
    assert np.array_equal(back[back != 0], values[back != 0])


def test_random_mask__is_planned_for_by_distributed_noise() -> None:
    options = ["experiment=medical_heart", "privacy=distributed"]
    whole, part = compose(options), compose([*options, "stage=random_mask", "stage.share=0.5"])
    assert (dimension_of(whole, 28), dimension_of(part, 28)) == (28, 14)


def test_stage__is_not_written_where_it_is_nothing() -> None:
    assert '"stage"' not in encode(compose(["experiment=medical_heart", "stage=none"]))
    assert '"random_mask"' in encode(compose(["experiment=medical_heart", "stage=random_mask"]))


def test_stage__is_refused_where_an_update_is_read_as_it_is() -> None:
    with pytest.raises(ConfigError, match="stage=random_mask: audit=slots"):
        compose(["experiment=medical_heart", "stage=random_mask", "audit=slots"])


def test_stage__that_may_expand_is_refused_where_records_are_clipped_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The noise of shared gradients is for records as they were clipped."""
    config = compose(["experiment=medical_heart", "privacy=distributed", "stage=random_mask"])
    plan = plan_of(config, sites=4, dimension=dimension_of(config, 28))
    assert len(route_of(config, plan).at_site) == 2
    monkeypatch.setattr(RandomMask, "contracts", False)
    with pytest.raises(ConfigError, match="clipped before it"):
        route_of(config, plan)
