"""Vectors and bytes as Flower's records, and what records hold and weigh."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedlearn.core.vector import Vector

# --- vectors ---------------------------------------------------------------------


MODEL: Final = "model"
"""The name of the model among the vectors of a message."""


def arrays_of(model: Vector, besides: Mapping[str, Vector] | None = None) -> ArrayRecord:
    """A model as an ArrayRecord with the array `model`, and the vectors that go along with it."""
    vectors = {MODEL: model, **(besides or {})}
    return ArrayRecord(
        {name: Array(np.ascontiguousarray(v, np.float32)) for name, v in vectors.items()}
    )


def vectors_of(arrays: ArrayRecord) -> dict[str, Vector]:
    """All vectors, `float32[d]` each, of an ArrayRecord made by `arrays_of`."""
    return {name: vector_of(arrays, name) for name in arrays}


def vector_of(arrays: ArrayRecord, name: str = MODEL) -> Vector:
    """The model vector, or another by its name, of an ArrayRecord made by `arrays_of`.

    Raises:
        KeyError: there is none of that name.
        ValueError: it is no array.
    """
    array = arrays[name]
    head = _head(array.shape[0]) if len(array.shape) == 1 else b""
    if head and array.data.startswith(head) and len(array.data) == len(head) + 4 * array.shape[0]:
        return np.frombuffer(array.data, "<f4", offset=len(head)).astype(np.float32)
    try:
        return np.asarray(array.numpy(), np.float32)
    except MemoryError:
        raise
    except Exception as error:  # NumPy parses what stands before the values as Python
        raise ValueError(f"no array ({type(error).__name__})") from error


@lru_cache(maxsize=8)
def _head(size: int) -> bytes:
    """What stands before the values of a vector in NumPy's format (NEP 1).

    NumPy's own reader parses it as Python, which for a small model takes longer than training.
    """
    made = io.BytesIO()
    says = {"descr": "<f4", "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(made, says)
    return made.getvalue()


def arrays_in(content: RecordDict) -> ArrayRecord:
    """The record of the model in a train or evaluate message, or in a train reply.

    Raises:
        KeyError: there is none.
        TypeError: it is of another type.
    """
    record = content["arrays"]
    if not isinstance(record, ArrayRecord):
        raise TypeError("the model is of another type")
    return record


def model_of(content: RecordDict) -> Vector:
    """The model in a train or evaluate message, or in a train reply."""
    return vector_of(arrays_in(content))


# --- bytes -----------------------------------------------------------------------


def small_bytes(name: str, data: bytes) -> RecordDict:
    """A content of some kilobytes under `name`."""
    return RecordDict({name: ConfigRecord({"bytes": data})})


def read_small_bytes(content: RecordDict, name: str) -> bytes | None:
    """The bytes under `name`, or None if the content has none."""
    record = config_record(content, name)
    data = None if record is None else record.get("bytes")
    return data if isinstance(data, bytes) else None


SMALL: Final = 256 * 1024
"""Bytes up to which a record of one object is better than an array of three: over a
network Flower moves every object in a request of its own."""


def large_bytes(name: str, data: bytes | memoryview) -> ArrayRecord | ConfigRecord:
    """Bytes that may be as large as a model: Flower moves arrays in chunks.

    The array type is our own, so that a strategy that takes it for numbers fails.
    """
    if len(data) <= SMALL:
        return ConfigRecord({"bytes": bytes(data)})
    array = Array(dtype="uint8", shape=(len(data),), stype=f"fedlearn.{name}", data=bytes(data))
    return ArrayRecord({name: array})


def read_large_bytes(content: RecordDict, name: str) -> bytes | None:
    """The bytes of `large_bytes(name, ...)` under the record `name`, or None."""
    record = content.get(name)
    if isinstance(record, ArrayRecord):
        return record[name].data
    return read_small_bytes(content, name)


# --- what is in a record ---------------------------------------------------------


def config_record(content: RecordDict, name: str) -> ConfigRecord | None:
    """The record under `name`. Flower's own view, `config_records`, copies all of them first."""
    record = content.get(name)
    return record if isinstance(record, ConfigRecord) else None


def config_in(content: RecordDict, name: str) -> ConfigRecord:
    """The record under `name`.

    Raises:
        KeyError: there is none.
    """
    record = config_record(content, name)
    if record is None:
        raise KeyError(name)
    return record


def integer(value: Any) -> int:
    """A value of a record that should be a whole number."""
    return int(value)


def number(value: Any) -> float:
    """A value of a record that should be a number."""
    return float(value)


def size_of(message: Message) -> int:
    """Bytes of the records in a message, before Flower's own framing."""
    if message.has_error():
        return 0
    content = message.content
    return sum(map(_record_bytes, content.values()))


def _record_bytes(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    if isinstance(record, ArrayRecord):
        return record.count_bytes()
    # Flower's own count of the other records fails on a value that is empty.
    return sum(len(key) + _bytes_in(value) for key, value in record.items())


def _bytes_in(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_bytes_in, value))
    if isinstance(value, str | bytes):
        return len(value.encode() if isinstance(value, str) else value)
    return 1 if isinstance(value, bool) else 8
