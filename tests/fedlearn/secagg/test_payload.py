"""Layouts and payloads: from arrays to ring vectors and back, exactly."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError
from fedlearn.crypto.keystream import SecureWords
from fedlearn.secagg.layout import SumLayout
from fedlearn.secagg.payload import Payload
from fedlearn.secagg.settings import SecAggMasked, SecAggRing, SecAggTwoServer
from tests.effort import examples

NARROW = SecAggRing(bits=20, clip=1.0, resolution=2.0**-6, max_weight=16, rounding="nearest")


@settings(max_examples=examples(80), deadline=None)
@given(data=st.data())
def test_payload__sum_is_that_of_python_integers(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([8, 9, 16, 20, 21, 24, 32, 33, 64]))
    count = data.draw(st.integers(1, 5))
    max_weight = 1 if bits < 16 else 16
    setting = SecAggRing(
        bits=bits, clip=1.0, resolution=1 / 16, max_weight=max_weight, rounding="nearest"
    )
    size = data.draw(st.integers(0, 13))
    integer = st.integers(-(2**60), 2**60)
    payload = Payload.plan(setting, num_clients=count, num_values=size, num_counters=3)
    total = payload.ring.zeros(payload.length)
    values_sum, weights, counters_sum = np.zeros(size), 0, [0, 0, 0]
    for _ in range(count):
        steps = data.draw(st.lists(st.integers(-16, 16), min_size=size, max_size=size))
        weight = data.draw(st.integers(0, max_weight))
        counters = data.draw(st.lists(integer, min_size=3, max_size=3))
        values = np.array(steps, np.float32) / np.float32(16)
        total += payload.encode(values, weight, counters, SecureWords())
        values_sum += weight * values.astype(np.float64)
        weights += weight
        counters_sum = [one + other for one, other in zip(counters_sum, counters, strict=True)]
    decoded = payload.decode(payload.ring.reduce(total))
    assert np.array_equal(decoded.values, values_sum)
    assert decoded.weight == weights
    assert decoded.counters.tolist() == counters_sum


def test_payload__every_lane_may_reach_both_ends_of_its_range() -> None:
    """The worst case for borrows between lanes: neighbours at opposite extremes."""
    count = 31
    payload = Payload.plan(NARROW, num_clients=count, num_values=9)
    assert payload.packing == 3
    assert payload.lane_length == payload._packing.length(9) == 3
    extremes = np.array([-1, 1, -1, 1, -1, 1, -1, -1, 1], np.float32)
    total = payload.ring.zeros(payload.length)
    for _ in range(count):
        total += payload.encode(extremes, 16, (), SecureWords())
    decoded = payload.decode(payload.ring.reduce(total))
    assert np.array_equal(decoded.values, 16 * count * extremes)
    assert np.array_equal(decoded.mean(), extremes)


def test_payload__of_twenty_bits_costs_two_and_a_half_bytes_per_value() -> None:
    payload = Payload.plan(NARROW, num_clients=31, num_values=1_000_000)
    assert payload.ring.packed_size(payload.length) / 1_000_000 < 2.5001


def test_payload__is_the_same_for_ring_masked_and_two_server() -> None:
    plans = [
        Payload.plan(setting, num_clients=10, num_values=7)
        for setting in (SecAggRing(), SecAggMasked(), SecAggTwoServer())
    ]
    assert len({plan.hash() for plan in plans}) == 1
    values = np.linspace(-1, 1, 7).astype(np.float32)
    vectors = {plan.encode(values, 3, (), SecureWords(bytes(32))).tobytes() for plan in plans}
    assert len(vectors) == 1


def test_payload__hash_covers_what_changes_the_sum() -> None:
    base = Payload.plan(NARROW, num_clients=5, num_values=7)
    changed = [
        Payload.plan(replace(NARROW, **change), num_clients=5, num_values=7)  # type: ignore[arg-type]
        for change in (
            {"bits": 21},
            {"clip": 0.5},
            {"resolution": 2.0**-5},
            {"max_weight": 8},
            {"rounding": "stochastic"},
        )
    ]
    changed += [
        Payload.plan(NARROW, num_clients=6, num_values=7),
        Payload.plan(NARROW, num_clients=5, num_values=8),
        Payload.plan(NARROW, num_clients=5, num_values=7, num_counters=1),
    ]
    assert len({plan.hash() for plan in [base, *changed]}) == len(changed) + 1


def test_payload__caps_weights_and_refuses_wrong_lengths() -> None:
    payload = Payload.plan(NARROW, num_clients=5, num_values=2, num_counters=1)
    values = np.ones(2, np.float32)
    decoded = payload.decode(payload.encode(values, 10**9, [7], SecureWords()))
    assert decoded.weight == 16
    for bad_values, bad_counters in ((np.ones(3, np.float32), [7]), (values, [])):
        with pytest.raises(ValueError, match="the payload has"):
            payload.encode(bad_values, 1, bad_counters, SecureWords())
    with pytest.raises(ValueError, match="the payload has"):
        payload.decode(payload.ring.zeros(1))
    with pytest.raises(ValueError, match="no mean"):
        payload.decode(payload.ring.zeros(payload.length)).mean()


def test_payload__refuses_a_ring_that_could_wrap() -> None:
    with pytest.raises(ConfigError, match="set bits="):
        Payload.plan(NARROW, num_clients=512, num_values=1)


# --- Layout ---------------------------------------------------------------------


def arrays(shift: float = 0.0) -> dict[str, np.ndarray]:
    return {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3) + np.float32(shift),
        "half": np.array([0.5, -2], np.float16),
        "double": np.array(1.25),
        "num_batches_tracked": np.array(2**40 + int(shift)),
        "frozen": np.array([True, False, shift > 0]),
        "empty": np.zeros((0, 4), np.float32),
    }


def test_layout__hash_depends_on_names_shapes_and_dtypes_but_not_on_order() -> None:
    base = SumLayout.of(arrays())
    assert SumLayout.of(dict(reversed(arrays().items()))).hash() == base.hash()
    renamed = {("w" if name == "weight" else name): value for name, value in arrays().items()}
    reshaped = arrays() | {"weight": np.zeros((3, 2), np.float32)}
    retyped = arrays() | {"weight": np.zeros((2, 3), np.float64)}
    hashes = {SumLayout.of(one).hash() for one in (arrays(), renamed, reshaped, retyped)}
    assert len(hashes) == 4


def test_layout__counts_what_is_averaged_and_what_is_summed() -> None:
    layout = SumLayout.of(arrays())
    assert (layout.num_reals, layout.num_integers) == (6 + 2 + 1, 1 + 3)


def test_layout__takes_every_dtype_that_it_names() -> None:
    real = ("float16", "float32", "float64")
    whole = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
    layout = SumLayout.of({name: np.zeros(2, name) for name in real + whole})
    assert (layout.num_reals, layout.num_integers) == (2 * len(real), 2 * len(whole))


def test_layout__refuses_what_cannot_be_summed() -> None:
    for bad in (np.zeros(2, complex), np.array(["a"]), np.zeros(1, np.uint64)):
        with pytest.raises(ValueError, match="cannot be summed"):
            SumLayout.of({"bad": bad})
