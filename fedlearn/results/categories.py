"""Names of categories that a simulation found in its records, kept where those who own them are.

They are values of records, which no promise is about, so neither `result.json` nor an export has
them; `fedlearn predict` needs them, to read other records as those of the run were read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fedlearn.core.errors import DataError
from fedlearn.core.files import PRIVATE, write_atomically

FILE: Final = "sites/categories.json"
"""In the folder of a run, beside the ledgers of its sites: only its owner may read it."""

Categories = Mapping[str, tuple[str, ...]]


def keep_categories(folder: Path, found: Categories) -> None:
    """Write the categories of columns beside what sites keep of a run."""
    path = folder / FILE
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = json.dumps({name: list(own) for name, own in found.items()}, ensure_ascii=False)
    write_atomically(path, text.encode(), PRIVATE)


def kept_categories(folder: Path) -> dict[str, tuple[str, ...]]:
    """What a run has kept; nothing where it has kept none.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(one, str) for own in tree.values() for one in own):
            return {name: tuple(own) for name, own in tree.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        pass
    raise DataError(f"{path}: is damaged; give the table that was trained on (--like TABLE)")
