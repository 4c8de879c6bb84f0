"""Scenario `images`: what becomes of images of every kind, and of folders laid out wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from fedlearn.core.errors import DataError
from fedlearn.data.images.folders import Images
from fedlearn.data.images.reading import read_image
from fedlearn.data.partition import Natural
from fedlearn.data.pool import Pool, deal

from ..reading import loaded


def save(
    path: Path, colour: Any = (10, 20, 30), size: tuple[int, int] = (6, 4), **how: Any
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(how.pop("mode", "RGB"), size, colour).save(path, **how)
    return path


def folder(root: Path, *, per_class: int = 4) -> Path:
    for number in range(per_class):
        save(root / "cat" / f"{number}.png", (200, number, 0))
        save(root / "dog" / f"{number}.png", (0, number, 200))
    return root


def load(path: Path, seed: int = 0, **settings: Any) -> Pool:
    config = Images(path=str(path), **({"size": 3} | settings))
    return loaded(config, seed=seed)


def test_images__are_labelled_by_their_folder(tmp_path: Path) -> None:
    pool = load(folder(tmp_path, per_class=8))
    assert pool.task.classes == ("cat", "dog")
    assert pool.features.shape == (16, 3, 3, 3)
    reddish = pool.features[:, 0].mean((1, 2)) > pool.features[:, 2].mean((1, 2))
    np.testing.assert_array_equal(pool.labels, (~reddish).astype(int))
    assert pool.natural_site is None


def test_images__are_for_training_or_the_test_by_the_bytes_of_their_file(tmp_path: Path) -> None:
    pool = load(folder(tmp_path, per_class=40))
    assert 0 < pool.is_train.sum() < 80
    assert not any("may be in training and test" in note for note in pool.notes)
    for number in range(40):
        (tmp_path / "dog" / f"{number}.png").rename(tmp_path / "dog" / f"{99 - number}.png")
        copy = (tmp_path / "cat" / f"{number}.png").read_bytes()
        (tmp_path / "cat" / f"{number}-again.png").write_bytes(copy)
    again = load(tmp_path)
    cats, dogs = again.is_train[again.labels == 0], again.is_train[again.labels == 1]
    np.testing.assert_array_equal(cats[::2], cats[1::2])
    assert dogs.sum() == pool.is_train[pool.labels == 1].sum()


def test_images__lie_in_folders_of_sites_where_told(tmp_path: Path) -> None:
    for site in ("north", "south"):
        folder(tmp_path / site)
    pool = load(tmp_path, sites=True)
    sites = deal(pool, Natural().assign(pool, np.random.default_rng(0)))
    assert list(sites) == ["north", "south"]
    assert [len(s.train) + len(s.test) for s in sites.values()] == [8, 8]
    assert pool.task.classes == ("cat", "dog")


def test_images__of_all_sizes_become_one(tmp_path: Path) -> None:
    folder(tmp_path)
    save(tmp_path / "cat" / "wide.jpg", (200, 9, 0), size=(90, 2))
    assert load(tmp_path, size=5).features.shape == (9, 3, 5, 5)
    assert load(tmp_path, size=5, colour="grey").features.shape == (9, 1, 5, 5)


def pixel(path: Path, colour: Literal["colour", "grey"] = "colour") -> list[int]:
    return read_image(path, 1, colour).reshape(-1).tolist()  # type: ignore[no-any-return]


def test_read_image__lays_transparency_over_black(tmp_path: Path) -> None:
    half = save(tmp_path / "half.png", (200, 100, 0, 128), mode="RGBA")
    assert pixel(half) == [100, 50, 0]
    grey = save(tmp_path / "grey.png", (200, 0), mode="LA")
    assert pixel(grey, "grey") == [0]


def test_read_image__takes_the_colours_of_a_palette(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 30, 60, 90])
    image.save(tmp_path / "palette.png")
    assert pixel(tmp_path / "palette.png") == [30, 60, 90]
    image.save(tmp_path / "hole.png", transparency=1)
    assert pixel(tmp_path / "hole.png") == [0, 0, 0]


def test_read_image__scales_deep_grey_instead_of_cutting_it(tmp_path: Path) -> None:
    deep = np.full((4, 4), 257 * 77, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert pixel(tmp_path / "deep.png", "grey") == [77]
    assert pixel(tmp_path / "deep.png") == [77, 77, 77]


def test_read_image__turns_as_the_camera_noted(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 3  # turned upside down
    image.save(tmp_path / "turned.png", exif=exif)
    found = read_image(tmp_path / "turned.png", 2, "grey")
    assert found[0, 0, 0] < found[0, 1, 0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n", "is not an image"),
        (None, "is damaged"),
    ],
)
def test_images__name_every_file_that_is_no_whole_image(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    folder(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "whole.png").unlink()
    for name in ("a.png", "b.png"):
        (tmp_path / "dog" / name).write_bytes(whole[:1000] if content is None else content)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        str(tmp_path / "dog" / n) for n in ("a.png", "b.png")
    ]
    assert all(reason in line for line in lines)


def test_images__list_a_few_of_many_broken_files(tmp_path: Path) -> None:
    folder(tmp_path)
    for number in range(8):
        (tmp_path / "cat" / f"broken{number}.png").write_bytes(b"x")
    with pytest.raises(DataError, match="and 3 more"):
        load(tmp_path)


def test_images__refuse_an_image_that_claims_too_many_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    folder(tmp_path)
    save(tmp_path / "cat" / "bomb.png", size=(20, 20))
    with pytest.raises(DataError, match=r"bomb\.png: has more than 100 pixels"):
        load(tmp_path)


def test_images__of_many_pixels_are_refused_without_a_warning_of_another_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # 400 are less than twice that
    save(tmp_path / "large.png", size=(20, 20))
    with pytest.raises(DataError, match="has more than 300 pixels"):
        read_image(tmp_path / "large.png", 3, "colour")


def test_images__refuse_numbers_without_a_range(tmp_path: Path) -> None:
    path = tmp_path / "float.tiff"
    Image.fromarray(np.zeros((3, 3), np.float32)).save(path)
    with pytest.raises(DataError, match="numbers without a known range"):
        read_image(path, 3, "grey")


def test_images__name_a_wrong_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no folders of classes"):
        load(tmp_path / "empty")
    file = save(tmp_path / "file.png")
    with pytest.raises(DataError, match="is a file; name the folder of classes"):
        load(file)
    np.savez(tmp_path / "set.npz", a=np.zeros(1))
    with pytest.raises(DataError, match="choose scenario=medmnist"):
        load(tmp_path / "set.npz")


def test_images__name_an_empty_class(tmp_path: Path) -> None:
    (folder(tmp_path) / "fish").mkdir()
    with pytest.raises(DataError, match="fish: this class has no images"):
        load(tmp_path)


def test_images__do_not_take_one_class_for_a_task(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "1.png")
    with pytest.raises(DataError, match="one class only"):
        load(tmp_path)


def test_images__lie_neither_too_high_nor_too_deep(tmp_path: Path) -> None:
    folder(tmp_path)
    loose = save(tmp_path / "loose.png")
    with pytest.raises(DataError, match=r"loose\.png: lies beside the folders"):
        load(tmp_path)
    loose.unlink()
    save(tmp_path / "cat" / "deep" / "1.png")
    with pytest.raises(DataError, match="deep: is a folder; expected is"):
        load(tmp_path)


def test_images__pass_over_hidden_files_alone(tmp_path: Path) -> None:
    folder(tmp_path)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    assert len(load(tmp_path)) == 8


def test_images__are_refused_where_they_would_not_fit_into_memory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"8 images of 9 x 9 x 3 take .*max_gigabytes=1e-06"):
        load(folder(tmp_path), size=9, max_gigabytes=1e-6)


def test_images__say_which_are_there_twice(tmp_path: Path) -> None:
    folder(tmp_path)
    save(tmp_path / "cat" / "z.png", (200, 1, 0))
    save(tmp_path / "dog" / "z.png", (200, 2, 0))
    copies, contradictions, _ = load(tmp_path).notes  # all of them are of one colour
    assert "1 images are copies" in copies
    assert "1 images are in two classes" in contradictions


def test_images__are_split_by_the_seed(tmp_path: Path) -> None:
    folder(tmp_path, per_class=12)
    splits = [load(tmp_path, seed).is_train for seed in (0, 0, 1)]
    assert (splits[0] == splits[1]).all()
    assert (splits[0] != splits[2]).any()
