"""A simulation of sites whose records lie in files of their own: `partition=files sites=FOLDER`.

Every site file says where its records are and in which form, as in a deployment, and the
run's scenario what numbers they become. Here they are read one after the other and put
into one pool, so that all that is done with a pool can be done with them. What a
deployment cannot see is seen here and said: records that two sites share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from clients import sitefile
from clients.sitefile import SiteFile
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import Pool
from fedlearn.data.tables.schema import Schema, differences

Read = Callable[[SiteFile], tuple[Pool, Schema]]
"""The records of one site, and how it describes its columns."""


def merged(folder: Path, read: Read) -> Pool:
    """The records of all site files of `folder` as one pool with natural sites.

    Raises:
        ConfigError: there is no site file, or some are wrong; every problem.
        DataError: records cannot be read, or are of different forms; by site.
    """
    pools, schemas = _read_all(_site_files(folder), read)
    if found := differences(schemas):
        raise DataError("\n".join(found))
    first, *others = pools.items()
    unlike = [name for name, pool in others if pool.task != first[1].task]
    if unlike:
        raise DataError(
            f"records look different at {', '.join(unlike)} than at {first[0]}: columns, "
            "categories, classes and sizes must be the same everywhere"
        )
    return _joined(pools, schemas)


def _site_files(folder: Path) -> dict[str, SiteFile]:
    files: dict[str, SiteFile] = {}
    found: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            site = sitefile.load(path)
        except ConfigError as error:
            found += error.problems
            continue
        if site.name != path.stem:
            found.append(f"{path}: name={site.name}: is not that of the file")
        files[path.stem] = site
    if not files and not found:
        found.append(f"sites={folder}: holds no site file NAME.yaml")
    if found:
        raise ConfigError(found)
    return files


def _read_all(
    files: Mapping[str, SiteFile], read: Read
) -> tuple[dict[str, Pool], dict[str, Schema]]:
    pools, schemas, found = {}, {}, []
    for name, site in files.items():
        try:
            pools[name], schemas[name] = read(site)
        except (ConfigError, DataError) as error:
            found += [f"site {name}: {line}" for line in str(error).splitlines()]
    if found:
        raise DataError("\n".join(found))
    return pools, schemas


def _joined(pools: Mapping[str, Pool], schemas: Mapping[str, Schema]) -> Pool:
    parts = list(pools.values())
    shared = set.intersection(*(set(pool.attributes) for pool in parts))
    return Pool(
        name="files",
        task=parts[0].task,
        features=np.concatenate([pool.features for pool in parts]),
        labels=np.concatenate([pool.labels for pool in parts]),
        is_train=np.concatenate([pool.is_train for pool in parts]),
        natural_site=np.repeat(list(pools), [len(pool) for pool in parts]),
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
