"""Scenario `huggingface`: a data set that was saved to disk by Hugging Face `datasets`.

A folder of `Dataset.save_to_disk`, or of a `DatasetDict` with the splits
`train` and `test`. The Arrow files are read as data by pyarrow; the `datasets`
package is not needed, and no loading script is ever run. Texts with a label
alone: other columns are not looked at.
"""

from __future__ import annotations

import json
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from fedlearn.core.errors import DataError
from fedlearn.core.settings import Count, Name, Probability, config
from fedlearn.data import memory
from fedlearn.data.pool import Pool
from fedlearn.data.texts.documents import pool_of
from fedlearn.data.texts.files import TextEntry, cell, check_names, documents
from fedlearn.data.texts.tokens import Tokenizer


@config
class HuggingFace:
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


def load(config: HuggingFace, rng: np.random.Generator, cache: Path) -> Pool:
    """The records that have a text and a label; `rng` draws the test where the folder has none.

    Raises:
        DataError: the folder is no saved data set, or cannot be learned from.
        ConfigError: columns are named that are not there.
    """
    splits = splits_of(Path(config.path))
    found = {name: _entries(config, folder) for name, folder in splits.items()}
    entries = [entry for part in found.values() for entry in part]
    # Numbered over both splits, as a reader counts; not within one of them.
    numbered = [replace(entry, line=i) for i, entry in enumerate(entries, start=1)]
    made = documents(numbered, config, rng)
    if "test" in found:
        usable = [bool(entry.text and entry.label) for entry in entries]
        in_train = np.arange(len(entries)) < len(found["train"])
        made = replace(made, is_train=in_train[np.array(usable)])
    return pool_of(made, config.tokenizer, cache)


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


def _entries(config: HuggingFace, folder: Path) -> list[TextEntry]:
    table = read_split(folder)
    check_names(config, table.column_names, str(folder))
    names = class_names(folder, config.label)
    labels = [label_of(value, names) for value in table.column(config.label).to_pylist()]
    texts = [cell(value) for value in table.column(config.text).to_pylist()]
    sites = [""] * len(texts)
    if config.site:
        sites = [cell(value) for value in table.column(config.site).to_pylist()]
    return [
        TextEntry(line=0, text=text, label=label, site=site)
        for text, label, site in zip(texts, labels, sites, strict=True)
    ]


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


def _files(folder: Path) -> list[Path]:
    listed = _json(folder / "state.json").get("_data_files", [])
    files = [folder / str(entry["filename"]) for entry in listed]
    if absent := [str(file) for file in files if not file.is_file()]:
        raise DataError("\n".join(f"{name}: there is no such file" for name in absent))
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
