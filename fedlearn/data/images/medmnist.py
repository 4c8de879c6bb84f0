"""Scenario `medmnist`: images in the file form of MedMNIST, known sets or one's own.

A file `.npz` holds `{train,val,test}_images`, uint8[n, height, width] or with
three channels last, and `{train,val,test}_labels`, one number each; it may hold
`{train,val,test}_<groups>`, whole numbers that say which images belong
together. The known sets (Yang et al. 2023, "MedMNIST v2") are brought from
their official address and checked by the MD5 that is published with them,
which finds damage; against malice it is weak, so do not take a set from
another place by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, DataError, refuse
from fedlearn.core.files import DAMAGED_ARRAYS
from fedlearn.core.settings import Natural, Positive, config
from fedlearn.data.datasets import archives
from fedlearn.data.images.medmnist_sets import SETS
from fedlearn.data.images.pixels import as_records, check_memory, pixel_notes
from fedlearn.data.partition import sites_of_groups
from fedlearn.data.pool import Pool, taken
from fedlearn.data.scenario import Reading, Scenario
from fedlearn.tasks import ClassificationTask, ImageInput

_MAX_CLASSES = 1000
_CHANNELS = (1, 3, 4)


@config
class MedMnist(Scenario):
    """A set by `name`, or a file by `path`."""

    kind: Literal["medmnist"] = "medmnist"
    name: str = ""
    path: str = ""
    classes: tuple[str, ...] = ()
    """Names of the classes of an own file, in the order of their numbers; else the numbers."""
    groups: str = ""
    """What the array of groups is called after `train_`: `groups`; empty: there is none."""
    num_sites: Natural = 0
    """Natural sites, to which whole groups are dealt, or single images where there are no
    groups; 0: every group is a site."""
    test: Literal["test", "val"] = "test"
    """What is tested on. Choose settings on `val`; neither is ever trained on."""
    max_gigabytes: Positive = 4.0
    """Largest size of the images in memory, as float32."""

    def problems(self) -> Iterator[str]:
        """What contradicts itself."""
        if bool(self.name) == bool(self.path):
            yield (
                "scenario.path: name a file (scenario.path=my.npz) or a known set "
                f"(scenario.name={next(iter(SETS))}), one of the two"
            )
        elif self.name and self.name not in SETS:
            yield f"scenario.name={self.name}: must be one of {', '.join(SETS)}"
        if self.classes and self.name:
            yield "scenario.classes: a known set has its own"

    def load(self, reading: Reading) -> Pool:
        """The training records of the file, and those to test on; groups are dealt to sites.

        Raises:
            DataError: the file is not there, is damaged, or holds what cannot be learned from.
            ConfigError: the config contradicts itself.
        """
        refuse(self.problems(), ConfigError)
        path = _path(self, reading.cache)
        try:
            with path.open("rb") as content:  # numpy would leave a damaged one open
                file = np.load(content, allow_pickle=False)
                if not isinstance(file, np.lib.npyio.NpzFile):
                    raise DataError(f"{path}: is a single array; a .npz file is needed")
                with file:
                    return _pool(self, path, file, reading)
        except DAMAGED_ARRAYS as error:
            raise DataError(
                f"{path}: cannot be read as a .npz file of numbers ({error})"
            ) from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error

    def agreed(self, of_run: Scenario) -> Scenario:
        """The run's, of the site's own file and all of it, in memory of its own: nobody else says
        which part is whose."""
        if not isinstance(of_run, MedMnist):
            return self
        own: dict[str, Any] = {name: getattr(self, name) for name in self.stays_with_site()}
        return replace(of_run, **own)

    def stays_with_site(self) -> frozenset[str]:
        """Where they are, what of them, and how much memory they may take."""
        return frozenset({"path", "groups", "num_sites", "max_gigabytes"})


def _path(config: MedMnist, cache: Path) -> Path:
    if config.name:
        return archives.fetch(SETS[config.name].file, cache)
    path = Path(config.path)
    if path.is_dir():
        raise DataError(
            f"{path}: is a folder; name the .npz file in it, or choose scenario=images for a "
            "folder of images"
        )
    return path


def _pool(config: MedMnist, path: Path, file: np.lib.npyio.NpzFile, reading: Reading) -> Pool:
    if not (config.classes or config.name):
        reading.require(["scenario.classes"])
    parts = ("train", config.test)
    shapes = [_shape(path, file, f"{part}_images") for part in parts]
    if shapes[0][1:] != shapes[1][1:]:
        raise DataError(f"{path}: training images are {shapes[0][1:]}, others {shapes[1][1:]}")
    height, width, *channels = shapes[0][1:]
    form = ImageInput(channels=channels[0] if channels else 1, height=height, width=width)
    check_memory(str(path), sum(shape[0] for shape in shapes), form, config.max_gigabytes)
    labels = [
        _labels(path, file, part, shape[0]) for part, shape in zip(parts, shapes, strict=True)
    ]
    is_train = np.repeat([True, False], [len(part) for part in labels])
    together = np.concatenate(labels)
    sound = np.ones(len(together), np.bool_)
    if reading.by_record and config.classes:
        sound = (together >= 0) & (together < len(config.classes))
        together = np.where(sound, together, 0)
    else:
        _check_labels(path, together)
    classes = _classes(config, path, together)
    seen = np.bincount(together[is_train], minlength=len(classes))
    refuse(
        f"{path}: class {name!r} has no training image; leave it out or add some"
        for name, count in zip(classes, seen, strict=True)
        if not count and not reading.by_record
    )
    groups = _groups(config, path, file, [len(part) for part in labels])
    pixels = [_array(path, file, f"{part}_images") for part in parts]
    unusual = pixel_notes(str(path), np.concatenate(pixels))
    images = [as_records(part) for part in pixels]
    pool = Pool(
        name=config.name or path.stem,
        task=ClassificationTask(input=form, classes=classes),
        features=np.concatenate(images),
        labels=together,
        is_train=is_train,
        natural_site=_sites(config, groups, is_train, reading.streams.get("groups")),
        notes=(*_notes(path, groups, is_train), *unusual),
    )
    return pool if sound.all() else taken(pool, np.flatnonzero(sound))


def _shape(path: Path, file: np.lib.npyio.NpzFile, name: str) -> tuple[int, ...]:
    """The shape of an array of images, from its header alone."""
    _require(path, file, name)
    assert file.zip is not None  # noqa: S101  (it is open)
    with file.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, _, number = np.lib.format.read_array_header_1_0(member)
        else:
            shape, _, number = np.lib.format.read_array_header_2_0(member)
    if number != np.uint8:
        raise DataError(f"{path}: {name} holds {number}; images are uint8, 0 to 255")
    if len(shape) != 3 and not (len(shape) == 4 and shape[3] in _CHANNELS):
        raise DataError(
            f"{path}: {name} has shape {shape}; images are [n, height, width], or "
            "[n, height, width, channels] with 1, 3 or 4 channels (volumes are not taken)"
        )
    return tuple(int(side) for side in shape)


def _labels(path: Path, file: np.lib.npyio.NpzFile, part: str, count: int) -> NDArray[np.int64]:
    name = f"{part}_labels"
    values = _array(path, file, name)
    if values.ndim == 2 and values.shape[1] > 1:
        raise DataError(f"{path}: {name} has {values.shape[1]} labels per image; one is needed")
    if values.dtype.kind not in "iu":
        raise DataError(f"{path}: {name} holds {values.dtype}; classes are whole numbers")
    flat = values.reshape(-1)
    if len(flat) != count:
        raise DataError(f"{path}: {count} {part}_images and {len(flat)} {name}")
    return flat.astype(np.int64)


def _check_labels(path: Path, labels: NDArray[np.int64]) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < _MAX_CLASSES:
        found = f"{labels.min()} to {labels.max()}"
        raise DataError(f"{path}: labels hold {found}; classes count from 0")


def _classes(config: MedMnist, path: Path, labels: NDArray[np.int64]) -> tuple[str, ...]:
    count = int(labels.max(initial=0)) + 1
    given = SETS[config.name].classes if config.name else config.classes
    if given and len(given) < count:
        raise DataError(f"{path}: holds class {count - 1}, and {len(given)} classes are named")
    return given or tuple(str(number) for number in range(count))


def _groups(
    config: MedMnist, path: Path, file: np.lib.npyio.NpzFile, counts: list[int]
) -> NDArray[np.int64] | None:
    if not config.groups:
        return None
    names = [f"{part}_{config.groups}" for part in ("train", config.test)]
    found = [_array(path, file, name).reshape(-1) for name in names]
    for name, values, count in zip(names, found, counts, strict=True):
        if values.dtype.kind not in "iu" or len(values) != count:
            raise DataError(f"{path}: {name} must hold one whole number for each of {count} images")
    return np.concatenate(found).astype(np.int64)


def _sites(
    config: MedMnist,
    groups: NDArray[np.int64] | None,
    is_train: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.str_] | None:
    if groups is None and not config.num_sites:
        return None
    together = np.arange(len(is_train)) if groups is None else groups
    return sites_of_groups(together, is_train, config.num_sites, rng)


def _notes(
    path: Path, groups: NDArray[np.int64] | None, is_train: NDArray[np.bool_]
) -> Iterator[str]:
    if groups is not None:
        shared = np.intersect1d(groups[is_train], groups[~is_train])
        if len(shared):
            yield (
                f"{path}: {len(shared)} groups are in training and in test alike; if images of "
                "one group are of one person, test figures are too good"
            )


def _array(path: Path, file: np.lib.npyio.NpzFile, name: str) -> NDArray[Any]:
    _require(path, file, name)
    found: NDArray[Any] | bytes = file[name]
    if not isinstance(found, np.ndarray):  # NumPy gives other files as bytes
        raise DataError(f"{path}: {name} is no array")
    return found


def _require(path: Path, file: np.lib.npyio.NpzFile, name: str) -> None:
    if name not in file:
        raise DataError(f"{path}: holds no array {name!r}; there are {', '.join(file.files)}")
