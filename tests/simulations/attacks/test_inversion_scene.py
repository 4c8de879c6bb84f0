"""Images of a public set or of one's own, and the table that they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError, DataError
from simulations.attacks.inversion_scene import ImageSet, choose, load_images, write_table

from ...fedlearn.data.reading import loaded


def some(count: int = 60, classes: int = 4, *, side: int = 8, channels: int = 1) -> ImageSet:
    draw = np.random.default_rng(0)
    values = draw.random((count, side, side, channels)).astype(np.float32)
    return ImageSet(name="some", values=values, labels=np.arange(count) % classes)


def test_load_images__has_the_digits_of_scikit_learn() -> None:
    digits = load_images("digits")
    assert digits.values.shape == (1797, 8, 8, 1)
    assert (digits.values.min(), digits.values.max()) == (0.0, 1.0)
    assert np.bincount(digits.labels).tolist()[:2] == [178, 182]


@pytest.mark.parametrize("shape", [(5, 9, 8), (5, 9, 8, 3)])
def test_load_images__reads_a_file_of_ones_own(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(tmp_path / "mine.npz", train_images=images, train_labels=np.arange(5)[:, None])
    mine = load_images(str(tmp_path / "mine.npz"))
    assert mine.name == "mine"
    assert np.array_equal(np.rint(mine.values * 255).reshape(shape), images)
    assert mine.labels.tolist() == [0, 1, 2, 3, 4]


BYTES = np.zeros((5, 9, 8), np.uint8)
FIVE = np.arange(5)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"train_images": BYTES}, "train_labels"),
        ({"train_images": BYTES.astype(float), "train_labels": FIVE}, "float64"),
        ({"train_images": BYTES, "train_labels": FIVE[:3]}, "one label each"),
        ({"train_images": BYTES[..., None].repeat(2, 3), "train_labels": FIVE}, "one label each"),
        ({"train_images": BYTES.astype(object), "train_labels": FIVE}, "allow_pickle"),
    ],
)
def test_load_images__refuses_files_of_another_form(
    tmp_path: Path, arrays: dict[str, object], problem: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=problem):
        load_images(str(tmp_path / "bad.npz"))


NPY = (
    b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }".ljust(127)
    + b"\n"
)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 and no more", NPY])
def test_load_images__refuses_what_is_no_file_of_arrays(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"must be digits, or an \.npz file"):
        load_images(str(tmp_path / "bad.npz"))


@pytest.mark.parametrize("side", [6, 65])
def test_load_images__refuses_images_that_are_too_small_or_too_large(
    tmp_path: Path, side: int
) -> None:
    np.savez(
        tmp_path / "a.npz", train_images=np.zeros((5, side, side), np.uint8), train_labels=FIVE
    )
    with pytest.raises(ConfigError, match=rf"images of \[{side}, {side}, 1\]"):
        load_images(str(tmp_path / "a.npz"))


@given(st.integers(4, 30), st.integers(2, 6), st.integers(0, 2**32))
def test_choose__takes_different_images_and_two_of_a_class_at_least(
    count: int, classes: int, seed: int
) -> None:
    images = some(120, classes)
    chosen = choose(images, count, np.random.default_rng(seed))
    assert len(chosen) == len(set(chosen.tolist())) == count
    sizes = np.unique(images.labels[chosen], return_counts=True)[1]
    assert sizes.min() >= 2
    assert len(sizes) >= 2


@pytest.mark.parametrize("images", [some(60, 60), some(30, 2), some(60, 1)])
def test_choose__refuses_a_set_that_is_too_small(images: ImageSet) -> None:
    with pytest.raises(ConfigError, match="too few"):
        choose(images, 20, np.random.default_rng(0))


def test_write_table__brings_every_image_to_its_site_bit_for_bit(tmp_path: Path) -> None:
    images = some(60, 4, channels=3)
    chosen = choose(images, 12, np.random.default_rng(0))
    config = write_table(tmp_path / "a.csv", images, chosen, ("a", "b", "c"))
    pool = loaded(config)
    assert pool.is_train.all()
    assert np.array_equal(pool.features, images.records[chosen])
    assert pool.natural_site is not None
    assert pool.natural_site.tolist() == ["a", "b", "c"] * 4
