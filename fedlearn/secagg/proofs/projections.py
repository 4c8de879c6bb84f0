"""Short random images of a long vector: y_j = sum_i z_ij x_i, with z = -1, 0, 1.

An entry of z is 0 with chance 1/2 and each of -1 and 1 with 1/4: the difference of two bits.
Words wrap modulo 2^64, and so modulo any 2^b: images of shares add up to the image of the sum.

Eight coordinates at a time: a table of the 256 sums of subsets of them is made once and looked
up for every image, by a byte for what is added and by one for what is taken away.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.crypto.keystream import SecureWords

_WIDTH: Final = 8
_GROUPS: Final = 512
"""Tables at a time: a megabyte."""


def project(vector: NDArray[np.uint64], key: bytes, count: int) -> NDArray[np.uint64]:
    """`count` images of `uint64[d]`, by signs from a key of 32 bytes: `uint64[count]`.

    Coordinates 8 g to 8 g + 7 take the bytes from `2 g count` on of the key's AES-256-CTR stream:
    one for each image whose lowest bit says that the first of them is added, ..., and then one
    for each that says what is taken away.
    """
    stream, images = SecureWords(key), np.zeros(count, np.uint64)
    step = _GROUPS * _WIDTH
    for start in range(0, vector.size, step):
        tables = _subset_sums(vector[start : start + step])
        signs = stream.words(np.uint8, len(tables) * 2 * count).reshape(-1, 2, count)
        for table, (plus, minus) in zip(tables, signs, strict=True):
            images += table[plus]
            images -= table[minus]
    return images


def _subset_sums(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`uint64[n]` to `uint64[ceil(n / 8), 256]`: entry b is the sum of those whose bit is in b."""
    groups = -(-values.size // _WIDTH)
    padded = np.zeros(groups * _WIDTH, np.uint64)
    padded[: values.size] = values
    tables = np.zeros((groups, 1), np.uint64)
    for one in padded.reshape(groups, _WIDTH).T:
        tables = np.concatenate([tables, tables + one[:, None]], axis=1)
    return tables
