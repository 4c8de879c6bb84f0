"""What `fedlearn data check` says of images: in folders that are called as classes, or in .npz.

Every image is opened as for a run, so all that are damaged are named at once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedlearn.core.errors import DataError, some
from fedlearn.core.rng import Streams
from fedlearn.data.check.report import SHOWN, Report, sizes_in_words
from fedlearn.data.check.sizes import (
    dealt,
    nominal_records,
    roughly,
    sites_for,
    sizes_if_dealt,
)
from fedlearn.data.images.folders import ImageFile, Images, alike_notes, images_in, visible
from fedlearn.data.images.medmnist import MedMnist
from fedlearn.data.images.pixels import pixel_notes
from fedlearn.data.images.reading import read_image
from fedlearn.data.scenario import Reading
from fedlearn.data.tables.guess import quoted

_MODEL = "model=squeezenet"
"""Pretrained: from random weights a network learns next to nothing of few images, or privately."""
_TEXTS = (".txt", ".md", ".html", ".docx", ".pdf", ".eml")


def check_folder(root: Path) -> Report:
    """A folder of images, by class or by site and class; which, its depth tells.

    Raises:
        DataError: it is laid out otherwise; every file that is in the wrong place.
    """
    inside = visible(root)
    if inside and all(one.is_file() for one in inside):
        raise DataError(
            f"{root}: is a folder of {len(inside)} files; name one of them (first: "
            f"{inside[0].name}), or lay images out in a folder for every class"
        )
    config = Images(path=str(root), sites=_by_site(root))
    found = list(images_in(config, root))
    if all(one.path.suffix.lower() in _TEXTS for one in found):
        raise DataError(
            f"{root}: is a folder of {len(found)} texts (first: {found[0].path.name}); make one "
            'file of them, .jsonl with a line {"text": ..., "label": ...} each, or a table'
        )
    opened = _Opened(found, config.size)
    classes = Counter(one.label for one in found)
    held = Counter(one.site for one in found)
    facts = [sizes_in_words("classes", dict(sorted(classes.items())))]
    if config.sites:
        facts.append(sizes_in_words("sites", dict(sorted(held.items()))))
    return Report(
        path=root,
        kind="images in folders",
        records=len(found),
        facts=(*facts, *_sizes(opened.sizes)),
        hints=(
            *alike_notes(found),
            *opened.hints(root),
            *_copies(root, found),
            *_few(classes),
        ),
        problems=(*_one_class(root, classes), *opened.broken),
        settings=tuple(_settings(root, held if config.sites else None, len(found))),
    )


def _settings(root: Path, held: Mapping[str, int] | None, images: int) -> Iterator[str]:
    """As the suggested command has it; `held` is how many images each site has, if any is named."""
    yield from ("scenario=images", f"scenario.path={quoted(str(root))}", _MODEL)
    yield from ("scenario.sites=true",) if held is not None else dealt(images)
    of_sites = [*held.values()] if held is not None else sizes_if_dealt(images)
    yield f"training.nominal_records={nominal_records(of_sites)}"
    if len(of_sites) == 2:  # of a sum over two a site would only have to take away its own part
        yield "secagg=off"


def check_archive(path: Path) -> Report:
    """A file in the form of MedMNIST.

    Raises:
        DataError: it is none, or what it holds cannot be learned from.
    """
    pool = MedMnist(path=str(path)).load(Reading(streams=Streams(0), cache=path.parent))
    digests = [hashlib.sha256(one).digest() for one in pool.features]
    channels, height, width = pool.features.shape[1:]
    trained = int(pool.is_train.sum())
    test = len(pool) - trained
    names, counts = np.unique(pool.labels[pool.is_train], return_counts=True)
    sizes = {pool.task.classes[i]: int(n) for i, n in zip(names, counts, strict=True)}
    with np.load(path, allow_pickle=False) as file:
        kept = [name.removeprefix("train_") for name in file.files if name.startswith("train_")]
    groups = [name for name in kept if name not in ("images", "labels")]
    number = 5 if groups else sites_for(len(pool))
    by_group = [f"scenario.groups={name}" for name in groups[:1]]
    sites = (*by_group, f"scenario.num_sites={number}") if groups else dealt(len(pool))
    return Report(
        path=path,
        kind="images in the form of MedMNIST",
        records=len(pool),
        facts=(
            f"{trained:,} images to train on and {test:,} to test on, of {height} x "
            f"{width} pixels and {channels} channel{'s' if channels > 1 else ''}",
            sizes_in_words("classes in training", sizes),
            *([f"could be the groups (scenario.groups): {some(groups)}"] if groups else []),
        ),
        hints=(
            *_repeated(digests, pool.labels.tolist(), pool.is_train.tolist()),
            *pixel_notes(
                str(path), (pool.features.transpose(0, 2, 3, 1) * 255 + 0.5).astype(np.uint8)
            ),
        ),
        settings=(
            "scenario=medmnist",
            f"scenario.path={quoted(str(path))}",
            *sites,
            _MODEL,
            f"training.nominal_records={roughly(trained / number)}",
        ),
    )


def _by_site(root: Path) -> bool:
    """Whether there are folders in the folders, and no images beside them."""
    first = [one for one in visible(root) if one.is_dir()]
    inside = [two for one in first for two in visible(one)]
    return bool(inside) and all(two.is_dir() for two in inside)


@dataclass(eq=False)
class _Opened:
    """Width and height of the images that can be read, what is wrong with the others, which have
    more frames than one; and the pixels, `size` wide and high."""

    found: Sequence[ImageFile]
    size: int
    sizes: list[tuple[int, int]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    several: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        from PIL import Image

        pixels = []
        for one in self.found:
            try:
                pixels.append(read_image(one.path, self.size, "colour"))
            except DataError as error:
                self.broken.append(str(error))
                continue
            with Image.open(one.path) as opened:
                self.sizes.append(opened.size)
                if getattr(opened, "n_frames", 1) > 1:
                    self.several.append(one.path)
        self.pixels = np.stack(pixels) if pixels else np.zeros((0, 0, 0, 3), np.uint8)

    def hints(self, root: Path) -> Iterator[str]:
        if self.several:
            first = self.several[0].relative_to(root)
            yield (
                f"{len(self.several)} files hold several images (frames, pages or layers), of "
                f"which the first is read (first file: {first})"
            )
        yield from pixel_notes(str(root), self.pixels)


def _sizes(sizes: Sequence[tuple[int, int]]) -> Iterator[str]:
    if not sizes:
        return
    widths, heights = zip(*sizes, strict=True)
    small, large = min(zip(widths, heights, strict=True)), max(zip(widths, heights, strict=True))
    if small == large:
        yield f"all are {small[0]} x {small[1]} pixels"
    else:
        yield (
            f"from {min(widths)} to {max(widths)} pixels wide and from {min(heights)} to "
            f"{max(heights)} high; scenario.size makes them one size"
        )


def _copies(root: Path, found: Sequence[ImageFile]) -> Iterator[str]:
    """Files with the same bytes, and those of them that are in two classes or at two sites."""
    first: dict[bytes, ImageFile] = {}
    pairs = []
    for one in found:
        before = first.setdefault(hashlib.sha256(one.path.read_bytes()).digest(), one)
        if before is not one:
            pairs.append((before, one))
    kinds = {
        "copies in another class": [p for p in pairs if p[0].label != p[1].label],
        "copies at another site": [
            p for p in pairs if p[0].label == p[1].label and p[0].site != p[1].site
        ],
        "copies": [p for p in pairs if (p[0].label, p[0].site) == (p[1].label, p[1].site)],
    }
    for what, of_kind in kinds.items():
        if of_kind:
            named = [
                f"{b.path.relative_to(root)} of {a.path.relative_to(root)}" for a, b in of_kind
            ]
            yield f"{len(of_kind)} {what}: {some(named)}"


def _few(classes: Counter[str]) -> Iterator[str]:
    if few := [name for name, count in sorted(classes.items()) if count < 2]:
        yield f"one image only, so nothing of it is tested: class {some(few)}"


def _one_class(root: Path, classes: Counter[str]) -> Iterator[str]:
    if len(classes) < 2:
        yield f"{root}: one class only ({next(iter(classes))!r}); there is nothing to learn"


def _repeated(
    digests: Sequence[bytes], labels: Sequence[int], is_train: Sequence[bool]
) -> Iterator[str]:
    first: dict[bytes, int] = {}
    pairs = [(first.setdefault(d, i), i) for i, d in enumerate(digests)]
    pairs = [(a, b) for a, b in pairs if a != b]
    train = sum(is_train)
    crossing = [(a, b) for a, b in pairs if is_train[a] != is_train[b]]
    if crossing:
        shown = [f"test {b - train} is train {a}" for a, b in crossing[:SHOWN]]
        yield f"{len(crossing)} test images are training images as well: {', '.join(shown)}"
    if inside := len(pairs) - len(crossing):
        yield f"{inside} images are copies of others in the same part"
    if other := sum(labels[a] != labels[b] for a, b in pairs):
        yield f"{other} copies have another label than the first of them"
