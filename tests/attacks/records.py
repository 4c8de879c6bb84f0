"""Files that an owner was given, as parsers: tables, texts, images, weights."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from openpyxl import Workbook
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import save

from fedlearn.algorithms.personal import OWN
from fedlearn.config import compose
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.rng import Streams
from fedlearn.core.weights import values_of, with_values
from fedlearn.data.images.reading import read_image
from fedlearn.data.scenario import Reading
from fedlearn.prediction import read_array
from fedlearn.results.own_model import AFTER, PART, read_own
from fedlearn.tasks import CLASSIFICATION
from tests.attacks.fuzzing import Parser
from tests.attacks.parsers import file_parser

_ROWS = "age,sex,ill\n" + "\n".join(
    f"{20 + i * 7 % 60},{'fm'[i % 2]},{i % 3 % 2}" for i in range(40)
)


def _parquet(_: Path) -> bytes:
    made = io.BytesIO()
    table = {
        "age": [20.0 + i * 7 % 60 for i in range(40)],
        "sex": ["f", "m"] * 20,
        "ill": [0, 1] * 20,
    }
    pq.write_table(pa.table(table), made)
    return made.getvalue()


def _arrays(**named: NDArray[Any]) -> bytes:
    made = io.BytesIO()
    np.savez(made, **named)
    return made.getvalue()


_IMAGES = {
    "train_images": np.zeros((4, 4, 4), np.uint8), "train_labels": np.array([[0], [1]] * 2),
    "test_images": np.zeros((2, 4, 4), np.uint8), "test_labels": np.array([[0], [1]]),
}  # fmt: skip


def _xlsx(_: Path) -> bytes:
    made = Workbook()
    for line in _ROWS.splitlines():
        made.active.append(line.split(","))
    content = io.BytesIO()
    made.save(content)
    return content.getvalue()


def _png(_: Path) -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(made, "PNG")
    return made.getvalue()


def _records(name: str, good: Callable[[Path], bytes], *words: str) -> Parser:
    @cache
    def scenario() -> Any:
        return compose([*words, "scenario.path=x"]).scenario

    def read(path: Path) -> object:
        reading = Reading(streams=Streams(0), cache=path.parent, task=CLASSIFICATION)
        return replace(scenario(), path=str(path)).load(reading)

    return file_parser(f"records {name}", good, f"r.{name}", read, (DataError, ConfigError))


_CSV = ("scenario=csv", "scenario.label=ill")
_WRITTEN = "who,day,a,b,c,d,e,ill\n,,mg,%,EUR,,,\n" + "".join(
    f'p{i % 7},{i + 1}/01/2026,<{i},{i}%,"{i + 1},000",k{i},{i + 5} kg,{i % 7 % 2}\n'
    for i in range(28)
)
_TEXT = ("scenario=text", "scenario.text=text", "scenario.label=label")
_LINES = "\n".join(
    json.dumps({"text": f"word {i} of DE89 3704 0044 0532 0130 00", "label": "ab"[i % 2]})
    for i in range(20)
)


def _loosely(path: Path) -> object:
    """As a deployed site reads texts: no record of its own decides whether there is an answer."""
    reading = Reading(streams=Streams(0), cache=path.parent, task=CLASSIFICATION, by_record=True)
    made = compose([*_TEXT, "scenario.path=x", "scenario.classes=['a','b']"]).scenario
    return replace(made, path=str(path)).load(reading)


_OWN = {f"{AFTER}{OWN}": np.zeros(3, np.float32)}
"""What a site keeps of its own model, as far as an export reads it."""

RECORDS = [
    _records("csv", lambda _: _ROWS.encode(), *_CSV),
    _records("csv.gz", lambda _: gzip.compress(_ROWS.encode()), *_CSV),
    _records(
        "csv in its own way", lambda _: _WRITTEN.encode(), *_CSV, "scenario.header=units",
        "scenario.written={a: limits, b: percent, c: thousands, e: in g}", "scenario.buckets.d=8",
        "scenario.record=who", "scenario.time=day", "scenario.times=day_first",
    ),
    _records("parquet", _parquet, *_CSV),
    _records("xlsx", _xlsx, *_CSV),
    file_parser(
        "records jsonl.gz by record", lambda _: gzip.compress(_LINES.encode()), "r.jsonl",
        _loosely, (DataError, ConfigError),
    ),
    _records("jsonl", lambda _: _LINES.encode(), *_TEXT),
    _records("npz", lambda _: _arrays(**_IMAGES), "scenario=medmnist", "scenario.name=''"),
    file_parser("image", _png, "a.png", lambda path: read_image(path, 8, "grey"), (DataError,)),
    file_parser(
        "features", lambda _: _arrays(features=np.zeros((3, 2), np.float32)), "f.npz",
        lambda path: read_array(path, (2,)), (DataError,),
    ),
    file_parser(
        "weights", lambda _: save({"a": np.zeros(3, np.float32)}, {"order": '["a"]'}),
        "m.safetensors",
        lambda path: with_values(path.read_bytes(), values_of(path.read_bytes())),
        (SafetensorError, ValueError, KeyError, TypeError),
    ),
    file_parser(
        "a site's own model", lambda _: save(_OWN, {PART: "none"}), "personal-x.safetensors",
        read_own, (DataError,),
    ),
]  # fmt: skip
