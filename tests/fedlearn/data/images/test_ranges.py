"""Images whose values are not those of their format are said, and what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedlearn.core.errors import DataError
from fedlearn.data.check.files import check
from fedlearn.data.images.pixels import pixel_notes
from fedlearn.data.images.reading import read_image

from ....effort import examples
from ..inputs import given as file_given


@settings(max_examples=examples(50), deadline=None)
@given(st.integers(1, 255), st.integers(0, 5), st.integers(0, 2**32 - 1), st.sampled_from([1, 3]))
def test_pixels__that_are_dark_or_of_one_colour_are_said(
    largest: int, constant: int, seed: int, channels: int
) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, largest + 1, (6, 5, 5, channels)).astype(np.uint8)
    images[:, 0, 0], images[:, 0, 1] = 0, largest
    images[:constant] = images[:constant, :1, 1:2]
    notes = list(pixel_notes("here", images))
    assert sum("nearly black" in note for note in notes) == (largest < 64)
    assert sum(f"{constant} of 6 images" in note for note in notes) == (constant > 0)
    assert len(notes) == (largest < 64) + (constant > 0)


def test_image__of_12_bits_in_16_is_dark(tmp_path: Path) -> None:
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 65  # to 4,095
    Image.fromarray(deep).save(tmp_path / "a.png")
    small = read_image(tmp_path / "a.png", 8, "grey")
    assert small.max() == 4095 // 257
    (note,) = pixel_notes("here", small[None])
    assert "no pixel is above 15 of 255" in note


def test_image__of_12_bits_among_others_of_8_is_said(tmp_path: Path) -> None:
    deep, plain = np.arange(64).reshape(8, 8) * 65, np.arange(64).reshape(8, 8) * 4
    for number in range(6):
        for label in ("ill", "well"):
            folder = tmp_path / "scans" / label
            folder.mkdir(parents=True, exist_ok=True)
            whole = (deep + number).astype(np.uint16) if number == 3 else plain.astype(np.uint8)
            whole[0, number] += label == "ill"
            Image.fromarray(whole).save(folder / f"{number}.png")
    (hint,) = (one for one in check(tmp_path / "scans").hints if "black" in one)
    assert "2 of 12 images are nearly black, with no pixel above 15 of 255 beside 25" in hint


def test_image__of_floating_point_and_of_dicom_are_no_damage(tmp_path: Path) -> None:
    scan, dicom = tmp_path / "a.tiff", tmp_path / "b.dcm"
    Image.fromarray(np.linspace(-3, 900, 64, dtype=np.float32).reshape(8, 8)).save(scan)
    dicom.write_bytes(bytes(128) + b"DICM" + bytes(20))
    with pytest.raises(DataError, match=r"without a known range .*convert it to 8 or 16 bits"):
        read_image(scan, 8, "grey")
    with pytest.raises(DataError, match="is DICOM; convert it"):
        read_image(dicom, 8, "grey")


def test_given_images__of_one_colour_are_said() -> None:
    path = file_given("med_const.npz")
    with np.load(path) as file:
        images = np.concatenate([file["train_images"], file["test_images"]])
    constant = sum(int(np.ptp(one) == 0) for one in images)
    assert constant
    assert any(f"{constant} of {len(images)} images" in hint for hint in check(path).hints)
