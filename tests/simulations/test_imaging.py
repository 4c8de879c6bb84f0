"""The experiments on images, one round each on their real data, and what they promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedlearn.config import RunConfig, compose
from fedlearn.mechanisms import DistributedPrivacy
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate
from tests.effort import slow_but


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of the tests are kept nowhere; archives are linked from the user's cache."""
    import os

    from fedlearn.data.datasets.archives import default_cache

    archives = default_cache(os.environ) / "archives"
    (tmp_path / "cache").mkdir()
    if archives.is_dir():
        (tmp_path / "cache" / "archives").symlink_to(archives)
    monkeypatch.setenv("FEDLEARN_CACHE", str(tmp_path / "cache"))


def run(out: Path, *overrides: str) -> dict[str, Any]:
    simulate(compose([*overrides, f"out={out}"]), Silent(), Stop())
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    assert result["status"] == "finished"
    return result


@pytest.mark.slow
def test_medical_imaging__runs_a_round_on_blood_cells(blood_cells: Path, tmp_path: Path) -> None:
    result = run(
        tmp_path / "run", "experiment=medical_imaging", f"scenario.path={blood_cells}",
        "scenario.groups=groups", "model.resolution=56", "rounds=1",
    )  # fmt: skip
    sites = result["data"]["sites"].values()
    assert sum(site["train"] for site in sites) == 3387
    assert sum(site["test"] for site in sites) == 967
    assert result["privacy"]["delta"] < 1 / 3387
    # The head alone is trained, sent and noised: 256 features and a bias for each of 3 classes.
    assert result["model"]["trainable"] == 3 * (256 + 1)
    assert result["model"]["parameters"] > 100_000
    assert result["final"]["evaluate"]["loss"] < np.log(3)


@pytest.mark.slow
def test_benchmark_fashion__runs_a_round_on_some_of_its_images(
    fashion_folder: Path, tmp_path: Path
) -> None:
    result = run(
        tmp_path / "run", "experiment=benchmark_fashion", f"scenario.path={fashion_folder}",
        "scenario.limit=600", "training.nominal_records=120", "training.sample_rate=1.0",
        "privacy=none", "rounds=3",
    )  # fmt: skip
    assert len(result["data"]["sites"]) == 5
    assert result["model"]["trainable"] == result["model"]["parameters"] == 10 * (81 * 49 + 1)
    assert result["final"]["evaluate"]["accuracy"] > 0.4  # ten classes alike: by chance .1


def test_benchmark_fashion__promises_less_than_one_in_the_number_of_records() -> None:
    config = compose(["experiment=benchmark_fashion"])
    assert config.privacy.kind == "distributed"
    assert config.privacy.delta < 1 / 60_000


def settings_of(*overrides: str) -> tuple[float, float]:
    """Learning rate and clip norm."""
    config = compose([*overrides])
    assert isinstance(config.privacy, DistributedPrivacy)
    return config.training.learning_rate, config.privacy.clip_norm


def test_benchmark_fashion__gives_no_model_the_settings_of_another() -> None:
    found = {model: settings_of("experiment=benchmark_fashion", f"model={model}")
             for model in ("scattering", "cnn", "resnet")}  # fmt: skip
    assert found["scattering"] == (16.0, 0.1)  # those of docs/results.md
    assert found["cnn"] == (0.3, 5.0)
    assert found["resnet"] == settings_of("scenario=fashion", "model=resnet", "partition=iid",
                                          "privacy=distributed")  # fmt: skip


@pytest.mark.parametrize("privacy", ["none", "record", "distributed"])
def test_experiment__is_chosen_with_every_kind_of_privacy(privacy: str) -> None:
    for experiment in ("medical_imaging", "benchmark_fashion"):
        config = compose([f"experiment={experiment}", "scenario.path=x", f"privacy={privacy}"])
        assert config.privacy.kind == privacy


def test_simulate__learns_from_a_folder_of_images(tmp_path: Path) -> None:
    """One's own images, of mixed sizes, with one command and a network from scratch."""
    made = np.random.default_rng(0)
    for site in ("north", "south"):
        for label, level in (("dark", 60), ("light", 190)):
            folder = tmp_path / "images" / site / label
            folder.mkdir(parents=True)
            for i in range(12):
                sides = tuple(made.integers(10, 20, 2))
                pixels = made.normal(level, 20, sides).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    result = run(
        tmp_path / "run", "scenario=images", f"scenario.path={tmp_path / 'images'}",
        "scenario.sites=true", "scenario.size=12", "scenario.colour=grey", "model=cnn",
        "model.width=4", "model.depth=2", "privacy=none", "secagg=off", "transport=plain",
        "tuned.learning_rate.none=0.2", "training.local_steps=3", "rounds=6",
    )  # fmt: skip
    assert sorted(result["data"]["sites"]) == ["north", "south"]
    assert result["final"]["evaluate"]["accuracy"] > 0.9


@pytest.mark.parametrize("model", ["cnn", "resnet", "vit", "scattering", "squeezenet"])
def test_medical_imaging__takes_any_model_of_images(model: str) -> None:
    training = compose(["experiment=medical_imaging", "scenario.path=x", f"model={model}"]).training
    # Of SqueezeNet alone there are weights worth freezing.
    assert training.finetune == ("head" if model == "squeezenet" else "full")


@pytest.mark.parametrize("model", ["resnet", "vit"])
@pytest.mark.parametrize(
    "scenario",
    slow_but(
        lambda one: one == "scenario=medmnist", ["experiment=medical_imaging", "scenario=medmnist"]
    ),
)
def test_defaults__of_networks_that_need_many_steps_go_by_privacy(
    model: str, scenario: str
) -> None:
    def composed(privacy: str) -> RunConfig:
        return compose([scenario, "scenario.path=x", f"model={model}", f"privacy={privacy}"])

    plain, private, shared = (composed(p) for p in ("none", "record", "distributed"))
    assert (plain.training.optimizer, private.training.optimizer) == ("adam", "sgd")
    for config in (plain, private):
        assert config.rounds * config.training.local_steps >= 150
    # What is noised inside secure aggregation is one sum a round.
    assert shared.training.local_steps == 1
