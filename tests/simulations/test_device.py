"""A whole run on a GPU that is not there (`tests.far`): what the CPU finds, to the bit.

Messages, secure aggregation and ledgers do not know where a site computes; the
result says it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from clients.site import TEST_NOISE
from fedlearn.config import compose
from fedlearn.core.errors import ConfigError, FedlearnError
from fedlearn.training import device, local
from server.run import Silent
from server.stop import Stop
from simulations.attacks.audit import measure_folder
from simulations.engines.forks import SHARE_A_GPU, at_a_time
from simulations.engines.local import workers_of
from simulations.run import simulate
from simulations.sweeps import compare
from simulations.sweeps.compare import CompareSettings
from tests.far import far_device

from .small import table


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a first use of CUDA sets for a process stays out of the other tests; nor a fork."""
    from clients import site

    monkeypatch.setattr(device, "_exact", lambda: None)
    monkeypatch.setenv(TEST_NOISE, "device")
    site._learner.cache_clear()
    yield
    site._learner.cache_clear()


def run(folder: Path, *overrides: str, gpu: bool) -> dict[str, Any]:
    """The result, on the CPU or on the device that is not there."""
    out = folder / ("gpu" if gpu else "cpu")
    sites = ("north", "south", "west")
    chosen = [*table(folder, sites=sites), "engine.workers=1", *overrides, f"out={out}"]
    with far_device() if gpu else nullcontext():
        simulate(compose(chosen), Silent(), Stop())
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("privacy=none",),
        ("privacy=record", "privacy.epsilon=4"),
        ("privacy=record", "privacy.epsilon=4", "audit=slots"),
        ("privacy=record", "privacy.epsilon=4", "audit=mislabelled", "audit.canaries=20"),
        ("privacy=none", "model.architecture=ft_transformer"),
        ("privacy=none", "secagg=masked", "transport=sealed"),
    ],
    ids="-".join,
)
def test_run__on_a_gpu_finds_what_the_cpu_finds(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    expected, found = (run(tmp_path, *overrides, gpu=gpu) for gpu in (False, True))
    assert found["model"] == expected["model"]  # its hash among it
    assert found["final"] == expected["final"]
    assert expected["environment"]["device"] == "cpu"
    assert found["environment"]["device"] == "cuda"


def test_run__on_the_cpu_though_there_is_a_gpu(tmp_path: Path) -> None:
    found = run(tmp_path, "privacy=none", "training.device=cpu", gpu=True)
    assert found["environment"]["device"] == "cpu"


def test_run__without_the_gpu_it_asks_for_is_refused_at_once(tmp_path: Path) -> None:
    wish = f"out={tmp_path / 'out'}", "training.device=cuda"
    config = compose([*table(tmp_path), *wish])
    with far_device(count=0), pytest.raises(FedlearnError) as refused:
        simulate(config, Silent(), Stop())
    assert "training.device=cuda" in str(refused.value)
    assert refused.value.exit_code == ConfigError.exit_code
    assert not (tmp_path / "out").exists()


def test_run__says_what_to_lower_where_a_gpu_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(local, "forward", full)
    with pytest.raises(FedlearnError, match=r"training\.max_batch"):
        run(tmp_path, "privacy=none", gpu=True)


def test_audit__says_what_to_do_where_a_gpu_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    run(tmp_path, "privacy=none", gpu=False)
    monkeypatch.setattr(local, "forward", full)
    with pytest.raises(FedlearnError, match=r"audit: .*CUDA_VISIBLE_DEVICES="), far_device():
        measure_folder(tmp_path / "cpu", 2)


@pytest.mark.slow
def test_audit__of_a_run_on_a_gpu_needs_none(tmp_path: Path) -> None:
    run(tmp_path, "privacy=none", "training.device=cuda", gpu=True)
    with far_device(count=0):
        assert {one.name for one in measure_folder(tmp_path / "gpu", 2).attacks} == {"loss", "rmia"}


# --- how many processes --------------------------------------------------------------


def test_ray__shows_no_gpu_that_is_not_set_aside() -> None:
    with pytest.raises(ConfigError, match=r"engine\.gpus_per_site"):
        compose(["experiment=medical_heart", "engine=ray", "training.device=cuda"])
    shared = "engine.gpus_per_site=0.25"
    compose(["experiment=medical_heart", "engine=ray", "training.device=cuda", shared])


def test_processes__are_few_to_a_gpu() -> None:
    with far_device(count=2):
        assert at_a_time(100, "auto") == 2 * SHARE_A_GPU
        assert at_a_time(3, "cuda") == 3
        assert at_a_time(100, "cpu") == 100
    with far_device(count=0):
        assert at_a_time(100, "auto") == 100
        assert at_a_time(0, "auto") == 1


def test_workers__start_before_this_process_uses_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(["experiment=medical_heart", "engine.workers=2"])
    with far_device():
        assert workers_of(config.engine, config.training, [10, 10]).at_once
    assert not workers_of(config.engine, config.training, [10, 10]).at_once


@pytest.mark.slow
def test_workers__that_a_divided_gpu_rules_out_are_told_of_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_driver_asked", True)
    monkeypatch.setattr("simulations.engines.local.cores", lambda: 2)
    run(tmp_path, "privacy=none", "engine.workers=2", gpu=True)
    assert (tmp_path / "gpu" / "run.log").read_text().count("one process answers") == 1


def test_workers__start_at_once_beside_a_gpu_that_is_not_used() -> None:
    """A first backward pass of this process would end theirs."""
    config = compose(["experiment=medical_heart", "engine.workers=2", "training.device=cpu"])
    with far_device():
        assert workers_of(config.engine, config.training, [10, 10]).at_once


def test_compare__forks_nothing_from_a_process_that_has_used_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, settings = compose(["experiment=medical_heart"]), CompareSettings()
    assert compare.staff(settings.workers, [config])[1] == "fork"
    monkeypatch.setattr(compare, "touched", lambda choice: choice == config.training.device)
    assert compare.staff(settings.workers, [config])[1] == "spawn"
