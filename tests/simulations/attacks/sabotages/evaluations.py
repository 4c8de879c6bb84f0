"""Sabotages of private evaluation: noise on test sums that is not what the ledger paid for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from clients import evaluation
from fedlearn.auditing.findings import CheckName
from fedlearn.mechanisms import evaluation as mechanism
from fedlearn.mechanisms.evaluation import EvaluationPlan
from fedlearn.privacy.noise import Keystream, SeededNoise
from tests.simulations.attacks.audited import Sabotage

OF_TESTS: Final[dict[Sabotage, CheckName]] = {}
"""And a check that sees each."""

Whole = NDArray[np.int64]


def seen_by(name: CheckName) -> Any:
    def keep(sabotage: Sabotage) -> Sabotage:
        OF_TESTS[sabotage] = name
        return sabotage

    return keep


def _noise(patch: pytest.MonkeyPatch, made: Any) -> None:
    """`made(sum, noise, round)` is what leaves in the place of their sum."""
    honest = evaluation.noisy

    def noisy(total: Whole, plan: EvaluationPlan, number: int, stream: Keystream) -> Any:
        noise = honest(np.zeros_like(total), plan, number, stream)
        return np.asarray(made(total, noise, number), np.int64)

    patch.setattr(evaluation, "noisy", noisy)


@seen_by("noise_of_tests")
def noise_halved(patch: pytest.MonkeyPatch) -> None:
    _noise(patch, lambda total, noise, _: total + noise // 2)


@seen_by("noise_of_tests")
def one_sum_without_noise(patch: pytest.MonkeyPatch) -> None:
    """The loss, which is one number among many."""
    _noise(patch, lambda total, noise, _: total + noise * (np.arange(len(noise)) != 4))


@seen_by("noise_of_tests")
def the_noise_of_one_sum_for_two(patch: pytest.MonkeyPatch) -> None:
    def made(total: Whole, noise: Whole, _: int) -> Whole:
        return total + np.concatenate([noise[:-8], noise[-16:-8]])

    _noise(patch, made)


@seen_by("noise_of_tests")
def the_same_noise_in_every_round_of_a_run(patch: pytest.MonkeyPatch) -> None:
    """Fresh in every run, so that no run shows it against another."""
    kept: dict[str, Whole] = {}

    def made(total: Whole, noise: Whole, number: int) -> Whole:
        if number == 1 or "noise" not in kept:
            kept["noise"] = noise
        return total + kept["noise"]

    _noise(patch, made)


@seen_by("noise_of_tests")
def the_same_noise_for_every_run(patch: pytest.MonkeyPatch) -> None:
    honest = evaluation.noisy
    patch.setattr(
        evaluation,
        "noisy",
        lambda total, plan, number, _: honest(
            total, plan, number, SeededNoise(b"%d" % number).stream()
        ),
    )


@seen_by("source_of_tests")
def noise_of_a_generator_beside_the_source(patch: pytest.MonkeyPatch) -> None:
    coins = np.random.default_rng()
    honest = evaluation.noisy
    patch.setattr(
        evaluation,
        "noisy",
        lambda total, plan, number, _: honest(
            total, plan, number, SeededNoise(coins.bytes(16)).stream()
        ),
    )


@seen_by("noise_of_tests")
def no_noise_where_nobody_is_tested(patch: pytest.MonkeyPatch) -> None:
    _noise(patch, lambda total, noise, _: total + noise * bool(total.any()))


@seen_by("noise_of_tests")
def the_last_round_without_noise(patch: pytest.MonkeyPatch) -> None:
    _noise(patch, lambda total, noise, number: total + noise * (number == 1))


@seen_by("noise_of_tests")
def noise_cut_off_at_two_deviations(patch: pytest.MonkeyPatch) -> None:
    honest = evaluation.noisy

    def noisy(total: Whole, plan: EvaluationPlan, number: int, stream: Keystream) -> Whole:
        most = 2 * plan.stddev_at(number)
        return total + np.clip(honest(0 * total, plan, number, stream), -most, most)

    patch.setattr(evaluation, "noisy", noisy)


@seen_by("sums_of_tests")
def sums_rounded_before_their_noise(patch: pytest.MonkeyPatch) -> None:
    """A record that moves a sum over an edge moves it by thousands of steps."""
    _noise(patch, lambda total, noise, _: total // 4096 * 4096 + noise)


@seen_by("sums_of_tests")
def records_not_cut_to_their_bound(patch: pytest.MonkeyPatch) -> None:
    def steps(rows: Any, bound: float, step: int) -> Whole:
        return np.asarray(np.trunc(np.nan_to_num(3 * rows) * (step / bound)), np.int64)

    patch.setattr(mechanism, "_steps_of", steps)


@seen_by("sums_of_tests")
def a_record_that_is_counted_twice(patch: pytest.MonkeyPatch) -> None:
    honest = evaluation.whole_numbers

    def twice(*of: Any) -> Whole:
        found = honest(*of)
        found[:1] *= 2
        return found

    patch.setattr(evaluation, "whole_numbers", twice)


@seen_by("sums_of_tests")
def the_number_of_records_beside_the_noise(patch: pytest.MonkeyPatch) -> None:
    honest = evaluation.summed

    def summed(total: Whole, records: int, plan: EvaluationPlan) -> Whole:
        found = honest(total, records, plan)
        found[0] += records
        return found

    patch.setattr(evaluation, "summed", summed)


@seen_by("sums_of_tests")
def a_record_that_is_booked_as_half_a_record(patch: pytest.MonkeyPatch) -> None:
    whole = EvaluationPlan.l2_sensitivity.fget  # type: ignore[attr-defined]
    patch.setattr(EvaluationPlan, "l2_sensitivity", property(lambda self: whole(self) / 2))


@seen_by("noise_of_tests")
def a_finer_noise_than_is_booked(patch: pytest.MonkeyPatch) -> None:
    """Of another plan: that of the ledger stays as it is."""
    honest = evaluation.noisy

    def noisy(total: Whole, plan: EvaluationPlan, number: int, stream: Keystream) -> Whole:
        least = replace(plan, stddev=plan.stddev // 3, last_stddev=plan.last_stddev // 3)
        return honest(total, least, number, stream)

    patch.setattr(evaluation, "noisy", noisy)
