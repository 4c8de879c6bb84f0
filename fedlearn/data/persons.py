"""Whose records are: the key of the person that a record is of.

`scenario.person` names a column (a key) that says whose a record is: a patient, a customer, a
matter, an author. It is never learned from and never leaves its site. All records of one person
are at one simulated site and in one part, for training or for the test, and where privacy is by
records they count as one (`privacy.unit=person`).

A record whose person nobody knows is left out: records without a key are not those of one person,
and each as a person of its own would be a promise to somebody who may be in others as well. Who
knows that they are different people gives them keys. The words of a missing value (`NA`, `null`)
are nobody's key either: strangers who are taken for one person would share one clip, and one of
them less would move what the others add. So would a list: who is in it may be in another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Annotated, Final

import numpy as np
from annotated_types import Le
from numpy.typing import NDArray
from pydantic import Field

from fedlearn.core.settings import Count, Value
from fedlearn.data.tables.cells import Cells, clean_text
from fedlearn.data.tables.columns import MISSING
from fedlearn.data.tables.spelling import number_key

Persons = NDArray[np.str_]
"""The key of every record's person."""

PersonColumn = Annotated[Value, Field(exclude_if=lambda name: not name)]
"""The setting `scenario.person`; empty: nothing says whose records are."""

MOST_RECORDS: Final = 8
"""Records of a person that a private step computes, at most, where nothing else is said."""

_MOST_AT_ONCE: Final = 1024
"""A step holds all that it computes of a person, whatever a machine may hold at once: no more than
the usual `training.max_batch`, so that no run fills a site's memory by asking for more."""

RecordsPerPerson = Annotated[
    Count, Le(_MOST_AT_ONCE), Field(exclude_if=lambda count: count == MOST_RECORDS)
]
"""The setting `scenario.records_per_person`: a public bound."""


_LONGEST: Final = 128
"""Characters of a key; all keys of a site take as many as the longest, which is one record's."""


def person_of(text: str, decimal: str = ".", missing: Collection[str] = MISSING) -> str:
    """The key of a person as it is written: equal numbers are one, and spaces around are none.

    A function of the text alone, whoever else there is; empty where nobody is named, by an empty
    text or by one of `missing`. A key that is longer than any that people give is its hash.
    """
    clean = clean_text(text)
    if text in missing or clean in missing:
        return ""
    key = number_key(clean, decimal) or clean
    if len(key) <= _LONGEST:
        return key
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def persons_of(cells: Cells, missing: Collection[str] = MISSING, decimal: str = ".") -> Persons:
    """The person of every row, `str[n]`; empty where the cell names nobody (`person_of`)."""
    keys = [person_of(text, decimal, missing) for text in cells.texts()]
    return np.array(keys or [""], np.str_)[cells.codes]


def in_bytes(persons: Persons) -> Iterator[bytes]:
    """What decides whether a person's records are tested on."""
    return (key.encode("utf-8", "surrogatepass") for key in persons.tolist())


def nobody_note(where: str, column: str, places: str) -> str:
    """What their owner is told of records without a person."""
    return (
        f"{where}: {places}: no person in {column!r}, left out; if they are of different people, "
        "give each a key of its own"
    )


def persons_in(scenario: object) -> str:
    """The column by which a scenario says whose records are; empty where it does not."""
    return str(getattr(scenario, "person", ""))


def most_records(scenario: object) -> int:
    """Records of one person that a private step computes, at most."""
    return int(getattr(scenario, "records_per_person", MOST_RECORDS))


def spread_notes(name: str, sites: Mapping[str, Sequence[Persons | None]]) -> Iterator[str]:
    """What a simulation can see, and a deployment cannot: persons at several sites."""
    seen: set[str] = set()
    several: set[str] = set()
    for parts in sites.values():
        here = {key for part in parts if part is not None for key in part.tolist()}
        several |= seen & here
        seen |= here
    if several:
        yield (
            f"{name}: {len(several)} of {len(seen)} persons have records at more than one site: "
            "each site keeps its promise by itself, and to them the epsilons of their sites add "
            "up; in a deployment nobody would see it"
        )
