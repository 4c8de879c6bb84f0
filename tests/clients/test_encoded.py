from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clients.encoded import encoded
from fedlearn.data import Records


class Counting(nn.Linear):
    """A frozen layer that says how many records it was shown."""

    shown = 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  (torch's name)
        self.shown += len(input)
        return super().forward(input)


def layer(scale: float = 1.0) -> Counting:
    made = Counting(2, 3).requires_grad_(False)
    made.weight.copy_(scale * torch.arange(6.0).reshape(3, 2))
    made.bias.zero_()
    return made.eval()


def records(n: int = 300, first: float = 0.0) -> Records:
    features = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    features[:1] = first
    return Records(features=features, labels=np.zeros(n, np.int64))


def expected(mine: Records, scale: float = 1.0) -> np.ndarray:
    return mine.features @ (scale * np.arange(6, dtype=np.float32).reshape(3, 2)).T


@pytest.mark.parametrize("n", [0, 1, 256, 300])
def test_encoded__is_the_output_of_the_frozen_part(tmp_path: Path, n: int) -> None:
    found = encoded(layer(), records(n), made_by="", cache=tmp_path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected(records(n)))


def test_encoded__is_computed_once_per_process_and_once_per_site(tmp_path: Path) -> None:
    first, second, mine = layer(), layer(), records()
    for _ in range(3):
        encoded(first, mine, made_by="", cache=tmp_path)
    assert first.shown == 300
    again = encoded(second, records(), made_by="", cache=tmp_path)  # as a new process would
    assert second.shown == 0
    np.testing.assert_array_equal(again, expected(mine))


def test_encoded__never_takes_what_was_made_otherwise(tmp_path: Path) -> None:
    encoded(layer(), records(), made_by="a", cache=tmp_path)
    for other, mine, made_by in [
        (layer(2.0), records(), "a"),
        (layer(), records(first=5.0), "a"),
        (layer(), records(), "b"),
    ]:
        encoded(other, mine, made_by=made_by, cache=tmp_path)
        assert other.shown == 300
    twice = records()
    encoded(layer(), twice, made_by="", cache=tmp_path)
    found = encoded(layer(2.0), twice, made_by="", cache=tmp_path)
    np.testing.assert_array_equal(found, expected(twice, 2.0))


def test_encoded__is_for_the_user_alone(tmp_path: Path) -> None:
    encoded(layer(), records(), made_by="", cache=tmp_path)
    (path,) = (tmp_path / "encoded").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("left", [b"", b"\x93NUMPY", b"no array at all"])
def test_encoded__makes_a_broken_file_anew(tmp_path: Path, left: bytes) -> None:
    encoded(layer(), records(), made_by="", cache=tmp_path)
    (path,) = (tmp_path / "encoded").iterdir()
    path.write_bytes(left)
    found = encoded(layer(), records(), made_by="", cache=tmp_path)
    np.testing.assert_array_equal(found, expected(records()))
    assert path.stat().st_size > len(left)
