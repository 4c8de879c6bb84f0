"""Small files that once went wrong, where they lie beside the checkout; else a test skips."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDERS = [
    parent / "shared" / "data" / "inputs" for parent in Path(__file__).resolve().parents[3:6]
]


def given(name: str) -> Path:
    """One of the files; skips a test where there is none."""
    found = [folder / name for folder in FOLDERS if (folder / name).is_file()]
    if not found:
        pytest.skip(f"shared/data/inputs/{name} does not lie beside the checkout")
    return found[0]
