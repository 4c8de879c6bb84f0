"""The folder of a run: what it refuses, what it keeps, and what a crash leaves of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from fedlearn.config import RunConfig, load
from fedlearn.core.errors import ConfigError
from fedlearn.core.vector import Layout, vector_digest
from fedlearn.privacy.events import GaussianEvent
from fedlearn.results.folder import Checkpoint, RunFolder
from fedlearn.results.result import Attendance, RoundResult
from fedlearn.stages import RandomMask
from tests.server.parties import make_config


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def config(folder: RunFolder) -> RunConfig:
    return replace(make_config(), out=str(folder.path))


def entry(number: int = 1, *, loss: float | None = 0.5, epsilon: float = 1.0) -> RoundResult:
    return RoundResult(
        round=number, seconds=0.1, loss=loss, evaluate={"accuracy": 0.1 + 0.2, "loss": loss},
        clients=Attendance(invited=2, replied=1, dropped={"a": "no answer"}),
        bytes={"up": 1, "down": 2}, epsilon={"b": epsilon},
    )  # fmt: skip


def refusal(folder: RunFolder, config: RunConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        folder.check(config)
    return str(caught.value)


def test_check__takes_a_folder_that_is_not_there_or_empty(
    folder: RunFolder, config: RunConfig
) -> None:
    folder.check(config)
    assert not folder.path.exists()
    folder.path.mkdir()
    folder.check(config)


def test_check__refuses_a_folder_with_anything_in_it_and_a_file(
    folder: RunFolder, config: RunConfig
) -> None:
    folder.path.mkdir()
    (folder.path / "thesis.txt").write_text("mine")
    assert "choose another folder" in refusal(folder, config)
    assert "resume" not in refusal(folder, config)
    file = RunFolder(folder.path / "thesis.txt")
    assert "is a file" in refusal(file, config)
    assert (folder.path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("place", ["file", "file/run", "file/a/run", "/proc/none/run"])
def test_check__refuses_where_nothing_can_be_written(
    tmp_path: Path, place: str, config: RunConfig
) -> None:
    (tmp_path / "file").write_text("mine")
    said = refusal(RunFolder(tmp_path / place), replace(config, out=place))
    assert said.startswith("out=")
    assert said.endswith("; choose another folder")


def test_check__leaves_nothing_where_it_has_tried_to_write(
    tmp_path: Path, config: RunConfig
) -> None:
    RunFolder(tmp_path / "not" / "there" / "yet").check(config)
    assert [*tmp_path.iterdir()] == []


def test_check__refuses_a_run_and_names_resume(folder: RunFolder, config: RunConfig) -> None:
    folder.create(config)
    assert "resume=true" in refusal(folder, config)
    folder.check(replace(config, resume=True))


def test_check__refuses_to_resume_what_is_not_there(folder: RunFolder, config: RunConfig) -> None:
    assert "no run to continue" in refusal(folder, replace(config, resume=True))


def test_check__refuses_to_resume_with_another_config_and_names_every_difference(
    folder: RunFolder, config: RunConfig
) -> None:
    folder.create(config)
    other = replace(config, resume=True, seed=7, rounds=9, out="elsewhere")
    lines = refusal(folder, other).splitlines()
    assert [line.split(":")[0] for line in lines] == ["rounds", "seed"]


def test_check__refuses_to_resume_without_the_stage_of_the_run(
    folder: RunFolder, config: RunConfig
) -> None:
    """A stage that does nothing is not written, and is another one all the same."""
    masked = replace(config, stage=RandomMask())
    folder.create(masked)
    assert refusal(folder, replace(config, resume=True)).startswith("stage: differs from the run")
    folder.check(replace(masked, resume=True))


def test_create__writes_a_config_that_loads_back(folder: RunFolder, config: RunConfig) -> None:
    folder.create(config)
    assert load(yaml.safe_load((folder.path / "config.yaml").read_text())) == config


@pytest.mark.parametrize("epsilon", [1.0, math.inf])
@pytest.mark.parametrize("loss", [0.1, None, math.nan])
def test_checkpoint__round_trip_keeps_everything(
    folder: RunFolder, config: RunConfig, loss: float | None, epsilon: float
) -> None:
    """A run without noise has no epsilon and may have no loss; it can be resumed all the same."""
    folder.create(config)
    assert folder.read_checkpoint() is None
    rng = np.random.default_rng(0)
    state = Checkpoint(
        run_id="r", started_at="2026-01-01T00:00:00+00:00", seconds=0.1 + 0.2,
        rounds=[entry(1), entry(2, loss=loss, epsilon=epsilon)],
        model=rng.normal(size=9).astype(np.float32),
        strategy={"m_t": rng.normal(size=9), "v_t": np.float32(rng.normal(size=9))},
        spent={"b": (GaussianEvent(noise_multiplier=0.1 + 0.2, sample_rate=1 / 3, steps=4),)},
    )  # fmt: skip
    folder.write_checkpoint(state)
    found = folder.read_checkpoint()
    assert found is not None
    assert (found.run_id, found.started_at, found.seconds) == ("r", state.started_at, state.seconds)
    assert found.spent == state.spent
    assert found.rounds[0] == entry(1)
    last = found.rounds[1]
    assert last.loss == (None if loss is None or math.isnan(loss) else loss)
    assert last.epsilon == {"b": None if math.isinf(epsilon) else epsilon}
    assert found.model.tobytes() == state.model.tobytes()
    assert set(found.strategy) == set(state.strategy)
    for name, array in state.strategy.items():
        assert found.strategy[name].dtype == array.dtype
        assert found.strategy[name].tobytes() == array.tobytes()


def test_checkpoint__of_a_run_that_named_the_arrays_of_a_moment_still_loads(
    folder: RunFolder, config: RunConfig
) -> None:
    folder.create(config)
    before = Checkpoint.fresh("r", "2026-01-01T00:00:00+00:00", np.ones(9, np.float32))
    moments = {"m_t.model": np.ones(9), "momentum_vector.0": np.zeros(9)}
    folder.write_checkpoint(replace(before, strategy=moments))
    found = folder.read_checkpoint()
    assert found is not None
    assert {name: array.sum() for name, array in found.strategy.items()} == {
        "m_t": 9,
        "momentum_vector": 0,
    }


def test_metrics__are_strict_json_a_line_a_round_and_can_be_trimmed(
    folder: RunFolder, config: RunConfig
) -> None:
    folder.create(config)
    for number in (1, 2, 3):
        folder.append_metrics(entry(number, loss=math.nan, epsilon=math.inf))
    folder.trim_metrics(2)
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [line["round"] for line in found] == [1, 2]
    assert found[0]["loss"] is None
    assert found[0]["evaluate"] == {"accuracy": 0.1 + 0.2, "loss": None}
    assert found[0]["epsilon"] == {"b": None}


def test_model__is_written_by_name_with_its_digest(folder: RunFolder, config: RunConfig) -> None:
    folder.create(config)
    vector = np.arange(7, dtype=np.float32)
    folder.write_model(vector, Layout((("a", (2, 3)), ("b", (1,)))))
    with safe_open(folder.path / "model.safetensors", "numpy") as file:
        assert file.metadata()["sha256"] == vector_digest(vector)
        assert file.get_tensor("a").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert file.get_tensor("b").tolist() == [6]
