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

from fedlearn.auditing.findings import CheckName
from fedlearn.cli import main
from fedlearn.mechanisms.record import RecordPlan
from fedlearn.privacy.events import GaussianEvent
from fedlearn.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from fedlearn.results.result import ResultFile
from fedlearn.training import private
from fedlearn.training.dp import engine
from fedlearn.training.private import PrivateOptimizer
from tests.simulations.attacks.audited import FIVE, Sabotage, broken, simulated

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> ResultFile:
    return simulated(tmp_path_factory.mktemp("honest"))


def test_checks__of_an_honest_run_hold_and_stand_in_its_result(
    honest: ResultFile, caplog: pytest.LogCaptureFixture
) -> None:
    assert honest.audit
    names = [check.name for check in honest.audit.checks]
    assert len(names) == len(set(names)) == 16
    assert all(check.holds for check in honest.audit.checks)
    assert honest.audit.verdict == "consistent with the promise"
    for _ in range(3):
        assert broken(honest) == {}
    assert not caplog.records  # what the audit makes up is nothing to warn of
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
        "secagg=masked", sites=FIVE,
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
    honest = private.rounded_normals

    def normals(noise: NoiseSource, sizes: list[int], stddev: float, device: Any) -> list[Tensor]:
        drawn = dict(zip(sizes, honest(noise, sizes, stddev, device), strict=True))
        return [drawn[size] for size in sizes]

    patch.setattr(private, "rounded_normals", normals)


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
    honest, kept = private.rounded_normals, dict[tuple[int, ...], list[Tensor]]()

    def normals(noise: NoiseSource, sizes: list[int], stddev: float, device: Any) -> list[Tensor]:
        return kept.setdefault(tuple(sizes), honest(noise, sizes, stddev, device))

    patch.setattr(private, "rounded_normals", normals)


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


# --- sabotages that were thought of when the checks stood -------------------------------------


def _noise_of(self: Any, honest: Callable[[Any], None]) -> tuple[list[Tensor], list[Tensor]]:
    """The sums of a step, and the noise that was drawn for them."""
    sums = [p.summed_grad.clone() for p in self.params]
    honest(self)
    return sums, [p.grad - t for p, t in zip(self.params, sums, strict=True)]


def _other_noise(
    patch: pytest.MonkeyPatch, changed: Callable[[Any, list[Tensor]], list[Tensor]]
) -> None:
    honest = PrivateOptimizer.add_noise

    def add_noise(self: Any) -> None:
        sums, noise = _noise_of(self, honest)
        for parameter, total, own in zip(self.params, sums, changed(self, noise), strict=True):
            parameter.grad = (total + own).to(parameter.dtype)

    patch.setattr(PrivateOptimizer, "add_noise", add_noise)


def _deviation(optimizer: Any) -> float:
    return float(optimizer.noise_multiplier * optimizer.max_grad_norm)


def noise_halved(patch: pytest.MonkeyPatch) -> None:
    _other_noise(patch, lambda _, noise: [n / 2 for n in noise])


def noise_of_a_seed_that_repeats_in_every_run(patch: pytest.MonkeyPatch) -> None:
    coins = torch.Generator().manual_seed(7)

    def changed(self: Any, noise: list[Tensor]) -> list[Tensor]:
        return [torch.randn(n.shape, generator=coins) * _deviation(self) for n in noise]

    _other_noise(patch, changed)


def a_source_of_a_seed_that_repeats_in_every_run(patch: pytest.MonkeyPatch) -> None:
    lasting = SeededNoise(b"7")
    for name in ("normal", "bernoulli", "stream"):
        taken = getattr(lasting, name)
        patch.setattr(SystemNoise, name, lambda self, *a, taken=taken: taken(*a))


def noise_in_the_first_step_alone(patch: pytest.MonkeyPatch) -> None:
    def changed(self: Any, noise: list[Tensor]) -> list[Tensor]:
        self.steps_made = getattr(self, "steps_made", 0) + 1
        return noise if self.steps_made == 1 else [0 * n for n in noise]

    _other_noise(patch, changed)


def no_noise_where_nobody_takes_part(patch: pytest.MonkeyPatch) -> None:
    honest = PrivateOptimizer.add_noise

    def add_noise(self: Any) -> None:
        if any(bool(p.summed_grad.any()) for p in self.params):
            honest(self)
            return
        for parameter in self.params:
            parameter.grad = torch.zeros_like(parameter)

    patch.setattr(PrivateOptimizer, "add_noise", add_noise)


def noise_cut_off_at_two_deviations(patch: pytest.MonkeyPatch) -> None:
    _other_noise(
        patch, lambda s, noise: [n.clamp(-2 * _deviation(s), 2 * _deviation(s)) for n in noise]
    )


def noise_of_a_block_that_begins_again(patch: pytest.MonkeyPatch) -> None:
    def changed(self: Any, noise: list[Tensor]) -> list[Tensor]:
        block = torch.cat([n.reshape(-1) for n in noise])[:48]
        sizes = [n.numel() for n in noise]
        whole = block.repeat(sum(sizes) // 48 + 1)[: sum(sizes)]
        return [w.view(n.shape) for w, n in zip(whole.split(sizes), noise, strict=True)]

    _other_noise(patch, changed)


def noise_of_equal_chances(patch: pytest.MonkeyPatch) -> None:
    def changed(self: Any, noise: list[Tensor]) -> list[Tensor]:
        wide = 12**0.5 * _deviation(self)
        return [(0.5 + torch.erf(n / _deviation(self) / 2**0.5) / 2 - 0.5) * wide for n in noise]

    _other_noise(patch, changed)


def one_number_for_a_row(patch: pytest.MonkeyPatch) -> None:
    _other_noise(patch, lambda _, noise: [n[..., :1].expand_as(n) for n in noise])


def clip_norm_doubled(patch: pytest.MonkeyPatch) -> None:
    honest = private.clipping_by
    patch.setattr(
        private, "clipping_by", lambda model, config, norm: honest(model, config, 2 * norm)
    )


def _other_sum(
    patch: pytest.MonkeyPatch, factors: Callable[[float, dict[str, Tensor], Tensor], Any]
) -> None:
    """Sums by `factors(bound, squared norms by parameter, of all)` of every row and parameter."""
    honest = engine.clipped_sum

    def clipped_sum(parameters: Any, clipping: Any, found: Any, losses: Any, first: Any) -> Any:
        clipped = honest(parameters, clipping, found, losses, first)
        rows = len(losses) if first is None else first
        counted = (torch.arange(len(losses)) < rows).float()
        by_name = {name: one.squared_norms for name, one in found.items()}
        total = torch.stack(list(by_name.values())).sum(0)
        factor = factors(clipping.bounds[""], by_name, total)
        sums = {
            name: found[name].weighted_sum(counted * factor[name], None) if name in found else value
            for name, value in clipped.sums.items()
        }
        return replace(clipped, sums=sums)

    patch.setattr(engine, "clipped_sum", clipped_sum)


def _same_for_all(by_name: dict[str, Tensor], factor: Tensor) -> dict[str, Tensor]:
    return dict.fromkeys(by_name, factor)


def last_record_never_clipped(patch: pytest.MonkeyPatch) -> None:
    honest = engine.clipped_sum

    def clipped_sum(parameters: Any, clipping: Any, found: Any, losses: Any, first: Any) -> Any:
        rows = len(losses) if first is None else first
        clipped = honest(parameters, clipping, found, losses, rows - 1)
        last = (torch.arange(len(losses)) == rows - 1).float()
        sums = {
            name: value + found[name].weighted_sum(last, None) if name in found else value
            for name, value in clipped.sums.items()
        }
        return replace(clipped, sums=sums)

    patch.setattr(engine, "clipped_sum", clipped_sum)


def every_layer_clipped_to_the_whole_norm(patch: pytest.MonkeyPatch) -> None:
    _other_sum(
        patch,
        lambda bound, by_name, _: {
            name: (bound / squared.sqrt()).clamp(max=1) for name, squared in by_name.items()
        },
    )


def all_gradients_brought_to_the_norm(patch: pytest.MonkeyPatch) -> None:
    """Short ones too: within the bound, and so no breach; but not what the plan says."""
    _other_sum(patch, lambda bound, by_name, all_: _same_for_all(by_name, bound / all_.sqrt()))


def clipped_by_the_mean_norm_of_the_batch(patch: pytest.MonkeyPatch) -> None:
    _other_sum(
        patch,
        lambda bound, by_name, all_: _same_for_all(
            by_name, (bound / all_.sqrt().mean()).clamp(max=1).expand_as(all_)
        ),
    )


def mean_over_those_who_took_part(patch: pytest.MonkeyPatch) -> None:
    honest, release, took_part = private._batch, PrivateOptimizer.release, [0]

    def batch(*arguments: Any) -> Iterator[Any]:
        took_part[0] = 0
        for part in honest(*arguments):
            took_part[0] += part.count
            yield part

    def divided(self: Any) -> None:
        self.expected_batch_size = max(1, took_part[0])
        release(self)

    patch.setattr(private, "_batch", batch)
    patch.setattr(PrivateOptimizer, "release", divided)


def batches_of_one_size_in_passes(patch: pytest.MonkeyPatch) -> None:
    coins, left = np.random.default_rng(7), list[int]()

    def drawn(n: int, rate: float, _: Any) -> Any:
        size = max(1, round(n * rate))
        if len(left) < size or max(left, default=0) >= n:
            left[:] = coins.permutation(n).tolist()
        taken, left[:] = left[:size], left[size:]
        return np.sort(np.array(taken))

    patch.setattr(private, "poisson_batch", drawn)


def batches_of_one_size_by_secret_coins(patch: pytest.MonkeyPatch) -> None:
    honest = private.poisson_batch

    def drawn(n: int, rate: float, noise: NoiseSource) -> Any:
        if rate == 1.0 or n == 0:
            return honest(n, rate, noise)
        order = np.argsort([int(word) for word in noise.stream().words(n)])
        return np.sort(order[: round(n * rate)])

    patch.setattr(private, "poisson_batch", drawn)


def coins_kept_for_all_steps_of_a_round(patch: pytest.MonkeyPatch) -> None:
    honest, kept = private.poisson_batch, dict[str, Any]()

    def drawn(n: int, rate: float, noise: NoiseSource) -> Any:
        if kept.get("noise") is not noise:
            kept.update(noise=noise, rows=honest(n, rate, noise))
        return kept["rows"]

    patch.setattr(private, "poisson_batch", drawn)


def a_rate_a_tenth_higher(patch: pytest.MonkeyPatch) -> None:
    honest = private.poisson_batch
    patch.setattr(
        private, "poisson_batch", lambda n, rate, noise: honest(n, min(1, 1.1 * rate), noise)
    )


def twice_as_many_steps(patch: pytest.MonkeyPatch) -> None:
    honest = private.train_private

    def twice(*arguments: Any, **named: Any) -> None:
        honest(*arguments, **named)
        honest(*arguments, **named)

    patch.setattr(private, "train_private", twice)


OWN = [
    noise_halved,
    noise_of_a_seed_that_repeats_in_every_run,
    a_source_of_a_seed_that_repeats_in_every_run,
    noise_in_the_first_step_alone,
    no_noise_where_nobody_takes_part,
    noise_cut_off_at_two_deviations,
    noise_of_a_block_that_begins_again,
    noise_of_equal_chances,
    one_number_for_a_row,
    clip_norm_doubled,
    last_record_never_clipped,
    every_layer_clipped_to_the_whole_norm,
    all_gradients_brought_to_the_norm,
    clipped_by_the_mean_norm_of_the_batch,
    mean_over_those_who_took_part,
    batches_of_one_size_in_passes,
    batches_of_one_size_by_secret_coins,
    coins_kept_for_all_steps_of_a_round,
    a_rate_a_tenth_higher,
    twice_as_many_steps,
]


@pytest.mark.parametrize("sabotage", OWN)
def test_checks__catch_what_they_were_not_written_for(
    sabotage: Sabotage, honest: ResultFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    assert broken(honest)


def half_of_the_steps_counted(patch: pytest.MonkeyPatch) -> None:
    def event(self: RecordPlan, steps: int) -> GaussianEvent:
        return GaussianEvent(
            noise_multiplier=self.noise_multiplier, sample_rate=self.sample_rate, steps=steps // 2
        )

    patch.setattr(RecordPlan, "_event", event)


def test_checks__catch_an_accountant_that_is_told_half_of_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_of_the_steps_counted(monkeypatch)
    result = simulated(tmp_path)
    assert set(broken(result)) == {"accounting"}


# --- what no check sees -----------------------------------------------------------------------


def test_checks__do_not_see_a_program_that_knows_when_it_is_audited(
    honest: ResultFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit, and no promise: rounds of a run carry the hash of its terms, those of an audit
    none. Against such a program stand its hash, which owners approve, and the canaries."""
    from clients.work import SiteRound

    train = SiteRound.train_privately

    def quiet(self: Any, plan: Any, norm: float | None) -> Any:
        found = replace(plan, noise_multiplier=0.0) if self.request.note.terms else plan
        return train(self, found, norm)

    monkeypatch.setattr(SiteRound, "train_privately", quiet)
    assert broken(honest) == {}


def test_audit__of_a_sabotaged_program_ends_with_six(
    honest: ResultFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slots see nothing of this one: the canaries have all of their noise."""
    noise_on_slots_alone(monkeypatch)
    folder = Path(honest.config["out"])
    assert main(["audit", str(folder), "references=2"]) == 6
    assert "DOES NOT HOLD" in capsys.readouterr().out
    assert "In whole updates not as promised" in (folder / "report.html").read_text()
    monkeypatch.undo()
    assert main(["audit", str(folder), "references=2"]) == 0
