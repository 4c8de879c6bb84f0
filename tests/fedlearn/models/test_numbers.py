"""Numbers of unknown scale, against the definition of their encoding, and in models of tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedlearn.data.tables.scaling import squash
from fedlearn.models.numbers import ENCODED, encode
from fedlearn.models.tabular import FeatureTokens, OneHot
from fedlearn.tasks import TableInput

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
