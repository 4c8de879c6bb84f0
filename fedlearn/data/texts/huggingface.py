"""Scenario `huggingface`: a data set that was saved to disk by Hugging Face `datasets`.

A folder of `Dataset.save_to_disk`, or of a `DatasetDict` with the splits
`train` and `test`. The Arrow files are read as data by pyarrow; the `datasets`
package is not needed, and no loading script is ever run. Texts with a label
alone: other columns are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from fedlearn.core.errors import DataError, refuse
from fedlearn.core.settings import Count, Name, Probability, config
from fedlearn.data import memory
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading
from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.table import Table
from fedlearn.data.texts.files import OwnText, OwnTexts, cell, check_names, pool_of_table
from fedlearn.data.texts.tokens import Tokenizer


@config
class HuggingFace(OwnTexts):
    """Texts in a saved data set; with a `test` split that is the test, else a part is drawn."""

    kind: Literal["huggingface"] = "huggingface"
    path: Name
    text: Name = "text"
    label: Name = "label"
    site: str = ""
    classes: tuple[str, ...] = ()
    """The classes, where a site may lack some of them; empty: as found."""
    max_classes: Count = 50
    test_fraction: Probability = 0.25
    tokenizer: Tokenizer = field(default_factory=Tokenizer)

    def load(self, reading: Reading) -> Pool:
        """The records that have a text and a label; the test is drawn where the folder has none."""
        splits = {folder: read_split(folder) for folder in splits_of(Path(self.path)).values()}
        for folder, split in splits.items():
            check_names(self, split.column_names, str(folder))
        names = filter(None, (self.text, self.label, self.site))
        table = table_of(splits, tuple(names))
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
        names = _json(path / "dataset_dict.json").get("splits", [])
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
                tables.append(pa.ipc.open_stream(source).read_all())
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{file}: cannot be read as Arrow: {error}") from error
    return pa.concat_tables(tables)


def table_of(splits: Mapping[Path, pa.Table], names: Sequence[str]) -> Table:
    """Some columns of all splits, one below the other, as a reader counts their rows.

    Raises:
        DataError: a split has not all of them.
    """
    columns = []
    for name in names:
        cells: list[str] = []
        for folder, split in splits.items():
            if name not in split.column_names:
                there = ", ".join(split.column_names)
                raise DataError(f"{folder}: no column {name!r}; there are {there}")
            classes = class_names(folder, name)
            cells += [label_of(value, classes) for value in split.column(name).to_pylist()]
        columns.append(encode(cells))
    lines = np.arange(1, sum(split.num_rows for split in splits.values()) + 1)
    return Table(header=tuple(names), columns=tuple(columns), lines=lines, counted="row")


def _files(folder: Path) -> list[Path]:
    listed = _json(folder / "state.json").get("_data_files", [])
    files = [folder / str(entry["filename"]) for entry in listed]
    refuse(f"{file}: there is no such file" for file in files if not file.is_file())
    memory.require(folder, sum(file.stat().st_size for file in files) * memory.PROSE_FACTOR)
    return files


def class_names(folder: Path, label: str) -> list[str]:
    """The names of a `ClassLabel` column; empty where labels are values of their own."""
    feature = _json(folder / "dataset_info.json").get("features", {}).get(label, {})
    return list(feature.get("names", [])) if feature.get("_type") == "ClassLabel" else []


def label_of(value: object, names: list[str]) -> str:
    """A cell as text: the name of a class, where `names` are those of a `ClassLabel`."""
    if names and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else ""  # -1 stands for no label
    return cell(value)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds no JSON object")
    return found
