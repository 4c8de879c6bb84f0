"""Scenario `images`: a folder of one's own pictures, with a folder for every class.

`path/CLASS/picture.png`, or with `sites=true` `path/SITE/CLASS/picture.png`.
What a picture is made into, whatever it was:

- the first frame, turned as its camera noted (EXIF);
- transparency is laid over black; palettes become their colours; 16-bit grey is
  scaled to 8 bits; then `colour` gives three channels and `grey` one;
- resized to `size` x `size` without keeping proportions, bilinearly with
  smoothing (as if seen from afar).

Nothing is left out silently: a file that is not a picture, or a broken one, is
an error that names it, as is one so large that it may be an attack; hidden files alone,
and those that Windows hides, are passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import DataError
from fedlearn.core.settings import Count, Name, Positive, Probability, config
from fedlearn.data.images.pixels import as_records, check_memory
from fedlearn.data.pool import Pool
from fedlearn.data.split import stratified
from fedlearn.tasks import ImageInput, Task

if TYPE_CHECKING:
    from PIL.Image import Image

_SHOWN = 5
_HIDDEN = ("thumbs.db", "desktop.ini")
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")


@config
class Images:
    """Pictures in folders that are called as their classes."""

    kind: Literal["images"] = "images"
    path: Name
    sites: bool = False
    """Whether the folders of classes lie in folders that are called as their sites."""
    classes: tuple[str, ...] = ()
    """The classes, where a site may lack some of them; empty: the folders."""
    size: Count = 28
    """Height and width that every picture is resized to."""
    colour: Literal["colour", "grey"] = "colour"
    test_fraction: Probability = 0.25
    max_gigabytes: Positive = 4.0
    """Largest size of the pictures in memory, as float32."""


@dataclass(frozen=True)
class Picture:
    """One file, and what its place says of it."""

    path: Path
    site: str
    label: str


def load(config: Images, rng: np.random.Generator) -> Pool:
    """The pictures of the folder, split by `rng` within site and class.

    Raises:
        DataError: the folder is none, is laid out otherwise, holds an empty class, one class
            only or a picture that cannot be read (all of these are listed), or is too large.
    """
    root = Path(config.path)
    found = list(pictures_in(config, root))
    classes = config.classes or tuple(sorted({one.label for one in found}))
    if strange := sorted({one.label for one in found} - set(classes)):
        raise DataError(f"{root}: folders that are none of scenario.classes: {', '.join(strange)}")
    if len(classes) < 2:
        raise DataError(
            f"{root}: one class only ({classes[0]!r}); there is nothing to learn. Expected is "
            f"{_layout(config, root)}"
        )
    form = ImageInput(
        channels=3 if config.colour == "colour" else 1, height=config.size, width=config.size
    )
    check_memory(str(root), len(found), form, config.max_gigabytes)
    pictures, digests = _read_all(config, root, found)
    labels = np.array([classes.index(one.label) for one in found], dtype=np.int64)
    sites = np.array([one.site for one in found]) if config.sites else None
    return Pool(
        name=root.resolve().name,
        task=Task(input=form, classes=classes),
        features=as_records(pictures),
        labels=labels,
        is_train=stratified(labels, sites, config.test_fraction, rng),
        natural_site=sites,
        notes=tuple(_notes(root, found, digests)),
    )


# --- Where the pictures are -----------------------------------------------------------


def pictures_in(config: Images, root: Path) -> Iterator[Picture]:
    """Every picture in the order of the paths; opens none.

    Raises:
        DataError: the folder is none, or is laid out otherwise; every problem.
    """
    _check_root(root)
    problems: list[str] = []
    found: list[Picture] = []
    for site in _folders(config, root, problems) if config.sites else [root]:
        for label in _folders(config, site, problems):
            files = [one for one in visible(label) if one.is_file()]
            problems += [
                f"{one}: is a folder; expected is {_layout(config, root)}"
                for one in visible(label)
                if one.is_dir()
            ]
            if not files and not problems:
                problems.append(
                    f"{label}: this class has no pictures; remove the folder or fill it"
                )
            name = site.name if config.sites else ""
            found += [Picture(one, name, label.name) for one in files]
    if not found and not problems:
        problems.append(
            f"{root}: is a folder that holds no folders of classes; expected is "
            f"{_layout(config, root)}"
        )
    if problems:
        raise DataError("\n".join(problems))
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
    return f"{root}/SITE/CLASS/picture" if config.sites else f"{root}/CLASS/picture"


# --- What a picture becomes -----------------------------------------------------------


def _read_all(
    config: Images, root: Path, found: Sequence[Picture]
) -> tuple[NDArray[np.uint8], list[bytes]]:
    """The pictures `uint8[n, size, size, channels]`, and a hash of every file."""
    channels = 3 if config.colour == "colour" else 1
    pictures = np.zeros((len(found), config.size, config.size, channels), np.uint8)
    digests, broken = [], []
    for i, one in enumerate(found):
        digests.append(hashlib.sha256(one.path.read_bytes()).digest())
        try:
            pictures[i] = read_picture(one.path, config.size, config.colour)
        except DataError as error:
            broken.append(str(error))
    if broken:
        more = f"\n{root}: and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise DataError("\n".join(broken[:_SHOWN]) + more)
    return pictures, digests


def read_picture(path: Path, size: int, colour: Literal["colour", "grey"]) -> NDArray[np.uint8]:
    """One picture as the module's text says: `uint8[size, size, 3 or 1]`.

    Raises:
        DataError: it is none, is damaged, or claims so many pixels that it may be an attack.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    bombs = (Image.DecompressionBombWarning, Image.DecompressionBombError)
    try:
        with catch_warnings():
            simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
            flat = _flat(picture).convert("RGB" if colour == "colour" else "L")
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: is not a picture; remove it from the folder") from error
    except bombs as error:
        raise DataError(
            f"{path}: has more than {Image.MAX_IMAGE_PIXELS:,} pixels, all of which would be in "
            "memory at once; make it smaller or remove it"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{path}: is damaged ({error}); remove or restore it") from error
    small = flat.resize((size, size), Image.Resampling.BILINEAR)
    pixels: NDArray[np.uint8] = np.asarray(small, np.uint8).reshape(size, size, -1)
    return pixels


def _flat(picture: Image) -> Image:
    """Without depth and transparency, so that `convert` does what its name says."""
    from PIL.Image import alpha_composite, fromarray, new

    if picture.mode in _DEEP_GREY:
        return fromarray((np.asarray(picture) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"mode {picture.mode}: numbers without a known range")
    if "A" in picture.mode or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        black = new("RGBA", layered.size, (0, 0, 0, 255))
        return alpha_composite(black, layered)
    return picture


def _notes(root: Path, found: Sequence[Picture], digests: Sequence[bytes]) -> Iterator[str]:
    first: dict[bytes, Picture] = {}
    copies: list[Picture] = []
    contradictions: list[Picture] = []
    for one, digest in zip(found, digests, strict=True):
        before = first.setdefault(digest, one)
        if before is not one:
            (copies if before.label == one.label else contradictions).append(one)
    if copies:
        yield (
            f"{root}: {len(copies)} pictures are copies of others (first: {copies[0].path}); they "
            "weigh twice, and may be in training and test alike"
        )
    if contradictions:
        yield (
            f"{root}: {len(contradictions)} pictures are in two classes "
            f"(first: {contradictions[0].path})"
        )
