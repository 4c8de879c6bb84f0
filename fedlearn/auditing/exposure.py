"""Secrets that a language model has learned: how far up they rank, by chance and at the most.

A canary is a record with a random secret, one of `candidates` equally likely ones. Its rank is
the place of its secret among them, by how likely a model makes them, ties by a coin. A model
that has not seen the secret gives every rank the same chance, whatever it is; and ranks of several
canaries are then independent, whatever the model is, for their secrets are.

A promise to a record bounds what a run with it makes likelier than one without (`Promise.found`,
here T). Removing the `copies` of a canary one by one gives T applied as often: group privacy by
the whole curve (Dong, Roth and Su 2022, "Gaussian Differential Privacy", theorem 2.14), which is
e^(copies epsilon) for one pair (epsilon, 0), and far below it for noise that is normal. Without the
canary its secret has a rank up to r with chance r / candidates; so with it with chance
T(r / candidates) at the most, also on average over secrets, since T is concave.

Sources: Carlini, Liu, Erlingsson, Kos and Song 2019, "The Secret Sharer", definitions 3 and 5;
Fisher 1932, "Statistical Methods for Research Workers", section 21.1, for several canaries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, gammaincinv, gammaln

from fedlearn.auditing.promise import Promise
from fedlearn.privacy.events import Unit

Ranks = NDArray[np.int64]
Floats = NDArray[np.float64]

DELTAS: Final = tuple(10.0**-power for power in range(3, 12))
"""At which a promise is held: the first of many candidates is a rare event."""

SHARE: Final = 0.95
"""Of models that have seen no secret, so many stay below the edge of chance."""


def ranked(nats: Floats, coins: np.random.Generator) -> int:
    """The place of the first of `nats: float64[candidates]` among all, the smallest first.

    Ties are broken by a coin; a value that is no number is the largest.
    """
    found = np.nan_to_num(nats, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    better = int((found[1:] < found[0]).sum())
    tied = int((found[1:] == found[0]).sum())
    return 1 + better + int(coins.integers(tied + 1))


def exposure(ranks: Ranks, candidates: int) -> Floats:
    """Bits by which guessing a secret has become easier: `log2 candidates - log2 rank`."""
    return np.asarray(math.log2(candidates) - np.log2(ranks.astype(np.float64)))


def mean_by_chance(candidates: int) -> float:
    """The mean exposure of a secret that a model has not seen; some 1.44 bits among many."""
    return float(exposure(np.arange(1, candidates + 1), candidates).mean())


def by_chance(ranks: Ranks, candidates: int) -> float:
    """The chance of a mean exposure as high where a model has seen none of the secrets.

    Each `rank / candidates` is then at most u with chance u at the most, so that minus twice the
    sum of their logarithms is at most chi-square with two degrees of freedom each.

    Guarantees: at most u with chance u at the most, for every u; one for no canaries.
    """
    if not len(ranks):
        return 1.0
    total = -2 * float(np.log(ranks / candidates).sum())
    return float(chdtrc(2 * len(ranks), max(0.0, total)))


def edge_of_chance(canaries: int, candidates: int, share: float = SHARE) -> float:
    """The mean exposure, in bits, below which `share` of models stay that have seen no secret.

    Guarantees: `by_chance` is below `1 - share` for means above it, and for no other.
    """
    edge = float(gammaincinv(canaries, share)) / canaries / math.log(2)
    return min(edge, math.log2(candidates))


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """The most that a promise lets a model tell of canaries.

    Each is there as `copies` units of the `promise`; or all of them together are `one_unit`.
    """

    promise: Promise
    copies: int
    one_unit: bool = False

    @classmethod
    def of(cls, promise: Promise, unit: Unit, repetitions: int) -> Allowed:
        """What a promise to a `unit` allows where a secret is in so many records.

        Each is a unit of its own where records are; to a person they are one, for each canary is
        a person; a client has all canaries.
        """
        copies = repetitions if unit == "record" else 1
        return cls(promise=promise, copies=copies, one_unit=unit == "client")

    def chances(self, rates: Floats) -> Floats:
        """The most that chances can become which are `rates` where a canary is left out."""
        for _ in range(1 if self.one_unit else self.copies):
            before, rates = rates, self.promise.found(rates)
            if np.array_equal(before, rates):
                break
        return rates

    def chance(self, rate: float) -> float:
        """The same of one."""
        return float(self.chances(np.array([min(1.0, rate)]))[0])

    def mean_exposure(self, candidates: int) -> float:
        """Bits: exposure by the largest chances of every rank, by parts."""
        ranks = np.arange(1, candidates, dtype=np.float64)
        return float(np.sum(self.chances(ranks / candidates) * np.log2(1 + 1 / ranks)))

    def together(self, count: int, rate: float) -> float:
        """The most that the chance can be of `count` events of chance `rate` each, all at once.

        Events of one canary each, whose chance is `rate` where it is left out, whatever the
        others do. With the first left out its event is independent of all else; so the chance of
        all is T of `rate` times that of the rest, which are a run of one canary fewer.
        """
        if self.one_unit:
            return self.chance(rate**count)
        found = 1.0
        for _ in range(count):
            before, found = found, self.chance(rate * found)
            if found == before:
                break
        return found


def p_value(ranks: Ranks, candidates: int, allowed: Allowed) -> float:
    """At most the chance of so many ranks so far up, if the promise holds.

    Counted are ranks up to 1, 10, 100 and so on; any of the canaries may be those that are found
    (a sum over all choices), and the best count is paid for by how many there are (Bonferroni).

    Guarantees: valid for any dependence that a run makes between canaries.
    """
    count = len(ranks)
    tops = [10**power for power in range(math.ceil(math.log10(max(candidates, 2))))]
    found = [1.0]
    for top in tops:
        hits = int((ranks <= top).sum())
        choices = gammaln(count + 1) - gammaln(hits + 1) - gammaln(count - hits + 1)
        together = allowed.together(hits, top / candidates)
        found.append(math.exp(min(0.0, choices + math.log(max(together, 1e-300)))))
    return min(1.0, len(tops) * min(found))
