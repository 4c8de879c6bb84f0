"""Audits that see the whole update: an honest program passes, and every sabotage is caught.

A sabotage changes the real engine in this process. False alarms are one in a million audits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedlearn.auditing.findings import Check, CheckName
from fedlearn.cli import main
from fedlearn.config import load
from fedlearn.privacy.noise import NoiseSource
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from fedlearn.training import private
from fedlearn.training.dp import engine
from fedlearn.training.private import PrivateOptimizer
from simulations.attacks.whole_update import checks_of_run
from tests.simulations.small import table

pytestmark = pytest.mark.slow

Sabotage = Callable[[pytest.MonkeyPatch], None]


def simulated(folder: Path, *more: str, sites: tuple[str, ...] = ("north", "south")) -> ResultFile:
    """A short run at half of the records a step, two steps a round."""
    words = [
        *table(folder, sites=sites), "training.sample_rate=0.5", "training.local_steps=2",
        "audit=slots", "audit.canaries=40", *more,
    ]  # fmt: skip
    if not any(word.startswith("privacy") for word in more):
        words.append("privacy.epsilon=8")
    assert main(["simulate", *words, f"out={folder / 'run'}"]) in (0, 6)
    return read_result(folder / "run")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> ResultFile:
    return simulated(tmp_path_factory.mktemp("honest"))


def broken(result: ResultFile) -> dict[CheckName, Check]:
    found = checks_of_run(load(result.config), result)
    assert found
    return {check.name: check for check in found if not check.holds}


def test_checks__of_an_honest_run_hold_and_stand_in_its_result(honest: ResultFile) -> None:
    assert honest.audit
    names = [check.name for check in honest.audit.checks]
    assert len(names) == len(set(names)) == 11
    assert all(check.holds for check in honest.audit.checks)
    assert honest.audit.verdict == "consistent with the promise"
    for _ in range(3):
        assert broken(honest) == {}
    report = (Path(honest.config["out"]) / "report.html").read_text()
    assert "no two layers have the same noise" in report


@pytest.mark.parametrize("rate", ["1.0", "0.05"])
def test_checks__of_honest_runs_at_other_rates_hold(rate: str, tmp_path: Path) -> None:
    assert broken(simulated(tmp_path, f"training.sample_rate={rate}")) == {}


def test_checks__of_noise_in_shares_hold_and_see_a_share_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = simulated(
        tmp_path, "privacy=distributed", "privacy.epsilon=8", "training.local_steps=1",
        "secagg=masked", sites=("east", "middle", "north", "south", "west"),
    )  # fmt: skip
    assert broken(result) == {}
    from fedlearn.mechanisms import encoding

    class Quieter:
        def __init__(self, honest: Any) -> None:
            self.honest = honest

        def draw(self, size: int, stream: Any) -> Any:
            return self.honest.draw(size, stream) // 2

    of = encoding.integer_noise
    monkeypatch.setattr(encoding, "integer_noise", lambda *a: Quieter(of(*a)))
    assert "noise_size" in broken(result)


def test_checks__are_none_where_nothing_is_promised(tmp_path: Path) -> None:
    result = simulated(tmp_path, "privacy=none")
    assert result.audit
    assert result.audit.checks == []


# --- sabotages that the checks were written for -----------------------------------------------


def noise_on_slots_alone(patch: pytest.MonkeyPatch) -> None:
    honest = PrivateOptimizer.add_noise

    def add_noise(self: Any) -> None:
        sums = [p.summed_grad.clone() for p in self.params]
        honest(self)
        for parameter, total in zip(self.params, sums, strict=True):
            if parameter.shape[0] < 32 or parameter.dim() < 2 or parameter.shape[1] > 1:
                parameter.grad = total.to(parameter.dtype)

    patch.setattr(PrivateOptimizer, "add_noise", add_noise)


def clip_skipped_for_one_layer(patch: pytest.MonkeyPatch) -> None:
    honest = engine.clipped_sum

    def clipped_sum(parameters: Any, clipping: Any, found: Any, losses: Any, first: Any) -> Any:
        clipped = honest(parameters, clipping, found, losses, first)
        counted = (torch.arange(len(losses)) < (len(losses) if first is None else first)).float()
        name = next(name for name in found)
        sums = {**clipped.sums, name: found[name].weighted_sum(counted, None)}
        return replace(clipped, sums=sums)

    patch.setattr(engine, "clipped_sum", clipped_sum)


def records_counted_twice(patch: pytest.MonkeyPatch) -> None:
    honest = private._batch

    def batch(*arguments: Any) -> Iterator[Any]:
        for part in honest(*arguments):
            yield part
            yield part

    patch.setattr(private, "_batch", batch)


def one_noise_for_layers_of_one_size(patch: pytest.MonkeyPatch) -> None:
    honest = private.normals

    def normals(noise: NoiseSource, sizes: list[int], stddev: float, device: Any) -> list[Tensor]:
        drawn = dict(zip(sizes, honest(noise, sizes, stddev, device), strict=True))
        return [drawn[size] for size in sizes]

    patch.setattr(private, "normals", normals)


def one_noise_for_all_steps_of_a_round(patch: pytest.MonkeyPatch) -> None:
    honest = PrivateOptimizer.add_noise

    def add_noise(self: Any) -> None:
        sums = [p.summed_grad.clone() for p in self.params]
        honest(self)
        fresh = [p.grad - t for p, t in zip(self.params, sums, strict=True)]
        self.kept = getattr(self, "kept", fresh)
        for parameter, total, old in zip(self.params, sums, self.kept, strict=True):
            parameter.grad = (total + old).to(parameter.dtype)

    patch.setattr(PrivateOptimizer, "add_noise", add_noise)


def one_noise_for_all_rounds(patch: pytest.MonkeyPatch) -> None:
    honest, kept = private.normals, dict[tuple[int, ...], list[Tensor]]()

    def normals(noise: NoiseSource, sizes: list[int], stddev: float, device: Any) -> list[Tensor]:
        return kept.setdefault(tuple(sizes), honest(noise, sizes, stddev, device))

    patch.setattr(private, "normals", normals)


def first_rows_instead_of_coins(patch: pytest.MonkeyPatch) -> None:
    honest = private.poisson_batch
    patch.setattr(
        private, "poisson_batch", lambda n, rate, noise: np.arange(len(honest(n, rate, noise)))
    )


LISTED = {
    noise_on_slots_alone: "noise_size",
    clip_skipped_for_one_layer: "clipped_sum",
    records_counted_twice: "clipped_sum",
    one_noise_for_layers_of_one_size: "noise_of_layers",
    one_noise_for_all_steps_of_a_round: "noise_size",
    one_noise_for_all_rounds: "noise_size",
    first_rows_instead_of_coins: "draws_of_records",
}


@pytest.mark.parametrize(("sabotage", "seen"), LISTED.items())
def test_checks__catch(
    sabotage: Sabotage, seen: CheckName, honest: ResultFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    assert seen in broken(honest)


def test_audit__of_a_sabotaged_program_ends_with_six(
    honest: ResultFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slots see nothing of this one: the canaries have all of their noise."""
    noise_on_slots_alone(monkeypatch)
    folder = Path(honest.config["out"])
    assert main(["audit", str(folder), "references=2"]) == 6
    assert "DOES NOT HOLD" in capsys.readouterr().out
    assert "in whole updates not as promised" in (folder / "report.html").read_text()
    monkeypatch.undo()
    assert main(["audit", str(folder), "references=2"]) == 0
