"""Calibration from sums, beside scikit-learn's from the scores themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve

from fedlearn.metrics.scores import FEWEST, MOST, SMALLEST, Calibration
from tests.effort import examples
from tests.fedlearn.metrics.test_sums import evaluation_sums, task_of


def found(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> Calibration | None:
    sums = evaluation_sums(np.column_stack([1 - scores, scores]), labels)
    return task_of(2).calibration(sums, np.random.default_rng(0))


def drawn(n: int, seed: int, bend: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores, and labels that come true at `score ** bend`."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.7, 0.7, n)
    return scores, (rng.random(n) < scores**bend).astype(np.int64)


def test_calibration__is_that_of_scikit_learn_where_groups_are_the_same() -> None:
    # 16 groups of 1,000: ties apart, quantiles of the scores are the groups.
    scores, labels = drawn(16_000, 1, bend=1.6)
    ours = found(scores, labels)
    assert ours is not None
    observed, predicted = calibration_curve(labels, scores, n_bins=16, strategy="quantile")
    assert len(ours.groups) in (len(observed) - 1, len(observed))
    mine = np.array([(group.predicted, group.observed) for group in ours.groups])
    # A bin of 512 is moved as a whole: groups differ by some dozen records of 1,000.
    theirs = np.interp(mine[:, 0], predicted, observed)
    assert np.abs(mine[:, 1] - theirs).max() < 0.03


@given(st.integers(FEWEST, 600), st.integers(0, 10**6), st.sampled_from([8, 64, 512]))
@settings(max_examples=examples(30), deadline=None)
def test_calibration__has_groups_that_are_never_small_and_lose_no_record(
    n: int, seed: int, ties: int
) -> None:
    scores, labels = drawn(n, seed)
    scores = np.floor(scores * ties) / ties  # many records with one score
    result = found(scores, labels)
    assert result is not None
    counts = [group.count for group in result.groups]
    assert min(counts) >= SMALLEST
    assert len(counts) <= MOST
    assert sum(counts) == n
    share = sum(group.count * group.observed for group in result.groups)
    assert share == pytest.approx(labels.sum())
    mean = sum(group.count * group.predicted for group in result.groups) / n
    assert abs(mean - scores.mean()) <= 1 / 1024 + 1e-12
    weighted = sum(g.count * abs(g.observed - g.predicted) for g in result.groups) / n
    assert result.error == pytest.approx(weighted)
    assert all(0 <= g.low <= g.observed <= g.high <= 1 for g in result.groups)
    predicted = [group.predicted for group in result.groups]
    assert predicted == sorted(predicted)


def test_calibration__of_one_score_is_the_distance_of_two_shares() -> None:
    labels = np.repeat([1, 0], [30, 90])
    result = found(np.full(120, 0.5), labels)
    assert result is not None
    (group,) = result.groups
    assert (group.count, group.observed) == (120, 0.25)
    assert result.error == pytest.approx(0.25, abs=1 / 1024)
    # The interval is where (p - share)^2 = z^2 p (1 - p) / n (Wilson 1927, by definition).
    for end in (group.low, group.high):
        assert (end - 0.25) ** 2 == pytest.approx(1.959963984540054**2 * end * (1 - end) / 120)


@pytest.mark.slow
def test_calibration__tells_wrong_probabilities_from_chance() -> None:
    # Right ones exceed `by_chance` in one of twenty sets: all of eight with chance 4e-11.
    right = [found(*drawn(400, seed)) for seed in range(8)]
    wrong = [found(*drawn(4000, seed, bend=3.0)) for seed in range(8)]
    assert not all(one is not None and one.error > one.by_chance for one in right)
    assert all(one is not None and one.error > 2 * one.by_chance for one in wrong)


def test_calibration__by_chance_is_what_right_probabilities_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 200 sets, a quantile of 1,000 draws: the share below is .95 with a deviation of .017;
    # false alarm at more than five of them, 1e-7.
    scores, labels = drawn(300, 5)
    first = found(scores, labels)
    assert first is not None
    monkeypatch.setattr("fedlearn.metrics.scores.RESAMPLES", 1)  # only errors are asked for below
    rng, middle = np.random.default_rng(6), (np.floor(scores * 512) + 0.5) / 512
    below = 0
    for _ in range(200):
        one = found(scores, (rng.random(300) < middle).astype(np.int64))
        assert one is not None
        below += one.error <= first.by_chance
    assert abs(below / 200 - 0.95) < 0.09


def test_calibration__says_nothing_of_few_records_or_more_classes() -> None:
    assert found(*drawn(FEWEST - 1, 0)) is None
    assert found(*drawn(FEWEST, 0)) is not None
    three = evaluation_sums(np.full((500, 3), 1 / 3), np.arange(500) % 3)
    assert task_of(3).calibration(three, np.random.default_rng(0)) is None
