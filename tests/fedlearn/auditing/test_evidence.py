"""Likelihood ratios against densities written out; areas against counting pairs."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from fedlearn.auditing.evidence import area_under_curve, log_likelihood_ratio


@pytest.mark.parametrize("rate", [1.0, 0.2])
@pytest.mark.parametrize("steps", [1, 4])
def test_ratio__is_that_of_the_mixture_of_normals(rate: float, steps: int) -> None:
    signals = np.linspace(-3, 7, 21)
    noise = 1.3
    out = NormalDist(0, noise)
    expected = [
        math.log(
            sum(
                math.comb(steps, b) * rate**b * (1 - rate) ** (steps - b)
                * NormalDist(b, noise).pdf(x)
                for b in range(steps + 1)
            )
            / out.pdf(x)
        )
        for x in signals
    ]  # fmt: skip
    found = log_likelihood_ratio(signals, noise=noise, rate=rate, steps=steps)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_ratio__stays_finite_where_signals_and_steps_are_many() -> None:
    found = log_likelihood_ratio(np.array([-1e4, 0.0, 1e4]), noise=0.5, rate=0.01, steps=3000)
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()


def test_area__counts_pairs_in_order_and_half_of_those_that_tie() -> None:
    rng = np.random.default_rng(0)
    scores, inside = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.4
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[inside] for b in scores[~inside]
    ]
    assert area_under_curve(scores, inside) == pytest.approx(np.mean(pairs))
    assert area_under_curve(scores, np.ones(60, bool)) is None
    assert area_under_curve(scores, np.zeros(60, bool)) is None
