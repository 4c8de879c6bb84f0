"""What `data check` says of odd images is true, and its command reads each of them rightly.

`ODD_IMAGES=2000 pytest -n 0 -m slow` on this file tries two thousand folders.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fedlearn.config import compose
from fedlearn.core.errors import DataError
from fedlearn.core.rng import Streams
from fedlearn.data import load_pool
from fedlearn.data.check.files import check
from fedlearn.data.check.report import Report
from fedlearn.data.images.folders import Images
from fedlearn.data.images.reading import read_image

from .odd import failing
from .odd_images import SIDE, OddImages, Right, drawn


def problems_of(odd: OddImages) -> list[str]:
    """All that is untrue, or wrong, in what is said and read of a folder."""
    report = check(odd.path)
    wrong = [*_said(odd, report)]
    for path, right in odd.files.items():
        wrong += [f"{path.name}: {one}" for one in _one(path, right)]
    return [*wrong, *_read(odd, report)]


def _said(odd: OddImages, report: Report) -> list[str]:
    wrong = []
    if report.records != len(odd.files):
        wrong.append(f"{report.records} records, not {len(odd.files)}")
    for what, names in (("classes", odd.classes), ("sites", odd.sites)):
        facts = [fact for fact in report.facts if f" {what}: " in fact]
        if bool(facts) != bool(names) or any(name not in facts[0] for name in names):
            wrong.append(f"{what}: {facts}, not {names}")
    refused = {path for path, right in odd.files.items() if right.refused}
    named = {path for path in odd.files if any(p.startswith(f"{path}: ") for p in report.problems)}
    if named != refused or len(report.problems) != len(refused):
        wrong.append(f"problems {report.problems}, not of {refused}")
    if any(right.frames for right in odd.files.values()) != any("frame" in h for h in report.hints):
        wrong.append(f"frames: {report.hints}")
    if odd.alike != any("may be one" in hint for hint in report.hints):
        wrong.append(f"classes that may be one: {report.hints}")
    flat = sum(r.pixels is not None and len(np.unique(r.pixels.reshape(-1, 3), axis=0)) == 1
               for r in odd.files.values())  # fmt: skip
    if bool(flat) != any("one colour" in hint for hint in report.hints):
        wrong.append(f"{flat} of one colour: {report.hints}")
    return wrong


def _one(path: Path, right: Right) -> list[str]:
    try:
        found = read_image(path, SIDE, "colour")
    except DataError as error:
        if not right.refused:
            return [str(error)]
        return [] if right.refused in str(error) else [f"{error}; not {right.refused}"]
    if right.pixels is None:
        return [f"is read, where it {right.refused}"]
    apart = int(np.abs(found.astype(int) - right.pixels.astype(int)).max())
    return [] if apart <= right.off else [f"pixels are {apart} apart"]


def _read(odd: OddImages, report: Report) -> list[str]:
    """Whether the command reads all of it, or refuses all that cannot be read."""
    scenario = compose([*report.settings, "privacy=none"]).scenario
    assert isinstance(scenario, Images)
    refused = [right.refused for right in odd.files.values() if right.refused]
    try:
        pool = load_pool(scenario, Streams(0), Path())
    except DataError as error:
        return [] if refused else [f"refused: {error}"]
    wrong = ["is read, where files are damaged"] if refused else []
    if pool.task.classes != odd.classes or len(pool) != len(odd.files):
        wrong.append(f"{len(pool)} of {pool.task.classes}")
    sites = () if pool.natural_site is None else tuple(sorted({*pool.natural_site.tolist()}))
    return wrong if sites == odd.sites else [*wrong, f"sites {sites}"]


def test_odd_images__are_read_as_they_are_meant(tmp_path: Path) -> None:
    assert failing(drawn, problems_of, tmp_path, range(6)) == {}


@pytest.mark.slow
def test_odd_images__by_the_hundred(tmp_path: Path) -> None:
    number = int(os.environ.get("ODD_IMAGES", "60"))
    assert failing(drawn, problems_of, tmp_path, range(1000, 1000 + number)) == {}
