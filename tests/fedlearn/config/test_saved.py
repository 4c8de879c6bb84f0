"""`simulate --config`: exact values from a run, checked overrides on top."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fedlearn.cli import main
from fedlearn.config import RunConfig, compose, to_tree
from fedlearn.config.saved import load_file
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError
from fedlearn.mechanisms import NoPrivacy

TUNED = ["experiment=medical_heart", "training.learning_rate=0.123", "seed=7"]


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return compose(TUNED)


@pytest.fixture
def written(tmp_path: Path, config: RunConfig) -> tuple[Path, RunConfig]:
    """A config.yaml as a run leaves it, and the config that it holds."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml_file.dump(to_tree(config)))
    return path, config


def test_config_file__gives_back_the_config_of_the_run(written: tuple[Path, RunConfig]) -> None:
    path, config = written
    assert load_file(path, []) == config


def test_config_file__changes_what_is_overridden_and_nothing_else(
    written: tuple[Path, RunConfig],
) -> None:
    path, config = written
    changed = load_file(path, ["rounds=3", "training.learning_rate=1e-3", "privacy.epsilon=null",
                               "privacy.noise_multiplier=2.5", "out='a b'"])  # fmt: skip
    expected = replace(
        config,
        rounds=3,
        out="a b",
        training=replace(config.training, learning_rate=1e-3),
        privacy=replace(config.privacy, epsilon=None, noise_multiplier=2.5),  # type: ignore[call-arg]
    )
    assert changed == expected


def test_config_file__takes_names_of_columns_as_they_are(
    written: tuple[Path, RunConfig],
) -> None:
    path, _ = written
    names = ["scenario.scaling.columns.Blutdruck (mmHg)=[60,250]",
             "scenario.scaling.columns.'a.b=c'=[0,1]"]  # fmt: skip
    columns = load_file(path, names).scenario.scaling.columns  # type: ignore[union-attr]
    assert columns["Blutdruck (mmHg)"] == (60, 250)
    assert columns["a.b=c"] == (0, 1)


def test_config_file__takes_a_whole_option_and_leaves_the_rest(
    written: tuple[Path, RunConfig],
) -> None:
    path, config = written
    assert load_file(path, ["privacy=none"]) == replace(config, privacy=NoPrivacy())


def test_config_file__reads_a_later_override_on_top_of_an_earlier_one(
    written: tuple[Path, RunConfig],
) -> None:
    path, _ = written
    config = load_file(path, ["scenario=csv", "scenario.path=t.csv", "scenario.label=y",
                              "scenario.categories={sex: [f, m]}", "seed=1", "seed=2"])  # fmt: skip
    assert config.seed == 2
    assert to_tree(config)["scenario"]["categories"] == {"sex": ["f", "m"]}


BAD = {
    "privcy.epsilon=1": "did you mean privacy?",
    "roundz=1": "did you mean rounds?",
    "privacy.epsilonn=1": "privacy.epsilonn=1: unknown key",
    "rounds.x=1": "rounds holds a value",
    "rounds": "must have the form key=value",
    "~rounds": "must have the form key=value",
    "+rounds=1": "must have the form key=value",
    "=1": "must have the form key=value",
    "rounds=0": "rounds=0: must be > 0",
    "rounds=1,2": "cannot be read",
    "seed=${rounds}": "write the value itself",
    "privacy=recrd": "did you mean record?",
    "experiment=medical_heart": "override single keys",
    "scenario=csv": "scenario.path: must be given",
    "privacy.noise_multiplier=1.0": "Leave out one of the two",
}


@pytest.mark.parametrize("override", BAD)
def test_config_file__names_a_wrong_override(
    override: str, written: tuple[Path, RunConfig]
) -> None:
    with pytest.raises(ConfigError, match=re.escape(BAD[override])):
        load_file(written[0], [override])


def test_simulate__with_config_lists_all_problems_at_once(
    written: tuple[Path, RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = written[0].read_text().replace("evaluate_every: 1", "evaluate_every: -1")
    written[0].write_text(text)
    out = tmp_path / "run"
    code = main(["simulate", "--config", str(written[0]), f"out={out}", "roundz=1", "seed=x"])
    complaint = capsys.readouterr().err
    assert code == 2
    assert all(part in complaint for part in ("roundz=1", "seed=x", "evaluate_every=-1"))
    assert not out.exists()
    assert main(["simulate", "--config", str(tmp_path / "none.yaml")]) == 2
