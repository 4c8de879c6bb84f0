"""`fedlearn report DIR --explain ...`: what a model goes by, in records that may be shown.

Explained are public records, or those in a file that the caller names: an
explanation says something about its record, and one that leaves a site is a
release of data that no epsilon covers.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, assert_never

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import DATASETS
from fedlearn.data.tables.scaling import reads_records, scale
from fedlearn.data.tables.table import read_table
from fedlearn.report.explanations import Explanations, Of, RecordExplained, write_explanations
from fedlearn.results.reading import read_bytes
from fedlearn.tasks import ImageInput, Input, SeriesInput, TableInput, TextInput, shape_of
from simulations.attacks.audited_folder import AuditedRun, open_run
from simulations.attacks.measure import trained_model

PUBLIC: Final = "public"
"""In place of a file: the test records of a public data set."""

MOST: Final = 200
"""Records that are explained; of more, the first ones."""

SHOWN: Final = 6
"""Records that are shown one by one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Source:
    features: NDArray[Any]
    words: str


def explain_run(folder: Path, source: str) -> None:
    """Write `explanations.json` of the run in `folder`.

    `source` is `public`, or a file: `.npz` with the array `features` in the form that
    the model takes, or for a table of numbers `.csv` with the columns' names and units.

    Raises:
        ConfigError: captum is missing, or these records may not or cannot be explained.
        DataError: the file cannot be read, or the run was changed since its end.
    """
    try:
        from fedlearn.explanation import explain
    except ModuleNotFoundError as error:
        raise ConfigError(
            [f"--explain: {error.name} is not installed; pip install 'fedlearn[explain]'"]
        ) from None
    run = open_run(folder)
    shape = run.task.input
    found = _public(run) if source == PUBLIC else _from_file(run, Path(source))
    features = found.features[:MOST].astype(np.int64 if isinstance(shape, TextInput) else "f4")
    if features.shape[1:] != shape_of(shape) or not len(features):
        wanted = ", ".join(map(str, shape_of(shape)))
        raise DataError(f"{source}: holds {list(found.features.shape)}; wanted: [n, {wanted}]")
    explained = explain(trained_model(run.config, run.task, run.model), run.task, features)
    attributions, table = explained.attributions, _columns(shape)
    records = [
        RecordExplained(
            record=int(i),
            predicted=run.task.answer_cells(explained.scores[i])[0],
            score=float(explained.scores[i].max()),
            values=_flat(_shown(shape, features[i])),
            attributions=_flat(attributions[i]),
        )
        for i in _chosen(explained.predicted, explained.scores.max(1))
    ]
    write_explanations(
        folder,
        Explanations(
            source=found.words,
            model_sha256=run.result.model.sha256,
            method=explained.method,
            of=_of(shape),
            names=list(table.names) if table else [],
            size=[shape.height, shape.width] if isinstance(shape, ImageInput) else [],
            count=len(features),
            overall=_flat(np.abs(attributions).mean(0)) if table else [],
            remainder=float(np.abs(explained.remainder).max()),
            records=records,
        ),
    )


def _columns(shape: Input) -> TableInput | None:
    """The columns that attributions are of, if of any."""
    match shape:
        case TableInput():
            return shape
        case SeriesInput():
            return shape.row
        case ImageInput() | TextInput():
            return None
        case _:
            assert_never(shape)


def _shown(shape: Input, record: NDArray[Any]) -> NDArray[Any]:
    """What the report shows of a record: an image in grey, of rows over time the last."""
    match shape:
        case ImageInput():
            return np.asarray(record.mean(0))
        case SeriesInput():
            return np.asarray(record[int(record[:, -1].sum()) - 1, :-1])
        case TableInput() | TextInput():
            return record
        case _:
            assert_never(shape)


def _of(shape: Input) -> Of:
    match shape:
        case TableInput() | SeriesInput():
            return "columns"
        case TextInput():
            return "tokens"
        case ImageInput():
            return "pixels"


def _flat(values: NDArray[Any]) -> list[float]:
    """Six digits: enough to see, and an image stays small."""
    return [float(f"{value:.6g}") for value in np.asarray(values, np.float64).reshape(-1)]


def _chosen(predicted: NDArray[np.int64], certain: NDArray[np.float64]) -> list[int]:
    """The surest record of each class, and then those that the model is least sure of."""
    order = np.argsort(-certain, kind="stable")
    surest = [next(i for i in order if predicted[i] == c) for c in np.unique(predicted)]
    rest = [i for i in order[::-1] if i not in surest]
    return [int(i) for i in (*surest[: SHOWN - 2], *rest)][:SHOWN]


# --- which records ------------------------------------------------------------------


def _public(run: AuditedRun) -> _Source:
    kind = run.config.scenario.kind
    if kind not in DATASETS:
        raise ConfigError(
            [
                f"--explain {PUBLIC}: the records of scenario={kind} are not public. Give a file "
                "of records that may be shown: --explain FILE"
            ]
        )
    tests = [site.test.features for site in run.sites.values() if len(site.test)]
    # In turn from every site, so that the first of them are not all of one.
    rows = [site[i] for i in range(max(map(len, tests))) for site in tests if i < len(site)]
    return _Source(features=np.stack(rows[:MOST]), words=f"public test records of {kind}")


def _from_file(run: AuditedRun, path: Path) -> _Source:
    content = read_bytes(path)
    if path.suffix == ".npz":
        features = _array(path, content)
    elif path.suffix == ".csv":
        features = _table(run, path)
    else:
        raise ConfigError([f"--explain {path}: must be {PUBLIC}, or a file .npz or .csv"])
    digest = hashlib.sha256(content).hexdigest()
    return _Source(features=features, words=f"the records in {path.name} (SHA-256 {digest})")


def _array(path: Path, content: bytes) -> NDArray[Any]:
    try:
        with np.load(BytesIO(content), allow_pickle=False) as file:
            features: NDArray[Any] = file["features"]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: holds no array 'features' of numbers ({error})") from None
    if features.dtype.kind not in "fiu" or not np.isfinite(features).all():
        raise DataError(f"{path}: 'features' must be finite numbers")
    return features


def _table(run: AuditedRun, path: Path) -> NDArray[Any]:
    """Rows of a file whose columns have the names and the units of the scenario's numbers."""
    shape, how = run.task.input, run.config.scenario.scales()
    plain = isinstance(shape, TableInput) and shape.names and not shape.cardinalities
    if not plain or how is None or reads_records(how):
        raise ConfigError(
            [
                f"--explain {path}: rows of text are read for tables of numbers with public ranges "
                "alone; give the records as the model takes them, in the array 'features' of a "
                "file .npz"
            ]
        )
    assert isinstance(shape, TableInput)  # noqa: S101  (as asked above)
    table = read_table(path, separator="comma")
    if missing := [name for name in shape.names if name not in table.header]:
        raise DataError(f"{path}: no column {', '.join(missing)}")
    columns = [table.cells(name) for name in shape.names]
    rows = np.stack([cells.numbers(".")[cells.codes] for cells in columns], axis=1)
    if problems := list(_not_numbers(path, rows, shape.names, table.lines.tolist())):
        raise DataError("\n".join(problems))
    scaled = [name for name in shape.names if not name.endswith("_missing")]
    return np.column_stack([scale(how, scaled, rows[:, : len(scaled)]), rows[:, len(scaled) :]])


def _not_numbers(
    path: Path, rows: NDArray[np.float64], names: tuple[str, ...], lines: Sequence[int]
) -> Iterator[str]:
    for row, column in zip(*np.nonzero(np.isnan(rows)), strict=True):
        yield f"{path}: line {lines[row]}, column {names[column]!r}: not a number"
