"""The battery that every model passes, found from the unions of its config."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn import models
from fedlearn.models.tabular import Attention, OneHot, Tabular
from fedlearn.models.validate import dp_problems
from fedlearn.rng import Streams
from fedlearn.task import ImageInput, TableInput, Task
from fedlearn.vector import layout_of, load_vector, to_vector

TABLES = {
    "numeric": TableInput(numeric=5),
    "categorical": TableInput(numeric=0, cardinalities=(3, 2, 4)),
    "mixed": TableInput(numeric=3, cardinalities=(2, 5)),
}
HINTS = get_type_hints(Tabular)


def configs() -> Iterator[Tabular]:
    """Every architecture with every norm, as the union of `Tabular` spells them."""
    for architecture, norm in itertools.product(
        get_args(HINTS["architecture"]), get_args(HINTS["norm"])
    ):
        yield Tabular(architecture=architecture, norm=norm, width=8, depth=2, heads=2, dropout=0.0)


CASES = [
    pytest.param(config, table, classes, id=f"{config.architecture}-{config.norm}-{name}-{classes}")
    for config in configs()
    for name, table in TABLES.items()
    for classes in ((2, 3) if name == "mixed" else (2,))
]
every = pytest.mark.parametrize(("config", "table", "classes"), CASES)


def task(table: TableInput, classes: int) -> Task:
    return Task(input=table, classes=tuple(f"class {i}" for i in range(classes)))


def build(config: Tabular, table: TableInput, classes: int, seed: int = 0) -> nn.Module:
    return models.build(config, task(table, classes), Streams(seed)).model


def rows(table: TableInput, n: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    numbers = rng.uniform(-1, 1, (n, table.numeric))
    codes = [np.arange(n) % size for size in table.cardinalities]
    columns = np.column_stack([numbers, *codes])
    return torch.from_numpy(columns.astype(np.float32))


def test_battery__covers_the_union_of_models() -> None:
    assert models.Model is Tabular, "a new model needs its cases in this battery"


@every
@pytest.mark.parametrize("n", [0, 1, 6])
def test_model__maps_rows_to_logits(
    config: Tabular, table: TableInput, classes: int, n: int
) -> None:
    model = build(config, table, classes).eval()
    logits = model(rows(table, n))
    assert logits.shape == (n, classes)
    assert logits.dtype == torch.float32


@every
def test_model__is_a_function_of_the_seed_alone(
    config: Tabular, table: TableInput, classes: int
) -> None:
    before = torch.get_rng_state()
    first, same, other = (to_vector(build(config, table, classes, seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before), "torch's global generator was used"
    assert (first == same).all()
    # A linear model is its head, and a head starts at zero.
    assert (first != other).any() == (config.architecture != "linear")
    assert np.isfinite(first).all()


@every
def test_model__vector_round_trip_keeps_its_predictions(
    config: Tabular, table: TableInput, classes: int
) -> None:
    one, two = (build(config, table, classes, seed).eval() for seed in (0, 1))
    perturb(one)
    load_vector(two, to_vector(one))
    assert torch.equal(one(rows(table, 6)), two(rows(table, 6)))
    assert layout_of(one).digest() == layout_of(two).digest()


@every
def test_model__starts_with_a_uniform_prediction(
    config: Tabular, table: TableInput, classes: int
) -> None:
    model = build(config, table, classes).eval()
    assert not model(rows(table, 6)).any()
    assert not model.get_submodule("head").weight.any()


@every
def test_model__wastes_no_parameter(config: Tabular, table: TableInput, classes: int) -> None:
    """Every number gets a gradient: one without would only be noise under privacy."""
    model = build(config, table, classes)
    perturb(model)
    n = 60
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, classes, n))
    functional.cross_entropy(model(rows(table, n)), labels).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # A unit of ReLU may be off for all rows; anything else that is flat is waste.
        used = (parameter.grad.abs() > 1e-7).float().mean().item()
        assert used > 0.6, f"{name}: only {used:.0%} of its numbers matter"


@every
def test_model__is_ready_for_privacy_unless_it_mixes_records(
    config: Tabular, table: TableInput, classes: int
) -> None:
    found = dp_problems(build(config, table, classes))
    if config.norm == "batch" and config.architecture == "mlp":
        assert [problem.split()[1] for problem in found] == ["body.1", "body.4"]
        assert all("GroupNorm or LayerNorm" in problem for problem in found)
    else:
        assert found == []


@every
def test_model__treats_records_independently_unless_refused(
    config: Tabular, table: TableInput, classes: int
) -> None:
    """What makes clipping one record's gradient mean anything."""
    model = build(config, table, classes).train()
    perturb(model)
    x = rows(table, 6)
    together = model(x)
    alike = torch.allclose(model(x[:4]), together[:4], atol=1e-6)
    assert alike == (not dp_problems(model))


def perturb(model: nn.Module) -> None:
    """Away from the zeros of the start, in place."""
    vector = to_vector(model)
    noise = np.random.default_rng(9).uniform(0.01, 0.3, len(vector))
    load_vector(model, (vector + noise).astype(np.float32))


def test_dropout__is_active_in_training_only() -> None:
    for config in configs():
        if config.architecture == "linear":
            continue
        model = build(replace(config, dropout=0.5, norm="none"), TABLES["numeric"], 2)
        perturb(model)
        x = rows(TABLES["numeric"], 6)
        assert not torch.equal(model.train()(x), model.train()(x))
        assert torch.equal(model.eval()(x), model.eval()(x))


def test_one_hot__leaves_numbers_and_spreads_codes() -> None:
    table = TABLES["mixed"]
    x = torch.tensor([[0.1, 0.2, 0.3, 1, 4]])
    expected = torch.tensor([[0.1, 0.2, 0.3, 0, 1, 0, 0, 0, 0, 1]])
    assert torch.equal(OneHot(table)(x), expected)


def test_tokens__keep_the_codes_of_columns_apart() -> None:
    config = Tabular(
        architecture="ft_transformer", norm="layer", width=8, depth=1, heads=2, dropout=0.0
    )
    model = build(config, TABLES["categorical"], 2)
    tokens = model.get_submodule("tokens")
    x = torch.tensor(list(itertools.product(range(3), range(2), range(4)))).float()
    found = tokens(x)[:, 1:]
    assert found.shape == (24, 3, 8)
    assert len(torch.unique(found.reshape(-1, 8), dim=0)) == 3 + 2 + 4


def test_attention__equals_a_plain_softmax_over_each_head() -> None:
    width, heads, length = 8, 2, 5
    attention = Attention(width, heads)
    tokens = torch.from_numpy(np.random.default_rng(0).normal(size=(3, length, width))).float()
    q, k, v = attention.query_key_value(tokens).chunk(3, dim=-1)
    parts = []
    for head in range(heads):
        at = slice(head * width // heads, (head + 1) * width // heads)
        weights = (q[..., at] @ k[..., at].transpose(1, 2) / (width / heads) ** 0.5).softmax(-1)
        parts.append(weights @ v[..., at])
    expected = attention.out(torch.cat(parts, dim=-1))
    assert torch.allclose(attention(tokens), expected, atol=1e-6)


def test_problems__name_what_does_not_fit_and_the_way_out() -> None:
    config = next(c for c in configs() if c.architecture == "ft_transformer")
    wrong = replace(config, width=10, heads=4)
    image = Task(input=ImageInput(channels=1, height=8, width=8), classes=("a", "b"))
    found = models.problems(wrong, image)
    assert [problem.split("=")[0] for problem in found] == ["model.kind", "model.heads"]
    assert "multiple" in found[1]
    assert models.problems(config, task(TABLES["mixed"], 2)) == []
    with pytest.raises(TypeError, match="needs a table"):
        models.build(config, image, Streams(0))
