"""The heart data as a table of one's own, in which a hospital has made a mistake."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clients.records import simulated_sites, simulated_task
from fedlearn.config import compose, screened_layout
from fedlearn.screening import ScreeningLayout

MG_TO_MMOL = 0.02586
"""Of cholesterol."""

Hearts = Mapping[str, tuple[np.ndarray, np.ndarray]]


def hearts() -> tuple[ScreeningLayout, Hearts]:
    """Training records of the four hospitals, features scaled and labels, and their sums' form."""
    config = compose(["experiment=medical_heart", "screening=sums"])
    layout = screened_layout(config, simulated_task(config))
    assert layout is not None
    sites = simulated_sites(config)
    return layout, {name: (one.train.features, one.train.labels) for name, one in sites.items()}


def dealt(data: Hearts, sites: int) -> Hearts:
    """The same records, dealt out evenly to so many sites that are alike."""
    features, labels = (np.concatenate(parts) for parts in zip(*data.values(), strict=True))
    order = np.random.default_rng(0).permutation(len(labels))
    return {
        f"site{i}": (features[rows], labels[rows])
        for i, rows in enumerate(np.array_split(order, sites))
    }


def mistaken(layout: ScreeningLayout, data: Hearts, site: str, mistake: str) -> Hearts:
    """The same with the labels of a site swapped, or its cholesterol in mmol/L."""
    features, labels = data[site]
    if mistake == "labels":
        return {**data, site: (features, 1 - labels)}
    at = [column.name for column in layout.columns].index("cholesterol")
    column, features = layout.columns[at], features.copy()
    values = column.values(features[:, at]) * MG_TO_MMOL
    features[:, at] = (values - column.low) / (column.high - column.low) * 2 - 1
    return {**data, site: (features, labels)}


def words(folder: Path, layout: ScreeningLayout, data: Hearts) -> list[str]:
    """Overrides of a run on these records, in a new file of `folder`."""
    path, names = folder / "hearts.csv", [column.name for column in layout.columns]
    with path.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow([*names, "hospital", "disease"])
        for site, (features, labels) in data.items():
            values = np.column_stack(
                [
                    (one + 1) / 2 * (column.high - column.low) + column.low
                    for column, one in zip(layout.columns, features.T, strict=True)
                ]
            )
            for row, label in zip(values.round(3), labels, strict=True):
                sheet.writerow([*row, site, int(label)])
    ranges = ",".join(f"{c.name}:[{c.low:g},{c.high:g}]" for c in layout.columns)
    return [
        "scenario=csv", f"scenario.path={path}", "scenario.label=disease",
        "scenario.site=hospital", f"scenario.scaling.columns={{{ranges}}}",
        f"scenario.numeric=[{','.join(names)}]", "scenario.gaps=[]", "scenario.classes=['0','1']",
        "model.architecture=linear", "training.nominal_records=100", "screening=sums", "rounds=1",
        "evaluation=none",
    ]  # fmt: skip
