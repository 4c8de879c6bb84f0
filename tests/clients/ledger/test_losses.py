"""The accountant of the histories against Google's library of privacy losses."""

from __future__ import annotations

import math

import pytest
from dp_accounting.pld import privacy_loss_distribution as pld

from tests.clients.ledger.losses import Release, true_epsilon
from tests.effort import slow_but

DELTA = 1e-5


def _losses(release: Release) -> pld.PrivacyLossDistribution:
    more = {"value_discretization_interval": 2e-4, "sampling_prob": release.rate}
    if release.law == "gaussian":
        length = math.hypot(*release.moves)
        return pld.from_gaussian_mechanism(release.stddev, sensitivity=length, **more)
    (move,) = release.moves
    return pld.from_discrete_gaussian_mechanism(release.stddev, sensitivity=int(move), **more)


def _by_the_library(counts: dict[Release, int]) -> float:
    """For adding or removing one record, and rounded up."""
    total = pld.identity(2e-4)
    for release, times in counts.items():
        total = total.compose(_losses(release).self_compose(times))
    return float(total.get_epsilon_for_delta(DELTA))


TRAINED = Release(law="gaussian", stddev=1.5, moves=(1.0,), rate=0.2)
WHOLE = Release(law="gaussian", stddev=6.0, moves=(1.0,))
WIDE = Release(law="gaussian", stddev=9.0, moves=(2.0, 1.0, 2.0))
COUNTED = Release(law="discrete_gaussian", stddev=20.0, moves=(3.0,))
SHARED = Release(law="discrete_gaussian", stddev=30.0, moves=(20.0,), rate=0.3)


RELEASES: dict[str, dict[Release, int]] = {
    "once": {WHOLE: 1},
    "sampled": {TRAINED: 6},
    "several numbers": {WIDE: 2, WHOLE: 1},
    "whole numbers": {COUNTED: 4},
    "sampled whole numbers": {SHARED: 3},
    "mixed": {TRAINED: 4, WHOLE: 2, COUNTED: 3, SHARED: 1},
}


@pytest.mark.parametrize("name", slow_but(lambda name: name in ("once", "whole numbers"), RELEASES))
def test_true_epsilon__is_no_more_than_the_library_says_and_hardly_less(name: str) -> None:
    counts = RELEASES[name]
    releases = [release for release, times in counts.items() for _ in range(times)]
    found, most = true_epsilon(releases, DELTA), _by_the_library(counts)
    assert most * 0.98 - 1e-3 <= found <= most
