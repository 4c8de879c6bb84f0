"""A small study of two sites, quick enough to be swept in a test."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import warm

ROOT = Path(__file__).resolve().parents[2]


def table(folder: Path, *, sites: tuple[str, ...] = ("north", "south")) -> list[str]:
    """Overrides of a run on 40 records of each site, in a new file of `folder`."""
    path = folder / "my.csv"
    with path.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["age", "smoker", "hospital", "ill"])
        for site in sites:
            sheet.writerows(
                [30 + i, "yes" if i % 3 else "no", site, int(i > 20 or i % 7 == 0)]
                for i in range(40)
            )
    return [
        "scenario=csv", f"scenario.path={path}", "scenario.label=ill", "scenario.site=hospital",
        "secagg=off", "transport=plain", "model.architecture=mlp", "rounds=2",
    ]  # fmt: skip


def rename(run: Path, names: Mapping[str, str]) -> None:
    """Call the sites of a run otherwise in its `result.json`, as whoever has made it could.

    Runs of ours have no site whose name is markup; a reader of folders cannot rely on that.
    """
    file = run / "result.json"
    text = file.read_text()
    for old, new in names.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    file.write_text(text)


def compare(*overrides: str) -> subprocess.CompletedProcess[str]:
    """`fedlearn compare` in a process of its own: it forks, which a test runner should not."""
    return warm.run(command(*overrides), text=True, env=environment(), timeout=300)


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "fedlearn", "compare", *overrides]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def points(folder: Path) -> dict[str, dict[str, Any]]:
    """The points of `compare.json` by name."""
    tree = json.loads((folder / "compare.json").read_text())
    assert tree["schema"] == "fedlearn/compare/v1"
    return {point["name"]: point for point in tree["points"]}
