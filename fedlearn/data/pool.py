"""The records of a scenario: all of them (`Pool`), and dealt out to the sites (`deal`).

Who gets which row is decided by `fedlearn.data.partition`; this file hands the
rows over and says in one go what is wrong with them, by site.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import refuse, some
from fedlearn.core.names import site_name_problem
from fedlearn.core.rng import Streams
from fedlearn.data.persons import Persons, in_bytes
from fedlearn.data.split import by_content
from fedlearn.data.tables.scaling import standardise
from fedlearn.data.tables.schema import Schema
from fedlearn.metrics.fairness import Attribute, take
from fedlearn.tasks import TableInput, Targets, Task

Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """The records of a scenario before they are dealt out to sites.

    `features: float32[n, ...]` (int64 for token ids), `labels: [n, ...]` as
    `task` takes them (places in its classes), `is_train: bool[n]`, `is_validation: bool[n]` or None
    where no record is for that, `natural_site: str[n]` or None where records come without one.
    `standardise_per_site` says that the numeric columns are still in their own units, NaN where a
    value is missing, and that `deal` is to standardise them. `attributes` are what records can be
    grouped by to see for whom a model works; nothing is learned from them. `notes` are sentences
    for the user.

    Raises:
        ValueError: the arrays do not belong together.

    """

    name: str
    task: Task
    features: NDArray[Any]
    labels: Targets
    is_train: NDArray[np.bool_]
    is_validation: NDArray[np.bool_] | None = None
    natural_site: NDArray[np.str_] | None = None
    persons: Persons | None = None
    """Whose every record is, where the scenario says by what; nothing is learned from it."""
    standardise_per_site: bool = False
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    schemas: Mapping[str, Schema] = field(default_factory=dict)
    """How every natural site would describe its columns, the empty name where there is none."""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns: list[NDArray[Any]] = [self.is_train, self.validated, *self.attributes.values()]
        if self.natural_site is not None:
            columns.append(self.natural_site)
        if self.persons is not None:
            columns.append(self.persons)
        n = len(self.features)
        if len(self.labels) != n or any(column.shape != (n,) for column in columns):
            raise ValueError(
                "labels, is_train, is_validation, natural_site, persons and attributes must have "
                "one entry per record"
            )
        if (self.is_train & self.validated).any():
            raise ValueError("a record is for training or for validation")
        self.task.check(self.labels)

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def validated(self) -> NDArray[np.bool_]:
        """Which records are for validation, `bool[n]`."""
        none = np.zeros(len(self.is_train), np.bool_)
        return none if self.is_validation is None else self.is_validation

    @cached_property
    def is_test(self) -> NDArray[np.bool_]:
        """Which records are for the test, `bool[n]`."""
        return ~self.is_train & ~self.validated

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of what is learned from: features, labels and split, in canonical bytes.

        Each array goes in as its shape and its little-endian values in row
        order, so the hash is the same on every machine. The name, the sites,
        the persons, the attributes and the notes are left out.
        """
        digest = hashlib.sha256(f"fedlearn/pool/v1 {self.standardise_per_site}\n".encode())
        validated = () if self.is_validation is None else (self.is_validation,)
        for array in (self.features, self.labels, self.is_train, *validated):
            canonical = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            digest.update(f"{canonical.dtype.str} {canonical.shape}\n".encode())
            digest.update(canonical.tobytes())
        return digest.hexdigest()


def split_notes(pool: Pool) -> Iterator[str]:
    """Which classes have records in one part alone, as each record is drawn by itself."""
    if not pool.is_test.any():
        yield f"{pool.name}: no test records, so nothing is measured"
        return
    for what, part in (("training", pool.is_train), ("test", pool.is_test)):
        for name, count in pool.task.lacking(pool.labels, part):
            yield (
                f"{pool.name}: no {what} records of {name}, of which there are {count}: each "
                "record is drawn by itself; another seed or share of test records draws others"
            )


def disjoint_notes(task: Task, sites: Mapping[str, SiteData]) -> Iterator[str]:
    """Sites with several classes, none of which any other site has."""
    if len(sites) < 2 or not task.classes:
        return
    theirs = {
        name: {
            place
            for place in np.unique(task.strata(np.concatenate([p.labels for p in site.parts])))
            if place < len(task.classes)  # a record may be of none
        }
        for name, site in sites.items()
    }
    for name, own in theirs.items():
        others = set[int]().union(*(found for other, found in theirs.items() if other != name))
        if len(own) > 1 and others and not own & others:
            classes = some([repr(task.classes[place]) for place in sorted(own)], 4)
            yield (
                f"site {name}: no other site has any of its classes ({classes}); are they written "
                "in another way there?"
            )


def taken(pool: Pool, rows: Indices) -> Pool:
    """The pool of some of the records."""
    return replace(
        pool,
        features=pool.features[rows],
        labels=pool.labels[rows],
        is_train=pool.is_train[rows],
        is_validation=None if pool.is_validation is None else pool.is_validation[rows],
        natural_site=None if pool.natural_site is None else pool.natural_site[rows],
        persons=None if pool.persons is None else pool.persons[rows],
        attributes=take(pool.attributes, rows),
    )


def public_rows(pool: Pool, share: float, streams: Streams) -> NDArray[np.bool_]:
    """Which training records are public where about a `share` of them is, `bool[n]`.

    Each is drawn by what it holds alone, as those that are tested on are; or by whose it is.
    """
    return pool.is_train & _drawn(pool, share, streams, "public")


def with_validation(pool: Pool, share: float, streams: Streams) -> Pool:
    """The pool with about a `share` of what it would train on for validation.

    Each record is drawn by what it holds alone, as those that are tested on are; or by whose it is.

    Guarantees: no test record changes its part; records of one person, and copies of a record, stay
    together; with no `share` nothing changes.
    """
    if not share:
        return pool
    validated = pool.is_train & _drawn(pool, share, streams, "validation")
    return replace(pool, is_train=pool.is_train & ~validated, is_validation=validated)


def _drawn(pool: Pool, share: float, streams: Streams, name: str) -> NDArray[np.bool_]:
    """About a `share` of the records, `bool[n]`, by the stream `name`."""
    if pool.persons is not None:
        return ~by_content(in_bytes(pool.persons), share, streams, name)
    contents = (
        np.ascontiguousarray(row).tobytes() + np.ascontiguousarray(label).tobytes()
        for row, label in zip(pool.features, pool.labels, strict=True)
    )
    return ~by_content(contents, share, streams, name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """One site's records, `features: float32[n, ...]` and `labels: [n, ...]`; n may be 0.

    `persons: str[n]` is whose each is, None where nothing says so.
    """

    features: NDArray[Any]
    labels: Targets
    persons: Persons | None = None

    def __len__(self) -> int:
        return len(self.features)

    def of(self, rows: Indices) -> Records:
        """Some of them."""
        persons = None if self.persons is None else self.persons[rows]
        return Records(features=self.features[rows], labels=self.labels[rows], persons=persons)

    @property
    def units(self) -> int:
        """How many persons they are of; how many they are, where nothing says whose they are."""
        return self.units_in(np.ones(len(self), np.bool_))

    def units_in(self, among: NDArray[np.bool_]) -> int:
        """The same of some of them, `among: bool[n]`."""
        if self.persons is None:
            return int(np.count_nonzero(among))
        return len(np.unique(self.persons[among]))


@dataclass(frozen=True, kw_only=True, eq=False)
class SiteData:
    """What one site holds; `notes` are sentences for the user about what is unusual in it.

    `test_attributes` are what its test records can be grouped by; `validation` is None where the
    run has no part for it.
    """

    name: str
    train: Records
    test: Records
    validation: Records | None = None
    test_attributes: Mapping[str, Attribute] = field(default_factory=dict)
    schema: Schema = ()
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Records, ...]:
        """All records, by what they are for."""
        validation = () if self.validation is None else (self.validation,)
        return (self.train, self.test, *validation)


def deal(
    pool: Pool, assignment: Mapping[str, Indices], *, all_sites: bool = True
) -> dict[str, SiteData]:
    """The records of every site, in the order of the sites' names.

    `all_sites` is false for a site that sees its own records alone: then others may
    have the classes that it lacks.

    A site whose training records are all of one class takes part, with a note,
    as long as other sites have another class; so does a site without test
    records, or without training records: which records it has decides nothing
    but what it adds to a sum.

    Raises:
        DataError: a site has a feature that is NaN or infinite, there are no training
            records at all, or all are of one class. Every such problem is listed.
        ValueError: the assignment names a record twice or one that is not there.

    """
    _check_assignment(pool, assignment)
    refuse(_problems(pool, assignment, all_sites))
    return {name: _deal_one(pool, name, assignment[name]) for name in sorted(assignment)}


def _check_assignment(pool: Pool, assignment: Mapping[str, Indices]) -> None:
    if not assignment:
        raise ValueError("an assignment needs at least one site")
    rows = np.concatenate(list(assignment.values()))
    if rows.size and not 0 <= rows.min() <= rows.max() < len(pool):
        raise ValueError("an assignment must name records of the pool")
    if len(np.unique(rows)) != len(rows):
        raise ValueError("an assignment must name each record once")


def _problems(pool: Pool, assignment: Mapping[str, Indices], all_sites: bool) -> Iterator[str]:
    for site in sorted(assignment):
        if wrong := site_name_problem(site):
            yield f"{wrong}; call the site otherwise in the data"
        rows = assignment[site]
        bad = rows[~usable(pool, pool.features[rows])]
        if len(bad):
            yield (
                f"site {site}: {len(bad)} of {len(rows)} records hold NaN or infinite features "
                f"(first: record {bad[0]}); fill them in or leave the records out"
            )
    every = np.concatenate([assignment[site] for site in sorted(assignment)])
    learned = pool.labels[every[pool.is_train[every]]]
    if all_sites and not len(learned):
        kept = "the test or validation" if pool.validated.any() else "the test"
        smaller = " or scenario.validation_fraction" if pool.validated.any() else ""
        yield (
            f"no training records ({len(every)} in all, which are for {kept}); take more records "
            f"or a smaller scenario.test_fraction{smaller}"
        )
    if all_sites and pool.is_validation is not None and not pool.validated[every].any():
        yield (
            f"no validation records, of {len(every)} in all: scenario.validation_fraction leaves "
            "none; take more records or a larger share, or set it to 0 with training.keep=last"
        )
    if all_sites and (only := pool.task.alike(learned)):
        yield f"all training records are of one {only}: there is nothing to learn"


def usable(pool: Pool, features: NDArray[Any]) -> NDArray[np.bool_]:
    """`bool[n]`: which records are finite, apart from gaps that standardising fills."""
    fine = np.isfinite(features)
    if pool.standardise_per_site and isinstance(pool.task.input, TableInput):
        numeric = slice(pool.task.input.numeric)
        fine[:, numeric] |= np.isnan(features[:, numeric])
    usable: NDArray[np.bool_] = fine.all(axis=tuple(range(1, fine.ndim)))
    return usable


def _deal_one(pool: Pool, site: str, rows: Indices) -> SiteData:
    train, test = rows[pool.is_train[rows]], rows[pool.is_test[rows]]
    validation = rows[pool.validated[rows]]
    parts = [pool.features[part] for part in (train, test, validation)]
    if pool.standardise_per_site and isinstance(pool.task.input, TableInput):
        parts = standardise(*parts, numeric=pool.task.input.numeric)
    notes = []
    if not len(train):
        notes.append(f"site {site}: no training records, so nothing is learned from it")
    if only := pool.task.alike(pool.labels[train]):
        notes.append(f"site {site}: only {only} to learn from")
    if not len(test):
        notes.append(f"site {site}: no test records, so it takes no part in evaluation")
    if pool.is_validation is not None and not len(validation):
        notes.append(f"site {site}: no validation records, so it has no say in what is kept")
    return SiteData(
        name=site,
        train=_records(pool, parts[0], train),
        test=_records(pool, parts[1], test),
        validation=None if pool.is_validation is None else _records(pool, parts[2], validation),
        test_attributes=take(pool.attributes, test),
        schema=pool.schemas.get(site, pool.schemas.get("", ())),
        notes=tuple(notes),
    )


def _records(pool: Pool, features: NDArray[Any], rows: Indices) -> Records:
    persons = None if pool.persons is None else pool.persons[rows]
    return Records(features=features, labels=pool.labels[rows], persons=persons)
