"""Models as ONNX graphs: what onnxruntime makes of them, and what has no such form."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedlearn.core.errors import ConfigError
from fedlearn.data.tables.csv import Csv
from fedlearn.models.finetune import Finetune
from fedlearn.models.huggingface import HuggingFaceModel
from fedlearn.models.onnx_graph import write_graph
from fedlearn.models.validate import made_up_records
from fedlearn.prediction import ModelFile, Predictor
from fedlearn.report.forms import FORMS
from fedlearn.tasks import Survival, TaskForm, TextInput
from fedlearn.tasks.classification import ClassificationTask
from tests.encoders import PIECES, save_encoder
from tests.fedlearn.models.test_int8 import FAMILIES, moved, needs_text

needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxruntime", "onnxscript"))), reason="needs fedlearn[onnx]"
)


def task_of(family: str) -> ClassificationTask:
    return ClassificationTask(input=FAMILIES[family][1], classes=("x", "y", "z"))


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("family", ["ft_transformer", "resnet"])
def test_graph__gives_what_torch_gives_for_batches_of_any_size(family: str, tmp_path: Path) -> None:
    import onnxruntime

    config, task = FAMILIES[family][0], task_of(family)
    network = moved(config, task, Finetune(), tmp_path)
    graph = write_graph(tmp_path / "model.onnx", config, task, network)
    assert graph.takes == ("batch", *task.input_shape)
    assert graph.gives == ("batch", 3)
    content = (tmp_path / "model.onnx").read_bytes()
    assert b".py" not in content, "where code lies is nobody's who gets the model"
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for count in (1, 4, 33):
        records = made_up_records(task, count, torch.Generator().manual_seed(count + 50))
        with torch.no_grad():
            wanted = network(records).numpy()
        [found] = session.run(None, {"records": records.numpy()})
        assert wanted.std() > 0.01
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@needs_onnx
@pytest.mark.slow
def test_graph__of_survival_gives_curves_by_what_stands_beside_it(tmp_path: Path) -> None:
    """Made again as a user would: of the two files alone, without fedlearn and torch."""
    import onnxruntime

    learned, config = (
        Survival(horizon=9, cuts=(1, 2, 7, 9), degree=2),
        FAMILIES["ft_transformer"][0],
    )
    file = ModelFile(
        task=TaskForm(input=FAMILIES["ft_transformer"][1]), learned=learned, model=config, seed=0,
        scenario=Csv(path="x.csv", label="t", site="s"), finetune=Finetune(), sha256="",
    )  # fmt: skip
    task = learned.of(file.task)
    network = moved(config, task, Finetune(), tmp_path)
    FORMS["onnx"](Predictor(file=file, network=network), None, tmp_path)
    records = made_up_records(task, 5, torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    [outputs] = session.run(None, {"records": records.numpy()})

    told = json.loads((tmp_path / "onnx.json").read_text())["settings"]
    count = len(told["cuts"]) or told["intervals"]
    middles = (np.arange(count) + 0.5) / count
    basis = np.polynomial.legendre.legvander(2 * middles - 1, told["degree"])
    usual = np.log(1 / (1 - 0.5 ** (1 / count)) - 1)
    curves = np.cumprod(1 / (1 + np.exp(outputs @ basis.T - usual)), axis=1)
    with torch.no_grad():
        wanted = task.answers(network(records)).numpy()
    assert wanted.std(0).max() > 0.01
    np.testing.assert_allclose(curves, wanted, atol=1e-4)
    assert told["horizon"] == 9


@needs_onnx
@needs_text
@pytest.mark.slow
def test_graph__of_an_encoder_reads_texts_of_any_length_and_no_padding(tmp_path: Path) -> None:
    import onnxruntime

    folder = str(save_encoder("bert", tmp_path / "bert"))
    shape = TextInput(vocabulary=len(PIECES), max_length=12, pad_id=0, tokenizer=folder)
    config = HuggingFaceModel(folder=folder)
    task = ClassificationTask(input=shape, classes=("x", "y"))
    network = moved(config, task, Finetune(mode="last_k", last_k=2), tmp_path)
    graph = write_graph(tmp_path / "model.onnx", config, task, network)
    assert graph.takes == ("batch", "length")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    short = made_up_records(task, 3, torch.Generator().manual_seed(5))[:, :7].clamp(min=1)
    filled = torch.nn.functional.pad(short, (0, 9))
    found = [session.run(None, {"records": ids.numpy()})[0] for ids in (short, filled)]
    with torch.no_grad():
        wanted = network(short).numpy()
    assert wanted.std() > 0.01
    for answers in found:
        np.testing.assert_allclose(answers, wanted, rtol=1e-4, atol=1e-4)


class Reads(nn.Module):
    """Asks for a number of its batch, which no graph can."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[:, :1] * (self.weight if rows.sum().item() > 0 else -self.weight)


@needs_onnx
@pytest.mark.slow
def test_graph__of_a_model_that_has_none_is_refused_with_the_way_out(tmp_path: Path) -> None:
    config, task = FAMILIES["mlp"][0], task_of("mlp")
    with pytest.raises(ConfigError, match=r"has no ONNX form: .* Give --to a folder"):
        write_graph(tmp_path / "model.onnx", config, task, Reads())


def test_graph__without_the_packages_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    config, task = FAMILIES["mlp"][0], task_of("mlp")
    with pytest.raises(ConfigError, match=r"needs onnx; .*'fedlearn\[onnx\]'"):
        write_graph(tmp_path / "model.onnx", config, task, Reads())
