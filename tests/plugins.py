"""Packages as pip installs them, written for a test: modules and their entry points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, modules: Mapping[str, str], points: Mapping[str, str]) -> Path:
    """A package of `modules` (path: source) in `folder`, for which `sys.path` must have room.

    `points` are its entry points: `"fedlearn.models:toy": "toy_models:Toy"`.
    """
    for path, source in modules.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(source)
    about = folder / "toy_package-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
    lines = []
    for name, value in points.items():
        group, _, kind = name.partition(":")
        lines += [f"[{group}]", f"{kind} = {value}", ""]
    (about / "entry_points.txt").write_text("\n".join(lines))
    return folder
