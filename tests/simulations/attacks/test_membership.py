"""Scores of membership inference against their definitions, and how well they do."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from fedlearn.auditing.evidence import area_under_curve
from simulations.attacks.membership import found_at, lira, rmia


def test_rmia__is_the_share_of_outsiders_that_a_record_beats() -> None:
    rng = np.random.default_rng(1)
    target, references = rng.random(12), rng.random((3, 12))
    others = np.array([0, 3, 4, 9, 11])
    expected = []
    for x in range(12):
        ratio = target[x] / references[:, x].mean()
        rivals = [target[z] / references[:, z].mean() for z in others if z != x]
        expected.append(sum(ratio >= rival for rival in rivals) / len(rivals))
    np.testing.assert_allclose(rmia(target, references, others), expected)


def test_lira__is_the_ratio_of_two_normal_densities() -> None:
    rng = np.random.default_rng(2)
    target, references = rng.uniform(0.1, 0.9, 6), rng.uniform(0.1, 0.9, (4, 6))
    inside = np.array([[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]] * 2, bool)

    def logit(p: float) -> float:
        return math.log(p / (1 - p))

    means, deviations = [], []
    for side in (True, False):
        rows = [[logit(references[k, i]) for k in range(4) if inside[k, i] == side]
                for i in range(6)]  # fmt: skip
        means.append([sum(row) / len(row) for row in rows])
        left = [(v - m) ** 2 for row, m in zip(rows, means[-1], strict=True) for v in row]
        deviations.append(math.sqrt(sum(left) / len(left)))
    expected = [
        math.log(
            NormalDist(means[0][i], deviations[0]).pdf(logit(target[i]))
            / NormalDist(means[1][i], deviations[1]).pdf(logit(target[i]))
        )
        for i in range(6)
    ]
    np.testing.assert_allclose(lira(target, references, inside), expected, rtol=1e-6)


def test_lira_and_rmia__find_what_was_planted() -> None:
    """Records that differ in difficulty, and models that fit their own a little better."""
    rng = np.random.default_rng(4)
    n, models = 400, 16
    hard, inside = rng.normal(0, 2, n), rng.random((models, n)) < 0.5
    logits = hard + 1.0 * inside + rng.normal(0, 0.5, (models, n))
    chances = 1 / (1 + np.exp(-logits))
    target, references, fit = chances[0], chances[1:], inside[1:]
    plain = area_under_curve(target, inside[0])
    by_lira = area_under_curve(lira(target, references, fit), inside[0])
    by_rmia = area_under_curve(rmia(target, references, np.flatnonzero(~inside[0])), inside[0])
    assert plain is not None
    assert by_lira is not None
    assert by_rmia is not None
    assert plain < 0.7 < by_rmia
    assert by_lira > 0.85


@pytest.mark.parametrize(
    ("rate", "found"), [(0.0, 0.4), (0.2, 0.4), (0.25, 0.6), (0.5, 0.8), (1.0, 1.0)]
)
def test_found_at__takes_the_lowest_threshold_that_is_allowed(rate: float, found: float) -> None:
    members, others = [9.0, 8.0, 5.0, 3.0, 0.0], [7.0, 4.0, 2.0, 1.0]
    scores = np.array(members + others)
    member = np.array([True] * 5 + [False] * 4)
    assert found_at(scores, member, rate) == found


def test_found_at__finds_nothing_by_a_score_that_is_the_same_for_all() -> None:
    assert found_at(np.zeros(10), np.arange(10) % 2 == 0, 0.5) == 0.0
