"""How records are dealt out and how many a site has, as the suggested command says it.

How many records there are is taken as public: whoever adopts the command says so.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from fedlearn.data.tables.csv import Csv

_ENOUGH: Final = 1500
"""Training records of a site with which a linear model of a table loses little at epsilon 4: as
each site adds noise for itself, a third of the sites have three times the records and the root of
that less noise in their mean."""
_FEWEST, _MOST = 3, 10
"""Of a sum over two a site would only have to take away its own part."""


def sites_for(records: int) -> int:
    """How many sites so many records can be dealt out to, for each to have enough."""
    return min(_MOST, max(_FEWEST, int(_trained_on(records)) // _ENOUGH))


def dealt(records: int) -> tuple[str, ...]:
    """Settings that deal out records which say of no site that they are from there."""
    return "partition=iid", f"partition.num_sites={sites_for(records)}"


def nominal_records(sizes: Collection[int]) -> int:
    """How many records the site of a usual record trains on, roughly; `sizes` are all of each.

    A mean over records and not over sites: of sites that differ, one of many records would else
    take steps far too long, and with this each counts by its number of them.
    """
    total = sum(sizes)
    return roughly(_trained_on(sum(size * size for size in sizes) / total if total else 0.0))


def _trained_on(records: float) -> float:
    return records * (1 - Csv.test_fraction)


def sizes_if_dealt(records: int) -> list[int]:
    """All records of each site, as `dealt` deals so many out."""
    number = sites_for(records)
    return [records // number] * number


def roughly(number: float) -> int:
    """A whole number from 1 with two digits that are not zero, as 1300 for 1284."""
    return max(1, int(float(f"{number:.2g}")))
