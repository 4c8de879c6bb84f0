"""Whole runs of the main job: real hospitals, real Flower apps, both engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from clients.site import TEST_NOISE
from fedlearn.cli import main
from fedlearn.config import RunConfig, compose, encode, load
from fedlearn.core.errors import PrivacyError, StoppedError
from fedlearn.core.vector import vector_digest
from fedlearn.privacy.accounting import epsilon_rdp
from fedlearn.privacy.events import GaussianEvent
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate
from tests import warm
from tests.flwr_run import end_processes_of, flwr_run, wait_for

pytestmark = pytest.mark.usefixtures("heart_archive")

HEART = "experiment=medical_heart"
ROUNDS = 4


def run(out: Path, *overrides: str, stop: Stop | None = None) -> dict[str, Any]:
    simulate(compose([HEART, f"out={out}", *overrides]), Silent(), stop or Stop())
    return read(out)


def read(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished private run with the default budget."""
    out = tmp_path_factory.mktemp("runs") / "private"
    run(out, f"rounds={ROUNDS}")
    return out


def test_simulate__leaves_every_file_of_the_contract(private: Path) -> None:
    names = {path.name for path in private.iterdir()}
    expected = {"config.yaml", "result.json", "metrics.jsonl", "model.safetensors", "run.log"}
    assert names >= expected | {"checkpoint"}


def test_simulate__result_has_the_keys_of_the_contract(private: Path) -> None:
    result = read(private)
    assert result["schema"] == "fedlearn/result/v1"
    assert result["status"] == "finished"
    assert set(result) >= {"run_id", "started_at", "seconds", "config", "data", "model"}
    assert result["data"]["sites"]["cleveland"] == {"train": 199, "test": 104}
    assert set(result["final"]["per_site"]) == set(result["data"]["sites"])
    first = result["rounds"][0]
    assert set(first) == {
        "round", "seconds", "loss", "evaluate", "clients", "bytes", "epsilon",
        "refused", "unused", "named",
    }  # fmt: skip
    assert first["clients"] == {"invited": 4, "replied": 4, "dropped": {}}
    # Down: the model to four sites, twice (train and evaluate); up: four models and sums.
    assert first["bytes"]["down"] > 8 * 28 * 4
    assert result["protection"] == {
        "transport": "sealed",
        "secagg": "masked",
        "robust": "bounded",
        "false_alarm": None,
        "helper": "",
    }


def test_simulate__metrics_lines_are_the_rounds(private: Path) -> None:
    lines = [json.loads(line) for line in (private / "metrics.jsonl").read_text().splitlines()]
    assert lines == read(private)["rounds"]


def test_simulate__model_file_has_the_hash_of_the_result(private: Path) -> None:
    tensors = load_file(private / "model.safetensors")
    vector = np.concatenate([tensors["head.weight"].ravel(), tensors["head.bias"].ravel()])
    assert vector_digest(vector) == read(private)["model"]["sha256"]


def test_simulate__written_config_loads_back_to_the_same_run(private: Path) -> None:
    config = load(yaml.safe_load((private / "config.yaml").read_text()))
    assert isinstance(config, RunConfig)
    assert encode(config) == (private / "checkpoint" / "config.json").read_text()


def test_epsilon__is_of_the_whole_run_and_never_above_what_was_asked(private: Path) -> None:
    privacy = read(private)["privacy"]
    assert privacy["unit"] == "record"
    assert 3.9 < privacy["epsilon"] <= 4.0
    assert all(site["steps"] == ROUNDS for site in privacy["per_site"].values())
    # An independent accountant, over all rounds at once.
    event = GaussianEvent(
        noise_multiplier=privacy["noise_multiplier"], sample_rate=1.0, steps=ROUNDS
    )
    assert privacy["epsilon"] <= epsilon_rdp([event], privacy["delta"])


def test_epsilon__of_a_site_grows_every_round_as_one_accountant_says(private: Path) -> None:
    result = read(private)
    noise, delta = result["privacy"]["noise_multiplier"], result["privacy"]["delta"]
    so_far = [entry["epsilon"]["hungary"] for entry in result["rounds"]]
    assert so_far == sorted(so_far)
    # A new accountant every round would stay at the first value: Gaussians compose to a
    # Gaussian whose noise is divided by the root of the number of steps.
    for entry, value in zip(result["rounds"], so_far, strict=True):
        assert value == pytest.approx(gaussian_epsilon(noise / entry["round"] ** 0.5, delta), 0.01)


def gaussian_epsilon(noise: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8, solved for epsilon by bisection."""
    from scipy.stats import norm

    def delta_at(eps: float) -> float:
        shift, cost = 1 / (2 * noise), eps * noise
        return float(norm.cdf(shift - cost) - np.exp(eps) * norm.cdf(-shift - cost))

    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return high


@pytest.mark.slow
def test_noise__differs_between_runs_of_one_seed(private: Path, tmp_path: Path) -> None:
    again = run(tmp_path / "again", f"rounds={ROUNDS}")
    assert again["model"]["sha256"] != read(private)["model"]["sha256"]


@pytest.mark.slow
def test_seeded_noise__repeats_bit_for_bit_and_claims_no_privacy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TEST_NOISE, "7")
    one, two = (run(tmp_path / name, "rounds=2") for name in ("one", "two"))
    assert one["model"]["sha256"] == two["model"]["sha256"]
    assert one["privacy"]["unit"] == "none"
    assert one["privacy"]["epsilon"] is None
    assert "No privacy is claimed" in one["privacy"]["statement"]


MODELS = [
    ["model.architecture=linear"],
    ["model.architecture=mlp", "training.sample_rate=0.25", "training.local_steps=3"],
    ["model.architecture=ft_transformer", "model.width=8", "strategy=fedyogi"],
    ["model=ebm"],
]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", MODELS)
def test_simulate__without_privacy_repeats_bit_for_bit(
    tmp_path: Path, overrides: list[str]
) -> None:
    shas = {
        run(tmp_path / str(i), "privacy=none", "rounds=2", *overrides)["model"]["sha256"]
        for i in range(2)
    }
    assert len(shas) == 1


RESUMED = [["strategy=fedavg"], ["strategy=fedprox"], ["strategy=fedadam"], ["strategy=fedyogi"],
           ["model=ebm"], ["strategy=fedavgm", "training.average=0.7"]]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("chosen", RESUMED, ids=" ".join)
def test_resume__after_a_stop_gives_the_model_of_one_go(tmp_path: Path, chosen: list[str]) -> None:
    options = ["privacy=none", "rounds=6", *chosen, "evaluate_every=2"]
    whole = run(tmp_path / "whole", *options)
    stop = Stop()
    stop.after_round.set()
    with pytest.raises(StoppedError):
        run(tmp_path / "parts", *options, stop=stop)
    halfway = read(tmp_path / "parts")
    assert (halfway["status"], len(halfway["rounds"])) == ("interrupted", 1)
    resumed = run(tmp_path / "parts", *options, "resume=true")
    assert resumed["status"] == "finished"
    assert resumed["model"]["sha256"] == whole["model"]["sha256"]
    assert resumed["run_id"] == halfway["run_id"]
    assert [entry["round"] for entry in resumed["rounds"]] == [1, 2, 3, 4, 5, 6]


def test_resume__under_privacy_goes_on_with_what_was_spent(tmp_path: Path) -> None:
    stop = Stop()
    stop.after_round.set()
    with pytest.raises(StoppedError):
        run(tmp_path / "run", "rounds=4", stop=stop)
    resumed = run(tmp_path / "run", "rounds=4", "resume=true")
    assert resumed["privacy"]["per_site"]["cleveland"]["steps"] == 4
    assert 3.9 < resumed["privacy"]["epsilon"] <= 4.0


@pytest.mark.slow
def test_resume__after_a_round_that_was_cut_off_never_spends_more_than_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clients import work as site

    out, calls = tmp_path / "run", iter(range(100))
    honest = site.to_vector

    def killed(model: Any) -> Any:
        if next(calls) == 5:  # in the second round, after one site has finished
            raise KeyboardInterrupt
        return honest(model)

    monkeypatch.setattr(site, "to_vector", killed)
    with pytest.raises(KeyboardInterrupt):
        run(out, "rounds=3")
    monkeypatch.setattr(site, "to_vector", honest)
    # Two sites paid for a second round that gave nothing. Three rounds are promised, so
    # after the repeated second one they cannot pay for the third.
    with pytest.raises(PrivacyError, match="budget"):
        run(out, "rounds=3", "resume=true")
    result = read(out)
    assert result["status"] == "stopped_budget"
    assert len(result["rounds"]) == 2
    assert result["privacy"]["epsilon"] <= 4.0


@pytest.mark.slow
@pytest.mark.parametrize("privacy", ["none", "record", "client", "distributed"])
def test_engines__end_with_the_same_model(tmp_path: Path, privacy: str) -> None:
    # Ray starts actors of its own, so this runs as a user would run it.
    local, ray = (ended(tmp_path / engine, privacy, engine) for engine in ("local", "ray"))
    assert ray["rounds"] == local["rounds"]
    assert ray["sha256"] == local["sha256"]


def ended(out: Path, privacy: str, engine: str) -> dict[str, Any]:
    """The model of a run in which no site was missing, and from which round on it is another.

    A machine under load may lose an answer: a sum without it is another model, and right.
    """
    shell("simulate", HEART, "rounds=3", f"privacy={privacy}", f"engine={engine}",
          "model.architecture=mlp", f"out={out}")  # fmt: skip
    result = read(out)
    for entry in result["rounds"]:
        assert entry["clients"] == {"invited": 4, "replied": 4, "dropped": {}}, engine
        assert entry["refused"] is None, engine
    assert "training failed" not in (out / "run.log").read_text()
    losses = [(entry["loss"], entry["evaluate"]) for entry in result["rounds"]]
    return {"rounds": losses, "sha256": result["model"]["sha256"]}


def shell(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {TEST_NOISE: "1"}
    command = [sys.executable, "-m", "fedlearn", *arguments]
    if "engine=ray" in arguments:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    else:
        done = warm.run(command, env=environment, text=True)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_interrupt__ends_cleanly_and_can_be_resumed(tmp_path: Path, engine: str) -> None:
    out = tmp_path / "run"
    arguments = ["simulate", HEART, "rounds=400", f"engine={engine}", f"out={out}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedlearn", *arguments], stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: (out / "metrics.jsonl").exists())
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in complaint
    result = read(out)
    assert result["status"] == "interrupted"
    done = len(result["rounds"])
    assert 1 <= done < 400
    for site in result["privacy"]["per_site"].values():
        assert site["steps"] == done


@pytest.mark.slow
def test_flwr_run__runs_the_same_app(tmp_path: Path) -> None:
    """`flwr run .` from the project's folder, with Flower's own SuperLink and simulation."""
    out, home = tmp_path / "run", tmp_path / "flwr"
    project = Path(__file__).parents[2]
    options = f'overrides="{HEART} privacy=none rounds=2 out={out}"'
    try:
        flwr_run(project, home, 39193, 4, options)
        finished = lambda: (out / "result.json").exists() and read(out)["status"] == "finished"  # noqa: E731
        wait_for(finished, 150.0)
    finally:
        end_processes_of(home)
    here = run(tmp_path / "here", "privacy=none", "rounds=2")
    assert read(out)["model"]["sha256"] == here["model"]["sha256"]


@pytest.mark.slow
def test_cli__works_from_a_strange_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", HEART, "privacy=none", "rounds=1", "out=here"]) == 0
    assert (tmp_path / "here" / "result.json").is_file()
    assert "here/result.json" in capsys.readouterr().out
