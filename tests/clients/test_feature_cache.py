from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clients import feature_cache
from clients.feature_cache import encoded
from fedlearn.models.initialise import initialise
from fedlearn.training import device
from tests.far import CUDA, far_device


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


def records(n: int = 300) -> np.ndarray:
    features = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    features[:1] = 0.0
    return features


def expected(mine: np.ndarray, scale: float = 1.0) -> np.ndarray:
    return mine @ (scale * np.arange(6, dtype=np.float32).reshape(3, 2)).T


def split(mine: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Some of the records as another site or another seed has them."""
    return mine[list(rows)]


@pytest.mark.parametrize("n", [0, 1, 32, 300])
def test_encoded__is_the_output_of_the_frozen_part(tmp_path: Path, n: int) -> None:
    found = encoded(layer(), records(n), made_by="", cache=tmp_path)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, expected(records(n)))


def test_encoded__without_a_cache_is_the_same_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = encoded(layer(), records(), made_by="", cache=None)
    np.testing.assert_array_equal(found, expected(records()))
    assert [*tmp_path.rglob("*")] == []


def test_encoded__is_computed_where_the_site_computes_and_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_exact", lambda: None)
    frozen, mine, here = layer(), records(40), records(40)
    with far_device():
        there = encoded(frozen, mine, made_by="", cache=tmp_path, device=CUDA)
        assert device.home(frozen) == CUDA
    np.testing.assert_array_equal(there, expected(mine))
    # The last bits of a device are its own: what a GPU made is not taken for the CPU's.
    again = layer()
    encoded(again, here, made_by="", cache=tmp_path)
    assert again.shown == 64


def test_encoded__is_computed_once_per_process_and_once_per_site(tmp_path: Path) -> None:
    first, second, mine = layer(), layer(), records(320)
    for _ in range(3):
        encoded(first, mine, made_by="", cache=tmp_path)
    assert first.shown == 320
    again = encoded(second, records(320), made_by="", cache=tmp_path)  # as a new process would
    assert second.shown == 0
    np.testing.assert_array_equal(again, expected(mine))


def test_encoded__computes_no_record_twice_however_they_are_dealt_out(tmp_path: Path) -> None:
    whole, frozen = records(300), layer()
    for rows in (range(128), range(96, 256), range(50, 300)):
        found = encoded(frozen, split(whole, rows), made_by="", cache=tmp_path)
        np.testing.assert_array_equal(found, expected(split(whole, rows)))
    assert frozen.shown == 128 + 128 + 64  # 44 records are missing at last: two batches
    dealt_anew = np.random.default_rng(0).permutation(300)
    found = encoded(frozen, split(whole, dealt_anew), made_by="", cache=tmp_path)
    np.testing.assert_array_equal(found, expected(split(whole, dealt_anew)))
    assert frozen.shown == 320


def test_encoded__does_not_depend_on_the_company_that_a_record_was_computed_in(
    tmp_path: Path,
) -> None:
    generator = torch.Generator().manual_seed(0)
    frozen = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.Linear(64 * 36, 33)).eval()
    initialise(frozen, generator)
    whole = torch.rand(100, 3, 8, 8, generator=generator).numpy()
    together = encoded(frozen, whole, made_by="", cache=tmp_path / "a")
    for rows in ([99], range(7, 60), np.random.default_rng(1).permutation(100)):
        found = encoded(frozen, split(whole, rows), made_by="", cache=tmp_path / "b")
        np.testing.assert_array_equal(found, together[list(rows)])


def test_encoded__gives_a_record_that_is_there_twice_twice(tmp_path: Path) -> None:
    twice = split(records(3), [0, 1, 0, 2, 2])
    found = encoded(layer(), twice, made_by="", cache=tmp_path)
    np.testing.assert_array_equal(found, expected(twice))


def test_encoded__never_takes_what_was_made_otherwise(tmp_path: Path) -> None:
    encoded(layer(), records(320), made_by="a", cache=tmp_path)
    for other, mine, made_by in [
        (layer(2.0), records(320), "a"),
        (layer(), records(320) + 5, "a"),
        (layer(), records(320), "b"),
    ]:
        encoded(other, mine, made_by=made_by, cache=tmp_path)
        assert other.shown == 320
    twice = records()
    encoded(layer(), twice, made_by="", cache=tmp_path)
    found = encoded(layer(2.0), twice, made_by="", cache=tmp_path)
    np.testing.assert_array_equal(found, expected(twice, 2.0))


def test_encoded__is_for_the_user_alone(tmp_path: Path) -> None:
    encoded(layer(), records(), made_by="", cache=tmp_path)
    (folder,) = (tmp_path / "encoded").iterdir()
    (path,) = folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("left", [b"", b"\x93NUMPY", b"no array at all"])
def test_encoded__makes_a_broken_file_anew(tmp_path: Path, left: bytes) -> None:
    encoded(layer(), records(), made_by="", cache=tmp_path)
    ((path,),) = (folder.iterdir() for folder in (tmp_path / "encoded").iterdir())
    whole = path.read_bytes()
    path.write_bytes(left)
    found = encoded(layer(), records(), made_by="", cache=tmp_path)
    np.testing.assert_array_equal(found, expected(records()))
    assert path.read_bytes() == whole


def test_encoded__works_beside_a_file_that_is_cut_short_or_another(tmp_path: Path) -> None:
    encoded(layer(), records(64), made_by="", cache=tmp_path)
    ((path,),) = (folder.iterdir() for folder in (tmp_path / "encoded").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    np.save(path.with_name("other.npy"), np.zeros(3))
    found = encoded(layer(), records(300), made_by="", cache=tmp_path)
    np.testing.assert_array_equal(found, expected(records(300)))


def test_encoded__stands_runs_at_the_same_time(tmp_path: Path) -> None:
    whole = records(300)

    def run(seed: int) -> bool:
        rows = np.random.default_rng(seed).permutation(300)[:200]
        found = encoded(layer(), split(whole, rows), made_by="", cache=tmp_path)
        return np.array_equal(found, expected(split(whole, rows)))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(40)))


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cached", [False, True])
def test_encoded__is_rounded_alike_kept_or_not_and_takes_half_the_room(
    tmp_path: Path, precision: torch.dtype, cached: bool
) -> None:
    mine = records(40) / 3
    for _ in range(2):  # made, and then read
        found = encoded(
            layer(), mine, made_by="", cache=tmp_path if cached else None, precision=precision
        )
        assert torch.equal(found, torch.from_numpy(expected(mine)).to(precision))
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.npy")]
    assert [size < 40 * (32 + 2 * 2) + 512 for size in sizes] == [True] * cached


def test_encoded__too_large_for_half_precision_is_its_largest_number() -> None:
    found = encoded(layer(1e6), records(3), made_by="", cache=None, precision=torch.float16)
    assert torch.isfinite(found).all()
    assert found.abs().max() == torch.finfo(torch.float16).max


def test_encoded__in_another_precision_is_never_taken_for_it(tmp_path: Path) -> None:
    mine = records(20) / 3
    encoded(layer(), mine, made_by="", cache=tmp_path, precision=torch.float16)
    found = encoded(layer(), mine, made_by="", cache=tmp_path)
    np.testing.assert_allclose(found, expected(mine), rtol=1e-6)


def test_encoded__that_would_fill_the_disk_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Usage:
        free = 100

    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: Usage)
    found = encoded(layer(), records(40), made_by="", cache=tmp_path / "new" / "cache")
    np.testing.assert_array_equal(found, expected(records(40)))
    assert [*tmp_path.rglob("*")] == []
    assert "it is not kept, and computed anew" in caplog.text
