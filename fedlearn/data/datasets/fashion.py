"""Scenario `fashion`: Fashion-MNIST, 70,000 grey images of clothes in ten classes.

Xiao, Rasul and Vollgraf 2017; MIT licence. The four files are read where the
package `dataset-fashion-mnist` of Debian and Ubuntu puts them, in the folder
`fashion-mnist` of the cache, or in one of one's own; the hashes of what is in
them are pinned. The split is the published one.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import DataError
from fedlearn.core.settings import Natural, config
from fedlearn.data.images.pixels import as_records
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading, Scenario
from fedlearn.tasks import ClassificationTask, ImageInput

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
RECORDS = 70_000
VALIDATION = 10_000
# Of what is in the files: how it is packed differs between the authors' and Debian's.
_SHA256 = {
    f"{name}-ubyte.gz": digest
    for name, digest in (
        ("train-images-idx3", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        ("train-labels-idx1", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        ("t10k-images-idx3", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        ("t10k-labels-idx1", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    )
}


@config
class Fashion(Scenario):
    """Fashion-MNIST, without sites of its own."""

    kind: Literal["fashion"] = "fashion"
    tells = "nothing"
    path: str = ""
    """The folder of the four files; empty: that of the system's package, or of the cache."""
    test: Literal["test", "val"] = "test"
    """`val`: the last 10,000 training images are tested on, and not trained on."""
    limit: Natural = 0
    """For a quick try: the first so many images of either part; 0: all."""

    def load(self, reading: Reading) -> Pool:
        """The 60,000 training and 10,000 test images, or those of `val`."""
        folder = Path(self.path) if self.path else usual_folder(reading.cache)
        _check_folder(folder)
        images, labels = _read(folder, "train")
        if self.test == "test":
            test_images, test_labels = _read(folder, "t10k")
            images = np.concatenate([images, test_images])
            labels = np.concatenate([labels, test_labels])
        is_train = np.arange(len(labels)) < len(labels) - VALIDATION
        if self.limit:
            rows = np.concatenate(
                [np.flatnonzero(part)[: self.limit] for part in (is_train, ~is_train)]
            )
            images, labels, is_train = images[rows], labels[rows], is_train[rows]
        return Pool(
            name="fashion",
            task=ClassificationTask(
                input=ImageInput(channels=1, height=28, width=28), classes=CLASSES
            ),
            features=as_records(images),
            labels=labels.astype(np.int64),
            is_train=is_train,
        )

    def agreed(self, of_run: Scenario) -> Scenario:
        """The run's, of the site's own files."""
        return replace(of_run, path=self.path) if isinstance(of_run, Fashion) else self


def usual_folder(cache: Path) -> Path:
    """Where the files are looked for by themselves: the system's package, else the cache."""
    own = cache / "fashion-mnist"
    return SYSTEM_FOLDER if SYSTEM_FOLDER.is_dir() or not own.is_dir() else own


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise DataError(f"{folder}: is a file; name the folder that holds {', '.join(_SHA256)}")
    missing = [name for name in _SHA256 if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder}: holds no {', '.join(missing)}; install the system's package "
            "dataset-fashion-mnist, or set scenario.path to a folder with the published files"
        )


def _read(folder: Path, part: Literal["train", "t10k"]) -> tuple[NDArray[np.uint8], ...]:
    images = _idx(folder / f"{part}-images-idx3-ubyte.gz")
    return images, _idx(folder / f"{part}-labels-idx1-ubyte.gz")


def _idx(path: Path) -> NDArray[np.uint8]:
    """An array in the IDX form of MNIST (LeCun, Cortes, Burges): magic, sides, bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked ({error})") from error
    got = hashlib.sha256(content).hexdigest()
    if got != _SHA256[path.name]:
        raise DataError(
            f"{path}: does not hold the published data: expected SHA-256 {_SHA256[path.name]} "
            f"unpacked, got {got}"
        )
    sides = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sides)
