"""Runs that keep the best of their models by validation records, and read the test once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from clients.records import simulated_sites, simulated_task
from fedlearn.config import RunConfig, compose, load
from fedlearn.core.errors import StoppedError
from fedlearn.report.page import write_report
from fedlearn.results.folder import RunFolder
from fedlearn.results.reading import read_result
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate

pytestmark = pytest.mark.usefixtures("heart_archive")

WORDS = (
    *("experiment=medical_heart", "privacy=none", "secagg=off", "transport=plain", "rounds=8"),
    *("model.architecture=linear", "training.learning_rate=4", "scenario.validation_fraction=0.25"),
    *("training.keep=best", "training.patience=3", "evaluation=per_site"),
)
"""Steps that are too long, so that the last model is not the best."""


def run(out: Path, *words: str, stop: Stop | None = None) -> dict[str, Any]:
    simulate(compose([*WORDS, *words, f"out={out}"]), Silent(), stop or Stop())
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("validated") / "run"
    run(out)
    return out


def scored(config: RunConfig, weights: Path, part: str) -> dict[str, float]:
    """What the linear model of a folder gets on a part of all records, by hand."""
    task, sites = simulated_task(config), simulated_sites(config)
    records = [getattr(site, part) for site in sites.values()]
    features = np.concatenate([one.features for one in records]).astype(np.float64)
    labels = np.concatenate([one.labels for one in records])
    tensors = sorted(load_file(weights / "model.safetensors").values(), key=np.ndim)
    logits = features @ tensors[1].T.astype(np.float64) + tensors[0]
    exact = np.exp(logits - logits.max(1, keepdims=True))
    return task.score(exact / exact.sum(1, keepdims=True), labels)


def test_run__keeps_the_best_round_and_tests_that_model_alone(kept: Path) -> None:
    result = read_result(kept)
    chosen = result.validation
    assert chosen is not None
    assert chosen.best is not None
    shown = [entry.evaluate["accuracy"] for entry in result.rounds]
    assert chosen.best.value == max(v for v in shown if v is not None)
    assert chosen.kept == chosen.best.round < len(result.rounds)
    config = load(result.config)
    tested = scored(config, kept, "test")
    for name in ("accuracy", "auc", "loss"):
        assert result.final.evaluate[name] == pytest.approx(tested[name], abs=2e-3)
    # And what the rounds show is of the validation records, the same model's among them.
    at = result.rounds[chosen.kept - 1].evaluate
    validated = scored(config, kept, "validation")
    assert at["accuracy"] == pytest.approx(validated["accuracy"], abs=1e-9)
    assert at["loss"] == pytest.approx(validated["loss"], abs=2e-3)
    assert at["accuracy"] != result.final.evaluate["accuracy"]


def test_run__ends_once_patience_is_over(kept: Path) -> None:
    result = read_result(kept)
    assert result.validation is not None
    assert result.validation.best is not None
    assert result.validation.stopped_early
    assert result.validation.best.since == 3
    assert len(result.rounds) == result.validation.kept + 3 < 8
    assert result.status == "finished"


def test_intervals__are_those_of_the_test_of_the_kept_model(kept: Path) -> None:
    result = read_result(kept)
    assert result.fairness is not None
    for name, value in result.final.evaluate.items():
        if name in result.fairness.all_sites:
            assert result.fairness.all_sites[name].value == value
    sizes = result.data.sites.values()
    assert sum(size.validation or 0 for size in sizes) > 50
    assert result.by_class is not None
    assert sum(map(sum, result.by_class.confusion)) == sum(size.test or 0 for size in sizes)


@pytest.mark.slow
def test_report__says_which_round_was_kept_and_that_the_curve_is_of_validation(kept: Path) -> None:
    text = write_report(kept).read_text()
    assert "validation records of all sites" in text
    assert "The test was read once." in text
    assert "Some records were kept from training for validation." in text


def test_finished_run__that_is_resumed_reads_the_test_no_second_time(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (kept / "result.json").read_text()
    state = RunFolder(kept).read_checkpoint()
    assert state is not None
    assert state.tested
    monkeypatch.setattr("server.federation.evaluate", lambda *_: pytest.fail("asked again"))
    run(kept, "resume=true")
    assert (kept / "result.json").read_text() == before
    # Nor one that was killed after it had written its result, and before it noted that.
    RunFolder(kept).write_checkpoint(replace(state, tested=False))
    run(kept, "resume=true")
    assert (kept / "result.json").read_text() == before
    RunFolder(kept).write_checkpoint(state)


@pytest.mark.slow
def test_kept_model__is_that_of_a_run_of_so_many_rounds(kept: Path, tmp_path: Path) -> None:
    chosen = read_result(kept).validation
    assert chosen is not None
    short = run(tmp_path / "a", f"rounds={chosen.kept}", "training.keep=last")
    assert short["model"]["sha256"] == read_result(kept).model.sha256
    assert short["validation"]["kept"] == chosen.kept
    whole = run(tmp_path / "b", "training.keep=last", "training.patience=0")
    assert len(whole["rounds"]) == whole["validation"]["kept"] == 8
    assert whole["model"]["sha256"] != short["model"]["sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("secagg=masked", "evaluation=pooled")], ids=["off", "masks"])
def test_resumed_run__chooses_as_one_that_was_not_stopped(
    kept: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Also where nobody sees anything but sums."""
    stop = Stop()
    stop.after_round.set()
    for resumed in (False, True, True, True):  # three times one round, and then the rest
        with pytest.raises(StoppedError):
            run(tmp_path / "run", *more, f"resume={str(resumed).lower()}", stop=stop)
        halfway = json.loads((tmp_path / "run" / "result.json").read_text())
        assert halfway["final"]["evaluate"] == {}
    result = run(tmp_path / "run", *more, "resume=true")
    if more:  # weights are scaled under masks, so that it is another run
        run(tmp_path / "whole", *more)
    whole = read_result(tmp_path / "whole" if more else kept)
    assert whole.validation is not None
    assert whole.validation.best is not None
    assert result["validation"]["kept"] == whole.validation.kept
    assert result["validation"]["best"]["value"] == pytest.approx(whole.validation.best.value)
    assert result["validation"]["best"]["since"] == whole.validation.best.since
    assert result["final"]["evaluate"]["accuracy"] == pytest.approx(
        whole.final.evaluate["accuracy"]
    )
    assert result["model"]["sha256"] == whole.model.sha256


@pytest.mark.slow
def test_early_stop__promises_the_plan_and_not_what_luck_has_left(tmp_path: Path) -> None:
    words = ("privacy=record", "privacy.epsilon=4", "evaluation=private", "training.patience=1")
    result = run(tmp_path / "run", *words)
    assert len(result["rounds"]) < 8
    found = result["privacy"]
    last = max(result["rounds"][-1]["epsilon"].values())
    assert last < 3.9 < found["epsilon"] <= 4
    assert all(site["epsilon"] == found["epsilon"] for site in found["per_site"].values())
    assert "epsilon is that of all rounds as planned" in found["statement"]
    assert "counts as test data" in found["statement"]
    assert result["final"]["evaluate"]["accuracy"] > 0.4
