from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy import stats

from fedlearn.privacy import discrete
from fedlearn.privacy.discrete import Law, draw_error, integer_noise
from fedlearn.privacy.noise import Keystream, SeededNoise
from tests.effort import slow_but
from tests.fedlearn.privacy import exact

FALSE_ALARM = 1e-7


def stream(name: str) -> Keystream:
    return SeededNoise(name.encode()).stream()


def chances(law: Law, stddev: int, values: np.ndarray) -> np.ndarray:
    if law == "skellam":
        return np.asarray(stats.skellam.pmf(values, stddev**2 / 2, stddev**2 / 2))
    wide = np.arange(-20 * stddev, 20 * stddev + 1)
    return np.asarray(
        np.exp(-(values**2) / (2 * stddev**2)) / np.exp(-(wide**2) / (2 * stddev**2)).sum()
    )


def goodness_of_fit(law: Law, stddev: int, drawn: np.ndarray) -> float:
    """The p-value of a chi-square test over single values, or over cells where they are many."""
    edges = np.unique(np.linspace(-4 * stddev, 4 * stddev, 41).astype(int))
    wide = np.arange(-20 * stddev, 20 * stddev + 1)
    below = np.cumsum(chances(law, stddev, wide))[edges + 20 * stddev]
    expected = np.diff(np.concatenate([[0.0], below, [1.0]])) * len(drawn)
    observed = np.diff(
        np.concatenate([[0], [(drawn <= edge).sum() for edge in edges], [len(drawn)]])
    )
    return float(stats.chisquare(observed, expected).pvalue)


LAWS = [
    *(("discrete_gaussian", stddev) for stddev in (4, 7, 300, 20_000)),
    *(("skellam", stddev) for stddev in (4, 7, 100)),
]


@pytest.mark.parametrize(("law", "stddev"), LAWS)
def test_table__draws_its_law(law: Law, stddev: int) -> None:
    drawn = integer_noise(law, stddev).draw(300_000, stream(f"{law}{stddev}"))
    assert goodness_of_fit(law, stddev, drawn) > FALSE_ALARM


@pytest.mark.parametrize("stddev", [1, 4, 300])
def test_exact_sampler__draws_the_discrete_gaussian(stddev: int) -> None:
    drawn = exact.discrete_gaussian(stddev, 100_000, stream(f"exact{stddev}"))
    assert len(drawn) == 100_000
    assert goodness_of_fit("discrete_gaussian", stddev, drawn) > FALSE_ALARM


def test_table__cannot_be_told_from_the_exact_sampler() -> None:
    """Two-sample test on the values themselves, without any formula of the law between them."""
    slow = exact.discrete_gaussian(6, 200_000, stream("slow"))
    fast = integer_noise("discrete_gaussian", 6).draw(200_000, stream("fast"))
    values = range(-18, 19)
    table = np.array([[np.sum(drawn == v) for v in values] for drawn in (slow, fast)])
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM


@pytest.mark.parametrize("law", ["discrete_gaussian", "skellam"])
@pytest.mark.parametrize("stddev", slow_but((4).__eq__, [4, 33]))
def test_table__holds_the_distribution_function_to_the_stated_error(law: Law, stddev: int) -> None:
    """Thresholds against 60 digits of mpmath; the tail against its stated chance."""
    noise = integer_noise(law, stddev)
    with mpmath.workdps(60):
        count = len(noise.upper) - 1
        if law == "skellam":
            mu = mpmath.mpf(stddev) ** 2
            weights = [mpmath.exp(-mu) * mpmath.besseli(k, mu) for k in range(count + 60)]
        else:
            weights = [mpmath.exp(-mpmath.mpf(k * k) / (2 * stddev**2)) for k in range(count + 60)]
            total = 2 * mpmath.fsum(weights) - weights[0]
            weights = [weight / total for weight in weights]
        below, worst = -weights[0], mpmath.mpf(0)
        for k in range(count):
            below += 2 * weights[k]
            stored = (int(noise.upper[k]) << 64) + int(noise.lower[k])
            worst = max(worst, abs(below - mpmath.mpf(stored) / 2**127))
        tail = 2 * mpmath.fsum(weights[count + 1 :])
        assert float(worst) <= 2.0**-118
        assert float(tail) <= 2.0**-120
        assert float(worst) * count <= noise.error * 2**9


def test_draw_error__is_at_least_that_of_the_table() -> None:
    for law in ("discrete_gaussian", "skellam"):
        for stddev in (4, 5, 50, 5000):
            assert integer_noise(law, stddev).error <= draw_error(stddev) < 1e-30


def test_table__breaks_ties_by_the_lower_halves() -> None:
    """Words that equal an upper half exactly are decided by the next 64 bits."""
    noise = integer_noise("discrete_gaussian", 4)

    class Scripted:
        def __init__(self, *words: int) -> None:
            self.left = [np.array([word], np.uint64) for word in words]

        def words(self, count: int) -> np.ndarray:
            assert count == 1
            return self.left.pop(0)

    for k in (0, 3, 10):
        tie, lower = int(noise.upper[k]) << 1, int(noise.lower[k])
        assert noise.draw(1, Scripted(tie, lower)) == k + 1  # type: ignore[arg-type]
        assert noise.draw(1, Scripted(tie, lower - 1)) == k  # type: ignore[arg-type]
        assert noise.draw(1, Scripted(tie + 1, lower)) == -(k + 1)  # type: ignore[arg-type]
        assert noise.draw(1, Scripted(tie - 2)) == k  # type: ignore[arg-type]


def test_table__looks_up_as_a_plain_search_does() -> None:
    """The guide against `searchsorted`, at random levels and around every threshold."""
    noise = integer_noise("skellam", 40)
    upper = noise.upper[:-1]
    levels = np.concatenate(
        [stream("levels").words(20_000) >> np.uint64(1), upper - 1, upper, upper + 1]
    ).astype(np.uint64)
    levels = levels[levels < 2**63]
    assert np.array_equal(noise._look_up(levels), np.searchsorted(upper, levels, side="right"))


def test_table__repeats_with_its_keystream() -> None:
    noise = integer_noise("skellam", 9)
    assert np.array_equal(noise.draw(70_000, stream("a")), noise.draw(70_000, stream("a")))
    assert not np.array_equal(noise.draw(100, stream("a")), noise.draw(100, stream("b")))
    # The first draws are the first of the stream, so the layout is that of version 1 for ever.
    assert noise.draw(0, stream("a")).shape == (0,)


@pytest.mark.parametrize("stddev", [0, 3, discrete.LARGEST_STDDEV + 1])
def test_table__refuses_what_it_cannot_hold(stddev: int) -> None:
    with pytest.raises(ValueError, match=f"stddev={stddev}: must be in"):
        integer_noise("discrete_gaussian", stddev)


def test_samplers__refuse_a_negative_size() -> None:
    with pytest.raises(ValueError, match="size=-1"):
        integer_noise("skellam", 5).draw(-1, stream("x"))
    with pytest.raises(ValueError, match="size=-1"):
        exact.discrete_gaussian(5, -1, stream("x"))
    with pytest.raises(ValueError, match="stddev=0"):
        exact.discrete_gaussian(0, 1, stream("x"))


def test_exact_below__is_uniform_at_the_edge_of_the_words() -> None:
    """A bound of 3 * 2^62 rejects a quarter of all words; a remainder would favour the small."""
    bound = 3 << 62
    drawn = exact._below(np.full(30_000, bound, np.uint64), stream("below"))
    cells = np.bincount((drawn >> np.uint64(62)).astype(int), minlength=3)
    assert int(drawn.max()) < bound
    assert stats.chisquare(cells).pvalue > FALSE_ALARM
