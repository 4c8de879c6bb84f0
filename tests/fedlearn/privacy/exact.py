"""The discrete Gaussian without tables and without floating point, in whole numbers only.

Slow, and as simple as the paper: the reference that the table sampler of
`fedlearn.privacy.discrete` is tested with. Canonne, Kamath, Steinke 2020, "The Discrete
Gaussian for Differential Privacy", algorithms 1 to 3, on whole arrays at once.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.privacy.noise import WORDS, Keystream

Words = NDArray[np.uint64]

LARGEST_STDDEV: Final = 1 << 20
"""Up to here all numerators and denominators fit into 64 bits."""


def discrete_gaussian(stddev: int, size: int, stream: Keystream) -> NDArray[np.int64]:
    """`int64[size]` exact draws with P(x) proportional to exp(-x^2 / (2 stddev^2)).

    Algorithm 3 with the discrete Laplace distribution of scale `stddev` as proposal.

    Raises ValueError for a stddev outside [1, 2^20] or a negative size.
    """
    if not 1 <= stddev <= LARGEST_STDDEV:
        raise ValueError(f"stddev={stddev}: must be in [1, {LARGEST_STDDEV}]")
    if size < 0:
        raise ValueError(f"size={size}: must be >= 0")
    kept: list[NDArray[np.int64]] = []
    while sum(map(len, kept)) < size:
        proposal = _discrete_laplace(stddev, WORDS // 2, stream)
        off = (np.abs(proposal) - stddev).astype(np.int64)
        accept = _bernoulli_exp((off * off).astype(np.uint64), 2 * stddev**2, stream)
        kept.append(proposal[accept])
    return np.concatenate([np.empty(0, np.int64), *kept])[:size]


def _discrete_laplace(scale: int, tries: int, stream: Keystream) -> NDArray[np.int64]:
    """At most `tries` draws with P(x) proportional to exp(-|x| / scale): algorithm 2."""
    remainder = _below(np.full(tries, scale, np.uint64), stream)
    remainder = remainder[_bernoulli_exp(remainder, scale, stream)]
    multiple = np.zeros(len(remainder), np.int64)
    active = np.arange(len(remainder))
    while len(active):
        active = active[_bernoulli_exp(np.ones(len(active), np.uint64), 1, stream)]
        multiple[active] += 1
    size = remainder.astype(np.int64) + scale * multiple
    negative = _below(np.full(len(size), 2, np.uint64), stream) == 1
    # Zero must not count twice.
    return np.asarray(np.where(negative, -size, size)[~(negative & (size == 0))])


def _bernoulli_exp(numerator: Words, denominator: int, stream: Keystream) -> NDArray[np.bool_]:
    """Coins that are true with chance exp(-numerator/denominator): algorithm 1."""
    whole, rest = np.divmod(numerator, np.uint64(denominator))
    result = _bernoulli_exp_of_fraction(rest, denominator, stream)
    alive = np.flatnonzero(result & (whole > 0))
    while len(alive):
        one = np.ones(len(alive), np.uint64)
        kept = _bernoulli_exp_of_fraction(one, 1, stream)
        result[alive[~kept]] = False
        whole[alive] -= np.uint64(1)
        alive = alive[kept & (whole[alive] > 0)]
    return result


def _bernoulli_exp_of_fraction(
    numerator: Words, denominator: int, stream: Keystream
) -> NDArray[np.bool_]:
    """As above for fractions in [0, 1]: the parity of the first failure at chances x/1, x/2, ..."""
    count = np.ones(len(numerator), np.uint64)
    active = np.arange(len(numerator))
    while len(active):
        drawn = _below(np.uint64(denominator) * count[active], stream)
        active = active[drawn < numerator[active]]
        count[active] += np.uint64(1)
    return np.asarray(count & np.uint64(1) == 1)


def _below(bound: Words, stream: Keystream) -> Words:
    """Uniform integers in [0, bound), exact: draws above its last multiple are repeated."""
    result = stream.words(len(bound)).copy()
    largest = np.uint64(2**64 - 1)
    limit = largest - (largest % bound + np.uint64(1)) % bound
    bad = np.flatnonzero(result > limit)
    while len(bad):
        result[bad] = stream.words(len(bad))
        bad = bad[result[bad] > limit[bad]]
    return np.asarray(result % bound, np.uint64)
