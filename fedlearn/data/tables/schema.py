"""What sites tell each other about their columns before training, and where they differ.

A site describes each column that it learns from: its name, whether it holds
numbers or categories, how many categories there are with a hash of their names,
and, in a run without privacy, the magnitude of its numbers in quarters of a
decade. No value leaves a site. A hash tells whether two sites have the same
categories; whoever guesses a whole set can confirm the guess by it. A
magnitude is computed from records, so a run under privacy tells none: there
the owner gives public ranges (`scenario.scaling.columns`), and each site
compares its own numbers with them, at home.

Pure: descriptions in, sentences out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import some
from fedlearn.data.tables.columns import Column

OTHER_UNITS = 4
"""Quarters of a decade between magnitudes that make other units likely: a factor of 5.6 to 18."""


@dataclass(frozen=True, kw_only=True)
class ColumnShape:
    """One column that a model gets, as its site describes it.

    A `gap` is 1 where the column `name` has no value. `digest` is of the
    categories, `magnitude` is `round(4 log10(median size))` of the numbers that
    are not zero, None where it is not told or all are zero.
    """

    name: str
    kind: Literal["numeric", "gap", "categorical"]
    categories: int = 0
    digest: str = ""
    magnitude: int | None = None


Schema = tuple[ColumnShape, ...]
"""The columns in the order in which a model gets them; empty where records are no table."""


def digest_of(categories: Sequence[str]) -> str:
    """64 bits of SHA-256 over the names of categories, in their order, which their codes follow."""
    text = json.dumps(list(categories), ensure_ascii=False)
    return hashlib.sha256(f"fedlearn/categories/v1\0{text}".encode()).hexdigest()[:16]


def magnitude_of(values: NDArray[np.float64]) -> int | None:
    """The magnitude of a column's numbers; NaN and zero say nothing about it."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    return round(4 * float(np.log10(np.median(sizes)))) if sizes.size else None


def schemas_of(
    numeric: Sequence[Column],
    gaps: Sequence[Column],
    categorical: Sequence[Column],
    raw: NDArray[np.float64],
    sites: NDArray[np.str_] | None,
) -> dict[str, Schema]:
    """How every site would describe the columns; without sites, under the empty name."""
    rest = [ColumnShape(name=column.name, kind="gap") for column in gaps]
    for column in categorical:
        names = column.categories
        rest.append(
            ColumnShape(
                name=column.name,
                kind="categorical",
                categories=len(names),
                digest=digest_of(names),
            )
        )
    owner = np.full(len(raw), "") if sites is None else sites
    found = {}
    for site in np.unique(owner) if owner.size else [""]:
        sizes = [magnitude_of(values) for values in raw[owner == site].T]
        numbers = [
            ColumnShape(name=column.name, kind="numeric", magnitude=size)
            for column, size in zip(numeric, sizes, strict=True)
        ]
        found[str(site)] = (*numbers, *rest)
    return found


def reported(schema: Schema, *, private: bool) -> Schema:
    """What a site tells of its schema; under privacy nothing that is computed from numbers."""
    return tuple(replace(column, magnitude=None) for column in schema) if private else schema


def differences(schemas: Mapping[str, Schema]) -> list[str]:
    """What keeps the sites from training one model, in sentences that name columns and sites.

    Sites without a schema are left out. The norm is what most sites have.
    """
    known = {site: schema for site, schema in sorted(schemas.items()) if schema}
    found = []
    for name in dict.fromkeys(column.name for schema in known.values() for column in schema):
        mine = {site: _find(schema, name) for site, schema in known.items()}
        found += list(_of_column(name, mine))
    if not found and len(set(map(_order, known.values()))) > 1:
        odd, norm = _odd({site: _order(schema) for site, schema in known.items()})
        found = [f"columns are in another order at {some(odd)} than at {some(norm)}"]
    return found


def suspicions(schemas: Mapping[str, Schema]) -> list[str]:
    """Columns whose numbers are of another size at some sites: other units, or other people?"""
    known = {site: schema for site, schema in sorted(schemas.items()) if schema}
    found = []
    for name in dict.fromkeys(column.name for schema in known.values() for column in schema):
        sizes = {site: _magnitude(schema, name) for site, schema in known.items()}
        reported_by = {site: size for site, size in sizes.items() if size is not None}
        if len(reported_by) < 2:
            continue
        middle = float(np.median(list(reported_by.values())))
        odd = [site for site, size in reported_by.items() if abs(size - middle) >= OTHER_UNITS]
        if odd:
            found.append(
                f"column {name!r}: its numbers at {some(odd)} differ from those of the other "
                "sites by a factor of five or more; other units? Convert them "
                f"(data.units.{name} of the site file), or give the column a public range "
                f"(scenario.scaling.columns.{name})"
            )
    return found


def _find(schema: Schema, name: str) -> dict[str, ColumnShape]:
    """What a site has under a name, by kind: a column of numbers may have its gaps beside it."""
    return {column.kind: column for column in schema if column.name == name}


def _magnitude(schema: Schema, name: str) -> int | None:
    column = _find(schema, name).get("numeric")
    return column.magnitude if column else None


def _of_column(name: str, mine: Mapping[str, dict[str, ColumnShape]]) -> Iterator[str]:
    where = f"column {name!r}"
    absent = [site for site, found in mine.items() if not found]
    if absent:
        there = [site for site in mine if site not in absent]
        yield (
            f"{where}: is missing at {some(absent)} and there at {some(there)}; add it or, "
            "where it has another name, rename it there (data.rename of the site file), or have "
            "those that have it drop it (data.drop of theirs)"
        )
    present = {site: found for site, found in mine.items() if found}
    kinds = {site: "categorical" in found for site, found in present.items()}
    if len(set(kinds.values())) > 1:
        odd, norm = _odd(kinds)
        words = {True: "categories", False: "numbers"}
        yield (
            f"{where}: holds {words[kinds[odd[0]]]} at {some(odd)} and {words[kinds[norm[0]]]} at "
            f"{some(norm)}; name it in scenario.numeric or scenario.categories"
        )
        return
    gaps = {site: "gap" in found for site, found in present.items()}
    if len(set(gaps.values())) > 1:
        with_gaps = [site for site, gap in gaps.items() if gap]
        without = [site for site, gap in gaps.items() if not gap]
        yield (
            f"{where}: has gaps at {some(with_gaps)} and none at {some(without)}; name the "
            "columns that may have gaps (scenario.gaps)"
        )
    sets = {site: _categories(found) for site, found in present.items()}
    if len(set(sets.values())) > 1:
        odd, norm = _odd(sets)
        yield (
            f"{where}: has other categories at {some(odd)} ({sets[odd[0]][0]}) than at "
            f"{some(norm)} ({sets[norm[0]][0]}); name them in scenario.categories.{name}, and "
            f"where they are written otherwise say so (data.map.{name} of the site file)"
        )


def _categories(found: Mapping[str, ColumnShape]) -> tuple[int, str]:
    column = found.get("categorical")
    return (column.categories, column.digest) if column else (0, "")


def _order(schema: Schema) -> tuple[tuple[str, str], ...]:
    return tuple((column.name, column.kind) for column in schema)


def _odd(values: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The sites whose value is not the most common one, and those whose is."""
    most: Callable[[Any], int] = Counter(values.values()).__getitem__
    usual = max(values.values(), key=most)
    norm = [site for site, value in values.items() if value == usual]
    return [site for site in values if site not in norm], norm
