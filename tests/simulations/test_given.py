"""Algorithms that are given from Python, in whole runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from flwr.serverapp import strategy as theirs

import fedlearn as fl
from fedlearn.algorithms import ALGORITHMS, Algorithm, RoundMean, State, give
from fedlearn.config import RunConfig, compose, decode, encode
from fedlearn.core.errors import ConfigError, StoppedError
from fedlearn.core.settings import Rate, config
from fedlearn.core.vector import Vector
from fedlearn.flower.strategies import given_strategy
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate

from .small import table


@config
class Slower(Algorithm):
    """Somebody's own class: a part of the way."""

    kind: Literal["slower"] = "slower"
    part: Rate

    def server(self, mean: RoundMean, state: State) -> tuple[Vector, State]:
        return mean.before + np.float32(self.part) * (mean.model - mean.before), state


def run(
    folder: Path,
    out: str,
    *words: str,
    strategy: Algorithm | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    chosen = compose([*table(folder), "privacy=none", "rounds=3", f"out={folder / out}", *words])
    simulate(replace(chosen, strategy=strategy or chosen.strategy), Silent(), stop or Stop())
    result: dict[str, Any] = json.loads((folder / out / "result.json").read_text())
    return result


@pytest.mark.slow
def test_strategy_of_flower__gives_the_model_of_ours(tmp_path: Path) -> None:
    moments = {"beta_1": 0.9, "beta_2": 0.99, "tau": 0.001}
    words = [f"strategy.{name}={value}" for name, value in moments.items()]
    ours = run(tmp_path, "a", "strategy=fedadam", "strategy.server_learning_rate=0.1", *words)
    given = given_strategy(theirs.FedAdam(eta=0.1, **moments))
    found = run(tmp_path, "b", strategy=given)
    assert found["model"]["sha256"] == ours["model"]["sha256"]
    assert found["config"]["strategy"]["name"] == "FedAdam"
    stop = Stop()
    stop.after_round.set()
    with pytest.raises(StoppedError):
        run(tmp_path, "c", strategy=given_strategy(theirs.FedAdam(eta=0.1, **moments)), stop=stop)
    again = given_strategy(theirs.FedAdam(eta=0.1, **moments))
    resumed = run(tmp_path, "c", "resume=true", strategy=again)
    assert resumed["model"]["sha256"] == ours["model"]["sha256"]


@pytest.mark.slow
def test_strategy_of_flower__is_taken_by_the_api_as_it_is(tmp_path: Path) -> None:
    words = [*table(tmp_path), "privacy=none", "strategy=fedadam", "strategy.tau=0.001"]
    words += [f"strategy.{name}=0.9" for name in ("beta_1", "beta_2")]
    ours = fl.simulate(*words, "strategy.server_learning_rate=0.1", out=tmp_path / "a")
    own = theirs.FedAdam(eta=0.1, beta_1=0.9, beta_2=0.9, tau=0.001)
    without = [word for word in words if not word.startswith("strategy")]
    found = fl.simulate(*without, strategy=own, out=tmp_path / "b")
    texts = [(run.folder / "result.json").read_text() for run in (ours, found)]
    shas = {json.loads(text)["model"]["sha256"] for text in texts}
    assert len(shas) == 1


@pytest.mark.slow
def test_own_class__is_taken_by_the_api_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ALGORITHMS, "_loaded", {})
    own = Slower(fraction=1.0, min_sites=2, part=0.5)
    found = fl.simulate(*table(tmp_path), "privacy=none", strategy=own, out=tmp_path / "a")
    config = json.loads((found.folder / "result.json").read_text())["config"]["strategy"]
    assert config == {"kind": "slower", "fraction": 1.0, "min_sites": 2, "part": 0.5}


def test_function__is_a_step_of_a_run(tmp_path: Path) -> None:
    stay = give(lambda mean, state: (mean.before, state), name="stay")
    found = run(tmp_path, "a", strategy=stay)
    plain = run(tmp_path, "b", "rounds=1")
    assert found["status"] == "finished"
    assert found["model"]["sha256"] != plain["model"]["sha256"]


@pytest.mark.slow
def test_own_class__is_an_option_once_it_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ALGORITHMS, "_loaded", {})  # and nothing of it stays for other tests
    ALGORITHMS.add(Slower)
    own = Slower(fraction=1.0, min_sites=2, part=0.25)
    found = run(tmp_path, "a", strategy=own)
    same = run(tmp_path, "b", strategy=give(own.server, name="the same"))
    assert found["model"]["sha256"] == same["model"]["sha256"]
    assert found["config"]["strategy"]["part"] == 0.25
    settings = ("strategy.part=0.5", "strategy.fraction=1.0", "strategy.min_sites=2")
    chosen = compose([*table(tmp_path), "strategy=slower", *settings])
    assert decode(RunConfig, encode(chosen)).strategy == replace(own, part=0.5)


def test_own_class__may_not_take_the_name_of_one_of_the_house() -> None:
    @config
    class Mine(Algorithm):
        kind: Literal["fedavg"] = "fedavg"

    with pytest.raises(ConfigError, match="strategy=fedavg: is taken"):
        ALGORITHMS.add(Mine)


def test_name_alone__is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="given from Python"):
        run(tmp_path, "a", "strategy=python", "strategy.name=nobody")
    assert not (tmp_path / "a").exists()
