from __future__ import annotations

import io
import pickle  # noqa: TID251  (to make what is read here)
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from fedlearn.core.errors import DataError
from fedlearn.data.datasets.pickled import read_arrays

rng = np.random.default_rng(0)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "array",
    [
        rng.normal(size=(2, 3)).astype("<f4"),
        rng.normal(size=5).astype(">f8"),
        np.asfortranarray(rng.normal(size=(3, 4, 2))),
        np.arange(6, dtype=np.int16).reshape(3, 2),
        np.zeros((0, 4), np.uint8),
        np.array(3.5),
    ],
    ids=lambda a: f"{a.dtype}-{a.ndim}",
)
def test_read_arrays__gives_back_what_numpy_wrote(array: Any, protocol: int) -> None:
    """Protocol 3 holds the bytes as they are; 2 spells them as text, and is refused."""
    tree = {"layer/1": [array, array], "n": (1, 300, 70000, None)}
    content = pickle.dumps(tree, protocol=protocol)
    if protocol == 2:
        with pytest.raises(DataError, match="asks for _codecs encode"):
            read_arrays(content)
        return
    found = read_arrays(content)
    assert found["n"] == tree["n"]
    for one in found["layer/1"]:
        np.testing.assert_array_equal(one, array)
        assert one.dtype == array.dtype


class Loud:
    """Would write a file when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Loud(), "asks for builtins print"),
        (OrderedDict(a=1), "collections OrderedDict"),
        (np.array(["a", None], object), "array of object"),
        (np.array(["a"]), "array of <U1"),
        (10**30, "LONG1"),
        (1.5, "BINFLOAT"),
    ],
)
def test_read_arrays__refuses_all_else_and_runs_nothing(
    value: Any, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=reason):
        read_arrays(pickle.dumps([value], protocol=3))
    assert capsys.readouterr().out == ""


def test_read_arrays__refuses_every_damaged_file() -> None:
    whole = pickle.dumps({"a": [np.arange(3)]}, protocol=3)
    for length in range(len(whole)):
        with pytest.raises(DataError):
            read_arrays(whole[:length])
    for bad in (b"(.", b"0.", b"\x80\x03]q\x00", b"h\x07."):
        with pytest.raises(DataError):
            read_arrays(bad)


def test_read_arrays__refuses_an_array_without_its_bytes() -> None:
    stream = io.BytesIO()
    pickle.Pickler(stream, protocol=3).dump(np.arange(4))
    content = stream.getvalue().replace(np.arange(4).tobytes(), b"")
    with pytest.raises(DataError):
        read_arrays(content)
