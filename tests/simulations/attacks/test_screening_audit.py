"""An audit of screening: honest sums of tables pass, and every sabotage of them is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clients import screening
from clients.site import Site
from fedlearn.auditing.findings import CheckName
from fedlearn.config import load
from fedlearn.mechanisms import EvaluationPlan
from fedlearn.privacy.noise import Keystream, SeededNoise
from fedlearn.results.result import ResultFile
from fedlearn.screening import ScreeningLayout
from simulations.attacks.measure import plan_in
from simulations.attacks.whole_update import checks_of_run
from tests.simulations.attacks.audited import Sabotage, broken, simulated

pytestmark = pytest.mark.slow

NAMES = {"noise_of_tables", "sums_of_tables", "source_of_tables"}
Whole = NDArray[np.int64]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> ResultFile:
    return simulated(tmp_path_factory.mktemp("honest"), "screening=sums", "audit=none")


def test_checks__of_honest_sums_hold(honest: ResultFile) -> None:
    found = checks_of_run(load(honest.config), honest)
    assert {check.name for check in found} > NAMES
    assert [check for check in found if not check.holds] == []
    for _ in range(3):
        assert broken(honest) == {}


def test_checks__catch_an_epsilon_that_knows_of_training_alone(
    honest: ResultFile, tmp_path: Any
) -> None:
    result = simulated(tmp_path, "screening=sums", "screening.share=0.5", "audit=none")
    plan = plan_in(load(result.config), result)
    assert plan is not None
    alone = replace(plan, screening=None).epsilon  # type: ignore[type-var]
    privacy = replace(result.privacy, epsilon=alone)
    assert set(broken(replace(result, privacy=privacy))) == {"accounting"}


def _noise(patch: pytest.MonkeyPatch, made: Callable[[Whole, Whole], Whole]) -> None:
    """`made(sums, noise)` is what leaves in the place of their sum."""
    honestly = screening.noisy

    def noisy(total: Whole, plan: EvaluationPlan, number: int, stream: Keystream) -> Whole:
        return made(total, honestly(np.zeros_like(total), plan, number, stream))

    patch.setattr(screening, "noisy", noisy)


def noise_halved(patch: pytest.MonkeyPatch) -> None:
    _noise(patch, lambda total, noise: total + noise // 2)


def one_sum_without_noise(patch: pytest.MonkeyPatch) -> None:
    _noise(patch, lambda total, noise: total + noise * (np.arange(len(noise)) != 1))


def the_noise_of_one_class_for_both(patch: pytest.MonkeyPatch) -> None:
    _noise(patch, lambda total, noise: total + np.tile(noise[: len(noise) // 2], 2))


def records_counted_twice(patch: pytest.MonkeyPatch) -> None:
    _noise(patch, lambda total, noise: 2 * total + noise)


def places_beyond_their_bound(patch: pytest.MonkeyPatch) -> None:
    added = ScreeningLayout.added

    def beyond(layout: ScreeningLayout, features: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.hstack([added(layout, features)[:, :1], 3 * added(layout, features)[:, 1:]])

    def whole(rows: NDArray[np.float64], *_: object) -> Whole:
        return np.rint(rows * _[2].steps[0]).astype(np.int64)  # type: ignore[attr-defined]

    patch.setattr(ScreeningLayout, "added", beyond)
    patch.setattr(screening, "whole_numbers", whole)


def a_source_that_repeats(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Site, "noise_of_screening", lambda _: SeededNoise(b"always"))


SABOTAGES: dict[Sabotage, CheckName] = {
    noise_halved: "noise_of_tables",
    one_sum_without_noise: "noise_of_tables",
    the_noise_of_one_class_for_both: "noise_of_tables",
    records_counted_twice: "sums_of_tables",
    places_beyond_their_bound: "sums_of_tables",
    a_source_that_repeats: "source_of_tables",
}


@pytest.mark.parametrize(("sabotage", "seen"), SABOTAGES.items())
def test_checks__catch(
    sabotage: Sabotage, seen: CheckName, honest: ResultFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    assert seen in broken(honest)
