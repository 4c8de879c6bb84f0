"""Shamir's secret sharing over GF(256), byte by byte and vectorised.

The field is that of AES (polynomial x^8 + x^4 + x^3 + x + 1). Share `i` of `n`
lies at x = i + 1; any `threshold` of them recover the secret, fewer say nothing
about it. Table look-ups are not constant in time: fit for secrets of one round
on the owner's machine, unfit for a key that an attacker can ask to share again.
Shares carry no tag: whoever combines them checks the result against a
commitment.

Source: Shamir, "How to share a secret", CACM 22 (11), 1979.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
MAX_SHARES = 255


def _tables() -> tuple[NDArray[np.int64], NDArray[np.int64], Bytes]:
    """Powers of the generator 3, logarithms, and the multiplication table."""
    power, log = np.zeros(255, np.int64), np.zeros(256, np.int64)
    value = 1
    for exponent in range(255):
        power[exponent], log[value] = value, exponent
        doubled = (value << 1) ^ (0x11B if value & 0x80 else 0)
        value ^= doubled
    product = np.zeros((256, 256), np.uint8)
    logs = log[1:]
    product[1:, 1:] = power[(logs[:, None] + logs[None, :]) % 255]
    return power, log, product


_POWER, _LOG, _PRODUCT = _tables()


def split(
    secret: bytes, threshold: int, shares: int, random: Callable[[int], bytes] = os.urandom
) -> Bytes:
    """Shares of a secret: `uint8[shares, len(secret)]`, row `i` at x = i + 1.

    `random` exists for frozen vectors; everything else uses the operating system's.

    Guarantees: any `threshold` rows recover the secret; fewer are uniform.

    Raises:
        ValueError: not 1 <= threshold <= shares <= 255.
    """
    if not 1 <= threshold <= shares <= MAX_SHARES:
        raise ValueError(
            f"threshold {threshold} of {shares} shares; needed: 1 <= threshold <= shares <= 255"
        )
    drawn = np.frombuffer(random((threshold - 1) * len(secret)), np.uint8)
    coefficients = drawn.reshape(threshold - 1, len(secret))
    x = np.arange(1, shares + 1)[:, None]
    value = np.zeros((shares, len(secret)), np.uint8)
    for row in coefficients:
        value = _PRODUCT[x, value ^ row]
    return value ^ np.frombuffer(secret, np.uint8)


def combine(points: Bytes, shares: Bytes) -> Bytes:
    """Secrets of several owners at once, by Lagrange interpolation at zero.

    `points: uint8[owners, threshold]`, `shares: uint8[owners, threshold, length]`
    to `uint8[owners, length]`.

    Raises:
        ValueError: a point is zero, or an owner's points repeat.
    """
    ordered = np.sort(points, axis=1)
    if (ordered == 0).any() or (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError("share points must be distinct and not zero")
    logs = _LOG[points]
    differences = points[:, :, None] ^ points[:, None, :]
    diagonal = np.arange(points.shape[1])
    differences[:, diagonal, diagonal] = 1
    numerator = logs.sum(axis=1, keepdims=True) - logs
    weights = _POWER[(numerator - _LOG[differences].sum(axis=2)) % 255]
    secrets = np.zeros((shares.shape[0], shares.shape[2]), np.uint8)
    for index in range(points.shape[1]):
        secrets ^= _PRODUCT[weights[:, index, None], shares[:, index]]
    return secrets
