"""All modules of the house as syntax trees, read once for every test that looks through them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("fedlearn", "clients", "server", "simulations")


@cache
def trees() -> Mapping[str, ast.Module]:
    """The module at each path under `ROOT`, in their order; nobody changes them."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): _tree(path) for path in paths}


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
