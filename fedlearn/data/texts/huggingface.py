"""Scenario `huggingface`: a data set that was saved to disk by Hugging Face `datasets`.

A folder of `Dataset.save_to_disk`, or of a `DatasetDict` with the splits
`train` and `test`. The Arrow files are read as data by pyarrow; the `datasets`
package is not needed, and no loading script is ever run. Texts with a label
alone: other columns are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pyarrow import types

from fedlearn.core.errors import DataError, refuse
from fedlearn.core.files import possible
from fedlearn.core.settings import Name, config
from fedlearn.data import memory
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading
from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.table import Table
from fedlearn.data.texts.files import OwnText, OwnTexts, check_names, pool_of_table
from fedlearn.data.texts.json_lines import cell


@config
class HuggingFace(OwnTexts):
    """Texts in a saved data set; with a `test` split that is the test, else a part is drawn."""

    kind: Literal["huggingface"] = "huggingface"
    label: Name = "label"

    def load(self, reading: Reading) -> Pool:
        """The records that have a text and a label; the test is drawn where the folder has none."""
        splits = {folder: read_split(folder) for folder in splits_of(Path(self.path)).values()}
        for folder, split in splits.items():
            check_names(self, split.column_names, str(folder))
        names = filter(None, (self.text, self.label, self.site, self.person))
        table = table_of(splits, tuple(names), by_record=reading.by_record)
        sizes = [split.num_rows for split in splits.values()]
        in_train = np.arange(len(table)) < sizes[0] if len(sizes) > 1 else None
        return pool_of_table(table, self, reading, in_train)

    def as_texts(self) -> OwnText:
        """Tables or lines with a column of the same name."""
        return OwnText(path="-", label="-", text=self.text, tokenizer=self.tokenizer)


def splits_of(path: Path) -> dict[str, Path]:
    """The folder of every split that is used, the training one first.

    Raises:
        DataError: the folder is no saved data set, or has no split `train`.
    """
    if (path / "dataset_dict.json").is_file():
        names = _texts_in(path / "dataset_dict.json", "splits")
        if "train" not in names:
            raise DataError(f"{path}: has no split `train`; there are {', '.join(names)}")
        return {name: path / name for name in ("train", "test") if name in names}
    if (path / "state.json").is_file():
        return {"train": path}
    what = "is a folder, but" if path.is_dir() else "is not a folder; it"
    raise DataError(
        f"{path}: {what} holds no data set saved by `datasets` (state.json or dataset_dict.json); "
        "save one with Dataset.save_to_disk"
    )


def is_saved(path: Path) -> bool:
    """Whether `path` is a folder that `datasets` saved."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def read_split(folder: Path) -> pa.Table:
    """The Arrow table of one split.

    Raises:
        DataError: a file is missing, damaged, or all together would not fit into memory.
    """
    tables = []
    for file in _files(folder):
        try:
            with pa.memory_map(str(file)) as source:
                table = pa.ipc.open_stream(source).read_all()
            tables.append(table.rename_columns(table.column_names))  # which must be texts
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise DataError(f"{file}: cannot be read as Arrow: {error}") from error
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise DataError(f"{folder}: its files are not of one data set: {error}") from error


def table_of(
    splits: Mapping[Path, pa.Table], names: Sequence[str], *, by_record: bool = False
) -> Table:
    """Some columns of all splits, one below the other, as a reader counts their rows.

    Read `by_record`, bytes that are not UTF-8 are characters of no meaning, and what nothing
    holds is empty.

    Raises:
        DataError: a split has not all of them, or values that cannot be read.
    """
    columns = []
    for name in names:
        cells: list[str] = []
        for folder, split in splits.items():
            if name not in split.column_names:
                there = ", ".join(split.column_names)
                raise DataError(f"{folder}: no column {name!r}; there are {there}")
            classes = class_names(folder, name)
            values = _values(split.column(name), f"{folder}: column {name!r}", by_record)
            cells += [label_of(value, classes) for value in values]
        columns.append(encode(cells))
    lines = np.arange(1, sum(split.num_rows for split in splits.values()) + 1)
    return Table(header=tuple(names), columns=tuple(columns), lines=lines, counted="row")


def _values(column: pa.ChunkedArray, where: str, by_record: bool) -> list[object]:
    """The values of a column; DataError for one that Python cannot hold, with `where` it is."""
    if types.is_string(column.type) or types.is_large_string(column.type):
        plain = column.cast(pa.large_binary())  # of which no byte is looked at
    else:
        plain = column
    try:
        plain.validate(full=True)
    except pa.ArrowException as error:
        raise DataError(f"{where} is damaged: {error}") from error
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError) as error:
        if not by_record:
            raise DataError(f"{where} holds what is no text and no number: {error}") from error
    return [_value(cell) for cell in column]


def _value(cell: pa.Scalar) -> object:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return cell.as_buffer().to_pybytes().decode("utf-8", "replace")
    except (ValueError, OverflowError):  # a date in years that Python does not know
        return None


def _files(folder: Path) -> list[Path]:
    state = folder / "state.json"
    listed = _texts_in(state, "_data_files", "filename")
    if not listed or any(Path(name).name != name for name in listed):
        raise DataError(f"{state}: must name files, and of this folder alone")
    files = [folder / name for name in listed]
    with possible("read", state, DataError):  # a name may be longer than one of a file can be
        refuse(f"{file}: there is no such file" for file in files if not file.is_file())
        size = sum(file.stat().st_size for file in files)
    memory.require(folder, size * memory.PROSE_FACTOR)
    return files


def class_names(folder: Path, label: str) -> list[str]:
    """The names of a `ClassLabel` column; empty where labels are values of their own."""
    path = folder / "dataset_info.json"
    features = _json(path).get("features", {})
    feature = features.get(label, {}) if isinstance(features, dict) else {}
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return []
    return _texts(path, "names", feature.get("names", []))


def label_of(value: object, names: list[str]) -> str:
    """A cell as text: the name of a class, where `names` are those of a `ClassLabel`."""
    if names and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else ""  # -1 stands for no label
    return cell(value)


def _texts_in(path: Path, key: str, inside: str = "") -> list[str]:
    """The texts in a list of a file; of its objects those under `inside`."""
    listed = _json(path).get(key, [])
    if inside and isinstance(listed, list):
        listed = [one.get(inside) if isinstance(one, dict) else None for one in listed]
    return _texts(path, key, listed)


def _texts(path: Path, key: str, found: object) -> list[str]:
    if isinstance(found, list) and all(isinstance(one, str) and "\0" not in one for one in found):
        return found
    raise DataError(f"{path}: {key!r} is no list of texts, as `datasets` writes it")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds no JSON object")
    return found
