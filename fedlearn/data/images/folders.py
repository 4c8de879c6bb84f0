"""Scenario `images`: a folder of one's own images, with a folder for every class.

`path/CLASS/image.png`, or with `sites=true` `path/SITE/CLASS/image.png`.
What an image is made into, whatever it was, `fedlearn.data.images.reading` says.
Nothing is left out silently: a file that is not an image, or a broken one, is
an error that names it, as is one so large that it may be an attack; hidden files alone,
and those that Windows hides, are passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import DataError, refuse, some
from fedlearn.core.settings import Count, Name, Positive, Probability, config
from fedlearn.data.images.pixels import as_records, check_memory, pixel_notes
from fedlearn.data.images.reading import read_image
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading, Scenario
from fedlearn.data.split import by_content
from fedlearn.data.tables.cells import clean_text
from fedlearn.data.tables.spelling import lookalikes, may_be_one
from fedlearn.tasks import ClassificationTask, ImageInput, TaskConfig

_SHOWN = 5
_HIDDEN = ("thumbs.db", "desktop.ini")


@config
class Images(Scenario):
    """Images in folders that are called as their classes."""

    kind: Literal["images"] = "images"
    path: Name
    sites: bool = False
    """Whether the folders of classes lie in folders that are called as their sites."""
    classes: tuple[str, ...] = ()
    """The classes, where a site may lack some of them; empty: the folders."""
    size: Count = 28
    """Height and width that every image is resized to."""
    colour: Literal["colour", "grey"] = "colour"
    test_fraction: Probability = 0.25
    max_gigabytes: Positive = 4.0
    """Largest size of the images in memory, as float32."""

    def left_open(self, task: TaskConfig) -> Iterator[str]:
        """Which classes there are."""
        yield from () if self.classes else ("scenario.classes",)

    def load(self, reading: Reading) -> Pool:
        """The images of the folder; the bytes of a file decide whether it is for the test.

        Raises:
            DataError: the folder is none, is laid out otherwise, holds an empty class, one class
                only or an image that cannot be read (all of these are listed), or is too large.
        """
        if not self.classes:
            reading.require(["scenario.classes"])
        root = Path(self.path)
        found = list(images_in(self, root, by_record=reading.by_record))
        classes = self.classes or tuple(sorted({one.label for one in found}))
        if reading.by_record and self.classes:
            found = [one for one in found if one.label in classes and _is_readable(self, one.path)]
        if strange := sorted({one.label for one in found} - set(classes)):
            raise DataError(
                f"{root}: folders that are none of scenario.classes: {', '.join(strange)}"
            )
        if len(classes) < 2:
            raise DataError(
                f"{root}: one class only ({classes[0]!r}); there is nothing to learn. Expected is "
                f"{_layout(self, root)}"
            )
        form = ImageInput(
            channels=3 if self.colour == "colour" else 1, height=self.size, width=self.size
        )
        check_memory(str(root), len(found), form, self.max_gigabytes)
        images, digests = _read_all(self, root, found)
        labels = np.array([classes.index(one.label) for one in found], dtype=np.int64)
        sites = np.array([one.site for one in found]) if self.sites else None
        return Pool(
            name=root.resolve().name,
            task=ClassificationTask(input=form, classes=classes),
            features=as_records(images),
            labels=labels,
            is_train=by_content(digests, self.test_fraction, reading.streams),
            natural_site=sites,
            notes=(
                *alike_notes(found),
                *_notes(root, found, digests),
                *pixel_notes(str(root), images),
            ),
        )

    def agreed(self, of_run: Scenario) -> Scenario:
        """The run's, of the site's own folder and share of test records, in memory of its own."""
        if not isinstance(of_run, Images):
            return self
        own: dict[str, Any] = {name: getattr(self, name) for name in self.stays_with_site()}
        return replace(of_run, **own)

    def stays_with_site(self) -> frozenset[str]:
        """Where they are, which are for the test, and how much memory they may take."""
        return frozenset({"path", "sites", "test_fraction", "max_gigabytes"})


@dataclass(frozen=True)
class ImageFile:
    """One file, and what its place says of it."""

    path: Path
    site: str
    label: str


# --- Where the images are -----------------------------------------------------------


def images_in(config: Images, root: Path, *, by_record: bool = False) -> Iterator[ImageFile]:
    """Every image in the order of the paths; opens none. Read `by_record`, there may be none.

    Raises:
        DataError: the folder is none, or is laid out otherwise; every problem.
    """
    _check_root(root)
    problems: list[str] = []
    found: list[ImageFile] = []
    for site in _folders(config, root, problems) if config.sites else [root]:
        for label in _folders(config, site, problems):
            files = [one for one in visible(label) if one.is_file()]
            problems += [
                f"{one}: is a folder; expected is {_layout(config, root)}"
                for one in visible(label)
                if one.is_dir()
            ]
            if not files and not problems and not by_record:
                problems.append(f"{label}: this class has no images; remove the folder or fill it")
            name = clean_text(site.name) if config.sites else ""
            found += [ImageFile(one, name, clean_text(label.name)) for one in files]
    if not found and not problems and not by_record:
        problems.append(
            f"{root}: is a folder that holds no folders of classes; expected is "
            f"{_layout(config, root)}"
        )
    refuse(problems)
    yield from found


def _check_root(root: Path) -> None:
    if root.is_file():
        hint = "choose scenario=medmnist" if root.suffix == ".npz" else "name the folder of classes"
        raise DataError(f"{root}: is a file; {hint}")
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")


def _folders(config: Images, parent: Path, problems: list[str]) -> list[Path]:
    inside = visible(parent)
    loose = [one for one in inside if not one.is_dir()]
    if loose:
        problems.append(
            f"{loose[0]}: lies beside the folders ({len(loose)} files do); expected is "
            f"{_layout(config, Path(config.path))}"
        )
    return [one for one in inside if one.is_dir()]


def visible(folder: Path) -> list[Path]:
    """What is in a folder, without what systems hide there."""
    inside = sorted(folder.iterdir())
    return [one for one in inside if one.name[0] != "." and one.name.lower() not in _HIDDEN]


def _layout(config: Images, root: Path) -> str:
    return f"{root}/SITE/CLASS/image" if config.sites else f"{root}/CLASS/image"


def alike_notes(found: Sequence[ImageFile]) -> Iterator[str]:
    """Classes, and sites, whose folders are called alike."""
    for what, names in (
        ("classes", {one.label for one in found}),
        ("sites", {one.site for one in found}),
    ):
        if groups := lookalikes(names):
            yield f"{what}: {may_be_one(groups)}"


# --- What an image becomes -----------------------------------------------------------


def _read_all(
    config: Images, root: Path, found: Sequence[ImageFile]
) -> tuple[NDArray[np.uint8], list[bytes]]:
    """The images `uint8[n, size, size, channels]`, and a hash of every file."""
    channels = 3 if config.colour == "colour" else 1
    images = np.zeros((len(found), config.size, config.size, channels), np.uint8)
    digests, broken = [], []
    for i, one in enumerate(found):
        digests.append(hashlib.sha256(one.path.read_bytes()).digest())
        try:
            images[i] = read_image(one.path, config.size, config.colour)
        except DataError as error:
            broken.append(str(error))
    if broken:
        raise DataError(some(broken, _SHOWN, between="\n"))
    return images, digests


def _is_readable(config: Images, path: Path) -> bool:
    try:
        read_image(path, config.size, config.colour)
    except DataError:
        return False
    return True


def _notes(root: Path, found: Sequence[ImageFile], digests: Sequence[bytes]) -> Iterator[str]:
    first: dict[bytes, ImageFile] = {}
    copies: list[ImageFile] = []
    contradictions: list[ImageFile] = []
    for one, digest in zip(found, digests, strict=True):
        before = first.setdefault(digest, one)
        if before is not one:
            (copies if before.label == one.label else contradictions).append(one)
    if copies:
        yield (
            f"{root}: {len(copies)} images are copies of others (first: {copies[0].path}); they "
            "weigh twice, and are in training or in the test together"
        )
    if contradictions:
        yield (
            f"{root}: {len(contradictions)} images are in two classes "
            f"(first: {contradictions[0].path})"
        )
