"""Audits against sabotages by somebody who had not read the checks when they were written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn.auditing.findings import CheckName
from fedlearn.mechanisms import client, encoding
from fedlearn.privacy.noise import SeededNoise
from fedlearn.results.result import ResultFile
from tests.simulations.attacks import sabotages
from tests.simulations.attacks.audited import FIVE, Sabotage, broken, simulated

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> ResultFile:
    return simulated(tmp_path_factory.mktemp("honest"))


@pytest.mark.parametrize(("sabotage", "seen"), sabotages.CAUGHT.items())
def test_checks__catch(
    sabotage: Sabotage, seen: CheckName, honest: ResultFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    assert seen in broken(honest)


@pytest.mark.parametrize("sabotage", sabotages.UNSEEN)
def test_checks__do_not_see(
    sabotage: Sabotage, honest: ResultFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit, and no promise: docs/privacy.md says why."""
    sabotage(monkeypatch)
    assert broken(honest) == {}


def test_checks__see_noise_that_ends_within_a_long_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = simulated(tmp_path, "training.local_steps=24")
    assert broken(result) == {}
    sabotages.noise_in_sixteen_steps_alone(monkeypatch)
    assert "noise_size" in broken(result)


@pytest.mark.parametrize(
    "words", [["training.momentum=0.9"], ["training.optimizer=adam", "training.weight_decay=0.01"]]
)
def test_checks__see_an_optimizer_that_has_clear_sums(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = simulated(tmp_path, *words)
    assert broken(result) == {}
    if "training.momentum=0.9" in words:
        sabotages.momentum_of_clear_sums(monkeypatch)
        assert set(broken(result)) == {"optimizer"}


# --- privacy of whole clients ------------------------------------------------------------------

CLIENTS = "privacy=client", "privacy.epsilon=8", "privacy.clipping=adaptive", "audit=none"


@pytest.fixture(scope="module")
def of_clients(tmp_path_factory: pytest.TempPathFactory) -> ResultFile:
    return simulated(tmp_path_factory.mktemp("clients"), *CLIENTS, sites=FIVE)


def noise_on_the_mean_as_if_on_the_sum(patch: pytest.MonkeyPatch) -> None:
    deviation = property(lambda self: self.noise_multiplier / 5)
    patch.setattr(client.ClientPlan, "update_noise_multiplier", deviation)


def updates_not_clipped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(client, "clipped", lambda values, norm: np.array(values, np.float64))


def updates_clipped_by_their_largest_value(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        client, "clipped", lambda values, norm: values * min(1, norm / np.abs(values).max())
    )


def a_count_in_clear(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(client.ClientPlan, "count_noise_stddev", property(lambda self: 0.0))


def one_noise_for_all_rounds(patch: pytest.MonkeyPatch) -> None:
    honest = client.ClientSum.release

    def release(self: Any, *, expected_clients: float, noise: Any) -> Any:
        return honest(self, expected_clients=expected_clients, noise=SeededNoise(b"one"))

    patch.setattr(client.ClientSum, "release", release)


@pytest.mark.parametrize(
    ("sabotage", "seen"),
    [
        (noise_on_the_mean_as_if_on_the_sum, "noise_size"),
        (updates_not_clipped, "clipped_sum"),
        (updates_clipped_by_their_largest_value, "clipped_sum"),
        (a_count_in_clear, "noise_of_counts"),
        (one_noise_for_all_rounds, "noise_of_draws"),
    ],
)
def test_checks_of_clients__catch(
    sabotage: Callable[[pytest.MonkeyPatch], None],
    seen: CheckName,
    of_clients: ResultFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert broken(of_clients) == {}
    sabotage(monkeypatch)
    assert seen in broken(of_clients)


def test_checks_of_clients__see_shares_that_are_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "privacy=distributed", "privacy.unit=client", "privacy.epsilon=8", "secagg=masked"
    result = simulated(tmp_path, *words, "audit=none", sites=FIVE)
    assert broken(result) == {}
    noise = encoding.integer_noise
    monkeypatch.setattr(encoding, "integer_noise", lambda law, d: noise(law, max(1, d // 2)))
    assert "noise_size" in broken(result)


def test_checks_of_clients__see_a_bound_that_is_missing_under_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "privacy=distributed", "privacy.epsilon=8", "training.local_steps=1", "secagg=masked"
    result = simulated(tmp_path, *words, sites=FIVE)
    monkeypatch.setattr(encoding, "clipped", lambda values, norm: np.array(values, np.float64))
    assert "noise_size" in broken(result)
