"""The integers modulo p = 2^64 - 2^32 + 1, as arrays of canonical words.

Every function takes and gives `uint64` arrays with all values below p, of any shapes that numpy
broadcasts. A product of 128 bits is put together from 32-bit halves and folded by 2^64 = 2^32 - 1
and 2^96 = -1.

Source: draft-irtf-cfrg-vdaf, Field64, for p, the generator of the subgroup of order 2^32, and
how elements are drawn and written (8 bytes, little-endian, values from p on refused).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.crypto.keystream import SecureWords

Elements = NDArray[np.uint64]

MODULUS: Final = 2**64 - 2**32 + 1
ELEMENT_BYTES: Final = 8
ORDER_BITS: Final = 32
GENERATOR: Final = pow(7, 2**32 - 1, MODULUS)
"""Of the subgroup of order 2^32."""

_P: Final = np.uint64(MODULUS)
_FOLD: Final = np.uint64(2**32 - 1)
_HALF: Final = np.uint64(32)


def element(value: int) -> np.uint64:
    """The element that an integer of either sign stands for."""
    return np.uint64(value % MODULUS)


def elements_of(values: NDArray[Any]) -> Elements:
    """The elements that words (`uint64`) or signed integers (`int64`) stand for."""
    words = values.astype(np.uint64)  # a negative one is 2^64 too large, that is 2^32 - 1
    low: Elements = np.where(words >= _P, words - _P, words)
    if values.dtype.kind == "u":
        return low
    return np.where(values < 0, sub(low, _FOLD), low)


@np.errstate(over="ignore")
def add(a: Elements, b: Elements | np.uint64) -> Elements:
    """a + b."""
    sums = a + b
    sums = sums + np.where(sums < b, _FOLD, np.uint64(0))
    return np.where(sums >= _P, sums - _P, sums)


@np.errstate(over="ignore")
def sub(a: Elements, b: Elements | np.uint64) -> Elements:
    """a - b."""
    return np.asarray(a - b - np.where(a < b, _FOLD, np.uint64(0)), np.uint64)


def mul(a: Elements, b: Elements | np.uint64) -> Elements:
    """a * b."""
    a0, a1, b0, b1 = a & _FOLD, a >> _HALF, b & _FOLD, b >> _HALF
    low, cross, other = a0 * b0, a0 * b1, a1 * b0
    middle = (low >> _HALF) + (cross & _FOLD) + (other & _FOLD)
    high = a1 * b1 + (cross >> _HALF) + (other >> _HALF) + (middle >> _HALF)
    return _folded((low & _FOLD) | (middle << _HALF), high)


@np.errstate(over="ignore")
def _folded(low: Elements, high: Elements) -> Elements:
    """low + 2^64 high."""
    top = high >> _HALF
    rest = low - top - np.where(low < top, _FOLD, np.uint64(0))
    more = (high & _FOLD) * _FOLD
    sums: Elements = rest + more
    sums = sums + np.where(sums < more, _FOLD, np.uint64(0))
    return np.where(sums >= _P, sums - _P, sums)


def total(values: Elements, axis: int = -1) -> Elements:
    """The sum along an axis of fewer than 2^32 elements."""
    low = np.asarray((values & _FOLD).sum(axis=axis, dtype=np.uint64))
    high = np.asarray((values >> _HALF).sum(axis=axis, dtype=np.uint64))
    return add(elements_of(low), mul(elements_of(high), np.uint64(2**32)))


def dot(a: Elements, b: Elements) -> Elements:
    """The sum of products along the last axis."""
    return total(mul(a, b))


def power(base: Elements, exponent: int) -> Elements:
    """base^exponent."""
    result, square = np.ones_like(base), base
    while exponent:
        if exponent & 1:
            result = mul(result, square)
        square, exponent = mul(square, square), exponent >> 1
    return result


def inverse(values: Elements) -> Elements:
    """1 / values; zero gives zero."""
    return power(values, MODULUS - 2)


def roots(size: int) -> Elements:
    """All `size`-th roots of unity, w^0, w^1, ...; `size` is a power of two."""
    root = pow(GENERATOR, 2**ORDER_BITS // size, MODULUS)
    found = [1]
    for _ in range(size - 1):
        found.append(found[-1] * root % MODULUS)
    return np.array(found, np.uint64)


def transformed(coefficients: Elements) -> Elements:
    """Values of polynomials at `roots(n)`: `[..., n]`, lowest coefficient first, to `[..., n]`."""
    size = coefficients.shape[-1]
    if size == 1:
        return coefficients.copy()
    even, odd = transformed(coefficients[..., ::2]), transformed(coefficients[..., 1::2])
    turned = mul(odd, roots(size)[: size // 2])
    return np.concatenate([add(even, turned), sub(even, turned)], axis=-1)


def interpolated(values: Elements) -> Elements:
    """The inverse of `transformed`."""
    size = values.shape[-1]
    backward = transformed(values)
    order = np.r_[0, np.arange(size - 1, 0, -1)]
    return mul(backward[..., order], element(pow(size, -1, MODULUS)))


def lagrange(size: int, point: int) -> Elements:
    """What values at `roots(size)` are multiplied by to give the polynomial's value at `point`.

    `point` is none of the roots.
    """
    at = roots(size)
    scale = (pow(point, size, MODULUS) - 1) * pow(size, -1, MODULUS) % MODULUS
    return mul(mul(at, inverse(sub(np.full(size, point, np.uint64), at))), element(scale))


def drawn(key: bytes, count: int) -> Elements:
    """`count` uniform elements from a key of 32 bytes: words of its AES-256-CTR stream below p."""
    stream, found = SecureWords(key), np.zeros(0, np.uint64)
    while found.size < count:
        words = stream.words(np.uint64, count - found.size)
        found = np.concatenate([found, words[words < _P]])
    return found


def to_bytes(values: Elements) -> bytes:
    """8 bytes an element, little-endian."""
    return values.astype("<u8").tobytes()


def from_bytes(data: bytes | memoryview, count: int) -> Elements:
    """The inverse of `to_bytes`.

    Raises:
        ValueError: not `count` elements, or one that is not canonical.
    """
    if len(data) != count * ELEMENT_BYTES:
        raise ValueError(f"{len(data)} bytes are not {count} field elements")
    words = np.frombuffer(data, "<u8").astype(np.uint64)
    if (words >= _P).any():
        raise ValueError("a field element is not canonical")
    return words
