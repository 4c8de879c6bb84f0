"""Categories of a column that has too many of them, in buckets of a public hash.

Thousands of codes of goods, postcodes or diagnoses cannot be listed, and a list that is found in
records is a release of these. A hash without a key is the same at every site and reads no other
record: equal values share a bucket, and two different ones do with chance one in the number of
buckets. Who knows a value can compute its bucket, so this hides nothing; `scenario.deidentify`
does.

Source: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning"; RFC 7693
(BLAKE2b).
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from typing import Annotated, Final

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from fedlearn.data.tables.cells import Cells
from fedlearn.data.tables.spelling import number_key

MOST: Final = 1 << 16
USUAL: Final = 256
"""What `fedlearn data check` proposes."""

Buckets = Annotated[int, Ge(2), Le(MOST)]


def bucket_names(number: int) -> tuple[str, ...]:
    """The names of so many buckets, in order."""
    return tuple(map(str, range(1, number + 1)))


def buckets_of(
    cells: Cells, number: int, missing: Collection[str], decimal: str = "."
) -> NDArray[np.float32]:
    """The bucket of every cell, from 1; 0 for a gap. Equal numbers are one value, as 7 and 7.0."""
    gaps = cells.among(missing)
    codes = [
        0 if gap else 1 + _hash(number_key(text, decimal) or text) % number
        for text, gap in zip(cells.texts(), gaps.tolist(), strict=True)
    ]
    return np.array(codes, np.float32)[cells.codes]


def _hash(text: str) -> int:
    digest = blake2b(
        text.encode("utf-8", "replace"), digest_size=8, person=b"fedlearn/bucket"
    ).digest()
    return int.from_bytes(digest, "little")
