"""What whole updates say of noise, and what draws say of sampling: tests with known false alarms.

Pure: an audit makes the updates (`simulations.attacks.whole_update`), here they are judged. The
noise comes as `float64[draws, size]` by the layer that it was on, less what is known of the sum and
over the deviation that was promised, so that every number should be a standard normal of its own.
Who took part comes as counts, that should be binomial.

Every test has a bound on its false alarms that is exact, or an inequality, for these laws; none is
an approximation for many numbers. Counts are turned into standard normals by their distribution
function and a coin of the audit's own, which is exact as well. All tests of one check share its
chance of a false alarm evenly (Bonferroni).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betainc, chdtr, chdtrc, ndtr, ndtri

from fedlearn.auditing.findings import Check, CheckName

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Noise = Mapping[str, Floats]

FALSE_ALARMS: Final = 1e-6
"""How often at most all checks together accuse what is as promised."""

_CHECKS: Final = 8
"""Among how many checks by chance that is shared."""

_MOST_PAIRS: Final = 4000
"""Pairs of layers that are compared: the first ones, of models that have more."""

_MOST_VALUES: Final = 1 << 14
"""Values of a layer, or of a draw, that are compared with those of another."""

_MOST_LAGS: Final = 1 << 22
"""Values in which lags are looked for; memory of the Fourier transform grows with them."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """One test: the chance of such a value, or of a stranger one, and what it was made on."""

    chance: float
    where: str


def chance_check(name: CheckName, tests: Iterable[_Found]) -> Check:
    """A check by chance: holds unless the strangest test is stranger than all of them explain."""
    found = list(tests)
    worst = min(found, key=lambda one: one.chance)
    p_value = min(1.0, worst.chance * len(found))
    holds = p_value >= FALSE_ALARMS / _CHECKS
    return Check(name=name, holds=holds, p_value=p_value, where="" if holds else worst.where)


# --- noise -----------------------------------------------------------------------------


def noise_checks(noise: Noise, *, rounding: float = 0.0) -> list[Check]:
    """Size, independence and law of the noise; at least two draws.

    `rounding` is the share by which the variance may be larger for rounding's sake.
    """
    return [
        chance_check("noise_size", _sizes(noise, rounding)),
        chance_check("noise_of_layers", _between_layers(noise)),
        chance_check("noise_of_draws", _between_draws(noise)),
        chance_check("noise_at_a_distance", _at_a_distance(noise, rounding)),
        chance_check("noise_law", _law(noise, rounding)),
    ]


def _sizes(noise: Noise, rounding: float) -> Iterator[_Found]:
    """The variance of all together, of every layer, and of every draw."""
    yield _Found(chance=_variance(_rows(noise), rounding), where="the noise of all layers")
    for layer, values in noise.items():
        yield _Found(chance=_variance(values, rounding), where=f"the noise on {layer}")
    for draw, values in enumerate(_rows(noise)):
        yield _Found(chance=_variance(values, rounding), where=f"the noise of draw {draw + 1}")


def _variance(values: Floats, rounding: float = 0.0) -> float:
    squares, many = float(np.square(values).sum()), values.size
    return _both(float(chdtr(many, squares)), float(chdtrc(many, squares / (1 + rounding))))


def _both(below: float, above: float) -> float:
    return min(1.0, 2 * min(below, above))


def _between_layers(noise: Noise) -> Iterator[_Found]:
    """Two layers side by side, as far as both go: the same noise, or of the same size."""
    yield _Found(chance=1.0, where="")  # of a single layer
    sides = [(name, _both_ways(values[:, :_MOST_VALUES])) for name, values in noise.items()]
    for (one, a), (other, b) in itertools.islice(itertools.combinations(sides, 2), _MOST_PAIRS):
        size = min(a[0].shape[1], b[0].shape[1])
        chance = _alike([x[:, :size].ravel() for x in a], [y[:, :size].ravel() for y in b])
        yield _Found(chance=chance, where=f"the noise on {one} and on {other}")


def _between_draws(noise: Noise) -> Iterator[_Found]:
    """Two steps, or two rounds."""
    sides = [_both_ways(draw[:_MOST_VALUES]) for draw in _rows(noise)]
    for (i, a), (j, b) in itertools.combinations(enumerate(sides), 2):
        yield _Found(chance=_alike(a, b), where=f"the noise of draws {i + 1} and {j + 1}")


def _both_ways(values: Floats) -> tuple[Floats, Floats]:
    """Standard normals, and their size as standard normals: what is large is positive."""
    size = np.clip(2 * ndtr(np.abs(values)) - 1, 1e-300, 1 - 1e-16)
    return values, np.asarray(ndtri(size))


def _alike(one: Sequence[Floats], other: Sequence[Floats]) -> float:
    """Whether two vectors have to do with each other, in value or in size."""
    return min(1.0, 2 * min(_product(a, b) for a, b in zip(one, other, strict=True)))


def _product(a: Floats, b: Floats) -> float:
    """Of independent standard normals, `a . b / |b|` is one, whatever `b` is."""
    length = float(np.linalg.norm(b))
    return 1.0 if length == 0 else 2 * float(ndtr(-abs(float(a @ b)) / length))


def _at_a_distance(noise: Noise, rounding: float) -> Iterator[_Found]:
    """Numbers of one draw at all distances: noise that begins again, or is one number for many.

    The sum of products at one distance is a quadratic form in standard normals, whose tail has a
    bound (Bechar 2009, theorem 1): above `2 sqrt(v x) + 2 x` with chance e^-x at
    most, where `v` is a half of the number of products.
    """
    rows = _rows(noise)[:, :_MOST_LAGS] / math.sqrt(1 + rounding)
    draws, size = rows.shape
    if size < 2:
        yield _Found(chance=1.0, where="")
        return
    spectrum = np.fft.rfft(rows, 2 * size, axis=1)
    sums = np.fft.irfft(np.square(np.abs(spectrum)).sum(0), 2 * size)[1:size]
    half = draws * (size - np.arange(1, size)) / 2
    # The smallest root x of 2 sqrt(v x) + 2 x = |sum|.
    root = (-np.sqrt(half) + np.sqrt(half + 2 * np.abs(sums))) / 2
    worst = int(np.argmax(root))
    chance = min(1.0, 2 * (size - 1) * math.exp(-float(np.square(root[worst]))))
    yield _Found(chance=chance, where=f"values that are {worst + 1} apart")


def _law(noise: Noise, rounding: float) -> Iterator[_Found]:
    """The distribution (Kolmogorov and Smirnov, with the bound of Massart 1990)."""
    values = np.sort(_rows(noise).ravel())
    many = len(values)
    chances = np.asarray(ndtr(values / math.sqrt(1 + rounding)))
    steps = np.arange(many + 1) / many
    gap = max(float(np.max(steps[1:] - chances)), float(np.max(chances - steps[:-1])))
    gap = max(0.0, gap - rounding / 4)  # a normal of another variance is so far at most
    yield _Found(chance=min(1.0, 2 * math.exp(-2 * many * gap**2)), where="the noise of all layers")


def _rows(noise: Noise) -> Floats:
    """All layers side by side: `float64[draws, d]`."""
    return np.concatenate(list(noise.values()), axis=1)


# --- who takes part --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """How often records took part, as the sum that was made of them says.

    `single: int64[draws, records]`: in draws of one step each. `several: int64[rounds, records]`:
    in rounds of `steps` steps each.
    """

    single: Integers
    several: Integers
    steps: int

    @property
    def records(self) -> int:
        """How many records there were."""
        return int(self.single.shape[1])


def draw_checks(draws: Draws, rate: float, coins: np.random.Generator) -> list[Check]:
    """Whether every record took part by its own coin of chance `rate`, once at most in a step.

    `coins` are the audit's own.
    """
    most = int(draws.single.max(initial=0)), int(draws.several.max(initial=0))
    never_twice = most[0] <= 1 and most[1] <= draws.steps and int(draws.single.min(initial=0)) >= 0
    if rate >= 1:
        all_in = bool((draws.single == 1).all() and (draws.several == draws.steps).all())
        return [exact_check("draws", all_in, "a record that should always take part")]
    once = exact_check("draws", never_twice, "a record that took part twice in a step")
    if not never_twice:
        return [once]

    def normals(counts: Integers, trials: int, chance: float) -> Floats:
        return _normals(counts, trials, chance, coins)

    return [
        once,
        chance_check("draws_of_records", _of_records(draws, rate, normals)),
        chance_check("draws_of_steps", _of_steps(draws, rate, normals)),
    ]


def exact_check(name: CheckName, holds: bool, where: str) -> Check:
    """A check that chance does not touch; `where` is what is wrong if it does not hold."""
    return Check(name=name, holds=holds, p_value=None, where="" if holds else where)


_Normals = Callable[[Integers, int, float], Floats]


def _of_records(draws: Draws, rate: float, normals: _Normals) -> Iterator[_Found]:
    """How often each of them took part, over single steps and over those of a round."""
    rounds = len(draws.several)
    for counts, trials, what in (
        (draws.single.sum(0), len(draws.single), "single steps"),
        (draws.several.sum(0), rounds * draws.steps, "the steps of rounds"),
        (draws.several.ravel(), draws.steps, "the steps of one round"),
    ):
        found = normals(counts, trials, rate)
        where = f"how often a record took part in {what}"
        yield _Found(chance=_variance(found), where=where)
        largest = float(np.abs(found).max())
        yield _Found(chance=min(1.0, 2 * found.size * float(ndtr(-largest))), where=where)


def _of_steps(draws: Draws, rate: float, normals: _Normals) -> Iterator[_Found]:
    """How many took part in a step, in all, and in a step and the next one again."""
    single, records = draws.single, draws.records
    sizes = normals(single.sum(1), records, rate)
    yield _Found(chance=_variance(sizes), where="how many records took part in a step")
    for counts, what in ((single, "single steps"), (draws.several, "the steps of rounds")):
        trials = counts.size * (1 if counts is single else draws.steps)
        total = normals(np.array([counts.sum()]), trials, rate)
        where = f"how many records took part in all {what}"
        yield _Found(chance=2 * float(ndtr(-abs(total[0]))), where=where)
    again = np.array([int((a & b).sum()) for a, b in _in_turn(single)])
    total = normals(np.array([again.sum()]), len(again) * records, rate**2)
    yield _Found(chance=2 * float(ndtr(-abs(total[0]))), where="who took part twice running")


def _in_turn(single: Integers) -> Iterator[Sequence[Integers]]:
    for i in range(0, len(single) - 1, 2):
        yield single[i], single[i + 1]


def _normals(counts: Integers, trials: int, rate: float, coins: np.random.Generator) -> Floats:
    """Binomial counts as standard normals, exactly: a coin chooses within the step of the law."""
    coin, more = coins.random(counts.shape), _at_least(counts + 1, trials, rate)
    below, inside = bdtr(counts - 1.0, trials, rate), bdtr(counts, trials, rate)
    lower = np.where(counts > 0, below, 0.0)
    lower = lower + coin * (inside - lower)
    # From above as well: near one no float lies between.
    upper = more + (1 - coin) * (_at_least(counts, trials, rate) - more)
    from_below, from_above = (ndtri(np.clip(side, 1e-300, 1.0)) for side in (lower, upper))
    return np.asarray(np.where(lower < 0.5, from_below, -from_above))


def _at_least(counts: Integers, trials: int, rate: float) -> Floats:
    """The chance of so many or more."""
    inside = betainc(np.maximum(counts, 1), np.maximum(trials - counts + 1, 1), rate)
    return np.asarray(np.where(counts <= 0, 1.0, np.where(counts > trials, 0.0, inside)))
