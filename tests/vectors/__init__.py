"""Published test vectors (small copies, source and licence inside) and our own frozen ones."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def load(name: str) -> list[dict[str, Any]]:
    """The cases of one file."""
    cases: list[dict[str, Any]] = json.loads((HERE / f"{name}.json").read_text())["cases"]
    assert cases, f"{name} has no cases"
    return cases
