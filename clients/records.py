"""Which records a site has: dealt out by a simulation, or a deployed site's own.

In a simulation the config says where all records are and how they are dealt out. A
deployed site's file says where its own are, and nothing that a coordinator sends
changes that. With `partition=files sites=FOLDER` a simulation reads such files, one after
the other, into one pool, so that all that is done with a pool can be done with them. What a
deployment cannot see is seen here and said: records that two sites share.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np

from clients import sitefile
from clients.advice import all_at_site, in_words_of_site, owned
from clients.sitefile import SiteFile
from fedlearn.config import KIND, RunConfig, decode, encode
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.rng import Streams
from fedlearn.data import (
    PARTITIONS,
    SCENARIOS,
    Partition,
    Pool,
    Records,
    Scenario,
    SiteData,
    deal,
    load_pool,
)
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.partition import Natural, dealt_out
from fedlearn.data.persons import Persons, most_records, persons_in, spread_notes
from fedlearn.data.pool import Indices, disjoint_notes, public_rows, taken, usable
from fedlearn.data.tables.schema import Schema, differences
from fedlearn.metrics.fairness import Fairness, GroupFairness, SiteFairness
from fedlearn.tasks import CLASSIFICATION, TASKS, Task, TaskConfig


def records_digest(records: Records) -> str:
    """SHA-256 over shapes and little-endian bytes of features and labels."""
    digest = hashlib.sha256(b"fedlearn/records/v1\n")
    for array in (records.features, records.labels):
        canonical = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{canonical.dtype.str} {canonical.shape}\n".encode())
        digest.update(canonical.tobytes())
    return digest.hexdigest()


def own_data(site: SiteFile) -> SiteData:
    """The records of a deployed site, as a run would read them.

    Raises:
        ConfigError, DataError: they cannot be read or learned from.
    """
    return records(Choice.own(site))[1][site.name]


def simulated_sites(config: RunConfig) -> dict[str, SiteData]:
    """All sites of a simulation with their records, in the order of their names."""
    return kept(texts(config)[1])[1]


def simulated_notes(config: RunConfig) -> tuple[str, ...]:
    """What is unusual in the records of a simulation and of its sites, in sentences."""
    pool, sites = records(Choice.of(config))
    of_sites = (note for site in sites.values() for note in site.notes)
    people = {name: [part.persons for part in site.parts] for name, site in sites.items()}
    return (
        *pool.notes,
        *of_sites,
        *disjoint_notes(pool.task, sites),
        *spread_notes(pool.name, people),
    )


def simulated_task(config: RunConfig) -> Task:
    """What all sites of a simulation learn."""
    return records(Choice.of(config))[0].task


def read_simulated(config: RunConfig) -> tuple[Pool, dict[str, SiteData]]:
    """All records as they are now, and as dealt out to the sites; nothing of it is kept.

    Raises:
        DataError: the records cannot be read.
    """
    return read(Choice.of(config))


_TEXTS: dict[int, tuple[RunConfig, str, str]] = {}


def texts(config: RunConfig) -> tuple[str, str]:
    """The JSON of `config`, and of the choice that a simulation makes by it.

    Written once: every message to every site of a run asks for both, with the same object.
    """
    known = _TEXTS.get(id(config))
    if known is None or known[0] is not config:
        if len(_TEXTS) >= 8:
            _TEXTS.clear()
        known = _TEXTS[id(config)] = (config, encode(config), encode(Choice.of(config)))
    return known[1:]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which records are meant."""

    scenario: Annotated[Scenario, SCENARIOS]
    partition: Annotated[Partition, PARTITIONS]
    seed: int
    fairness: Annotated[Fairness, KIND]
    task: Annotated[TaskConfig, TASKS]
    only: str = ""
    """The deployed site whose own records these are; empty in a simulation."""
    owned: tuple[str, ...] = ()
    """Settings of the scenario that the owner's file decides: errors name them as it does."""
    version: int = 0
    """Of the file that they are in: a table that was changed is read anew."""
    by_record: bool = False
    """Whether a record that cannot be read is left out, and nobody told, where otherwise all are
    refused."""
    complete: bool = False
    """Whether the settings have to say all that a record becomes."""
    public: float = 0.0
    """The share of training records that is public, and belongs to no site of a simulation."""
    files: str = ""
    """The folder of site files that say where records are, in a simulation of such sites."""

    @classmethod
    def of(cls, config: RunConfig) -> Choice:
        """What a simulation deals out."""
        return cls(
            scenario=config.scenario,
            partition=config.partition,
            seed=config.seed,
            fairness=config.fairness,
            task=config.task,
            public=config.robust.public_share,
            files=str(config.sites) if config.partition.reads_site_files else "",
        )

    @classmethod
    def own(cls, site: SiteFile, config: RunConfig | None = None) -> Choice:
        """A deployed site's own; whatever the seed of a run, the same records are tested on."""
        path = str(getattr(site.data, "path", ""))
        version = Path(path).stat().st_mtime_ns if path and Path(path).exists() else 0
        return cls(
            scenario=agreed(site.data, config.scenario) if config else site.data,
            partition=Natural(),
            seed=0,
            fairness=config.fairness if config else SiteFairness(),
            task=config.task if config else CLASSIFICATION,
            only=site.name,
            owned=owned(site.data, config.scenario if config else None),
            version=version,
            by_record=config is not None and config.privacy.unit != "none",
            complete=config is not None and config.privacy.within_sites,
        )


def agreed(own: Scenario, of_run: Scenario) -> Scenario:
    """What a site's own file and the run come to (`Scenario.agreed`), of the same unit.

    Raises:
        ConfigError: one of them says whose records are, and the other does not; or as there.
    """
    found = own.agreed(of_run)
    names = [persons_in(one) for one in (own, of_run, found)]
    if len({bool(name) for name in names}) > 1:
        here, there = (f"by {name!r}" if name else "not at all" for name in names[:2])
        raise ConfigError(
            f"data.person={names[0]}: this site's file says whose records are {here}, and the run "
            f"{there}; privacy is promised to persons or to records, so both must say it, or none"
        )
    found = replace(found, validation_fraction=of_run.validation_fraction)
    if not names[0]:
        return found
    return replace(found, records_per_person=most_records(of_run))  # type: ignore[call-arg]


def records(choice: Choice) -> tuple[Pool, dict[str, SiteData]]:
    """The records of a choice, by site; kept for the sites of one process."""
    # Configs may hold dicts and are not hashable; their JSON is.
    return kept(encode(choice))


@lru_cache(maxsize=2)
def kept(choice_text: str) -> tuple[Pool, dict[str, SiteData]]:
    """The records of a choice in JSON, read once."""
    return read(decode(Choice, choice_text))


def forget() -> None:
    """Read records anew when they are asked for again: in between, files may have changed."""
    kept.cache_clear()


def read(choice: Choice) -> tuple[Pool, dict[str, SiteData]]:
    """The records of a choice as they are now.

    Raises:
        ConfigError, DataError: they cannot be read or learned from.
    """
    if choice.files:
        pool = _pool_of_files(choice)
        return pool, deal(pool, dealt_out(choice.partition, pool, np.random.default_rng(0)))
    with in_words_of_site(choice.owned):
        return _read(choice)


def _read(choice: Choice) -> tuple[Pool, dict[str, SiteData]]:
    streams = Streams(choice.seed)
    group_by = choice.fairness.column if isinstance(choice.fairness, GroupFairness) else ""
    by_record, cache = choice.by_record, default_cache(os.environ)
    pool = load_pool(
        choice.scenario,
        streams,
        cache,
        group_by,
        choice.task,
        by_record=by_record,
        complete=choice.complete,
        by_name=bool(choice.only),
    )
    if choice.only:
        pool = replace(pool, notes=all_at_site(pool.notes, choice.owned))
        if by_record and pool.schemas:  # the form is public, also where the site has no row
            pool = replace(pool, schemas={"": next(iter(pool.schemas.values()))})
        rows = _usable_rows(pool, choice.only) if by_record else _own_rows(pool, choice.only)
        return pool, deal(pool, {choice.only: rows}, all_sites=False)
    if choice.public:
        pool = taken(pool, np.flatnonzero(~public_rows(pool, choice.public, streams)))
    assignment = dealt_out(choice.partition, pool, streams.get("partition"))
    return pool, deal(pool, assignment)


def _of_file(choice: Choice, name: str, data: Scenario) -> tuple[Pool, Schema]:
    """What a deployed site of this file would have, before anything is dealt out."""
    scenario = agreed(data, choice.scenario)
    mine = replace(
        choice,
        scenario=scenario,
        partition=Natural(),
        seed=0,
        only=name,
        owned=owned(data, choice.scenario),
        files="",
    )
    pool, sites = read(mine)
    rows = _own_rows(pool, name)
    return taken(pool, rows), sites[name].schema


def _usable_rows(pool: Pool, name: str) -> Indices:
    """The rows of a deployed site that can be learned from; perhaps none."""
    fine = usable(pool, pool.features)
    return np.flatnonzero(fine if pool.natural_site is None else fine & (pool.natural_site == name))


def _own_rows(pool: Pool, name: str) -> Indices:
    """The rows of a deployed site: all of its file, or those under its name where rows have one."""
    if pool.natural_site is None:
        return np.arange(len(pool))
    rows = np.flatnonzero(pool.natural_site == name)
    if not len(rows):
        there = ", ".join(np.unique(pool.natural_site))
        raise DataError(f"data: no record is of site {name}; there are {there}")
    return rows


# --- sites whose records lie in files of their own ----------------------------------


def _pool_of_files(choice: Choice) -> Pool:
    """The records of all site files of a folder as one pool with natural sites.

    Raises:
        ConfigError: there is no site file, or some are wrong; every problem.
        DataError: records cannot be read, or are of different forms; by site.
    """
    pools: dict[str, Pool] = {}
    schemas: dict[str, Schema] = {}
    found: list[str] = []
    for name, data in _data_of_files(Path(choice.files)).items():
        try:
            pools[name], schemas[name] = _of_file(choice, name, data)
        except (ConfigError, DataError) as error:
            found += [f"site {name}: {line}" for line in str(error).splitlines()]
    if found := found or differences(schemas):
        raise DataError("\n".join(found))
    first, *others = pools.items()
    unlike = [name for name, pool in others if pool.task != first[1].task]
    if unlike:
        raise DataError(
            f"records look different at {', '.join(unlike)} than at {first[0]}: columns, "
            "categories, classes and sizes must be the same everywhere"
        )
    return _joined(pools, schemas)


def _data_of_files(folder: Path) -> dict[str, Scenario]:
    files: dict[str, Scenario] = {}
    found: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            site = sitefile.load_simulated(path)
        except ConfigError as error:
            found += error.problems
            continue
        if site.name != path.stem:
            found.append(f"{path}: name={site.name}: is not that of the file")
        if site.data is None:
            found.append(f"{path}: data: is missing; partition=files takes the records from it")
        else:
            files[path.stem] = site.data
    if not files and not found:
        found.append(f"sites={folder}: holds no site file NAME.yaml")
    if found:
        raise ConfigError(found)
    return files


def _joined(pools: Mapping[str, Pool], schemas: Mapping[str, Schema]) -> Pool:
    parts = list(pools.values())
    shared = set.intersection(*(set(pool.attributes) for pool in parts))
    return Pool(
        name="files",
        task=parts[0].task,
        features=np.concatenate([pool.features for pool in parts]),
        labels=np.concatenate([pool.labels for pool in parts]),
        is_train=np.concatenate([pool.is_train for pool in parts]),
        is_validation=np.concatenate([pool.validated for pool in parts])
        if any(pool.is_validation is not None for pool in parts)
        else None,
        natural_site=np.repeat(list(pools), [len(pool) for pool in parts]),
        persons=_persons_of(parts),
        standardise_per_site=any(pool.standardise_per_site for pool in parts),
        attributes={
            name: np.concatenate([pool.attributes[name] for pool in parts])
            for name in sorted(shared)
        },
        schemas=schemas,
        notes=(
            *dict.fromkeys(note for pool in parts for note in pool.notes),
            *_shared_records(pools),
        ),
    )


def _persons_of(pools: Sequence[Pool]) -> Persons | None:
    """Whose the records of all are; that some say it and others do not was refused (`agreed`)."""
    known = [pool.persons for pool in pools if pool.persons is not None]
    return np.concatenate(known) if len(known) == len(pools) else None


def _shared_records(pools: Mapping[str, Pool]) -> Iterator[str]:
    seen: dict[bytes, str] = {}
    copies: dict[tuple[str, str], int] = {}
    for name, pool in pools.items():
        mine = {hashlib.sha256(record.tobytes()).digest() for record in pool.features}
        for digest in mine:
            other = seen.setdefault(digest, name)
            if other != name:
                copies[other, name] = copies.get((other, name), 0) + 1
    for (one, other), count in sorted(copies.items()):
        yield (
            f"{count} records are at {one} and at {other}: whoever is in both weighs twice and is "
            "protected less, by twice the epsilon; in a deployment nobody would see it"
        )
