"""Keys of a round, against what the documents that define them say."""

from __future__ import annotations

from hashlib import sha256

import pytest

from fedlearn.secagg import keys

P = 2**255 - 19
SMALL_ORDER = (
    *(0, 1, P - 1, P, P + 1),
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
"""All points of small order of Curve25519 that a public key may spell (cr.yp.to/ecdh.html)."""


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_key__of_small_order_is_none_that_can_be_agreed_on(point: int) -> None:
    assert not keys.is_usable(point.to_bytes(32, "little"))
    assert keys.is_usable((9).to_bytes(32, "little"))


def test_graph_seed__is_a_hash_of_the_roll_that_everybody_got() -> None:
    """So that nobody who knows the names knows the graph before the keys are there."""
    label, roll = b"fedlearn/v1/secagg/graph", bytes(range(200))
    parts = b"".join(len(part).to_bytes(8, "big") + part for part in (label, roll))
    assert keys.graph_seed(roll) == sha256(parts).digest()
