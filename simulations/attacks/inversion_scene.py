"""What the demonstration of reconstruction runs on: settings, images, and ways to protect updates.

Images are a public set that comes with scikit-learn, or a file of one's own. They are dealt
out to sites as a table of pixels, so that a demonstration runs through the same scenario
(`csv`) and the same model as any study of tables.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from fedlearn.config import RunConfig, load
from fedlearn.config.composition import compose_tree
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import DAMAGED_ARRAYS, named_arrays
from fedlearn.core.rng import Streams
from fedlearn.core.settings import Count, Name, Natural, Positive, Probability
from fedlearn.core.vector import Vector
from fedlearn.crypto.settings import TransportPlain
from fedlearn.data import Csv
from fedlearn.data.tables.scaling import Unscaled
from fedlearn.mechanisms import NoPrivacy
from fedlearn.results.result import ResultFile
from fedlearn.secagg.settings import SecAggOff, sum_of
from simulations.attacks.reconstruction import WINDOW

DIGITS: Final = "digits"
MOST_VALUES: Final = 4096
"""Values of one image: every one is a column of the table."""

FEWEST_SITES: Final = 4
"""With two classes, and two images of each, there is something to learn."""
MOST_SITES: Final = 20
ROUNDS: Final = 3
"""One as always, one that is watched, one in which the coordinator lies."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `fedlearn audit demo=inversion` takes as `key=value`."""

    images: Name = DIGITS
    """`digits`, or an `.npz` file (see `load_images`)."""
    sites: Annotated[int, Ge(FEWEST_SITES), Le(MOST_SITES)] = 8
    records: Count = 1
    """Images that every site trains on; one is the worst case for a record."""
    epsilon: Positive = 8.0
    delta: Probability = 1e-5
    seed: Natural = 0
    """Chooses the images, the first weights and the planted ones; noise and keys are secret."""
    out: Name = "runs/inversion"


# --- images ---------------------------------------------------------------------------------


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
        images, labels = named_arrays(path, "train_images", "train_labels")
    except (OSError, *DAMAGED_ARRAYS) as error:
        raise DataError(
            f"images={path}: must be {DIGITS}, or an .npz file with train_images and train_labels "
            f"({error})"
        ) from None
    labels = labels.reshape(-1)
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """The images, who holds which, and what everybody may know."""

    settings: Settings
    images: ImageSet
    chosen: NDArray[np.int64]
    """Of image number i the holder is site number `i % sites`."""
    public: NDArray[np.int64]
    question: Vector

    @property
    def sites(self) -> tuple[str, ...]:
        """Their names; the first holds the image that is looked for."""
        return tuple(f"site-{i:02}" for i in range(self.settings.sites))

    @cached_property
    def original(self) -> NDArray[np.float32]:
        """The image that is looked for: `[height, width, channels]`."""
        return np.asarray(self.images.values[self.chosen[0]])

    @cached_property
    def average(self) -> NDArray[np.float32]:
        """What could be shown without any update: the mean of the images that no site holds."""
        return np.asarray(self.images.values[self.public].mean(0))

    def own(self, site: str) -> NDArray[np.int64]:
        """The images that a site holds."""
        return self.chosen[self.sites.index(site) :: self.settings.sites]


def make_scene(settings: Settings) -> Scene:
    """Choose the images.

    Raises:
        DataError, ConfigError: the images cannot be read, or are too few.
    """
    images, streams = load_images(settings.images), Streams(settings.seed)
    count = settings.sites * settings.records
    chosen = choose(images, count, streams.get("inversion", "pictures"))
    public = np.setdiff1d(np.arange(len(images.labels)), chosen)
    width = images.records.shape[1]
    question = streams.get("inversion", "question").standard_normal(width) / np.sqrt(width)
    return Scene(
        settings=settings,
        images=images,
        chosen=chosen,
        public=public,
        question=question.astype(np.float32),
    )


# --- ways to protect updates ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to protect updates."""

    name: str
    config: RunConfig
    run: ResultFile | None = None
    """The run that has this protection, if it is not the demonstration's own."""

    def within(self, folder: Path, scenario: Csv) -> Way:
        """The same way for those records, with the ledgers of the sites in `folder`."""
        return replace(self, config=replace(self.config, scenario=scenario, out=str(folder)))


def ways(settings: Settings) -> list[Way]:
    """From nothing to everything."""
    full = _base(settings)
    open_wire, unsummed, unnoised = TransportPlain(), SecAggOff(), NoPrivacy()
    return [
        Way(
            name="in clear",
            config=replace(full, transport=open_wire, secagg=unsummed, privacy=unnoised),
        ),
        Way(name="sealed", config=replace(full, secagg=unsummed, privacy=unnoised)),
        Way(name="masked", config=replace(full, privacy=unnoised)),
        Way(name="private", config=replace(full, secagg=unsummed)),
        Way(name="masked and private", config=full),
    ]


def way_of(result: ResultFile, settings: Settings) -> Way:
    """The protection of a run, with as much noise in an update as that run has added.

    Raises:
        ConfigError: it protects nobody.
    """
    run, base = load(result.config), _base(settings)
    if sum_of(run.secagg) and not run.secagg.hides:
        raise ConfigError(
            [
                f"secagg={run.secagg.kind}: is the arithmetic of masked without masks, so there is "
                "nothing to show of it that demo=inversion does not show of updates in clear"
            ]
        )
    privacy = run.privacy.measured(result.privacy.noise_multiplier)
    config = replace(base, transport=run.transport, secagg=run.secagg, privacy=privacy)
    return Way(name="as in this run", config=config, run=result)


def _base(settings: Settings) -> RunConfig:
    """Masked, sealed and private, on a network of which every layer can be attacked."""
    tree = compose_tree(
        [
            "scenario=csv", "scenario.path=images.csv", "scenario.label=label",
            "model.architecture=mlp", "model.width=256", "model.depth=1", "model.norm=none",
            "training.local_steps=1", "training.sample_rate=1.0", "training.learning_rate=0.5",
            "privacy=record", f"privacy.epsilon={settings.epsilon!r}",
            f"privacy.delta={settings.delta!r}", "privacy.clip_norm=1.0",
            f"training.nominal_records={settings.records}",
            f"strategy.min_sites={settings.sites}", f"seed={settings.seed}",
            f"rounds={ROUNDS}", f"evaluate_every={ROUNDS}",
        ]
    )  # fmt: skip
    return load(tree)
