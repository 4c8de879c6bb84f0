"""What is particular to models for tables; what all models share is in `test_models`."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedlearn import models
from fedlearn.core.rng import Streams
from fedlearn.data.tables.scaling import squash
from fedlearn.models.tabular import ENCODED, Attention, FeatureTokens, OneHot, Tabular, encode
from fedlearn.tasks import ClassificationTask, TableInput

from .cases import TABLES, perturb, tabular_configs


def build(config: Tabular, table: TableInput) -> nn.Module:
    task = ClassificationTask(input=table, classes=("a", "b"))
    return models.build(config, task, Streams(0)).model


def test_dropout__is_active_in_training_only() -> None:
    for config in tabular_configs():
        if config.architecture == "linear":
            continue
        model = build(replace(config, dropout=0.5, norm="none"), TABLES["numeric"])
        perturb(model)
        x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (6, 5))).float()
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
    model = build(config, TABLES["categorical"])
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
    config = next(c for c in tabular_configs() if c.architecture == "ft_transformer")
    task = ClassificationTask(input=TABLES["mixed"], classes=("a", "b"))
    (found,) = models.problems(replace(config, width=10, heads=4), task)
    assert found.startswith("model.heads=4")
    assert "multiple" in found


# --- numbers of unknown scale --------------------------------------------------------


TABLE = TableInput(numeric=3, cardinalities=(2,), squashed=(0, 2))


def encoded(*values: float) -> torch.Tensor:
    """What a model makes of numbers that stand in a table."""
    return encode(torch.from_numpy(squash(np.array(values))).float())


def by_definition(x: float) -> list[float]:
    p = math.copysign(3 * math.log10(1 + 1000 * abs(x)), x)
    p = min(max(p, -36), 36)
    angles = [2 * math.pi * 2**j * p for j in range(5)]
    return [
        *(1.5 * max(0, 1 - abs(p - k)) for k in range(-36, 37)),
        *(0.35 * math.sin(angle) for angle in angles),
        *(0.35 * math.cos(angle) for angle in angles),
    ]


def test_encode__equals_its_definition() -> None:
    values = [0, 1, -1, 0.004, 37.2, -140, 2019, 1e6, -3.3e8, 1e9, 1e15, -1e30]
    expected = np.array([by_definition(x) for x in values])
    assert encoded(*values).shape == (len(values), ENCODED)
    # A place near 36 is a float32 to 2e-6, and the finest wave turns it a hundredfold.
    np.testing.assert_allclose(encoded(*values).numpy(), expected, atol=2e-3)


def test_encode__keeps_the_length_of_what_a_model_sees_within_bounds() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=2000) * 10.0 ** rng.uniform(-4, 12, 2000)
    squares = encoded(*values).square().sum(-1)
    waves = 5 * 0.35**2
    assert squares.min() >= 1.5**2 / 2 + waves - 1e-3
    assert squares.max() <= 1.5**2 + waves + 1e-3


@pytest.mark.parametrize(("low", "high"), [(20, 90), (0, 5), (36, 41), (0.6, 1.4), (-0.3, 0.3)])
def test_encode__tells_apart_what_squashing_leaves_close(low: float, high: float) -> None:
    values = np.linspace(low, high, 9)
    features = encoded(*values)
    apart = torch.cdist(features, features) + 9 * torch.eye(9)
    assert apart.min() > 0.1
    assert np.diff(squash(values)).min() < 0.1


def test_encode__has_a_finite_gradient_everywhere() -> None:
    squashed = torch.tensor([0.0, -0.0, 1.0, -2.0, 12.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(encode(squashed).sum(), squashed)
    assert gradient.isfinite().all()


def test_one_hot__keeps_the_features_of_a_column_together() -> None:
    x = torch.tensor([[0.4, -0.2, 0.0, 1.0]])
    found = OneHot(TABLE)(x)[0]
    assert len(found) == ENCODED + 1 + ENCODED + 2
    assert torch.equal(found[:ENCODED], encode(x[0, 0]))
    assert found[ENCODED] == -0.2
    assert torch.equal(found[ENCODED + 1 : -2], encode(x[0, 2]))
    assert found[-2:].tolist() == [0, 1]


def test_one_hot__of_many_columns_is_no_longer_than_of_six() -> None:
    def length(columns: int) -> float:
        table = TableInput(numeric=columns, squashed=tuple(range(columns)))
        return float(OneHot(table)(torch.full((1, columns), 0.4)).norm())

    assert length(2) == pytest.approx(length(1) * 2**0.5)
    assert length(40) == pytest.approx(length(6))


def test_tokens__hold_each_its_own_column() -> None:
    tokens = FeatureTokens(TABLE, 8)
    x = torch.tensor([[0.4, -0.2, 0.3, 1.0]])
    before = tokens(x)
    assert before.shape == (1, 5, 8)
    for column in range(TABLE.width):
        other = x.clone()
        other[0, column] = 0.0
        changed = (tokens(other) != before).any(-1)[0]
        assert changed.tolist() == [i == column + 1 for i in range(5)]
