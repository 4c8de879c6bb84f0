"""What noise says of itself: tests with known false alarms.

Pure: an audit makes the updates (`simulations.attacks.whole_update`), here they are judged. The
noise comes as `float64[draws, *shape]` by the layer that it was on, less what is known of the sum
and over the deviation that was promised, so that every number should be a standard normal of its
own. Every test has a bound on its false alarms that is exact, or an inequality, for that law; none
is an approximation for many numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.fft import dctn
from scipy.special import bdtr, bdtrc, chdtr, chdtrc, ndtr, ndtri

from fedlearn.auditing.chance import (
    Floats,
    Found,
    both_sides,
    chance_check,
    largest,
    of_normal,
    product,
    variance,
)
from fedlearn.auditing.findings import Check, CheckName

Noise = Mapping[str, Floats]

_MOST_PAIRS: Final = 4000
"""Pairs of layers that are compared: the first ones, of models that have more."""

_MOST_VALUES: Final = 1 << 14
"""Values of a layer, or of a draw, that are compared with those of another."""

_MOST_LAGS: Final = 1 << 22
"""Values in which lags and waves are looked for; memory of a transform grows with them."""

_TAILS: Final = (1.0, 2.0, 3.0, 4.0)
"""Deviations beyond which values are counted: the gap of two laws is small there."""


def noise_checks(
    noise: Noise, *, others: Noise | None = None, rounding: float = 0.0
) -> list[Check]:
    """Size, independence, directions and law of the noise; at least two draws.

    `others`, by what they are on, are `float64[draws, many]` of no layer of the model: more
    coordinates, where size and law show more sharply, or more draws than coordinates, where every
    direction shows. `rounding` is the share by which the variance may be larger for its sake.
    """
    tests = _tests(noise, others or {}, rounding)
    return [chance_check(name, found) for name, found in tests.items()]


def sums_check(noise: Noise, *, dithered: float, name: CheckName = "noise_of_tests") -> Check:
    """The same tests of the noise on test sums, or on sums of tables, all in one check.

    `noise: float64[runs, size]` by sum and round, of whole numbers that were spread evenly over
    their step: by the share `dithered` their variance may be larger.
    """
    found = _tests(noise, {}, dithered)
    return chance_check(name, [one for tests in found.values() for one in tests])


def _tests(noise: Noise, others: Noise, rounding: float) -> Mapping[CheckName, list[Found]]:
    flat = {name: values.reshape(len(values), -1) for name, values in noise.items()}
    groups = {"all layers": _rows(flat), **others}

    def of_groups(test: Callable[[Floats, float, str], Iterator[Found]]) -> list[Found]:
        return [
            found
            for name, rows in groups.items()
            for found in test(rows, rounding, f"the noise on {name}")
        ]

    return {
        "noise_size": [*_sizes(flat, rounding), *of_groups(_size)],
        "noise_of_layers": list(_between_layers(flat)),
        "noise_of_draws": list(_between_draws(flat)),
        "noise_at_a_distance": of_groups(_at_a_distance),
        "noise_of_directions": [*_directions(noise, rounding), *of_groups(_pivots)],
        "noise_law": of_groups(_law),
    }


def _rows(noise: Noise) -> Floats:
    """All layers side by side: `float64[draws, d]`."""
    return np.concatenate(list(noise.values()), axis=1)


def _size(rows: Floats, rounding: float, where: str) -> Iterator[Found]:
    yield Found(chance=variance(rows, rounding), where=where)


def _sizes(noise: Noise, rounding: float) -> Iterator[Found]:
    """The variance of every layer, and of every draw."""
    for layer, values in noise.items():
        yield Found(chance=variance(values, rounding), where=f"the noise on {layer}")
    for draw, values in enumerate(_rows(noise)):
        yield Found(chance=variance(values, rounding), where=f"the noise of draw {draw + 1}")


def _between_layers(noise: Noise) -> Iterator[Found]:
    """Two layers side by side, as far as both go: the same noise, or of the same size."""
    sides = [(name, _both_ways(values[:, :_MOST_VALUES])) for name, values in noise.items()]
    for (one, a), (other, b) in itertools.islice(itertools.combinations(sides, 2), _MOST_PAIRS):
        size = min(a[0].shape[1], b[0].shape[1])
        chance = _alike([x[:, :size].ravel() for x in a], [y[:, :size].ravel() for y in b])
        yield Found(chance=chance, where=f"the noise on {one} and on {other}")


def _between_draws(noise: Noise) -> Iterator[Found]:
    """Two steps, or two rounds."""
    sides = [_both_ways(draw[:_MOST_VALUES]) for draw in _rows(noise)]
    for (i, a), (j, b) in itertools.combinations(enumerate(sides), 2):
        yield Found(chance=_alike(a, b), where=f"the noise of draws {i + 1} and {j + 1}")


def _both_ways(values: Floats) -> tuple[Floats, Floats]:
    """Standard normals, and their size as standard normals: what is large is positive."""
    size = np.clip(2 * ndtr(np.abs(values)) - 1, 1e-300, 1 - 1e-16)
    return values, np.asarray(ndtri(size))


def _alike(one: Sequence[Floats], other: Sequence[Floats]) -> float:
    """Whether two vectors have to do with each other, in value or in size."""
    return min(1.0, 2 * min(product(a, b) for a, b in zip(one, other, strict=True)))


def _at_a_distance(rows: Floats, rounding: float, where: str) -> Iterator[Found]:
    """Numbers of one draw at all distances: noise that begins again, or is one number for many.

    The sum of products at one distance is a quadratic form in standard normals, whose tail has a
    bound (Bechar 2009, theorem 1): above `2 sqrt(v x) + 2 x` with chance e^-x at
    most, where `v` is a half of the number of products.
    """
    rows = rows[:, :_MOST_LAGS] / math.sqrt(1 + rounding)
    draws, size = rows.shape
    if size < 2:
        return
    spectrum = np.fft.rfft(rows, 2 * size, axis=1)
    sums = np.fft.irfft(np.square(np.abs(spectrum)).sum(0), 2 * size)[1:size]
    half = draws * (size - np.arange(1, size)) / 2
    # The smallest root x of 2 sqrt(v x) + 2 x = |sum|.
    root = (-np.sqrt(half) + np.sqrt(half + 2 * np.abs(sums))) / 2
    worst = int(np.argmax(root))
    chance = min(1.0, 2 * (size - 1) * math.exp(-float(np.square(root[worst]))))
    yield Found(chance=chance, where=f"{where}, values that are {worst + 1} apart")


def _directions(noise: Noise, rounding: float) -> Iterator[Found]:
    """Every coordinate, and every wave over the axes of a layer: sums of rows are among them.

    Noise may have its size on every coordinate and none in a direction across them. A wave
    (discrete cosine transform) is an orthonormal combination, so a standard normal as well.
    """
    flat = {name: values.reshape(len(values), -1) for name, values in noise.items()}
    for layer, values in [*noise.items(), ("all layers", _rows(flat)[:, :_MOST_LAGS])]:
        looked_at = [(f"a coordinate of {layer}", values)]
        if values[0].size <= _MOST_LAGS:
            waves = dctn(values, axes=range(1, values.ndim), norm="ortho")
            looked_at.append((f"a wave over {layer}", waves))
        for kind, found in looked_at:
            squares, many = np.square(found).sum(0), len(found)
            below = float(chdtr(many, squares.min()))
            above = float(chdtrc(many, squares.max() / (1 + rounding)))
            chance = min(1.0, squares.size * both_sides(below, above))
            yield Found(chance=chance, where=f"the noise in {kind}")


def _pivots(rows: Floats, rounding: float, where: str) -> Iterator[Found]:
    """What every coordinate has besides the others before it, where there are draws enough.

    Of independent standard normals the squared pivots of a QR decomposition are independent, and
    chi-square with one degree of freedom less each (Bartlett 1933). Noise that lacks any direction
    has a pivot of zero.
    """
    draws, size = rows.shape
    if draws < size:
        return
    squares = np.square(np.diagonal(np.linalg.qr(rows, mode="r")))
    freedom = draws - np.arange(size)
    below, above = chdtr(freedom, squares), chdtrc(freedom, squares / (1 + rounding))
    chance = min(1.0, size * both_sides(float(below.min()), float(above.min())))
    yield Found(chance=chance, where=f"{where}, in some direction")


def _law(rows: Floats, rounding: float, where: str) -> Iterator[Found]:
    """The distribution (Kolmogorov and Smirnov, with the bound of Massart 1990), and its tails."""
    values = np.sort(rows.ravel())
    many = len(values)
    chances = np.asarray(ndtr(values / math.sqrt(1 + rounding)))
    steps = np.arange(many + 1) / many
    gap = max(float(np.max(steps[1:] - chances)), float(np.max(chances - steps[:-1])))
    gap = max(0.0, gap - rounding / 4)  # a normal of another variance is so far at most
    yield Found(chance=min(1.0, 2 * math.exp(-2 * many * gap**2)), where=where)
    for tail in _TAILS:
        beyond = int((np.abs(values) > tail).sum())
        few = float(bdtr(beyond, many, of_normal(tail)))
        wider = of_normal(tail / math.sqrt(1 + rounding))
        more = float(bdtrc(beyond - 1, many, wider)) if beyond else 1.0
        yield Found(chance=both_sides(few, more), where=f"{where}, beyond {tail:g} deviations")


# --- noise and records -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """Noisy steps whose sums are known: `noise` and `sums: float64[steps, d]`, row by row.

    The noise is in deviations; `everybody: float64[d]` is the sum over all records.
    """

    noise: Floats
    sums: Floats
    everybody: Floats


def record_checks(steps: Steps) -> list[Check]:
    """Whether noise has to do with the records: along their sum, or in its size on a coordinate."""
    return [chance_check("noise_of_records", _of_records(steps))]


def _of_records(steps: Steps) -> Iterator[Found]:
    along = [
        (steps.sums, "the sum of a step"),
        (np.broadcast_to(steps.everybody, steps.noise.shape), "the sum of all records"),
    ]
    for sums, what in along:
        lengths = np.linalg.norm(sums, axis=1)
        there = lengths > 0
        if not there.any():
            continue
        found = (steps.noise[there] * sums[there]).sum(1) / lengths[there]
        where = f"the noise along {what}"
        yield Found(chance=largest(found), where=where)
        yield Found(chance=of_normal(float(found.sum()) / math.sqrt(len(found))), where=where)
        yield Found(chance=variance(found), where=where)
    sizes = np.abs(steps.sums) - np.abs(steps.sums).mean(1, keepdims=True)
    _, large = _both_ways(steps.noise)
    where = "the size of the noise where records have much"
    yield Found(chance=product(large.ravel(), sizes.ravel()), where=where)
    signs = np.sign(steps.sums)
    where = "the sign of the noise where records have much"
    yield Found(chance=product(steps.noise.ravel(), signs.ravel()), where=where)


# --- a source --------------------------------------------------------------------------


def source_checks(noise: Floats, others: Mapping[str, Floats]) -> list[Check]:
    """Whether normals from a source have to do with what else it draws, at any distance.

    `noise: float64[n]`; `others`, each `float64[n]`, by what they are.
    """
    value, size = _both_ways(noise)
    tests = [
        Found(chance=_at_any_lag(side, values), where=f"noise and {what} of the source")
        for what, values in others.items()
        for side in (value, size)
    ]
    return [chance_check("source_draws", tests)]


def _at_any_lag(a: Floats, b: Floats) -> float:
    """As `product`, of `a` and of `b` turned by every distance."""
    centred = b - b.mean()
    length = float(np.linalg.norm(centred))
    if length == 0:
        return 1.0
    sums = np.fft.irfft(np.fft.rfft(a) * np.conj(np.fft.rfft(centred)), len(a))
    return largest(np.asarray(sums / length))
