import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError
from fedlearn.core.ring import FixedPoint, Ring, RingVector, check_range, pack, unpack
from fedlearn.crypto.keystream import SecureWords
from tests.effort import examples

BITS = range(8, 65)
LENGTHS = (0, 1, 3, 7, 8, 9, 1000)


def random_vector(ring: Ring, length: int) -> RingVector:
    width = ring.dtype.itemsize
    data = np.random.default_rng(length).bytes(length * width)
    return ring.reduce(np.frombuffer(data, ring.dtype).copy())


def oracle_pack(vector: RingVector, bits: int) -> bytes:
    number = sum(int(value) << (index * bits) for index, value in enumerate(vector))
    return number.to_bytes(-(-vector.size * bits // 8), "little")


@pytest.mark.parametrize("bits", BITS)
def test_pack__equals_one_big_little_endian_number(bits: int) -> None:
    ring = Ring(bits=bits)
    for length in LENGTHS:
        vector = random_vector(ring, length)
        packed = pack(vector, ring)
        assert packed == oracle_pack(vector, bits)
        assert np.array_equal(unpack(packed, length, ring), vector)


def test_pack__of_twenty_bits_takes_two_and_a_half_bytes() -> None:
    ring = Ring(bits=20)
    assert len(pack(random_vector(ring, 200_000), ring)) == 500_000
    long = random_vector(ring, 200_001)
    assert np.array_equal(unpack(pack(long, ring), long.size, ring), long)


def test_unpack__refuses_a_wrong_length_and_set_padding() -> None:
    ring = Ring(bits=20)
    packed = bytes(pack(random_vector(ring, 3), ring))
    for bad in (packed[:-1], packed + b"\0", packed[:-1] + bytes([packed[-1] | 0x80])):
        with pytest.raises(ValueError, match="packed vector"):
            unpack(bad, 3, ring)


@given(
    bits=st.integers(8, 64),
    values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20),
)
def test_centred__is_the_representative_nearest_zero(bits: int, values: list[int]) -> None:
    ring = Ring(bits=bits)
    words = np.array([value % 2**bits for value in values], ring.dtype)
    half = 2 ** (bits - 1)
    expected = [(value + half) % 2**bits - half for value in values]
    assert ring.centred(words).tolist() == expected


@pytest.mark.parametrize("bits", [7, 65])
def test_ring__refuses_other_widths(bits: int) -> None:
    with pytest.raises(ValueError, match="must be 8 to 64"):
        Ring(bits=bits)


@given(clients=st.integers(1, 1000), weight=st.integers(1, 10**6), value=st.integers(1, 2**30))
def test_check_range__accepts_exactly_the_rings_that_cannot_wrap(
    clients: int, weight: int, value: int
) -> None:
    for bits in (8, 20, 32, 48, 64):
        fits = clients * weight * value < 2 ** (bits - 1)
        if fits:
            check_range(bits=bits, num_clients=clients, max_weight=weight, max_integer=value)
        else:
            with pytest.raises(ConfigError, match=rf"secagg.bits={bits}.*needs"):
                check_range(bits=bits, num_clients=clients, max_weight=weight, max_integer=value)


def test_check_range__says_how_many_bits_are_needed_and_those_suffice() -> None:
    with pytest.raises(ConfigError, match="set bits=34"):
        check_range(bits=32, num_clients=256, max_weight=1024, max_integer=2**14 + 1)
    check_range(bits=34, num_clients=256, max_weight=1024, max_integer=2**14 + 1)


@settings(max_examples=examples(50), deadline=None)
@given(
    bits=st.sampled_from([24, 32, 40, 64]),
    values=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=50),
    weights=st.lists(st.integers(0, 16), min_size=1, max_size=4),
    rounding=st.sampled_from(["nearest", "stochastic"]),
)
def test_fixed_point__sum_is_within_a_step_per_client_of_the_clipped_sum(
    bits: int, values: list[float], weights: list[int], rounding: str
) -> None:
    ring = Ring(bits=bits)
    point = FixedPoint(clip=4.0, resolution=2.0**-12, rounding=rounding)  # type: ignore[arg-type]
    check_range(bits=bits, num_clients=len(weights), max_weight=16, max_integer=point.max_integer)
    vector = np.array(values, np.float32)
    total = ring.zeros(vector.size)
    for weight in weights:
        total += point.encode(vector, weight, ring, SecureWords())
    decoded = point.decode(ring.centred(ring.reduce(total)))
    exact = np.clip(vector.astype(np.float64), -4, 4) * sum(weights)
    assert np.abs(decoded - exact).max() <= sum(weights) * 2.0**-12


def test_fixed_point__nearest_rounding_is_rint_of_the_scaled_value() -> None:
    values = np.random.default_rng(1).normal(0, 2, 200_000).astype(np.float32)
    point = FixedPoint(clip=4.0, resolution=0.001, rounding="nearest")
    ring = Ring(bits=32)
    encoded = ring.centred(point.encode(values, 3, ring, SecureWords()))
    expected = 3 * np.rint(np.clip(values.astype(np.float64) / 0.001, -4000, 4000))
    # 1/0.001 and division differ in the last place: ties may fall the other way, values may not.
    assert np.abs(encoded - expected).max() <= 3
    assert (encoded != expected).mean() < 1e-3


def test_fixed_point__stochastic_rounding_is_unbiased() -> None:
    # Mean of n Bernoulli(0.3): six standard deviations fail once in 5e8 runs.
    count = 400_000
    values = np.full(count, 0.3, np.float32)
    ring, point = Ring(bits=16), FixedPoint(clip=2.0, resolution=1.0)
    encoded = ring.centred(point.encode(values, 1, ring, SecureWords(bytes(32))))
    assert set(encoded.tolist()) == {0, 1}
    assert abs(encoded.mean() - 0.3) < 6 * np.sqrt(0.21 / count)


def test_fixed_point__equal_streams_give_equal_words() -> None:
    values = np.random.default_rng(2).normal(0, 1, 100_000).astype(np.float32)
    ring, point = Ring(bits=32), FixedPoint(clip=4.0, resolution=2.0**-12)
    one, two = (point.encode(values, 7, ring, SecureWords(b"k" * 32)) for _ in range(2))
    other = point.encode(values, 7, ring, SecureWords(b"l" * 32))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_fixed_point__refuses_what_is_not_finite(bad: float) -> None:
    values = np.zeros(70_000, np.float32)
    values[-1] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        FixedPoint(clip=1.0, resolution=0.1).encode(values, 1, Ring(bits=32), SecureWords())


def test_fixed_point__refuses_a_negative_weight() -> None:
    with pytest.raises(ValueError, match="weight=-1"):
        FixedPoint(clip=1.0, resolution=0.1).encode(
            np.zeros(1, np.float32), -1, Ring(bits=32), SecureWords()
        )
