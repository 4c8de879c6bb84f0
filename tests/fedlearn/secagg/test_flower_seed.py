"""Why Flower's own SecAgg+ is not used: its masks have 32 bits of entropy, ours have 256."""

import numpy as np
import pytest

from fedlearn.crypto.keystream import add_masks


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # flwr's own imports
def test_flower_seed__folds_256_bits_to_32_and_ours_does_not() -> None:
    """Two keys that differ in two words give flwr the same mask; every bit of a key counts here."""
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    key = bytes(range(32))
    flip = bytearray(key)
    flip[0] ^= 0xFF
    flip[4] ^= 0xFF  # cancels in the XOR of the 32-bit words
    other = bytes(flip)
    theirs = [pseudo_rand_gen(one, 1 << 32, [(64,)])[0] for one in (key, other)]
    assert np.array_equal(*theirs), "flwr has changed: look at the README's comparison again"

    masks = set()
    for bit in range(-1, 256):
        changed = bytearray(key)
        if bit >= 0:
            changed[bit // 8] ^= 1 << bit % 8
        vector = np.zeros(4, "<u4")
        add_masks(vector, [bytes(changed)])
        masks.add(vector.tobytes())
    assert len(masks) == 257
