"""Made-up tables of sites, at which the same goes with a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.data.tables.scaling import Ranges
from fedlearn.screening import ScreeningLayout, SiteSums, layout_of
from fedlearn.tasks import SQUASH_UNIT, TableInput, TaskForm

FORM = TaskForm(
    input=TableInput(
        numeric=4, cardinalities=(3,), names=("age", "male", "dose", "gap", "ward"), squashed=(2,)
    ),
    classes=("healthy", "ill"),
)
SCALING = Ranges(columns={"age": (20.0, 100.0), "male": (0.0, 1.0)})
AGE, MALE, DOSE, GAP, WARD = range(5)


def layout(form: TaskForm = FORM) -> ScreeningLayout:
    found = layout_of(form, SCALING)
    assert found is not None
    return found


@dataclass(frozen=True)
class Records:
    features: NDArray[np.float64]
    labels: NDArray[np.int64]

    @property
    def rows(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        return self.features, self.labels

    def table(self, noise: float = 0.0, rng: np.random.Generator | None = None) -> SiteSums:
        made, added = layout(), layout().added(self.features)
        sums = np.stack([added[self.labels == at].sum(0) for at in range(len(made.classes))])
        if rng is not None:
            sums = sums + rng.normal(0, noise, sums.shape)
        return SiteSums(layout=made, sums=sums, noise=noise)


def squash(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)) / SQUASH_UNIT)


def drawn(rng: np.random.Generator, count: int, older: float = 0.0, ill: float = 0.5) -> Records:
    """People of some ages and doses, who fall ill the more often the older they are."""
    labels = (rng.random(count) < ill).astype(np.int64)
    age = np.clip(rng.normal(0.3 * (2 * labels - 1) + older, 0.35), -1, 1)
    male = np.where(rng.random(count) < 0.4 + 0.2 * labels, 1.0, -1.0)
    dose = squash(np.exp(rng.normal(4 + 0.5 * labels, 0.6)))
    gap = (rng.random(count) < 0.1).astype(np.float64)
    ward = rng.integers(0, 3, count).astype(np.float64)
    return Records(np.column_stack([age, male, dose, gap, ward]), labels)
