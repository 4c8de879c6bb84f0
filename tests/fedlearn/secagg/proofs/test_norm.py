"""What is said of honest clients and of liars, by other ways than the formulas of the module."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from fedlearn.crypto.codec import Reader, Writer
from fedlearn.secagg.proofs.field import MODULUS
from fedlearn.secagg.proofs.norm import FALSE_ALARM, IMAGES, PROVEN_BITS, SECURITY, NormBound

IMAGED = NormBound(bits=20, values=10_000, counters=0, norm=50_000)
BOUNDS = [
    IMAGED,
    NormBound(bits=27, values=250_000, counters=1, norm=655_360),
    NormBound(bits=33, values=250_000, counters=0, norm=700_000),
    NormBound(bits=24, values=2**24, counters=0, norm=2**20 - 1),
]


def law(vector: list[int], modulus: int) -> np.ndarray:
    """The chances of all values of an image modulo `modulus`, exactly: by convolution."""
    chances = np.zeros(modulus)
    chances[0] = 1.0
    for x in vector:
        chances = chances / 2 + np.roll(chances, x) / 4 + np.roll(chances, -x) / 4
    return chances


def centred(modulus: int) -> np.ndarray:
    values = np.arange(modulus)
    return np.where(values < modulus // 2, values, values - modulus)


BITS = 9
MODULUS_9 = 2**BITS
LENGTH = 20.0
wide = st.integers(-(2 ** (BITS - 1)), 2 ** (BITS - 1) - 1)
vectors = st.one_of(
    st.lists(wide, min_size=1, max_size=12),
    st.lists(st.integers(-8, 8), min_size=1, max_size=60),
    st.integers(1, 200).map(lambda n: [1] * n),
    wide.map(lambda x: [x]),
    wide.map(lambda x: [x, x]),
    st.tuples(wide, wide).map(list),
)


@given(vectors, st.floats(0.01, 2 / 9))
def test_image__of_every_long_vector_is_large_as_often_as_the_bound_says(
    vector: list[int], a: float
) -> None:
    """The lemma that soundness rests on, by the exact law of an image."""
    assume(math.hypot(*vector) >= LENGTH)
    bound = NormBound(bits=BITS, values=IMAGES + 1, counters=0, norm=20)
    found = float(law(vector, MODULUS_9) @ np.exp(-2 * a / LENGTH**2 * centred(MODULUS_9) ** 2.0))
    assert found <= bound.image(LENGTH, a) + 1e-12


@pytest.mark.parametrize("shape", ["one", "two", "flat", "half", "all of the ring"])
def test_image__of_vectors_that_wrap_around_is_no_smaller(shape: str) -> None:
    """Such as would be short modulo 2^bits in every direction but those of the signs."""
    half = 2 ** (BITS - 1)
    vector = {
        "one": [half],
        "two": [half, half],
        "flat": [20] * 400,
        "half": [half // 2] * 7,
        "all of the ring": list(range(-half, half, 17)),
    }[shape]
    bound = NormBound(bits=BITS, values=IMAGES + 1, counters=0, norm=20)
    for a in (0.05, 0.15, 2 / 9):
        weight = np.exp(-2 * a / LENGTH**2 * centred(MODULUS_9) ** 2.0)
        assert float(law(vector, MODULUS_9) @ weight) <= bound.image(LENGTH, a)


@given(vectors, st.floats(0.01, 2 / 9), st.floats(40, 200))
def test_image__of_a_vector_that_is_long_for_its_ring_is_large_as_often_too(
    vector: list[int], a: float, length: float
) -> None:
    """Where what wraps around is most of the bound; `image` does not look at the norm."""
    assume(math.hypot(*vector) >= length)
    bound = NormBound(bits=BITS, values=IMAGES + 1, counters=0, norm=20)
    found = float(law(vector, MODULUS_9) @ np.exp(-2 * a / length**2 * centred(MODULUS_9) ** 2.0))
    assert found <= bound.image(length, a) + 1e-12


@pytest.mark.parametrize("length", [20.0, 90.0, 130.0, 200.0])
@pytest.mark.parametrize("a", [0.02, 0.13, 2 / 9])
def test_image__pays_for_what_wraps_around_as_the_lemma_says(length: float, a: float) -> None:
    """With t y^2 written out: the other terms of F at the edge, and all of F where y is beyond it,
    by Hoeffding, for vectors of sqrt(2) times the length."""
    bound, t, half = NormBound(bits=BITS, values=IMAGES + 1, counters=0, norm=20), 2 * a, 256
    others = [half + MODULUS_9 * m for m in range(-9, 10) if m]
    sides = 2 * math.fsum(math.exp(-t * (half * (2 * m - 1) / length) ** 2) for m in range(1, 40))
    assert sides >= math.fsum(math.exp(-t * (y / length) ** 2) for y in others)
    beyond = 2 * math.exp(-(half**2) / (2 * length**2))
    expected = 1 - a + 3 / 2 * a**2 + sides + (1 + sides) * beyond
    assert bound.image(length, a) == pytest.approx(min(1.0, expected), rel=1e-12)


@pytest.mark.parametrize("bound", BOUNDS)
def test_limit__is_that_of_laurent_and_massart_for_a_gaussian(bound: NormBound) -> None:
    """k + 2 sqrt(k s) + 2 s times the variance, exceeded with a chance of e^-s = 2^-40."""
    k, s, norm = 4096, 40 * math.log(2), bound.norm / 2.0**bound.cut
    longest = norm * math.sqrt((k + 2 * math.sqrt(k * s) + 2 * s) / 2)
    longest += math.sqrt(k) if bound.cut else 0.0
    assert bound.limit == pytest.approx(longest**2, rel=1e-10, abs=1)


@pytest.mark.parametrize("bound", BOUNDS)
def test_reach__is_where_the_best_slope_catches_a_liar(bound: NormBound) -> None:
    """By bisection over lengths, of the bound with slopes in steps of their own."""
    k, slack = 4096, math.sqrt(4096) if bound.cut else 0.0
    longest = (math.sqrt(bound.limit) + slack) * 2.0**bound.cut

    def log2_chance(length: float) -> float:
        slopes = np.linspace(0.0, 2 / 9, 2000)[1:]
        means = [bound.image(length, a) for a in slopes]
        return float(np.min(2 * slopes * (longest / length) ** 2 + k * np.log(means))) / math.log(2)

    low, high = bound.norm, 4.0 * bound.norm
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if log2_chance(middle) <= -128 else (middle, high)
    # Steps of two thousandths, and a hundred slopes.
    assert high * (1 - 1e-5) <= bound.reach <= high * 1.0025


@pytest.mark.parametrize("bound", BOUNDS)
def test_honest_client__draws_again_with_a_chance_of_false_alarm(bound: NormBound) -> None:
    """Of images that are Gaussian, which no image is heavier than in its tails."""
    variance = (bound.norm / 2.0**bound.cut) ** 2 / 2
    assert chi2.sf(bound.limit / variance, IMAGES) <= FALSE_ALARM
    # And not by a bound that lets through far more than is needed.
    assert chi2.sf(bound.limit / variance * 0.97, IMAGES) > FALSE_ALARM
    # No image wraps around: Hoeffding, for all of them.
    assert 2 * IMAGES * math.exp(-((2 ** (bound.bits - 1) / bound.norm) ** 2)) < FALSE_ALARM


@pytest.mark.parametrize("bound", BOUNDS)
def test_liar__beyond_the_reach_is_believed_with_less_than_the_stated_chance(
    bound: NormBound,
) -> None:
    """Two vectors of which the law is known: very many equal values, and a single one."""
    length = bound.reach / 2.0**bound.cut
    slack = math.sqrt(IMAGES) if bound.cut else 0.0
    limit = (math.sqrt(bound.limit) + slack) ** 2
    assert chi2.logcdf(limit / (length**2 / 2), IMAGES) <= -SECURITY * math.log(2)
    assert binom.logcdf(limit // length**2, IMAGES, 0.5) <= -SECURITY * math.log(2)
    assert 1.2 < bound.reach / bound.norm < 1.4


def test_liar__within_the_reach_can_be_believed() -> None:
    """The bound is not far from the truth: a fifth less is believed one time in six."""
    length = IMAGED.reach / 1.2
    assert chi2.logcdf(IMAGED.limit / (length**2 / 2), IMAGES) > math.log(1 / 6)


def test_few_values__are_held_to_the_norm_itself() -> None:
    bound = NormBound(bits=20, values=IMAGES, counters=1, norm=50_000)
    assert bound.exact
    assert bound.limit == 50_000**2
    assert bound.reach == 50_000
    assert not IMAGED.exact


def test_reach__grows_a_little_where_low_bits_are_cut_off() -> None:
    exact = [NormBound(bits=b, values=300, counters=0, norm=50_000) for b in (20, 25, 26, 30, 33)]
    reaches = [bound.reach / bound.norm for bound in exact]
    assert reaches[:2] == [1.0, 1.0]
    assert all(one < other for one, other in pairwise(reaches[1:]))
    assert reaches[-1] < 1.2


forms = st.tuples(
    st.integers(1, PROVEN_BITS), st.integers(1, 10**7), st.integers(0, 20), st.integers(1, 2**60)
)


@given(forms)
def test_squares__never_wrap_around_p_whatever_a_liar_shares(form: tuple[int, ...]) -> None:
    bits, values, counters, norm = form
    assume(NormBound.least_bits(values, norm) <= bits)
    bound = NormBound(bits=bits, values=values, counters=counters, norm=norm)
    largest = 2**bound.kept + 2 ** (bound.kept - 1)  # parts below 2^kept, wrapped around once
    assert bound.squares * largest**2 + 2**bound.spare < MODULUS
    assert bound.limit < 2**bound.spare
    # A counter that is wrapped around is 0 or 1 as a whole number, and not modulo p alone.
    assert 2 ** (bits + 1) + 2 < MODULUS


def test_bits__are_refused_that_a_norm_cannot_be_proved_in() -> None:
    for values, bits in ((IMAGES, 17), (IMAGES + 1, 20)):
        assert NormBound.least_bits(values, 65_535) == bits
        assert NormBound(bits=bits, values=values, counters=0, norm=65_535).norm == 65_535
        for wrong in (bits - 1, PROVEN_BITS + 1):
            with pytest.raises(ValueError, match="is not proved"):
                NormBound(bits=wrong, values=values, counters=0, norm=65_535)


def test_soundness__is_that_of_all_ways_to_be_lucky() -> None:
    """Of three repetitions any number may be hidden from by the hash, the others pass by luck."""
    one, point = 1 / MODULUS, IMAGED.query_error
    size = 2 * IMAGED.products.size
    assert (size, point) == (2 * 128, float(Fraction(size, MODULUS - size)))
    near = partial(pytest.approx, abs=0)  # its own tolerance of 1e-12 is larger than all of these
    assert IMAGED.soundness() == near(2.0**-128 + (one + point) ** 3, rel=1e-9)
    assert IMAGED.soundness(2.0**64) == near(2.0**-64 + point**3 + 3 * point**2, rel=1e-9)
    exact = NormBound(bits=20, values=300, counters=0, norm=50_000)
    assert exact.soundness() == near((one + exact.query_error) ** 3, rel=1e-9)
    # One repetition is left where hashes are enough for two, none where they are for three.
    assert exact.soundness(2.0**128) == near(exact.query_error + 2.0**-64, rel=1e-6)
    assert exact.soundness(2.0**250) == IMAGED.soundness(2.0**250) == 1.0


def test_bound__is_read_as_it_was_written() -> None:
    writer = Writer()
    IMAGED.write(writer)
    assert NormBound.read(Reader(writer.done())) == IMAGED
    with pytest.raises(ValueError, match="is not proved"):
        NormBound.read(Reader(b"\x05" + writer.done()[1:]))
