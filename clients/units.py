"""A site's records a piece at a time, added up by what a run protects: records, or persons.

Where persons are protected what a person adds to a noised sum is the mean over its records, so
that all of them together move it by no more than one would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import FedlearnError
from fedlearn.data import Records
from fedlearn.mechanisms.evaluation import by_persons
from fedlearn.privacy import Unit

Whole = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Some records, with all of the others of their persons."""

    rows: Whole
    """Which they are, `int64[n]`."""
    owners: Whole | None = None
    """Whose each is, among the persons of the piece; None where records are by themselves."""
    records: Whole | None = None
    """How many each person has."""

    def added(self, whole: Whole, among: Flags) -> Whole:
        """What they add to a sum over those `among: bool[n]`: `int64[n, d]` to `int64[d]`.

        Guarantees: a person adds no more than its longest row, to several such sums over parts
        of its records together.
        """
        if self.owners is None or self.records is None:
            return np.asarray(whole[among].sum(0, dtype=np.int64))
        kept = np.where(among[:, None], whole, 0)
        return np.asarray(by_persons(kept, self.owners, self.records).sum(0, dtype=np.int64))


def pieces_of(records: Records, unit: Unit, size: int) -> Iterator[Piece]:
    """All records in pieces of about `size`; no person is in two.

    Raises:
        FedlearnError: persons are protected, and nothing says whose the records are.
    """
    if unit != "person":
        for start in range(0, len(records), size):
            yield Piece(rows=np.arange(start, min(start + size, len(records))))
        return
    if records.persons is None:
        raise FedlearnError("scenario.person: nothing says whose the records are")
    _, owner, many = np.unique(records.persons, return_inverse=True, return_counts=True)
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(many)
    first = 0
    while first < len(many):
        start = ends[first] - many[first]
        last = max(first + 1, int(np.searchsorted(ends, start + size, side="right")))
        rows = order[start : ends[last - 1]]
        yield Piece(rows=rows, owners=owner[rows] - first, records=many[first:last])
        first = last
