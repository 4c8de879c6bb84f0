"""What records hold, and what they weigh."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fedlearn.flower import private
from fedlearn.flower.records import arrays_of, large_bytes, read_large_bytes, size_of, vector_of


def test_size_of__counts_what_the_records_hold_and_nothing_for_an_error() -> None:
    small, large = (
        Message(RecordDict({"arrays": arrays_of(np.zeros(n, np.float32))}), 7, "train")
        for n in (10, 1010)
    )
    assert size_of(large) - size_of(small) == 4000
    assert size_of(Message(RecordDict(), 7, "train")) == 0
    assert size_of(private.error_reply(private.set_message_id(small, "m"), "no")) == 0


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_vector_of__reads_what_numpy_wrote_and_what_numpy_reads(size: int) -> None:
    vector = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    arrays = arrays_of(vector)
    assert vector_of(arrays).tobytes() == vector.tobytes()
    assert arrays["model"].numpy().tobytes() == vector.tobytes()


@pytest.mark.parametrize("size", [0, 256 * 1024, 256 * 1024 + 1])
def test_large_bytes__come_back_in_either_form(size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    content = RecordDict({"sum": large_bytes("sum", data)})
    assert read_large_bytes(content, "sum") == data
    assert read_large_bytes(content, "other") is None
