"""A site's own model, as the site keeps it: `personal-*.safetensors` beside its ledger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError, safe_open

from fedlearn.core.errors import DataError
from fedlearn.core.vector import Vector

OWN_MODEL: Final = "personal"
"""How the name of such a file begins."""
PART: Final = "part"
AFTER: Final = "after."
"""How the names of the tensors begin that are of after the site's last round."""


@dataclass(frozen=True, eq=False)
class OwnModel:
    """What a site has kept: `values: float32[d]`, of which its `part` of the model counts."""

    values: Vector
    part: str
    """`none`: all of it."""


def read_own(path: Path) -> OwnModel:
    """The model in such a file, after the site's last round.

    Raises:
        DataError: there is none.
    """
    from fedlearn.algorithms.personal import OWN

    try:
        with safe_open(path, "numpy") as file:
            values = np.asarray(file.get_tensor(f"{AFTER}{OWN}"), np.float32)
            part = (file.metadata() or {}).get(PART, "none")
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{path}: holds no model of a site's own: {error}") from None
    if values.ndim != 1 or not np.isfinite(values).all():
        raise DataError(f"{path}: holds no model of a site's own: not finite numbers in a row")
    return OwnModel(values, part)
