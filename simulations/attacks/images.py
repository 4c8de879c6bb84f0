"""Images for demonstrations: a public set that comes with scikit-learn, or a file of one's own.

They are dealt out to sites as a table of pixels, so that a demonstration runs
through the same scenario (`csv`) and the same model as any study of tables.
"""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import Csv
from fedlearn.data.tables.scaling import Unscaled
from simulations.attacks.similarity import WINDOW

DIGITS: Final = "digits"
MOST_VALUES: Final = 4096
"""Values of one image: every one is a column of the table."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """`values: float32[n, height, width, channels]` in [0, 1] and `labels: int64[n]`."""

    name: str
    values: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def records(self) -> NDArray[np.float32]:
        """The images as rows: `float32[n, height * width * channels]`."""
        return self.values.reshape(len(self.values), -1)


def load_images(name: str) -> ImageSet:
    """The set `digits` (1,797 scans of handwritten digits, 8 x 8), or an `.npz` file.

    A file follows the convention of MedMNIST: `train_images: uint8[n, height, width]`
    or `[n, height, width, 3]`, and `train_labels`.

    Raises:
        DataError: the file cannot be read, or is not of that form.
        ConfigError: its images are too large or too small for a demonstration.
    """
    if name == DIGITS:
        from sklearn.datasets import load_digits  # half a second

        pixels, labels = load_digits(return_X_y=True)
        values = (pixels / 16).astype(np.float32).reshape(-1, 8, 8, 1)
        return ImageSet(name="handwritten digits of scikit-learn", values=values, labels=labels)
    return _from_file(Path(name))


def _from_file(path: Path) -> ImageSet:
    try:
        with path.open("rb") as data, np.load(data, allow_pickle=False) as file:
            images, labels = file["train_images"], file["train_labels"].reshape(-1)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"images={path}: must be {DIGITS}, or an .npz file with train_images and train_labels "
            f"({error})"
        ) from None
    if images.ndim == 3:
        images = images[..., None]
    wrong = images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]
    if wrong or images.shape[-1] not in (1, 3):
        raise DataError(
            f"images={path}: train_images is {images.dtype}{list(images.shape)}; it must be "
            "uint8[n, height, width] or [n, height, width, 3], with one label each"
        )
    if min(images.shape[1:3]) < WINDOW or images[0].size > MOST_VALUES:
        raise ConfigError(
            [
                f"images={path}: images of {list(images.shape[1:])}; a side must have at least "
                f"{WINDOW} pixels, and an image at most {MOST_VALUES} values: scale them first"
            ]
        )
    values = (images / np.float32(255)).astype(np.float32)
    return ImageSet(name=path.stem, values=values, labels=labels.astype(np.int64))


def choose(images: ImageSet, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` images at random, of so many classes that each has two at least, in random order.

    Raises:
        ConfigError: the set is too small.
    """
    order = rng.permutation(len(images.labels))
    classes, sizes = np.unique(images.labels, return_counts=True)
    wanted = min(len(classes), count // 2)
    each = -(-count // wanted)
    large = classes[sizes >= each]
    if len(large) < max(2, wanted) or 2 * count > len(images.labels):
        raise ConfigError(
            [
                f"sites times records={count}: needs {wanted} classes of {each} images, and as "
                f"many others again; {images.name} has too few. Ask for fewer"
            ]
        )
    kept = rng.permutation(large)[:wanted]
    queues = [iter(order[images.labels[order] == label]) for label in kept]
    chosen = np.array([next(queues[i % wanted]) for i in range(count)], np.int64)
    return rng.permutation(chosen)


def write_table(
    path: Path, images: ImageSet, chosen: NDArray[np.int64], sites: tuple[str, ...]
) -> Csv:
    """Deal the chosen images out to `sites` in turn, as a table; the scenario that reads it.

    Every image is a training record, and its values arrive at the site as they are here.
    """
    columns = [f"pixel_{i:04}" for i in range(images.records.shape[1])]
    with path.open("w", encoding="utf-8", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["site", "label", *columns])
        for turn, row in enumerate(chosen):
            label = f"class {images.labels[row]}"
            values = (repr(float(value)) for value in images.records[row])
            sheet.writerow([sites[turn % len(sites)], label, *values])
    return Csv(
        path=str(path),
        label="label",
        site="site",
        numeric=tuple(columns),
        allow_identifiers=tuple(columns),
        # As good as none: nothing is tested here.
        test_fraction=1e-12,
        scaling=Unscaled(),
    )
