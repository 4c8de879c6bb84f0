"""Tracking: what MLflow and TensorBoard show is what the run's folder holds, and nothing leaves."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedlearn.cli import main
from fedlearn.results.result import Attendance, RoundResult
from server.run import Silent
from server.tracking import check_tracking
from server.tracking.tracked import Tracked, settings_of, values_of_round
from tests.server.parties import make_config
from tests.simulations.small import environment, table

Output = pytest.CaptureFixture[str]

ENTRY = RoundResult(
    round=3,
    seconds=1.5,
    loss=0.5,
    evaluate={"loss": 0.5, "accuracy": 0.75, "auc": None},
    clients=Attendance(invited=2, replied=1, dropped={"b": "late"}),
    bytes={"up": 10, "down": 20},
    epsilon={"<b>a</b>": 1.25, "b": None},
)


class Broken:
    """A tracker whose connection is lost after its first round."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, settings: Mapping[str, str]) -> None:
        self.told.append("begin")

    def measure(self, values: Mapping[str, float], step: int) -> None:
        self.told.append(f"round {step}")
        raise ConnectionError("the network is gone")

    def end(self, finished: bool) -> None:
        self.told.append("end")


def test_tracking__of_a_round_leaves_out_what_is_not_known_and_makes_names_safe() -> None:
    assert values_of_round(ENTRY) == {
        "test/loss": 0.5,
        "test/accuracy": 0.75,
        "privacy/epsilon _b_a_/b_": 1.25,
        "traffic/bytes up": 10.0,
        "traffic/bytes down": 20.0,
        "round/seconds": 1.5,
        "round/sites": 1.0,
    }


def test_tracking__that_fails_is_dropped_and_the_run_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = Broken()
    told = Tracked(Silent(), tracker)
    told.round_finished(ENTRY)
    told.round_finished(ENTRY)
    told.close()
    assert tracker.told == ["round 3"]
    assert caplog.messages == ["tracking stopped: the network is gone"]


def test_tracking__notes_settings_without_folders_of_this_machine() -> None:
    config = make_config("scenario=csv", "scenario.path=/home/me/secret/my.csv",
                         "scenario.label=ill")  # fmt: skip
    settings = settings_of(config)
    assert settings["scenario.path"] == "my.csv"
    assert settings["privacy.kind"] == "none"
    assert not any("secret" in value for value in settings.values())


@pytest.mark.parametrize("kind", ["mlflow", "tensorboard"])
def test_tracking__without_its_package_is_refused_before_anything_is_trained(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == kind else found(name)
    )
    out = tmp_path / "run"
    assert main(["simulate", *table(tmp_path), f"tracking={kind}", f"out={out}"]) == 2
    assert f"pip install 'fedlearn[{kind}]', or set tracking=none" in capsys.readouterr().err
    assert not out.exists()


def test_tracking__is_off_unless_it_is_asked_for() -> None:
    assert make_config().tracking.kind == "none"
    check_tracking(make_config())


RUN = """
import signal, socket, sys
def no(self, address, *rest):
    raise SystemExit(f"connects to {address}")
socket.socket.connect = no
socket.getaddrinfo = lambda *a, **k: sys.exit(f"looks up {a}")
from fedlearn.cli import main
from simulations.display import Display
shown = Display.round_finished
def stop(self, entry):
    shown(self, entry)
    if entry.round == int(sys.argv[1]):
        signal.raise_signal(signal.SIGINT)
Display.round_finished = stop
sys.exit(main(sys.argv[2:]))
"""


def simulate(*overrides: str, interrupted: int = 0, **more: str) -> None:
    """A run in a process of its own, which may not open a connection.

    It gets a Ctrl-C after the round `interrupted`, if there is one.
    """
    command = [sys.executable, "-c", RUN, str(interrupted), "simulate", *overrides]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment() | more, timeout=300
    )
    assert done.returncode == (130 if interrupted else 0), done.stdout + done.stderr


def result_of(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


@pytest.mark.slow
def test_mlflow__holds_the_run_in_a_local_file_and_connects_to_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="fedlearn[mlflow] is not installed")
    out = tmp_path / "runs" / "one"
    simulate(*table(tmp_path), "privacy=none", "tracking=mlflow", f"out={out}",
             MLFLOW_TRACKING_URI="http://tracker.invalid")  # fmt: skip
    result = result_of(out)
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as store:
        (run,) = store.execute("select run_uuid, name, status from runs").fetchall()
        metrics = store.execute("select key, step, value from metrics").fetchall()
        parameters = dict(store.execute("select key, value from params").fetchall())
        tags = dict(store.execute("select key, value from tags").fetchall())
    assert run[1:] == ("one", "FINISHED")
    assert tags["fedlearn.run_id"] == result["run_id"]
    assert parameters["training.local_steps"] == str(result["config"]["training"]["local_steps"])
    found = {(key, step): value for key, step, value in metrics}
    for entry in result["rounds"]:
        assert found["test/accuracy", entry["round"]] == entry["evaluate"]["accuracy"]
        assert found["traffic/bytes up", entry["round"]] == entry["bytes"]["up"]
    for site, values in result["final"]["per_site"].items():
        assert found[f"sites/{site} auc", 2] == values["auc"]


@pytest.mark.slow
def test_mlflow__holds_a_resumed_run_as_one(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="fedlearn[mlflow] is not installed")
    out = tmp_path / "runs" / "one"
    run = [*table(tmp_path), "privacy=none", "tracking=mlflow", "rounds=3", f"out={out}"]
    path = tmp_path / "runs" / "mlflow.db"

    def runs() -> list[tuple[str, str]]:
        with closing(sqlite3.connect(path)) as store:
            found = store.execute("select status, run_uuid from runs").fetchall()
        return [(status, name) for status, name in found]

    simulate(*run, interrupted=1)
    ((status, first),) = runs()
    assert status == "KILLED"
    simulate(*run, "resume=true")
    assert runs() == [("FINISHED", first)]
    with closing(sqlite3.connect(path)) as store:
        metrics = store.execute(
            "select step, value from metrics where key = 'test/accuracy' order by step"
        ).fetchall()
    # Every round once, whichever of the two processes carried it out.
    expected = [(entry["round"], entry["evaluate"]["accuracy"]) for entry in
                result_of(out)["rounds"]]  # fmt: skip
    assert metrics == expected
    assert len(metrics) == 3


READ = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
tags = events.Tags()["scalars"]
scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}
print(json.dumps(scalars))
"""


@pytest.mark.slow
def test_tensorboard__holds_the_run_in_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="fedlearn[tensorboard] is not installed")
    out = tmp_path / "one"
    simulate(*table(tmp_path), "privacy=none", "tracking=tensorboard", f"out={out}")
    done = subprocess.run(
        [sys.executable, "-c", READ, str(out / "tensorboard")],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    expected = [[e["round"], e["evaluate"]["accuracy"]] for e in result_of(out)["rounds"]]
    assert [step for step, _ in found["test/accuracy"]] == [step for step, _ in expected]
    assert [value for _, value in found["test/accuracy"]] == pytest.approx(
        [value for _, value in expected], rel=1e-6
    )  # fmt: skip
