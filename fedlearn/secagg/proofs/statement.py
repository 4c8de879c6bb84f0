"""A proof about a vector that two servers hold in parts: `masked - mask`, modulo 2^bits.

Of every number whose square is summed the first server knows one part, the helper the other:
value, or image, of the masked vector and of the mask. The first adds 2^(bits - 1), so that with
the highest `kept` bits of each

    y = first - helper + 2^kept e - 2^(kept - 1),    e = 0 or 1: whether it wrapped around.

The client shares the bits e between the servers, and those of what is left below the limit. What
they are of y is linear in what each holds, and it is left to prove that all bits are bits, that
counters are, and that squares and what is left add up to the limit: one sum of products, with
random coefficients that come from a hash of all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.ring import RingVector
from fedlearn.crypto.kdf import expand
from fedlearn.secagg.proofs import field
from fedlearn.secagg.proofs.field import Elements
from fedlearn.secagg.proofs.norm import IMAGES, REPETITIONS, NormBound
from fedlearn.secagg.proofs.products import Terms
from fedlearn.secagg.proofs.projections import project

Server = Literal["first", "helper"]
Words = NDArray[np.uint64]

_ZERO: Final = np.zeros(1, np.uint64)


class TooLongError(ValueError):
    """A vector for which there is no proof."""


@dataclass(frozen=True)
class Numbers:
    """What one server holds of the numbers in a statement, modulo 2^bits: `uint64[n]`.

    Those whose squares are summed, then the counters. The first server's have 2^(bits - 1) added.
    """

    squares: Words
    counters: Words


def numbers_of(bound: NormBound, server: Server, vector: RingVector, signs: bytes) -> Numbers:
    """The numbers of a statement in a server's share: `word[values + counters]`.

    `signs` is the key of the images, which comes from a hash of what was sent.
    """
    words, mask = vector.astype(np.uint64), np.uint64((1 << bound.bits) - 1)
    values, counters = words[: bound.values], words[bound.values :]
    found = values if bound.exact else project(values, signs, IMAGES)
    if server == "first":
        found = found + np.uint64(1 << (bound.bits - 1))
    return Numbers(squares=found & mask, counters=counters & mask)


def shared_bits(bound: NormBound, first: Numbers, helper: Numbers) -> Elements:
    """The bits that a client shares: `[inputs]`.

    Raises:
        TooLongError: the vector, or an image of it, is too long; or a counter is not 0 or 1.
    """
    around = first.squares < helper.squares
    y = _kept(bound, first).astype(np.int64) - _kept(bound, helper).astype(np.int64)
    y += (around.astype(np.int64) << bound.kept) - (1 << (bound.kept - 1))
    left = bound.limit - int((y * y).astype(np.uint64).sum())
    counters = first.counters - helper.counters & np.uint64((1 << bound.bits) - 1)
    if left < 0 or (counters > 1).any():
        raise TooLongError("the vector is longer than it may be")
    spare = [left >> i & 1 for i in range(bound.spare)]
    wrapped = [around, first.counters < helper.counters, np.array(spare, bool)]
    return np.concatenate(wrapped).astype(np.uint64)


def terms_of(
    bound: NormBound, server: Server, part: Numbers, bits: Elements, coefficients: Elements
) -> Terms:
    """One server's share of the sum of products: `bits` its share of `shared_bits`.

    `coefficients: [inputs + counters + 1]`.
    """
    first = np.uint64(server == "first")
    kept, whole = field.element(1 << bound.kept), field.element(1 << bound.bits)
    own, counters = field.elements_of(_kept(bound, part)), field.elements_of(part.counters)
    if server == "first":
        own = field.sub(own, field.element(1 << (bound.kept - 1)))
    else:
        own, counters = field.sub(_ZERO, own), field.sub(_ZERO, counters)
    around, of_counters, spare = np.split(bits, [bound.squares, bound.squares + bound.counters])
    y = field.add(own, field.mul(around, kept))
    counters = field.add(counters, field.mul(of_counters, whole))
    binary = np.concatenate([bits, counters])
    weights = np.array([1 << i for i in range(bound.spare)], np.uint64)
    left = field.sub(field.dot(spare, weights)[None], field.element(int(first) * bound.limit))
    return Terms(
        a=np.concatenate([field.mul(binary, coefficients[:-1]), field.mul(y, coefficients[-1:])]),
        b=np.concatenate([field.sub(binary, first), y]),
        c=field.mul(left, coefficients[-1:]),
    )


def _kept(bound: NormBound, part: Numbers) -> Words:
    return part.squares >> np.uint64(bound.cut)


# --- what follows from keys --------------------------------------------------------


def coefficients(bound: NormBound, key: bytes) -> list[Elements]:
    """Those of every repetition, from a key that comes from a hash of all that is shared."""
    count = bound.inputs + bound.counters + 1
    return [field.drawn(expand(key, f"proofs/coefficients/{i}"), count) for i in range(REPETITIONS)]


def points(bound: NormBound, key: bytes) -> list[int]:
    """Where proofs are looked at, from a key that no client knows; none where it would tell."""
    found = []
    for i in range(REPETITIONS):
        candidates = map(int, field.drawn(expand(key, f"proofs/point/{i}"), 64))
        found.append(next(point for point in candidates if bound.products.takes(point)))
    return found


def helper_share(bound: NormBound, seed: bytes) -> Elements:
    """The helper's share of bits and proofs: `[elements]`; the first server gets the rest."""
    return field.drawn(expand(seed, "proofs/shares"), bound.elements)


# --- proofs ------------------------------------------------------------------------


def prove(bound: NormBound, terms: list[Terms], random: bytes) -> Elements:
    """The proofs of all repetitions, one after the other; `random` is a key for this alone."""
    form = bound.products
    masks = field.drawn(random, REPETITIONS * 2 * form.rows).reshape(REPETITIONS, -1)
    return np.concatenate([form.prove(*each) for each in zip(terms, masks, strict=True)])


def query(
    bound: NormBound,
    server: Server,
    part: Numbers,
    share: Elements,
    keys: tuple[bytes, bytes],
) -> Elements:
    """What a server says of a contribution: `share: [elements]`, keys of coefficients and points.

    The same from both servers, added up, is judged by `holds`.
    """
    bits, proofs = share[: bound.inputs], share[bound.inputs :].reshape(REPETITIONS, -1)
    seen = []
    drawn = zip(coefficients(bound, keys[0]), points(bound, keys[1]), proofs, strict=True)
    for random, point, proof in drawn:
        terms = terms_of(bound, server, part, bits, random)
        seen.append(bound.products.query(terms, proof, point))
    return np.concatenate(seen)


def holds(bound: NormBound, one: Elements, other: Elements) -> bool:
    """Whether a contribution is what it must be, by what both servers said of it."""
    seen = field.add(one, other).reshape(REPETITIONS, -1)
    return all(bound.products.decide(each) for each in seen)
