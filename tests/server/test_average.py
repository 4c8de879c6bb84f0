"""The running mean: its weights and who sees it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message
from safetensors import safe_open
from safetensors.numpy import load_file

from fedlearn.cli import main
from fedlearn.config import plan_of
from fedlearn.core.errors import ProtocolError
from fedlearn.core.vector import Vector
from fedlearn.flower import records
from server.average import RunningMean
from server.enrol import enrol
from server.federation import Federation
from server.run_state import Progress, ReleasedSums

from .parties import Parties, make_config

RUN = ["simulate", "privacy=none", "secagg=off", "transport=plain", "model.architecture=linear",
       "training.sample_rate=0.5", "training.learning_rate=1", "seed=3"]  # fmt: skip


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_running_mean__weighs_models_by_powers_of_its_decay(decay: float) -> None:
    models = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    mean = RunningMean(decay, np.zeros(5))
    for number, model in enumerate(models, start=1):
        mean.take(model)
        weights = np.array([decay ** (number - i) for i in range(1, number + 1)])
        expected = np.average(models[:number].astype(np.float64), axis=0, weights=weights)
        np.testing.assert_allclose(mean.model(), expected, rtol=1e-6)
        assert mean.model().dtype == np.float32


def test_running_mean__of_nothing_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        RunningMean(0.5, np.zeros(5)).model()


def test_federation__tests_the_mean_and_trains_the_last() -> None:
    parties = Parties(make_config("training.average=0.5"))
    tested: list[np.ndarray] = []
    answer = parties._evaluate

    def record(message: Message, context: Context) -> Message:
        tested.append(records.model_of(message.content))
        return answer(message, context)

    parties._evaluate = record  # type: ignore[method-assign]
    enrolment = enrol(parties.grid(), parties.config, lambda: False, bytes(16))
    progress = Progress([], enrolment.initial, mean=RunningMean(0.5, np.zeros(6)))
    plan = plan_of(parties.config)
    federation = Federation(parties.config, plan, enrolment, progress, "run", None)
    for number in (1, 2, 3):
        federation.run_round(number)
    # Sites add 1 to 4, so models are 2.5, 5 and 7.5 away; weights are 1/7, 2/7 and 4/7.
    np.testing.assert_allclose(progress.model - enrolment.initial, 7.5)
    shown = [2.5, (2.5 + 2 * 5) / 3, (2.5 + 2 * 5 + 4 * 7.5) / 7]
    by_round = np.array(tested).reshape(3, 4, 6) - enrolment.initial
    np.testing.assert_allclose(by_round, np.array(shown)[:, None, None] * np.ones((1, 4, 6)))
    np.testing.assert_allclose(progress.shown - enrolment.initial, shown[-1])


@pytest.mark.slow
def test_simulate__keeps_the_mean_of_its_models(tmp_path: Path) -> None:
    models = [model_of(tmp_path / f"{n}", f"rounds={n}") for n in (1, 2, 3)]
    kept = model_of(tmp_path / "mean", "rounds=3", "training.average=0.5")
    expected = {name: (models[0][name] + 2 * models[1][name] + 4 * models[2][name]) / 7
                for name in kept}  # fmt: skip
    for name in kept:
        np.testing.assert_allclose(kept[name], expected[name], rtol=1e-5, atol=1e-7)
        assert not np.allclose(kept[name], models[2][name], rtol=1e-3)


def model_of(out: Path, *overrides: str) -> dict[str, np.ndarray]:
    assert main([*RUN, *overrides, f"out={out}"]) == 0
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("decay", ["0.0", "0.5"])
def test_result__names_the_model_of_the_folder_where_a_round_failed_to_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decay: str
) -> None:
    evaluate = Federation._evaluate

    def fails_in_two(
        self: Federation, number: int, model: Vector, there: Sequence[str]
    ) -> ReleasedSums:
        if number == 2:
            raise ProtocolError("", "evaluate", "no site answered")
        return evaluate(self, number, model, there)

    monkeypatch.setattr(Federation, "_evaluate", fails_in_two)
    out = tmp_path / "run"
    assert main([*RUN, "rounds=3", f"training.average={decay}", f"out={out}"]) == 4
    named = json.loads((out / "result.json").read_text())["model"]["sha256"]
    with safe_open(out / "model.safetensors", "numpy") as kept:
        assert kept.metadata()["sha256"] == named
