"""Arrays of a file `.npz`, and files that are none."""

from __future__ import annotations

import io
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from fedlearn.core.errors import DataError
from fedlearn.core.files import DAMAGED_ARRAYS, named_arrays
from fedlearn.prediction import read_array
from simulations.attacks.inversion_scene import load_images


def _with_a_text(path: Path) -> None:
    with ZipFile(path, "w") as file:
        for name in ("features", "train_images", "train_labels"):
            file.writestr(f"{name}.npy", b"no array")


def _alone(path: Path) -> None:
    made = io.BytesIO()
    np.save(made, np.zeros((3, 2)))
    path.write_bytes(made.getvalue())


def test_named_arrays__gives_what_was_written(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", b=np.arange(3), c=np.ones((2, 2)))
    c, b = named_arrays(tmp_path / "a.npz", "c", "b")
    assert (b.tolist(), c.tolist()) == ([0, 1, 2], [[1, 1], [1, 1]])


@pytest.mark.parametrize("make", [_with_a_text, _alone, lambda path: path.write_bytes(b"PK\3\4")])
def test_named_arrays__takes_nothing_else_for_an_array(make: object, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / "a.npz")
    with pytest.raises(DAMAGED_ARRAYS):
        named_arrays(tmp_path / "a.npz", "features")
    with pytest.raises(DataError, match="holds no array"):
        read_array(tmp_path / "a.npz", (2,))
    with pytest.raises(DataError, match=r"an \.npz file with train_images"):
        load_images(str(tmp_path / "a.npz"))
