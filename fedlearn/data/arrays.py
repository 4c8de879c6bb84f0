"""Scenario `python`: records that a program holds in memory, as `fl.Study` takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedlearn.core import objects
from fedlearn.core.errors import DataError, refuse
from fedlearn.core.settings import Name, Probability, config
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading, Scenario
from fedlearn.data.split import by_content
from fedlearn.tasks import ClassificationTask, ImageInput, TableInput, Task

PREFIX: Final = "python:"
"""How the path of a table begins that is in memory."""

Arrays = Mapping[str, tuple[Any, Any]]


@config
class Given(Scenario):
    """Arrays of a program, which keeps them by the hash `records` (`fedlearn.core.objects`)."""

    kind: Literal["python"] = "python"
    records: Name
    test_fraction: Probability = 0.25

    @property
    def in_memory(self) -> bool:
        """Always."""
        return True

    def load(self, reading: Reading) -> Pool:
        """The records; the values of one and the name of its class decide whether it is tested on.

        Raises:
            ConfigError: the process that had them is gone.
        """
        kept: _Kept = objects.find(self.records, f"scenario.records={self.records}")
        return Pool(
            name=kept.name,
            task=kept.task,
            features=kept.features,
            labels=kept.labels,
            is_train=by_content(kept.contents(), self.test_fraction, reading.streams),
            natural_site=kept.sites,
            notes=kept.notes,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    name: str
    task: Task
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    sites: NDArray[np.str_]
    notes: tuple[str, ...]

    def contents(self) -> Iterator[bytes]:
        """The values of every record, and the name of its class."""
        names = [name.encode() for name in self.task.classes]
        values = (self.features + 0.0).astype("<f4")  # zero has one sign
        for record, label in zip(values, self.labels.tolist(), strict=True):
            yield record.tobytes() + names[label]


def keep_arrays(name: str, arrays: Arrays, classes: Sequence[Any]) -> str:
    """Keep the records of sites; the hash that names them.

    Args:
        name: what the data is called in results.
        arrays: by site, features `[n, columns]` or `[n, channels, height, width]` and labels
            `[n]`: whole numbers or texts.
        classes: all classes, where a site may not have each of them; else those that are there.

    Raises:
        DataError: with every problem, by site.
    """
    found: list[str] = []
    features = {site: _features(site, x, found) for site, (x, _) in arrays.items()}
    labels = {site: _labels(site, y, found) for site, (_, y) in arrays.items()}
    for site, x in features.items() if not found else ():
        if len(x) != len(labels[site]):
            found.append(f"site {site}: {len(x)} records and {len(labels[site])} labels")
    shapes = {site: x.shape[1:] for site, x in features.items()}
    if len(set(shapes.values())) > 1 and not found:
        described = ", ".join(f"{site} {list(shape)}" for site, shape in shapes.items())
        found.append(f"records have not the same shape at all sites: {described}")
    refuse(found)
    names, places = _classes(labels, classes)
    x = np.concatenate([*features.values()])
    y = np.concatenate([*places.values()])
    sites = np.repeat([*features], [len(part) for part in features.values()])
    task = ClassificationTask(input=_input(x.shape[1:]), classes=names)
    notes = () if len(classes) else (_caveat(names),)
    kept = _Kept(name=name, task=task, features=x, labels=y, sites=sites, notes=notes)
    return objects.keep(_digest(kept), kept)


def keep_table(table: pa.Table) -> str:
    """Keep a table of records; the path by which scenario `csv` finds it."""
    plain = table.replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain.schema) as stream:
        stream.write_table(plain)
    digest = hashlib.sha256(memoryview(sink.getvalue())).hexdigest()
    return PREFIX + objects.keep(digest, plain)


def is_kept(path: str) -> bool:
    """Whether a path names a table in memory."""
    return path.startswith(PREFIX)


def kept_table(path: str) -> pa.Table:
    """The table of this path; raises ConfigError where the program that had it is gone."""
    table: pa.Table = objects.find(path.removeprefix(PREFIX), f"scenario.path={path}")
    return table


def _features(site: str, values: Any, found: list[str]) -> NDArray[np.float32]:
    """`float32[n, ...]`; what is wrong is added to `found`."""
    nothing = np.zeros((0, 1), np.float32)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        found.append(f"site {site}: features are no array ({error})")
        return nothing
    if array.dtype.kind not in "fiub":
        found.append(
            f"site {site}: features are of dtype {array.dtype}; give numbers, or a DataFrame with "
            "label=..., whose texts become categories"
        )
        return nothing
    if array.ndim == 3 or (array.ndim == 4 and array.shape[1] > 4 >= array.shape[3]):
        found.append(
            f"site {site}: features have the shape {list(array.shape)}; images are "
            "[n, channels, height, width]"
        )
        return nothing
    if array.ndim not in (2, 4) or not all(array.shape[1:]):
        found.append(
            f"site {site}: features have the shape {list(array.shape)}; give [n, columns], or "
            "[n, channels, height, width] for images"
        )
        return nothing
    scale = 255 if array.dtype == np.uint8 and array.ndim == 4 else 1
    with np.errstate(over="ignore"):
        small = np.ascontiguousarray(array, np.float32) / np.float32(scale)
    bad = np.flatnonzero(~np.isfinite(small).all(axis=tuple(range(1, small.ndim))))
    if len(bad):
        found.append(
            f"site {site}: {len(bad)} of {len(small)} records hold NaN or infinite features "
            f"(first: record {bad[0]}); fill them in or leave the records out"
        )
    if not len(small):
        found.append(f"site {site}: no records; leave the site out")
    return small


def _labels(site: str, values: Any, found: list[str]) -> NDArray[Any]:
    """`[n]` of whole numbers or texts; what is wrong is added to `found`."""
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        way = "; of one-hot rows, labels.argmax(1)" if array.ndim == 2 else ""
        found.append(f"site {site}: labels have the shape {list(array.shape)}; give [n]{way}")
    elif gaps := [i for i, one in enumerate(array.tolist()) if _is_gap(one)]:
        found.append(
            f"site {site}: {len(gaps)} of {len(array)} records have no label (first: record "
            f"{gaps[0]}); leave them out"
        )
    elif array.dtype.kind == "O" and all(isinstance(one, str) for one in array):
        return array.astype(str)
    elif array.dtype.kind == "f" and np.isfinite(array).all() and (array == array.round()).all():
        return array.astype(np.int64)
    elif array.dtype.kind in "iubU":
        return array.astype(np.int64) if array.dtype.kind in "iub" else array
    else:
        found.append(
            f"site {site}: labels are of dtype {array.dtype} and not all whole numbers, or all "
            "texts; a class is one of them, in every record"
        )
    return array.ravel() if array.ndim else np.zeros(0)


def _is_gap(value: Any) -> bool:
    """None, NaN, and what pandas has for them."""
    return value is None or type(value).__name__ == "NAType" or bool(value != value)


def _classes(
    labels: Mapping[str, NDArray[Any]], given: Sequence[Any]
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """The names of all classes, and the place of every label among them."""
    there = sorted({label for own in labels.values() for label in own.tolist()}, key=_order)
    known = [*given] if len(given) else there
    if strange := [label for label in there if label not in known]:
        named = all(isinstance(name, str) for name in known)
        if not named or not all(label in range(len(known)) for label in there):
            shown = ", ".join(map(repr, strange[:5]))
            raise DataError(f"labels: {shown} not among classes={known}")
        known = [*range(len(known))]
    if len(known) < 2:
        only = ", ".join(map(repr, known))
        raise DataError(f"all records are of one class ({only}): there is nothing to learn")
    place = {label: i for i, label in enumerate(known)}
    names = tuple(map(str, given if len(given) else known))
    coded = {site: np.array([place[label] for label in own.tolist()], np.int64)
             for site, own in labels.items()}  # fmt: skip
    return names, coded


def _order(label: Any) -> tuple[bool, Any]:
    return isinstance(label, str), label


def _input(shape: tuple[int, ...]) -> TableInput | ImageInput:
    if len(shape) == 1:
        return TableInput(numeric=shape[0])
    channels, height, width = shape
    return ImageInput(channels=channels, height=height, width=width)


def _caveat(names: Sequence[str]) -> str:
    return (
        f"the classes ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''}) are those of all "
        "labels, which says that each is there; where that is no public knowledge, name them "
        "(classes=[...])"
    )


def _digest(kept: _Kept) -> str:
    digest = hashlib.sha256(f"fedlearn/given/v1 {kept.task.classes}\n".encode())
    for array in (kept.features, kept.labels, kept.sites):
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
