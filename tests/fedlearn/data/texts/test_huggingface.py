"""A saved data set, as `datasets` writes it: Arrow streams with two files of JSON beside them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pytest

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.pool import Pool
from fedlearn.data.texts.huggingface import HuggingFace
from fedlearn.data.texts.tokens import Tokenizer

from ..reading import loaded

HASHING = Tokenizer(kind="hashing", buckets=1000, max_length=8)
TEXTS = [f"text {i}" for i in range(12)]
LABELS = [0, 1] * 6


def save(folder: Path, texts: list[str], labels: list[int], files: int = 2) -> None:
    """The form of `Dataset.save_to_disk`: shards of an Arrow stream, state and info."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    for name, rows in zip(names, np.array_split(np.arange(len(texts)), files), strict=True):
        part = arrow.table({"text": [texts[i] for i in rows], "label": [labels[i] for i in rows]})
        path = str(folder / name)
        with arrow.OSFile(path, "wb") as file, arrow.ipc.new_stream(file, part.schema) as stream:
            stream.write_table(part)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": n} for n in names]})
    )
    feature = {"names": ["against", "for"], "_type": "ClassLabel"}
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"label": feature}}))


def read(folder: Path, **change: str) -> Pool:
    config = HuggingFace(path=str(folder), tokenizer=HASHING)
    return loaded(replace(config, **change))  # type: ignore[arg-type]


def test_huggingface__reads_all_shards_in_order_with_the_names_of_classes(tmp_path: Path) -> None:
    save(tmp_path / "set", TEXTS, LABELS)
    pool = read(tmp_path / "set")
    assert pool.task.classes == ("against", "for")
    assert pool.labels.tolist() == LABELS
    assert len(np.unique(pool.features, axis=0)) == 12
    assert 0 < (~pool.is_train).sum() < 6


def test_huggingface__takes_the_split_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test", "more"]}')
    save(tmp_path / "set" / "train", TEXTS[:8], LABELS[:8])
    save(tmp_path / "set" / "test", TEXTS[8:], [-1, *LABELS[9:]], files=1)
    pool = read(tmp_path / "set")
    assert pool.is_train.tolist() == [True] * 8 + [False] * 3
    assert any("row 9: no text or no label" in note for note in pool.notes)


def save_bytes(folder: Path, texts: list[bytes]) -> None:
    """A set whose texts are these bytes, which Arrow itself does not look at."""
    folder.mkdir()
    held = arrow.array(texts, arrow.binary()).view(arrow.string())
    table = arrow.table({"text": held, "label": ["a", "b"] * (len(texts) // 2)})
    path = str(folder / "data.arrow")
    with arrow.OSFile(path, "wb") as file, arrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (folder / "dataset_info.json").write_text("{}")


def test_texts__that_are_no_utf8_are_an_error_and_one_by_one_of_no_meaning(tmp_path: Path) -> None:
    save_bytes(tmp_path / "set", [b"caf\xe9 one", b"two", b"\xff", b"four"] * 3)
    with pytest.raises(DataError, match="column 'text' holds what is no text"):
        read(tmp_path / "set")
    config = HuggingFace(path=str(tmp_path / "set"), tokenizer=HASHING, classes=("a", "b"))
    whole, each = loaded(config, by_record=True), tmp_path / "each"
    save_bytes(each, [b"caf\xef\xbf\xbd one", b"two", b"\xef\xbf\xbd", b"four"] * 3)
    same = loaded(replace(config, path=str(each)))
    assert np.array_equal(whole.features, same.features)
    assert np.array_equal(whole.is_train, same.is_train)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", '{"_data_files": [7]}'),
        ("state.json", '{"_data_files": {"filename": "x"}}'),
        ("state.json", '{"_data_files": []}'),
        ("state.json", '{"_data_files": [{"filename": "a\\u0000"}]}'),
        ("state.json", "[" * 100_000),
        ("dataset_info.json", '{"features": {"label": {"_type": "ClassLabel", "names": 3}}}'),
        ("dataset_dict.json", '{"splits": 3}'),
        ("dataset_dict.json", '{"splits": [1, 2]}'),
    ],
)
def test_huggingface__with_files_that_datasets_does_not_write_says_which(
    tmp_path: Path, name: str, content: str
) -> None:
    save(tmp_path / "set", TEXTS, LABELS)
    (tmp_path / "set" / name).write_text(content)
    with pytest.raises(DataError, match=name):
        read(tmp_path / "set")


def test_huggingface__refuses_what_was_not_saved_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data set saved by `datasets`"):
        read(tmp_path / "empty")
    with pytest.raises(DataError, match="is not a folder"):
        read(tmp_path / "none")
    save(tmp_path / "set", TEXTS, LABELS)
    with pytest.raises(ConfigError, match=r"scenario\.text: no column 'body'"):
        read(tmp_path / "set", text="body")
    with pytest.raises(ConfigError, match=r"scenario\.text=label: is another role's column"):
        read(tmp_path / "set", text="label")
    (tmp_path / "set" / "data-00001-of-00002.arrow").write_bytes(b"no arrow")
    with pytest.raises(DataError, match="cannot be read as Arrow"):
        read(tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_dict.json", '{"splits": 1}'),
        ("dataset_dict.json", "[" * 100_000),
        ("train/state.json", '{"_data_files": 1}'),
        ("train/state.json", '{"_data_files": []}'),
        ("train/state.json", '{"_data_files": ["data"]}'),
        ("train/state.json", '{"_data_files": [{"filename": 1}]}'),
        ("train/state.json", '{"_data_files": [{"filename": "%s"}]}' % ("x" * 5000)),
        ("train/state.json", '{"_data_files": [{"filename": "../../outside.arrow"}]}'),
    ],
)
def test_huggingface__refuses_files_of_json_that_say_something_else(
    tmp_path: Path, name: str, content: str
) -> None:
    save(tmp_path / "set" / "train", TEXTS, LABELS)
    save(tmp_path / "other", TEXTS, LABELS, files=1)
    (tmp_path / "other" / "data-00000-of-00001.arrow").rename(tmp_path / "outside.arrow")
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert len(read(tmp_path / "set").labels) == len(TEXTS)
    (tmp_path / "set" / name).write_text(content)
    with pytest.raises(DataError):
        read(tmp_path / "set")


def test_huggingface__reads_no_text_outside_of_its_file(tmp_path: Path) -> None:
    """Arrow itself believes the offsets of a file: one that lies is memory of somebody else."""
    save(tmp_path / "set", TEXTS, LABELS, files=1)
    file = tmp_path / "set" / "data-00000-of-00001.arrow"
    content = file.read_bytes()
    for name in (b"label", b"text"):
        file.write_bytes(content.replace(name, b"\xff" + name[1:]))
        with pytest.raises(DataError, match="cannot be read as Arrow"):
            read(tmp_path / "set")
    ends = np.cumsum([0, *map(len, TEXTS)]).astype("<i4")
    assert content.count(ends.tobytes()) == 1
    ends[-1] = 2**30
    file.write_bytes(content.replace(ends[:-1].tobytes(), ends[1:].tobytes()))
    with pytest.raises(DataError, match="is damaged"):
        read(tmp_path / "set")
