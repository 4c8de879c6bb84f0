"""Noise and sampling: the right distribution, never the same twice, equal from equal seeds.

Statistical tests run on a fixed seed. Their thresholds leave a correct sampler
a chance below 1e-6 to fail for another seed.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings

import numpy as np
import pytest
from scipy import stats

from fedlearn.privacy import noise
from fedlearn.privacy.noise import (
    TEST_NOISE,
    NoiseSource,
    SeededNoise,
    SystemNoise,
    noise_of,
)

SOURCES = [SystemNoise(), SeededNoise(b"seed")]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
@pytest.mark.parametrize("size", [0, 1, 2, 5, 32767, 32768, 32769, 65537])
def test_normal__returns_float32_of_the_asked_size(source: NoiseSource, size: int) -> None:
    drawn = source.normal(size, 2.0)
    assert drawn.dtype == np.float32
    assert drawn.shape == (size,)
    assert np.isfinite(drawn).all()
    assert source.bernoulli(size, 0.3).shape == (size,)
    assert source.bernoulli(size, 0.3).dtype == np.bool_


def test_normal__is_normal() -> None:
    drawn = SeededNoise(b"normal").normal(500_000, 3.0).astype(np.float64) / 3.0
    assert stats.kstest(drawn, "norm").pvalue > 1e-6
    deviations = 5.5 / math.sqrt(len(drawn))  # two-sided, 4e-8
    assert abs(drawn.mean()) < deviations
    assert abs((drawn**2).mean() - 1) < deviations * math.sqrt(2)
    assert abs((drawn**3).mean()) < deviations * math.sqrt(15)
    assert abs((drawn**4).mean() - 3) < deviations * math.sqrt(96)


def test_normal__has_the_tails_of_a_normal() -> None:
    drawn = np.abs(SeededNoise(b"tails").normal(4_000_000, 1.0))
    for threshold in (2.0, 3.0, 4.0, 4.5):
        expected = 4_000_000 * 2 * stats.norm.sf(threshold)
        # 1e-7 on either side
        low, high = stats.poisson.ppf([1e-7, 1 - 1e-7], expected)
        assert low <= (drawn > threshold).sum() <= high


def test_normal__has_uncorrelated_neighbours_and_halves() -> None:
    """The two values of one Box-Muller pair lie half a block apart, in squares too."""
    drawn = SeededNoise(b"pairs").normal(1 << 20, 1.0).astype(np.float64)
    for lag in (1, 2, 1 << 14, 1 << 15):
        for values in (drawn, drawn**2 - 1):
            correlation = np.corrcoef(values[:-lag], values[lag:])[0, 1]
            assert abs(correlation) < 5.5 / math.sqrt(len(drawn) - lag)


def test_normal__reaches_the_tail_that_it_documents() -> None:
    words = np.array([0, 0, (1 << 64) - 1, 0], dtype=np.uint64)  # radii, then angles
    out = np.empty(4, dtype=np.float32)
    noise.box_muller(words[[0, 2, 1, 3]], 1.0, out)
    assert out[0] == pytest.approx(math.sqrt(2 * 65 * math.log(2)), rel=1e-6)
    assert out[1] == 0.0


def test_normal__follows_from_the_keystream_of_the_standard() -> None:
    """The first pair, computed by hand from AES-256-CTR as `cryptography` gives it."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    seed = hashlib.sha256(b"fedlearn/noise/v1" + b"by hand").digest()
    key = hashlib.sha256(seed + bytes(8)).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(16))
    first, second = (int.from_bytes(stream[i : i + 8], "little") for i in (0, 8))
    radius = math.sqrt(-2 * math.log((first + 0.5) / 2**64))
    angle = 2 * math.pi * (second >> 11) / 2**53
    drawn = SeededNoise(b"by hand").normal(2, 1.5)
    expected = [1.5 * radius * math.cos(angle), 1.5 * radius * math.sin(angle)]
    assert drawn == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("probability", [1e-3, 0.1, 0.5, 0.999])
def test_bernoulli__has_the_asked_chance(probability: float) -> None:
    count = SeededNoise(b"coins").bernoulli(1_000_000, probability).sum()
    low, high = stats.binom.ppf([1e-7, 1 - 1e-7], 1_000_000, probability)
    assert low <= count <= high


def test_bernoulli__at_the_ends_is_certain() -> None:
    assert SystemNoise().bernoulli(100_000, 1.0).all()
    assert not SystemNoise().bernoulli(100_000, 0.0).any()
    assert not SystemNoise().bernoulli(100_000, 1e-300).any()


def test_bernoulli__compares_all_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One below the threshold is in, the threshold itself is out, at a rate of many digits."""
    probability = 0.1
    threshold = math.floor(probability * 2**64)
    words = np.array([threshold - 1, threshold, threshold + 1], dtype=np.uint64)
    monkeypatch.setattr(noise.Keystream, "words", lambda self, count: words)
    assert SystemNoise().bernoulli(3, probability).tolist() == [True, False, False]
    words[:] = 0
    assert SystemNoise().bernoulli(3, 2.0**-64).all()
    # Less than one word in all of them: rounded down, to never.
    assert not SystemNoise().bernoulli(3, 0.9 * 2.0**-64).any()


def test_system_noise__never_repeats() -> None:
    source = SystemNoise()
    draws = {source.normal(4, 1.0).tobytes() for _ in range(1000)}
    assert len(draws) == 1000
    assert source.is_private


def test_system_noise__differs_in_a_forked_process() -> None:
    source = SystemNoise()
    source.normal(8, 1.0)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons: torch has threads
        child = os.fork()
    if child == 0:
        os.write(writer, source.normal(8, 1.0).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 32)
    os.close(reader)
    os.close(writer)
    assert len(theirs) == 32
    assert theirs != source.normal(8, 1.0).tobytes()


def test_noise_of__is_the_systems_unless_a_test_names_a_seed() -> None:
    """A site that takes its noise from a seed which nobody has set would promise nothing."""
    assert isinstance(noise_of({}, "north", 3), SystemNoise)
    names: list[tuple[str | int, ...]] = [("north", 3), ("north", 4), ("south", 3), ("north",)]
    seeded = [noise_of({TEST_NOISE: "7"}, *name) for name in names]
    assert not any(source.is_private for source in seeded)
    assert len({source.normal(4, 1.0).tobytes() for source in seeded}) == 4
    again = noise_of({TEST_NOISE: "7"}, "north", 3).normal(4, 1.0)
    assert np.array_equal(again, SeededNoise(b"7/north/3").normal(4, 1.0))


@pytest.mark.parametrize("stddev", [0.0, 0.5, 1e37])
def test_normal__takes_every_deviation_that_float32_holds(stddev: float) -> None:
    drawn = SystemNoise().normal(1000, stddev)
    assert np.isfinite(drawn).all()
    assert drawn.any() == (stddev > 0)


def test_seeded_noise__repeats_from_its_seed_and_is_not_private() -> None:
    one, same, other = SeededNoise(b"a"), SeededNoise(b"a"), SeededNoise(b"b")
    first = one.normal(100, 1.0)
    assert np.array_equal(first, same.normal(100, 1.0))
    assert not np.array_equal(first, other.normal(100, 1.0))
    assert not np.array_equal(first, one.normal(100, 1.0)), "draws of one source are independent"
    assert not one.is_private


@pytest.mark.parametrize("stddev", [-1.0, math.nan, math.inf, 1e38])
def test_normal__refuses_a_stddev_that_is_none(stddev: float) -> None:
    with pytest.raises(ValueError, match="stddev="):
        SystemNoise().normal(3, stddev)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_bernoulli__refuses_a_probability_that_is_none(probability: float) -> None:
    with pytest.raises(ValueError, match="probability="):
        SystemNoise().bernoulli(3, probability)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_noise__refuses_a_negative_size(source: NoiseSource) -> None:
    for draw in (source.normal, source.bernoulli):
        with pytest.raises(ValueError, match="size="):
            draw(-1, 0.5)
