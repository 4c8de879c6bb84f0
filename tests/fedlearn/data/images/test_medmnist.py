"""Scenario `medmnist`: what a file may hold, whose image goes where, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import urllib.error
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn.cli import main
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.datasets import archives
from fedlearn.data.images.medmnist import MedMnist
from fedlearn.data.images.medmnist_sets import SETS
from fedlearn.data.partition import Natural, sites_of_groups
from fedlearn.data.pool import deal

from ..reading import loaded


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def arrays(channels: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    """A small file: 12 training, 4 validation and 6 test images of two classes, in groups."""
    made = np.random.default_rng(5)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for part, count in (("train", 12), ("val", 4), ("test", 6)):
        shape = (count, 8, 9, channels) if channels > 1 else (count, 8, 9)
        found[f"{part}_images"] = made.integers(0, 256, shape, np.uint8)
        found[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
        found[f"{part}_groups"] = (np.arange(count) // 3 + len(found)).astype(np.int32)
    return found


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "mine.npz"
    kept = {key: value for key, value in (arrays() | changes).items() if value is not None}
    np.savez(path, **kept)
    return path


def load(path: Path, **settings: Any) -> Any:
    return loaded(MedMnist(path=str(path), **settings))


@pytest.mark.parametrize("channels", [1, 3])
def test_medmnist__images_keep_their_place_their_label_and_their_split(
    tmp_path: Path, channels: int
) -> None:
    made = arrays(channels)
    np.savez(tmp_path / "mine.npz", **made)
    pool = load(tmp_path / "mine.npz", classes=("well", "ill"))
    assert pool.features.shape == (18, channels, 8, 9)
    assert pool.features.dtype == np.float32
    assert pool.task.classes == ("well", "ill")
    assert pool.is_train.sum() == 12
    for part, rows in (("train", slice(12)), ("test", slice(12, 18))):
        images = made[f"{part}_images"].reshape(-1, 8, 9, channels)
        np.testing.assert_allclose(
            pool.features[rows].transpose(0, 2, 3, 1) * 255, images, rtol=1e-6
        )
        np.testing.assert_array_equal(pool.labels[rows], made[f"{part}_labels"].ravel())


def test_medmnist__validates_on_images_that_are_neither_trained_nor_tested_on(
    tmp_path: Path,
) -> None:
    pool = load(write(tmp_path), test="val")
    assert (len(pool), pool.is_train.sum()) == (16, 12)
    assert pool.task.classes == ("0", "1")


def test_medmnist__has_sites_only_where_groups_are_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(DataError, match="without sites"):
        Natural().assign(load(path), rng())
    pool = load(path, groups="groups", num_sites=2)
    sites = deal(pool, Natural().assign(pool, rng()))
    assert list(sites) == ["site-000", "site-001"]
    assert [len(site.train) for site in sites.values()] == [6, 6]
    assert [len(site.test) for site in sites.values()] == [3, 3]


def test_medmnist__deals_single_images_where_there_are_no_groups(tmp_path: Path) -> None:
    pool = load(write(tmp_path), num_sites=3)
    sites = deal(pool, Natural().assign(pool, rng()))
    assert [(len(site.train), len(site.test)) for site in sites.values()] == [(4, 2)] * 3


def test_medmnist__at_a_site_of_its_own_is_all_of_its_file() -> None:
    """A run that named groups, or a number of sites, would choose which images are the site's."""
    of_run = MedMnist(path="b.npz", num_sites=3, groups="patients", test="val")
    agreed = MedMnist(path="a.npz").agreed(of_run)
    assert agreed == MedMnist(path="a.npz", test="val")


def test_groups__stay_together_at_sites_of_like_size() -> None:
    made = np.random.default_rng(1)
    groups = made.integers(0, 60, 500)
    is_train = groups < 45  # a group is for training or for testing
    sites = sites_of_groups(groups, is_train, 4, rng())
    for group in range(60):
        assert len(set(sites[groups == group])) <= 1
    largest = np.bincount(groups).max()
    for part in (is_train, ~is_train):
        _, counts = np.unique(sites[part], return_counts=True)
        assert len(counts) == 4
        assert counts.max() - counts.min() <= largest
    again = sites_of_groups(groups, is_train, 4, rng())
    other = sites_of_groups(groups, is_train, 4, np.random.default_rng(7))
    assert (sites == again).all()
    assert (sites != other).any()


def test_groups__are_sites_themselves_where_no_number_is_given() -> None:
    found = sites_of_groups(np.array([3, 12, 3]), np.array([True, True, False]), 0, rng())
    assert found.tolist() == ["group-03", "group-12", "group-03"]


def test_medmnist__says_when_a_group_is_on_both_sides_of_the_split(tmp_path: Path) -> None:
    shared = write(tmp_path, test_groups=np.zeros(6, np.int32) + arrays()["train_groups"][0])
    (note,) = load(shared, groups="groups", num_sites=1).notes
    assert "1 groups are in training and in test alike" in note
    assert load(write(tmp_path), groups="groups", num_sites=1).notes == ()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no_labels": ({"test_labels": None}, "holds no array 'test_labels'; there are train_images"),
    "floats": ({"train_images": np.zeros((12, 8, 9))}, "train_images holds float64"),
    "volumes": ({"train_images": np.zeros((12, 8, 9, 9), np.uint8)}, "volumes are not taken"),
    "vectors": ({"train_images": np.zeros((12, 72), np.uint8)}, r"shape \(12, 72\)"),
    "two_sizes": ({"test_images": np.zeros((6, 9, 9, 3), np.uint8)}, "training images are"),
    "several_labels": ({"train_labels": np.zeros((12, 14), np.uint8)}, "14 labels per image"),
    "label_floats": ({"train_labels": np.zeros(12)}, "classes are whole numbers"),
    "too_few_labels": ({"train_labels": np.zeros(11, np.uint8)}, "12 train_images and 11"),
    "negative": ({"train_labels": np.full(12, -1)}, "labels hold -1 to 1; classes count from 0"),
    "empty_class": ({"train_labels": np.zeros(12, np.uint8)}, "class '1' has no training image"),
    "objects": ({"train_labels": np.array([None] * 12)}, "cannot be read as a .npz file"),
}


@pytest.mark.parametrize("name", BAD)
def test_medmnist__names_what_is_wrong_with_a_file(tmp_path: Path, name: str) -> None:
    changes, reason = BAD[name]
    with pytest.raises(DataError, match=reason):
        load(write(tmp_path, **changes))


def test_medmnist__refuses_a_member_that_is_no_array(tmp_path: Path) -> None:
    path, made = tmp_path / "odd.npz", write(tmp_path)
    with zipfile.ZipFile(made) as good, zipfile.ZipFile(path, "w") as odd:
        for name in good.namelist():
            odd.writestr(name, b"words" if name == "train_labels.npy" else good.read(name))
    with pytest.raises(DataError, match="train_labels is no array"):
        loaded(MedMnist(path=str(path)))


def test_medmnist__names_a_path_that_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder; name the \.npz file in it"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"cannot be read as a \.npz file"):
        load(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="is a single array"):
        load(tmp_path / "one.npy")
    whole = write(tmp_path).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cannot be read as a \.npz file"):
        load(tmp_path / "cut.npz")


def test_medmnist__refuses_what_is_too_large_before_it_is_unpacked(tmp_path: Path) -> None:
    """A header that promises terabytes of images; there is none behind it."""
    header = io.BytesIO()
    form = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 28, 28, 3)}
    np.lib.format.write_array_header_1_0(header, form)
    path = write(tmp_path, train_images=None, test_images=np.zeros((6, 28, 28, 3), np.uint8))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_images.npy", header.getvalue())
    with pytest.raises(DataError, match=r"1,000,000,006 images of 28 x 28 x 3 take 9408\.0 GB"):
        load(path)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "scenario.path: name a file"),
        ({"name": "bloodmnist", "path": "x.npz"}, "scenario.path: name a file"),
        ({"name": "bloodmist"}, "scenario.name=bloodmist: must be one of bloodmnist, "),
        ({"name": "bloodmnist", "classes": ("a",)}, "scenario.classes: a known set has its own"),
    ],
)
def test_medmnist__refuses_settings_that_contradict_each_other(
    tmp_path: Path, settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(MedMnist(**settings), tmp_path)
    assert any(line.startswith(problem) for line in caught.value.problems)


# --- Known sets -----------------------------------------------------------------------


def test_known_sets__have_an_address_a_hash_and_their_classes() -> None:
    for name, known in SETS.items():
        assert known.file.address.startswith("https://zenodo.org/records/")
        assert f"/{name}.npz" in known.file.address
        assert len(bytes.fromhex(known.file.md5)) == 16
        assert len(set(known.classes)) == len(known.classes) >= 2
    assert SETS["bloodmnist"].records == (11959, 1712, 3421)
    assert SETS["bloodmnist"].classes[7] == "platelet"


class Reply(io.BytesIO):
    """What an address answers."""


def test_download__keeps_what_has_the_published_hash_and_asks_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(address: str, timeout: float) -> Reply:
        asked.append(address)
        return Reply(b"images")

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    file = archives.Download(
        name="x",
        address="https://example.org/x.npz",
        file_name="x.npz",
        md5="9ad1ee7a45ff44fe2d0ee6ebff2df9c6",
        licence="",
    )
    with pytest.raises(DataError, match="is not the published file"):
        archives.fetch(file, tmp_path)
    assert not archives.cached_path(file, tmp_path).exists()
    right = replace(file, md5=hashlib.md5(b"images").hexdigest())
    for _ in range(2):
        assert archives.fetch(right, tmp_path).read_bytes() == b"images"
    assert len(asked) == 2
    archives.cached_path(right, tmp_path).write_bytes(b"other")
    with pytest.raises(DataError, match="now removed"):
        archives.fetch(right, tmp_path)
    assert not archives.cached_path(right, tmp_path).exists()


def test_download__says_where_to_put_the_file_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(address: str, timeout: float) -> Reply:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", nobody)
    with pytest.raises(DataError) as caught:
        loaded(MedMnist(name="pneumoniamnist"), tmp_path)
    message = str(caught.value)
    assert "no route to host" in message
    assert str(tmp_path / "downloads" / "pneumoniamnist.npz") in message
    assert SETS["pneumoniamnist"].file.md5 in message


def test_data_fetch__knows_the_sets_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(address: str, timeout: float) -> Reply:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("FEDLEARN_CACHE", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", nobody)
    assert main(["data", "fetch", "bloodmnist"]) == 5
    assert "no route to host" in capsys.readouterr().err
    assert main(["data", "fetch", "bloodmist"]) == 2
    assert "bloodmnist" in capsys.readouterr().err
    assert main(["data", "list"]) == 0
    assert "bloodmnist" in capsys.readouterr().out


# --- Real data ------------------------------------------------------------------------


def test_blood_cells__are_dealt_by_photograph(blood_cells: Path) -> None:
    config = MedMnist(path=str(blood_cells), groups="groups", num_sites=5)
    pool = loaded(config, Path(os.devnull))
    assert (len(pool), pool.is_train.sum(), pool.task.num_outputs) == (4354, 3387, 3)
    assert pool.notes == ()
    sites = deal(pool, Natural().assign(pool, rng()))
    sizes = [len(site.train) for site in sites.values()]
    assert len(sizes) == 5
    assert max(sizes) - min(sizes) <= 30  # a photograph has at most thirty cells
