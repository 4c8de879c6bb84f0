"""Putting shared secrets together again, with every result checked before it is used.

Shares carry no proof. All owners are combined in one vectorised pass; where the
result fails its check, other choices among the shares at hand are tried, so that
one false share does not end the round when there are shares to spare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fedlearn.core.errors import ProtocolError
from fedlearn.crypto.shamir import combine

Held = list[tuple[int, bytes]]
"""The shares of one secret: (point, value)."""


def reopen(
    held: Mapping[str, Held], threshold: int, is_right: Callable[[str, bytes], bool]
) -> dict[str, bytes]:
    """The secret of every owner.

    Raises:
        ProtocolError: an owner has fewer than `threshold` shares, or no choice of
            them gives a secret that `is_right` accepts.
    """
    for owner, shares in held.items():
        if len(shares) < threshold:
            raise ProtocolError(
                owner,
                "unmask",
                f"{len(shares)} shares of its secret, {threshold} needed; nothing is released",
            )
    secrets = dict(zip(held, _combine([held[owner][:threshold] for owner in held]), strict=True))
    return {
        owner: secret if is_right(owner, secret) else _search(owner, held, threshold, is_right)
        for owner, secret in secrets.items()
    }


def _combine(rows: list[Held]) -> list[bytes]:
    points = np.array([[point for point, _ in row] for row in rows], np.uint8)
    joined = b"".join(value for row in rows for _, value in row)
    values = np.frombuffer(joined, np.uint8).reshape(*points.shape, -1)
    return [secret.tobytes() for secret in combine(points, values)]


def _search(
    owner: str,
    held: Mapping[str, Held],
    threshold: int,
    is_right: Callable[[str, bytes], bool],
) -> bytes:
    """Runs of consecutive shares, around the end: each false share is left out by some run."""
    shares = held[owner]
    runs = [(shares + shares)[start : start + threshold] for start in range(1, len(shares))]
    for secret in _combine(runs) if runs else ():
        if is_right(owner, secret):
            return secret
    raise ProtocolError(owner, "unmask", "its shares do not give its secret; nothing is released")
