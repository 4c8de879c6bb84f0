"""Layouts of a small table, and figures of records with a noise that tests can repeat."""

from __future__ import annotations

import numpy as np

from fedlearn.figures import (
    ChoicePart,
    CrossingPart,
    NumberPart,
    PairPart,
    TableLayout,
    TableRows,
    TableSums,
)
from fedlearn.figures.parts import CountPart, OutcomePart, points_within

AGE = NumberPart(
    name="age",
    weight=4.0,
    at=0,
    gap=1,
    low=20,
    high=90,
    size=False,
    points=points_within(20, 90, 96),
)
DOSE = NumberPart(name="dose", weight=4.0, at=2, gap=None, low=0, high=8, size=False, points=64)
SMOKER = ChoicePart(name="smoker", at=3, codes=3, names=("no", "yes"))
ILL = ChoicePart(name="ill", at=None, codes=2, names=("0", "1"))
COLUMNS = (CountPart(name="", weight=0.25), AGE, DOSE, SMOKER, ILL)
LAYOUT = TableLayout(
    (
        *COLUMNS,
        CrossingPart(name="smoker, ill", one=SMOKER, other=ILL),
        PairPart(name="age, dose", weight=2.0, one=AGE, other=DOSE),
    )
)
OVER_TIME = TableLayout(
    (CountPart(name=""), OutcomePart(name="time", ends=(1.0, 2.0, 4.0), unit="days"))
)


def people(count: int, rng: np.random.Generator) -> TableRows:
    """Records of a made-up population: `dose` grows with `age`, and smokers are ill more often."""
    age = np.clip(rng.normal(55, 12, count), 20, 90).round()
    gap = rng.random(count) < 0.1
    dose = np.clip(age / 15 + rng.normal(0, 1, count), 0, 8)
    smoker = rng.choice([0, 1, 2], count, p=[0.05, 0.65, 0.3])
    ill = (rng.random(count) < np.where(smoker == 2, 0.5, 0.2)).astype(np.int64)
    scaled = np.where(gap, 0.0, (age - 20) / 35 - 1)
    features = np.column_stack([scaled, gap, dose / 4 - 1, smoker]).astype(np.float32)
    return TableRows(features=features, labels=ill)


def figures_of(
    rows: TableRows, noise: float, rng: np.random.Generator, layout: TableLayout = LAYOUT
) -> TableSums:
    """What is released of records where a part with a weight of 1 would have this noise."""
    found = layout.opened(layout.given(layout.added(rows).sum(0), STEPS * len(layout.parts)),
                          STEPS * len(layout.parts))  # fmt: skip
    devs = [noise * part.bound / np.sqrt(part.weight) for part in layout.parts]
    for number, part, at in layout.slices():
        given = part.encoded(found[at]) + devs[number] * rng.standard_normal(part.width)
        found[at] = part.decoded(given)
    return TableSums(
        layout=layout, sums=found, noise=tuple(devs), threshold={}, quantiles=(0.25, 0.5, 0.75),
        confidence=0.95, rng=rng,
    )  # fmt: skip


STEPS = (1 << 20,)
