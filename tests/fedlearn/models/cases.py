"""What the battery is run on: every kind of model of the union, on records that suit it.

A new model adds its cases here; the battery in `test_models` finds them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from fedlearn import models
from fedlearn.core.rng import Streams
from fedlearn.core.vector import load_vector, to_vector
from fedlearn.models.cnn import Cnn
from fedlearn.models.ebm import Ebm
from fedlearn.models.resnet import ResNet
from fedlearn.models.scattering import Scattering
from fedlearn.models.sequence import Sequence
from fedlearn.models.squeezenet import SqueezeNet
from fedlearn.models.tabular import Tabular
from fedlearn.models.text import Text
from fedlearn.models.vit import ViT
from fedlearn.tasks import (
    ClassificationTask,
    ImageInput,
    Input,
    SeriesInput,
    TableInput,
    Task,
    TextInput,
)

TABLES = {
    "numeric": TableInput(numeric=5),
    "categorical": TableInput(numeric=0, cardinalities=(3, 2, 4)),
    "mixed": TableInput(numeric=3, cardinalities=(2, 5)),
    "squashed": TableInput(numeric=3, cardinalities=(2,), squashed=(0, 2)),
}
GREY = ImageInput(channels=1, height=12, width=12)
COLOUR = ImageInput(channels=3, height=9, width=15)
LARGE = ImageInput(channels=1, height=32, width=33)
TEXT = TextInput(vocabulary=30, max_length=7)
SERIES = {name: SeriesInput(steps=5, row=table) for name, table in TABLES.items()}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model on records of one form; `mixes` where it looks across records."""

    name: str
    config: models.Model
    input: Input
    classes: int = 2
    mixes: bool = False

    @property
    def task(self) -> Task:
        return ClassificationTask(
            input=self.input, classes=tuple(f"class {i}" for i in range(self.classes))
        )

    def build(self, seed: int = 0) -> nn.Module:
        """All that the model can train."""
        return models.build(self.config, self.task, Streams(seed)).model

    def inputs(self, n: int) -> Tensor:
        """What that part sees of `n` records."""
        frozen = models.build(self.config, self.task, Streams(0)).frozen
        return frozen(self.records(n)) if frozen else self.records(n)

    def records(self, n: int, seed: int = 0) -> Tensor:
        """`n` records, of which no two are alike."""
        rng = np.random.default_rng(seed)
        match self.input:
            case TableInput():
                values = _rows(self.input, n, rng)
            case SeriesInput():
                steps = self.input.steps
                rows = [_rows(self.input.row, n, rng) for _ in range(steps)]
                held = np.arange(steps) < rng.integers(1, steps + 1, (n, 1))
                known = np.dstack([np.stack(rows, axis=1), held[..., None]])
                values = np.where(held[..., None], known, 0.0)
            case ImageInput():
                shape = self.input.channels, self.input.height, self.input.width
                values = rng.uniform(0, 1, (n, *shape))
            case TextInput():
                size = n, self.input.max_length
                ids = rng.integers(1, self.input.vocabulary, size)
                lengths = rng.integers(2, self.input.max_length + 1, (n, 1))
                held = np.arange(self.input.max_length) < lengths
                return torch.from_numpy(np.where(held, ids, self.input.pad_id))
        return torch.from_numpy(values.astype(np.float32))


def _rows(table: TableInput, n: int, rng: np.random.Generator) -> np.ndarray:
    numbers = rng.uniform(-1, 1, (n, table.numeric))
    numbers[:, list(table.squashed)] *= 2.9  # up to 5e8: a bin without a value has no gradient
    codes = [rng.permutation(np.arange(n) % size) for size in table.cardinalities]
    return np.column_stack([numbers, *codes])


def tabular_configs() -> Iterator[Tabular]:
    """Every architecture with every norm, as the union of `Tabular` spells them."""
    hints = get_type_hints(Tabular)
    for architecture, norm in itertools.product(
        get_args(hints["architecture"]), get_args(hints["norm"])
    ):
        yield Tabular(architecture=architecture, norm=norm, width=8, depth=2, heads=2, dropout=0.0)


def tabular_cases() -> Iterator[Case]:
    for config in tabular_configs():
        for name, table in TABLES.items():
            for classes in (2, 3) if name == "mixed" else (2,):
                yield Case(
                    name=f"{config.architecture}-{config.norm}-{name}-{classes}",
                    config=config,
                    input=table,
                    classes=classes,
                    mixes=config.norm == "batch" and config.architecture == "mlp",
                )


def image_cases() -> Iterator[Case]:
    configs: dict[str, models.Model] = {
        "cnn": Cnn(width=4, depth=2, groups=2, dropout=0.0),
        "resnet8": ResNet(architecture="resnet8", width=4, groups=2, stem="small"),
        "resnet18": ResNet(architecture="resnet18", width=4, groups=2, stem="small"),
        "vit": ViT(patch=3, width=8, depth=2, heads=2, dropout=0.0),
        "scattering": Scattering(scales=2, angles=3, groups=2),
        "squeezenet": SqueezeNet(pretrained=False, resolution=33, modules=2),
    }
    for name, config in configs.items():
        for form, image, classes in (("grey", GREY, 2), ("colour", COLOUR, 3)):
            if isinstance(config, Scattering) and form == "colour":
                config = replace(config, scales=1)  # for pictures that are less high
            yield Case(name=f"{name}-{form}", config=config, input=image, classes=classes)
    large = ResNet(architecture="resnet8", width=4, groups=2, stem="large")
    yield Case(name="resnet8-large", config=large, input=LARGE)


def text_cases() -> Iterator[Case]:
    base = Text(pretrained="", width=8, depth=0, heads=2, words=False, sketch=0, dropout=0.0)
    for name, config in {
        "words": replace(base, words=True),
        "blocks": replace(base, depth=2),
        "sketch": replace(base, sketch=32),
        "all": replace(base, words=True, depth=1, sketch=16),
    }.items():
        yield Case(name=f"text-{name}", config=config, input=TEXT, classes=3)


def sequence_cases() -> Iterator[Case]:
    for name, series in SERIES.items():
        config = Sequence(width=6, depth=2 if name == "mixed" else 1, dropout=0.0)
        yield Case(name=f"sequence-{name}", config=config, input=series, classes=3)


def ebm_cases() -> Iterator[Case]:
    # Of few records each bin must have one.
    config = Ebm(bins=2, levels=2, ranges={f"x{i}": (-1, 1) for i in range(1, 6)})
    for name in ("numeric", "categorical", "mixed"):
        yield Case(name=f"ebm-{name}", config=config, input=TABLES[name], classes=2)
    cut = replace(config, ranges={}, edges={f"x{i}": (-1e3, 0.0, 5.0) for i in range(1, 4)})
    yield Case(name="ebm-squashed", config=cut, input=TABLES["squashed"], classes=3)


CASES = (*tabular_cases(), *ebm_cases(), *image_cases(), *text_cases(), *sequence_cases())


def perturb(model: nn.Module) -> None:
    """Away from the zeros of the start, in place."""
    vector = to_vector(model)
    rng = np.random.default_rng(9)
    noise = rng.uniform(0.01, 0.3, len(vector)) * rng.choice([-1, 1], len(vector))
    load_vector(model, (vector + noise).astype(np.float32))
