"""An audit takes a run's folder only as the run left it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fedlearn.cli import main
from fedlearn.core.errors import ConfigError, DataError
from simulations.attacks.audited_folder import open_run
from tests.simulations.small import table


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    assert main(["simulate", *table(folder), f"out={folder / 'run'}"]) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished / "run", tmp_path / "run"))


@pytest.mark.slow
def test_open_run__takes_a_run_as_it_was_left(run: Path) -> None:
    opened = open_run(run)
    assert len(opened.model) == opened.result.model.trainable
    assert {name: len(site.train) for name, site in opened.sites.items()} == {
        name: size.train for name, size in opened.result.data.sites.items()
    }


def test_open_run__refuses_another_config(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("rounds: 2", "rounds: 3"))
    with pytest.raises(ConfigError, match=r"rounds: .*is not the config of this run any more"):
        open_run(run)


def test_open_run__refuses_another_model(run: Path) -> None:
    path = run / "model.safetensors"
    tensors = load_file(path)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1e-3
    save_file(tensors, path, metadata)
    with pytest.raises(DataError, match=r"not the model of this run, or was altered"):
        open_run(run)


def test_open_run__refuses_other_data(run: Path, finished: Path) -> None:
    path = finished / "my.csv"
    before = path.read_text()
    try:
        path.write_text(before.replace("30,no", "31,no", 1))
        with pytest.raises(DataError, match="an audit of other records would say nothing"):
            open_run(run)
    finally:
        path.write_text(before)


def test_open_run__refuses_a_run_that_has_not_finished(run: Path) -> None:
    tree = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(tree | {"status": "interrupted"}))
    with pytest.raises(DataError, match="finish it with resume=true"):
        open_run(run)


@pytest.mark.parametrize("words", [["demo=nothing"], ["runs/x", "rounds=2"]])
def test_audit__refuses_words_that_make_no_sense(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", *words]) == 2
    assert words[0] in capsys.readouterr().err
