"""What is particular to models for tables; what all models share is in `test_models`."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from fedlearn import models
from fedlearn.core.rng import Streams
from fedlearn.models.tabular import Attention, OneHot, Tabular
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
