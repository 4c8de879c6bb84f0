"""What `data check` says of odd tables is true, and its command reads them rightly.

`ODD_TABLES=10000 pytest -n 0 -m slow` on this file tries ten thousand of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fedlearn.config import compose
from fedlearn.core.rng import Streams
from fedlearn.data import Csv, Pool, load_pool
from fedlearn.data.check.files import check
from fedlearn.data.check.report import Report
from fedlearn.models.model import input_as
from fedlearn.tasks import TableInput

from .odd import Odd, drawn, failing


def problems_of(odd: Odd) -> list[str]:
    """All that is untrue, or wrong, in what is said and read of a table."""
    report = check(odd.path)
    names = dict(zip([c.name for c in report.columns], odd.values, strict=False))
    return [*_said(odd, report, names), *_read(odd, report, names)]


def _said(odd: Odd, report: Report, names: dict[str, str]) -> list[str]:
    wrong = []
    if report.records != len(odd.values):
        wrong.append(f"{report.records} records, not {len(odd.values)}")
    found = {names[c.name] for c in report.columns if c.identifier}
    if found != {*odd.identifiers}:
        wrong.append(f"identifiers {found}, not {odd.identifiers}")
    if odd.headless:
        wrong = [one for one in wrong if "identifiers" not in one]  # three may be all numbers
        return wrong if "not like a header" in report.problems[0] else [*wrong, "a header?"]
    if not report.labels or report.labels[0] != odd.label:
        wrong.append(f"label {report.labels}, not {odd.label}")
    site = [word for word in report.settings if word.startswith("scenario.site=")]
    if bool(site) != bool(odd.site):
        wrong.append(f"site {site}, not {odd.site!r}")
    others = [p for p in report.problems if "identif" not in p and "scenario.drop" not in p]
    return wrong + [f"problem: {problem}" for problem in others]


def _read(odd: Odd, report: Report, names: dict[str, str]) -> list[str]:
    words = [word for word in report.settings if not word.startswith("scenario.label=")]
    own = next((own for own, name in names.items() if name == odd.label), odd.label)
    config = compose([*words, f"scenario.label='{own}'", "privacy=none"])
    assert isinstance(config.scenario, Csv)
    pool = load_pool(config.scenario, Streams(0), Path())
    order = np.array([*range(len(pool))])
    classes = np.array(pool.task.classes, object)[pool.labels]
    wrong = [] if (classes == odd.values[odd.label].to_numpy()).all() else ["labels"]
    form = input_as(TableInput, pool.task)
    gaps = [name for name in form.names if name.endswith("_missing")]
    plain = form.numeric - len(gaps)
    for place, name in enumerate(form.names):
        values = pool.features[order, place]
        if name in gaps:
            continue
        right = odd.values[names[name]].to_numpy()
        if any(
            hint.startswith(f"column {name!r}: ") and "thousands" in hint for hint in report.hints
        ):
            continue  # it is said that these may be either
        wrong += _numbers(pool, name, values, right, form) if place < plain else (
            _categories(name, values, right, own=config.scenario))  # fmt: skip
    learned = {names[name] for name in form.names if name not in gaps}
    missed = {*odd.values} - learned - {odd.label, odd.site, *odd.identifiers}
    said = [problem for problem in report.problems if "different values; text" in problem]
    missed = {name for name in missed if not any(f"column {name!r}: " in one for one in said)}
    if not odd.headless and missed:
        wrong.append(f"not learned from: {missed}")
    return wrong


def _numbers(
    pool: Pool, name: str, values: np.ndarray, right: np.ndarray, form: TableInput
) -> list[str]:
    if right.dtype == object:
        return [f"{name}: numbers of words"]
    back = np.sign(values) * np.expm1(np.abs(values) * np.log(1001))
    gap = np.isnan(right)
    if gap.any() and f"{name}_missing" not in form.names:
        return [f"{name}: gaps are not seen"]
    if gap.any():
        said = pool.features[:, form.names.index(f"{name}_missing")] == 1
        if (said != gap).any():
            return [f"{name}: other gaps"]
    near = np.isclose(back[~gap], right[~gap], rtol=1e-3, atol=1e-3)
    return [] if near.all() else [f"{name}: {back[~gap][~near][:3]}, not {right[~gap][~near][:3]}"]


def _categories(name: str, codes: np.ndarray, right: np.ndarray, own: Csv) -> list[str]:
    """Whether records have the same code exactly where they have the same value."""
    gap = np.array([value is None or value != value for value in right])
    if ((codes == 0) != gap).any():
        return [f"{name}: other gaps"]
    pairs = {*zip(codes[~gap].tolist(), right[~gap].tolist(), strict=True)}
    merged = len({code for code, _ in pairs}) < len(pairs) and name not in own.buckets
    torn = len({value for _, value in pairs}) < len(pairs)
    return [f"{name}: values are merged or torn"] if merged or torn else []


@pytest.mark.parametrize("start", [0, 20])
def test_odd_tables__are_read_as_they_are_meant(tmp_path: Path, start: int) -> None:
    failing = {seed: found for seed in range(start, start + 20)
               if (found := problems_of(drawn(seed, tmp_path)))}  # fmt: skip
    assert failing == {}


@pytest.mark.slow
def test_odd_tables__by_the_thousand(tmp_path: Path) -> None:
    number = int(os.environ.get("ODD_TABLES", "100"))
    assert failing(drawn, problems_of, tmp_path, range(1000, 1000 + number)) == {}
