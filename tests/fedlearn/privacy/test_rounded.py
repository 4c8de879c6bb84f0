"""Gaussian noise in whole numbers: its law, digit by digit, and what a sum on a grid costs."""

from __future__ import annotations

import math
import secrets
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr

from fedlearn.privacy import rounded
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.events import GaussianEvent
from fedlearn.privacy.noise import WORDS, Keystream, SeededNoise, SystemNoise, box_muller
from fedlearn.privacy.rounded import grid_for, rounded_normals
from tests.far import CUDA, far_device

CPU = torch.device("cpu")
EDGES = (0, 1, rounded._LOW - 1, rounded._LOW, rounded._HIGH - 1, rounded._HIGH, 2**64 - 1)


def draw(seed: bytes, size: int, stddev: float) -> np.ndarray:
    return rounded_normals(SeededNoise(seed), [size], stddev, CPU)[0].numpy()


def pair_of(radius: int, angle: int, bits: int) -> tuple[mpmath.mpf, mpmath.mpf]:
    """The normals that the middles of two numbers of so many digits make, to 100 digits."""
    with mpmath.workdps(100):
        u, turn = ((mpmath.mpf(2 * x + 1)) / 2 ** (bits + 1) for x in (radius, angle))
        length = mpmath.sqrt(-2 * mpmath.log(u))
        return length * mpmath.cospi(2 * turn), length * mpmath.sinpi(2 * turn)


# --- The law ------------------------------------------------------------------------


@pytest.mark.parametrize("stddev", [1.0, 1.7, 5.3])
def test_rounded__has_the_law_of_a_gaussian_that_is_rounded(stddev: float) -> None:
    drawn = draw(b"chi", 400_000, stddev)
    assert (drawn == np.rint(drawn)).all()
    most = int(4 * stddev)
    values = np.arange(-most, most + 1)
    chances = ndtr((values + 0.5) / stddev) - ndtr((values - 0.5) / stddev)
    counts = np.array([(drawn == value).sum() for value in values])
    rest, left = len(drawn) - counts.sum(), 1 - chances.sum()
    found = stats.chisquare([*counts, rest], np.array([*chances, left]) * len(drawn))
    assert found.pvalue > 1e-6


def test_rounded__on_a_fine_grid_is_normal() -> None:
    stddev = 1.3 * 2**24
    drawn = draw(b"normal", 400_000, stddev) / stddev
    assert stats.kstest(drawn, "norm").pvalue > 1e-6
    deviations = 5.5 / math.sqrt(len(drawn))  # two-sided, 4e-8
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((drawn**power).mean() - mean) < deviations * math.sqrt(variance)
    for threshold in (2.0, 3.0, 4.0):
        expected = len(drawn) * 2 * stats.norm.sf(threshold)
        low, high = stats.poisson.ppf([1e-7, 1 - 1e-7], expected)
        assert low <= (np.abs(drawn) > threshold).sum() <= high


def test_rounded__has_last_digits_that_say_nothing() -> None:
    """Of a normal on 2^24 steps the lowest byte is uniform, whatever the highest are."""
    drawn = draw(b"digits", 400_000, 2.0**24).astype(np.int64)
    for some in (drawn, drawn[np.abs(drawn) < 2**22], drawn[np.abs(drawn) > 2**25]):
        assert stats.chisquare(np.bincount(some & 255, minlength=256)).pvalue > 1e-6


def test_rounded__has_uncorrelated_neighbours_and_halves() -> None:
    """The two values of one pair lie half a block apart, in squares too."""
    drawn = draw(b"pairs", 1 << 18, 2.0**24) / 2**24
    for lag in (1, 2, WORDS // 2, WORDS):
        for values in (drawn, drawn**2 - 1):
            correlation = np.corrcoef(values[:-lag], values[lag:])[0, 1]
            assert abs(correlation) < 5.5 / math.sqrt(len(drawn) - lag)


@pytest.mark.parametrize("size", [0, 1, 2, 5, WORDS - 1, WORDS, WORDS + 1, 2 * WORDS + 1])
def test_rounded__gives_as_many_as_are_asked_for(size: int) -> None:
    assert draw(b"size", size, 1e9).shape == (size,)
    assert np.abs(draw(b"size", size, 1e9)).max(initial=0.0) < 1e10


# --- Floats find it, whole numbers decide -------------------------------------------------


def test_rounded__floats_are_nearer_than_they_are_taken_to_be() -> None:
    """By a factor of eight, at both ends of what they decide and between."""
    radii = [rounded._LOW, rounded._LOW + 1, rounded._HIGH - 1, 2**63, 2**64 // 3]
    radii += [rounded._LOW + secrets.randbelow(rounded._HIGH - rounded._LOW) for _ in range(300)]
    radii += [rounded._LOW << k for k in range(20)] + [2**64 - (2**46 << k) - 1 for k in range(17)]
    angles = [secrets.randbits(64) for _ in radii]
    out = np.empty(2 * len(radii))
    box_muller(np.array(radii + angles, np.uint64), 1.0, out)
    for i, (radius, angle) in enumerate(zip(radii, angles, strict=True)):
        for digits in ((radius, angle), (radius + 1, angle), (radius, angle + 1)):
            cosine, sine = pair_of(*digits, 64)
            worst = max(abs(cosine - out[i]), abs(sine - out[len(radii) + i]))
            assert worst < rounded._ERROR / 8


@pytest.mark.parametrize("stddev", [1.5, 2.0**24 * 1.1, 2.0**36])
def test_rounded__whole_numbers_say_the_same_as_floats(
    stddev: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_floats = draw(b"both", 1000, stddev)
    monkeypatch.setattr(rounded, "_ERROR", 1.0)
    asked = list[int]()
    honest = rounded._settled

    def settled(*arguments: object) -> tuple[int, int]:
        asked.append(1)
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rounded, "_settled", settled)
    np.testing.assert_array_equal(draw(b"both", 1000, stddev), by_floats)
    assert len(asked) == 500


def test_rounded__whole_numbers_are_those_of_a_hundred_digits() -> None:
    stddev, bits = 2.0**30 / 3, 128
    radii = [1, 2, 3, 2**128 - 1, 2**128 - 2**60, 2**127] + [
        secrets.randbits(bits) for _ in range(60)
    ]
    angles = [0, 1, 2**126, 2**126 - 1, 2**127, 2**128 - 1, 3 * 2**126, 2**125]
    angles += [secrets.randbits(bits) for _ in range(60)]
    open_ = 0
    for radius, angle in zip(radii, angles, strict=False):
        found = rounded._pair(radius, angle, bits, stddev)
        if found is None:
            open_ += 1
            continue
        with mpmath.workdps(60):
            assert found == tuple(
                int(mpmath.nint(stddev * x)) for x in pair_of(radius, angle, bits)
            )
    assert open_ <= 5, "the corners, where so many digits do not decide"


def test_rounded__once_decided_no_further_digit_changes_it() -> None:
    undecided = 0
    for _ in range(100):
        radius, angle = secrets.randbits(256), secrets.randbits(256)
        found = [
            rounded._pair(radius >> (256 - bits), angle >> (256 - bits), bits, 2.0**24)
            for bits in (20, 26, 32, 48, 64, 128, 256)
        ]
        undecided += found.count(None)
        assert found[-1] is not None
        assert {pair for pair in found if pair is not None} == {found[-1]}
        for before, after in pairwise(found):
            assert before is None or after == before
    assert undecided > 100


@pytest.mark.parametrize("bits", [4, 5, 20, 64, 128])
def test_rounded__margin_holds_what_further_digits_may_move_several_times(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box of digits has its extremes at its corners, which are computed in other ways.

    Of every term four times as much is counted: with half of one less than three and a half would
    be left somewhere. At the smallest radii and the largest it is the logarithm that is open.
    """
    seen = list[tuple[int, int, int]]()
    monkeypatch.setattr(rounded, "_nearest", lambda *found: seen.append(found) or 0)
    most, stddev = 1 << bits, 3.7
    radii = angles = range(most)
    if bits > 8:
        radii = [1, 3, 1000, most // 8, *(int(most * x) for x in (0.37, 0.5, 0.89, 0.99))]
        angles = [0, 1, most // 8, most // 4 - 1, most // 4, most // 3, most // 2, most - 1]
    least = math.inf
    for radius in radii:
        for angle in angles:
            seen.clear()
            rounded._pair(radius, angle, bits, stddev)  # of some it asks for more digits at once
            with mpmath.workdps(80):
                corners = zip(*_corners(radius, angle, bits), strict=True) if seen else ()
                for (value, scale, margin), ends in zip(seen, corners, strict=True):
                    middle, around = (mpmath.mpf(x) / 2**scale for x in (value, margin))
                    far = max(abs(stddev * end - middle) for end in ends)
                    least = min(least, float(around / far))
    assert 3.5 <= least < (4.6 if bits > 8 else math.inf)


def _corners(radius: int, angle: int, bits: int) -> list[tuple[mpmath.mpf, mpmath.mpf]]:
    """The standard normals of a pair at the ends of what its digits leave open."""
    turns = [2 * mpmath.mpf(angle + more) / 2**bits for more in (0, 1)]
    lengths = [mpmath.sqrt(-2 * mpmath.log(mpmath.mpf(radius + more) / 2**bits)) for more in (0, 1)]
    return [(x * mpmath.cospi(turn), x * mpmath.sinpi(turn)) for x in lengths for turn in turns]


class Given(Keystream):
    """A stream whose first words are known, under a key of its own."""

    first: np.ndarray

    def words(self, count: int) -> np.ndarray:
        return self.first[:count]


@pytest.mark.parametrize("edge", EDGES)
def test_rounded__at_the_ends_of_the_radius_the_digits_go_on(edge: int) -> None:
    """There a logarithm in float64 has too few: the same first digits give several numbers."""
    found = set[tuple[float, float]]()
    for _ in range(20):
        stream = Given(secrets.token_bytes(32))
        stream.first = np.array([edge, 1 << 61], np.uint64)
        found.add(tuple(rounded._drawn(stream, 2, 2.0**24)))
    decided = rounded._LOW <= edge < rounded._HIGH
    assert len(found) == 1 or not decided
    assert len(found) > 1 or edge > 1, "of the first two numbers every digit counts"
    around = min(edge + 1, 2**64 - 1), max(edge - 1, 0)
    low, high = (pair_of(radius, 1 << 61, 64)[0] * 2**24 for radius in around)
    assert edge == 0 or all(low - 1 <= cosine <= high + 1 for cosine, _ in found)


def test_keystream__further_digits_are_those_of_the_word_alone() -> None:
    stream = Keystream(bytes(32))
    seen = {stream.further(word, 64) for word in range(1000)}
    assert len(seen) == 1000
    assert stream.further(7, 192) >> 128 == stream.further(7, 64)
    assert not seen & set(stream.words(1000).tolist())
    assert Keystream(b"k" * 32).further(7, 64) not in seen


def test_keystream__no_block_of_the_cipher_is_taken_twice() -> None:
    """Not for words, nor for the further digits of one and of its neighbours."""
    key = secrets.token_bytes(32)
    stream = Keystream(key)
    words = stream.words(64).tobytes() + stream.words(64).tobytes()
    assert words == Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(1024))
    further = [stream.further(word, 8 * 1024).to_bytes(1024, "big") for word in range(100)]
    taken = [part[i : i + 16] for part in (words, *further) for i in range(0, 1024, 16)]
    assert len(set(taken)) == len(taken) == 101 * 64


# --- On a device --------------------------------------------------------------------

SIZES = [[0], [1], [2, 3, 1], [WORDS - 1, 5], [WORDS + 1, 0, 7], [3 * WORDS + 5, 100, 2]]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("open_", [False, True])
def test_rounded__on_a_device_is_that_of_the_cpu(
    sizes: list[int], open_: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stddev = 2.0**33 if open_ else 2.0**24  # of the first a percent is left open
    monkeypatch.setattr(rounded, "_AT_ONCE", 2 * WORDS)
    expected = rounded_normals(SeededNoise(b"there"), sizes, stddev, CPU)
    with far_device():
        found = rounded_normals(SeededNoise(b"there"), sizes, stddev, CUDA)
        assert [part.device for part in found] == [CUDA] * len(sizes)
        near = [part.cpu() for part in found]
    for mine, wanted in zip(near, expected, strict=True):
        assert torch.equal(mine, wanted)


def test_rounded__never_repeats() -> None:
    drawn = [rounded_normals(SystemNoise(), [50, 50], 2.0**24, CPU) for _ in range(2)]
    assert len(set(torch.cat([*drawn[0], *drawn[1]]).tolist())) > 195


@pytest.mark.parametrize(("sizes", "stddev"), [([-1], 9.0), ([1], 0.5), ([1], math.inf)])
def test_rounded__refuses_what_it_cannot_draw(sizes: list[int], stddev: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        rounded_normals(SystemNoise(), sizes, stddev, CPU)


# --- The grid -----------------------------------------------------------------------


@given(
    noise=st.floats(1e-3, 1e5),
    clip=st.floats(1e-9, 1e9),
    dimension=st.integers(1, 10**9),
)
def test_grid__is_fine_and_leaves_room_for_rounding(
    noise: float, clip: float, dimension: int
) -> None:
    grid = grid_for(noise, clip, dimension)
    assert math.frexp(grid.step)[0] == 0.5
    assert grid.stddev * grid.step == noise * clip
    assert 2.0**24 <= grid.stddev <= 2.0 ** (rounded.FINEST + 1)
    assert grid.inner_norm + math.sqrt(dimension) * grid.step <= clip * (1 + 1e-12)
    if noise * math.sqrt(dimension) < 2.0**23:
        assert grid.inner_norm >= clip * (1 - 2.0**-11)


@settings(deadline=None)
@given(
    noise=st.floats(0.1, 1e5),
    size=st.integers(1, 400),
    scale=st.floats(1e-6, 1e6),
    spread=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_grid__rounded_sums_of_neighbours_are_at_most_a_clip_norm_apart(
    noise: float, size: int, scale: float, spread: float, seed: int
) -> None:
    grid, rng = grid_for(noise, 1.0, size), np.random.default_rng(seed)
    total = rng.normal(size=size) * scale
    record = rng.normal(size=size) * spread + 1
    if not spread:  # the worst: every coordinate lies beside a half, and crosses it
        total = (np.rint(total / grid.step) + 0.5 - 1e-3) * grid.step
    record *= grid.inner_norm / np.linalg.norm(record)
    silent = torch.zeros(size, dtype=torch.float64)
    one, other = (grid.noisy(torch.from_numpy(x), silent) for x in (total, total + record))
    assert torch.linalg.vector_norm(one - other) <= 1.0 + 1e-9 * scale
    assert torch.equal(one / grid.step, (one / grid.step).round())


def test_grid__adds_noise_in_whole_steps() -> None:
    grid = grid_for(2.0, 0.3, 1000)
    noise = torch.tensor([3.0, -(2.0**30), 0.0], dtype=torch.float64)
    total = torch.tensor([0.1, 1e3, -7.77])
    expected = [round(float(t) / grid.step) + int(n) for t, n in zip(total, noise, strict=True)]
    assert (grid.noisy(total, noise) / grid.step).tolist() == expected
    huge = torch.full((3,), 1e30)  # more digits than a float has
    assert grid.noisy(huge, noise).isfinite().all()


@pytest.mark.parametrize(
    ("noise", "clip"), [(0.0, 1.0), (1e12, 1.0), (1.0, 1e308), (math.inf, 1.0)]
)
def test_grid__refuses_noise_that_no_grid_holds(noise: float, clip: float) -> None:
    with pytest.raises(ValueError, match="no grid holds such noise"):
        grid_for(noise, clip * 10, 10**8)


@pytest.mark.parametrize(("rate", "delta"), [(1.0, 1e-5), (0.1, 1e-5), (0.5, 1e-3)])
@pytest.mark.parametrize(("stddev", "shift"), [(3.0, 2), (1.0, 1), (20.0, 31)])
def test_rounded__costs_what_is_booked_and_not_more(
    stddev: float, shift: int, rate: float, delta: float
) -> None:
    """From the chances themselves: the smallest epsilon at which either hockey stick is delta."""
    reach = int(12 * stddev) + shift
    values = np.arange(-reach, reach + shift + 1)

    def chances(at: int) -> np.ndarray:
        return ndtr((values - at + 0.5) / stddev) - ndtr((values - at - 0.5) / stddev)

    without = chances(0)
    with_one = (1 - rate) * without + rate * chances(shift)
    booked = epsilon(
        [GaussianEvent(noise_multiplier=stddev / shift, sample_rate=rate, steps=1)], delta
    )
    for p, q in ((without, with_one), (with_one, without)):
        assert np.maximum(p - math.exp(booked) * q, 0).sum() <= delta * (1 + 1e-6)


def test_rounded__asks_for_the_same_further_digits_on_every_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a number that floats leave open: here all of them, of two blocks and an odd number."""
    asked = list[tuple[int, int]]()
    further = Keystream.further

    def recording(stream: Keystream, place: int, bits: int) -> int:
        asked.append((place, bits))
        return further(stream, place, bits)

    monkeypatch.setattr(rounded, "_ERROR", 1.0)
    monkeypatch.setattr(Keystream, "further", recording)
    near = rounded_normals(SeededNoise(b"digits"), [6, 5], 8.0, CPU)
    here, asked = asked, []
    with far_device():
        far = [part.cpu() for part in rounded_normals(SeededNoise(b"digits"), [6, 5], 8.0, CUDA)]
    assert all(torch.equal(one, other) for one, other in zip(near, far, strict=True))
    assert here == asked
    assert sorted(place for place, _ in here) == sorted([*range(6), *range(6)])


def test_rounded__takes_what_whole_numbers_say_on_every_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rounded, "_ERROR", 1.0)
    monkeypatch.setattr(rounded, "_settled", lambda *seen: (17, -17))
    near = rounded_normals(SeededNoise(b"settled"), [6, 5], 8.0, CPU)
    with far_device():
        far = [part.cpu() for part in rounded_normals(SeededNoise(b"settled"), [6, 5], 8.0, CUDA)]
    for parts in (near, far):
        assert [part.tolist() for part in parts] == [[17] * 3 + [-17] * 3, [17] * 3 + [-17] * 2]


def test_rounded__leaves_open_what_floats_cannot_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Numbers near both ends, and of others those near a half: a sixteenth to either side of a
    pair at 2^36 steps; six deviations."""
    radii = torch.tensor([edge - (edge >> 63 << 64) for edge in EDGES])
    _, edges = rounded._box_muller_on_device(torch.stack([radii, torch.zeros_like(radii)]), 1.0)
    # The last but two is rounded to the first that is too near.
    assert edges.tolist() == [True, True, True, False, True, True, True]
    words = SeededNoise(b"open").stream().words(20_000).view(np.int64).reshape(2, 10_000)
    _, some = rounded._box_muller_on_device(torch.from_numpy(words.copy()), 2.0**36)
    chance = 1 - (1 - 2.0**-4) ** 2
    assert abs(float(some.double().mean()) - chance) < 6 * math.sqrt(chance / 10_000)
    settled = list[object]()
    monkeypatch.setattr(rounded, "_settled", lambda *seen: (settled.append(seen), (0, 0))[1])
    draw(b"open", 20_000, 2.0**36)
    assert abs(len(settled) / 10_000 - chance) < 6 * math.sqrt(chance / 10_000)
