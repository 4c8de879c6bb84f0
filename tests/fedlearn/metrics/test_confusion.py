"""What confusion matrices say, also where noise has led them."""

from __future__ import annotations

import numpy as np

from fedlearn.metrics.confusion import counted_metrics


def test_metrics__of_a_matrix_that_noise_has_emptied_are_numbers() -> None:
    """A result with one that is none could be written and not read."""
    noised = counted_metrics(np.array([[-1.0, -2.0], [0.0, -3.0]]))
    assert all(0 <= float(value) <= 1 for value in noised.values())
    assert all(np.isnan(value) for value in counted_metrics(np.zeros((2, 2))).values())
