"""What private evaluation does with the contributions of records, done here by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.metrics.sums import Sums
from fedlearn.tasks import Task


def noised(task: Task, rows: NDArray[np.float64], rng: np.random.Generator) -> Sums:
    """The sums of `rows` with a noise of three bounds, none of which a row goes beyond."""
    at, noise, arrays = 0, dict[str, float](), dict[str, Any]()
    for spec in task.noised_layout:
        part = rows[:, at : at + spec.size]
        assert np.linalg.norm(part, axis=1).max() <= spec.bound * (1 + 1e-12)
        at += spec.size
        noise[spec.name] = 3.0 * spec.bound
        arrays[spec.name] = part.sum(0).reshape(spec.shape)
        arrays[spec.name] = arrays[spec.name] + rng.normal(0, noise[spec.name], spec.shape)
    assert at == rows.shape[1]
    return task.noised(arrays, noise)
