"""Explanations, against models whose reasons are known, and against their own definition."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("captum", reason="fedlearn[explain] is not installed")

from fedlearn import models
from fedlearn.config import compose
from fedlearn.config.layers import CONFIGS
from fedlearn.core.rng import Streams
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.scaling import Ranges
from fedlearn.models.tabular import FeatureTokens, OneHot
from fedlearn.tasks import (
    ClassificationTask,
    ImageInput,
    Input,
    SeriesInput,
    TableInput,
    TextInput,
    shape_of,
)
from simulations.explaining import _rows, explain
from tests.effort import slow_but

from ..fedlearn.data.reading import loaded

NEEDED = {
    "squeezenet": ["model.pretrained=false"],
    "text": ["model.pretrained=''", "model.width=24"],
}
"""What an option needs to be built without a download."""

TABLE = TableInput(numeric=3, cardinalities=(4, 3))


def rows(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, size, (n, 1)) for size in TABLE.cardinalities]
    return np.concatenate([rng.normal(size=(n, 3)), *codes], 1).astype(np.float32)


def weights(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def of(shape: Input) -> ClassificationTask:
    return ClassificationTask(input=shape, classes=("a", "b"))


def logits(model: nn.Module, features: np.ndarray) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(torch.from_numpy(features))
    return found


def test_columns__of_a_linear_model_count_by_weight_times_value() -> None:
    head = nn.Linear(OneHot(TABLE).width, 2)
    model = weights(nn.Sequential(OneHot(TABLE), head))
    records = rows(6)
    found = explain(model, of(TABLE), records)
    for record, column, wanted in zip(records, found.attributions, found.predicted, strict=True):
        w = head.weight[int(wanted)].detach().numpy()
        expected = [w[j] * record[j] for j in range(3)]
        # A category counts against the category that was never seen, code 0.
        expected.append(w[3 + int(record[3])] - w[3])
        expected.append(w[7 + int(record[4])] - w[7])
        assert column == pytest.approx(expected, abs=1e-4)
    assert np.abs(found.remainder).max() < 1e-4


def test_columns__of_unknown_scale_count_by_what_their_features_add_to_those_of_zero() -> None:
    table = TableInput(numeric=3, cardinalities=(4,), squashed=(0, 2))
    one_hot, head = OneHot(table), nn.Linear(OneHot(table).width, 2)
    model = weights(nn.Sequential(one_hot, head))
    records = rows(6)[:, :4]
    found = explain(model, of(table), records)
    for record, column, wanted in zip(records, found.attributions, found.predicted, strict=True):
        changes = []
        for j in range(4):
            alone = np.zeros((1, 4), np.float32)
            alone[0, j] = record[j]
            changes.append(logits(model, alone) - logits(model, np.zeros_like(alone)))
        assert column == pytest.approx([float(c[0, int(wanted)]) for c in changes], abs=1e-4)


class Pooled(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return torch.tanh(tokens).mean(1)


@pytest.mark.parametrize("first", [OneHot(TABLE), FeatureTokens(TABLE, 8)])
def test_columns__add_up_to_the_score_of_the_record_less_that_of_the_baseline(
    first: nn.Module,
) -> None:
    width = 8 if isinstance(first, FeatureTokens) else OneHot(TABLE).width
    pool = Pooled() if isinstance(first, FeatureTokens) else nn.Tanh()
    model = weights(nn.Sequential(first, pool, nn.Linear(width, 3)))
    records = rows(5)
    found = explain(model, of(TABLE), records)
    score, nothing = logits(model, records), logits(model, np.zeros_like(records))
    explained = (score - nothing)[range(5), found.predicted].numpy()
    assert found.attributions.shape == (5, TABLE.width)
    assert found.attributions.sum(1) == pytest.approx(explained, abs=2e-3)
    assert (found.predicted == score.argmax(1).numpy()).all()


def test_columns__that_a_model_does_not_read_count_nothing() -> None:
    head = nn.Linear(3, 2)
    model = weights(nn.Sequential(head))
    with torch.no_grad():
        head.weight[:, 1] = 0
    found = explain(model, of(TableInput(numeric=3)), rows(4)[:, :3])
    assert (found.attributions[:, 1] == 0).all()
    assert (found.attributions[:, [0, 2]] != 0).all()


TEXT = TextInput(vocabulary=20, max_length=6)


class Bag(nn.Module):
    """A classifier of two words: 7 speaks for class 1 and 3 against it."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(20, 1)
        with torch.no_grad():
            self.word.weight.zero_()
            self.word.weight[7], self.word.weight[3] = 4.0, -1.0

    def forward(self, tokens: Tensor) -> Tensor:
        score = self.word(tokens).sum((1, 2))
        return torch.stack([-score, score], 1)


def test_tokens__count_where_they_stand_and_padding_counts_nothing() -> None:
    found = explain(Bag(), of(TEXT), np.array([[5, 7, 3, 0, 0, 0], [3, 3, 9, 0, 0, 0]]))
    assert found.predicted.tolist() == [1, 0]
    assert found.attributions[0] == pytest.approx([0, 4, -1, 0, 0, 0], abs=1e-4)
    assert found.attributions[1] == pytest.approx([1, 1, 0, 0, 0, 0], abs=1e-4)


IMAGE = ImageInput(channels=1, height=16, width=16)


def corner_model() -> nn.Module:
    """Says 1 where the upper left corner is bright: reads that quarter of the map alone."""
    convolution = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    head = nn.Linear(64, 2, bias=False)
    with torch.no_grad():
        convolution.weight.fill_(1 / 9)
        head.weight.zero_()
        head.weight.view(2, 8, 8)[1, :4, :4] = 1.0
    return nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), head)


def test_pixels__of_a_convolutional_model_light_up_where_it_looks() -> None:
    images = np.zeros((2, 1, 16, 16), np.float32)
    images[:, :, 2:6, 2:6] = 1.0
    images[1, :, 10:14, 10:14] = 1.0  # bright, and not looked at
    found = explain(corner_model(), of(IMAGE), images)
    assert found.method == "grad_cam"
    assert found.predicted.tolist() == [1, 1]
    assert found.attributions.shape == (2, 16, 16)
    assert (found.attributions >= 0).all()
    assert found.attributions[0, 2:6, 2:6].mean() > 10 * found.attributions[0, 10:, :2].mean()


def test_pixels__need_no_parameter_that_learns() -> None:
    model = corner_model()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    images = np.random.default_rng(0).random((2, 1, 16, 16), np.float32)
    assert np.isfinite(explain(model, of(IMAGE), images).attributions).all()


def test_pixels__of_a_model_without_a_map_are_integrated_gradients() -> None:
    patches = nn.Conv2d(1, 4, 4, stride=4)
    model = weights(nn.Sequential(patches, nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)))
    images = np.random.default_rng(0).random((3, 1, 16, 16), np.float32)
    found = explain(model, of(IMAGE), images)
    assert found.method == "integrated_gradients"
    score, grey = logits(model, images), logits(model, np.full_like(images, 0.5))
    explained = (score - grey)[range(3), found.predicted].numpy()
    assert found.attributions.sum((1, 2)) == pytest.approx(explained, abs=2e-2)


def test_explanation__leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, other = (explain(model, of(TableInput(numeric=3)), rows(3)[:, :3]) for _ in range(2))
    assert (one.attributions == other.attributions).all()
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    scores = functional.softmax(logits(model, rows(3)[:, :3]).double(), 1).numpy()
    assert one.scores == pytest.approx(scores)


def test_explanation__refuses_records_of_another_shape() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"features are \[4, 2\]; the model takes \[n, 3\]"):
        explain(model, of(TableInput(numeric=3)), np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match=r"the model takes \[n, 3\]"):
        explain(model, of(TableInput(numeric=3)), np.zeros((0, 3), np.float32))
    with pytest.raises(ValueError, match="no vectors of its tokens"):
        explain(nn.Linear(6, 2), of(TEXT), np.zeros((1, 6), np.float32))


OTHERS = {"python", "custom", "huggingface", "retriever"}
OPTIONS = sorted({path.stem for path in (CONFIGS / "model").glob("*.yaml")} - OTHERS)
"""Of the house; what a module of somebody else's does is not ours to say, and models of
language and of search have no scores to explain."""
SHAPES: dict[type, Input] = {
    TableInput: TABLE,
    ImageInput: ImageInput(channels=1, height=28, width=28),
    TextInput: TextInput(vocabulary=500, max_length=12),
    SeriesInput: SeriesInput(steps=3, row=TableInput(numeric=4)),
}


@pytest.mark.parametrize("option", slow_but(lambda one: one != "scattering", OPTIONS))
def test_explanation__of_every_model_of_the_union(option: str) -> None:
    config = compose([f"model={option}", *NEEDED.get(option, [])]).model
    for shape in SHAPES.values():
        task = ClassificationTask(input=shape, classes=("a", "b", "c"))
        if not models.problems(config, task):
            break
    learner = models.build(config, task, Streams(0))
    rng = np.random.default_rng(0)
    features = rng.random((2, *shape_of(shape)), np.float32)
    if isinstance(shape, TableInput):
        features = rows(2)
    if isinstance(shape, TextInput):
        features = rng.integers(1, shape.vocabulary, features.shape)
    found = explain(learner.whole(), task, features)
    match shape:
        case ImageInput():
            per_record: tuple[int, ...] = (28, 28)
        case SeriesInput():
            per_record = (shape.row.width,)
        case _:
            per_record = shape_of(shape)
    assert found.attributions.shape == (2, *per_record)
    assert np.isfinite(found.attributions).all()


def test_rows__have_the_numbers_of_training(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("age,dose,ill\n" + "".join(f"{20 + 7 * i % 50},{i if i % 3 else ''},{i % 2}\n"
                                               for i in range(40)))  # fmt: skip
    scaling = Ranges(columns={"age": (18, 100), "dose": (0, 50)})
    scenario = Csv(path=str(path), label="ill", scaling=scaling)
    pool = loaded(scenario)
    run: Any = SimpleNamespace(task=pool.task, config=SimpleNamespace(scenario=scenario))
    np.testing.assert_array_equal(_rows(run, path), pool.features)
