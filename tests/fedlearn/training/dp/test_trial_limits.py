"""Where the trial of a batch draws its lines: what it forgives as rounding, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from fedlearn.training.dp import ClippedGradients
from fedlearn.training.dp.contribution import Contribution, instantiated
from fedlearn.training.dp.tape import left_alone
from fedlearn.training.dp.trial import _CLOSE, _apart, _mixed
from tests.fedlearn.training.dp import oracle
from tests.fedlearn.training.dp.cases import losses_of

ROWS = 6
COUNTED = [0, 4, 5]
OTHERS = [1, 2, 3]
SIZES = torch.tensor([1.0, 9.0, 9.0, 9.0, 0.5, 1e-6], dtype=torch.float64)
"""Of losses or of gradients: those of the samples that are counted are smaller."""

WITHIN, BEYOND = 0.9e-3, 1.1e-3
SCALES = [1e-3, 1.0, 1e3]


def test_samples__that_are_counted_here_are_those_left_alone() -> None:
    assert torch.where(left_alone(ROWS, torch.device("cpu")))[0].tolist() == COUNTED
    assert _CLOSE == 1e-3


def mixed(losses: Tensor, again: Tensor, norms: Tensor | None = None) -> bool:
    """Whether a batch is refused; without `norms` no gradient reaches another sample."""
    if norms is None:
        norms = left_alone(ROWS, losses.device).double()
    return bool(list(_mixed(losses, again, norms, _CLOSE)))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("place", COUNTED)
@pytest.mark.parametrize("scale", SCALES)
def test_loss__of_one_sample_may_move_by_a_thousandth_of_the_largest(
    scale: float, place: int, sign: int
) -> None:
    losses = scale * SIZES
    for by, refused in ((WITHIN, False), (BEYOND, True)):
        again = 3 * losses  # what the others do is their own affair
        again[COUNTED] = losses[COUNTED]
        again[place] += sign * by * scale
        assert mixed(losses, again) is refused


def test_losses__that_are_zero_and_stay_zero_are_apart() -> None:
    assert not mixed(torch.zeros(ROWS), torch.zeros(ROWS))


@pytest.mark.parametrize("place", OTHERS)
@pytest.mark.parametrize("scale", SCALES)
def test_gradient__of_one_other_sample_may_be_a_thousandth_of_the_longest(
    scale: float, place: int
) -> None:
    losses, norms = torch.ones(ROWS), (scale * SIZES).square()
    for by, refused in ((WITHIN, False), (BEYOND, True)):
        norms[OTHERS] = 0.0
        norms[place] = (by * scale) ** 2
        assert mixed(losses, losses, norms) is refused


def test_gradient__of_others_that_is_no_number_says_nothing() -> None:
    norms = torch.tensor([1.0, math.nan, math.inf, 0.0, 1.0, 1.0])
    assert not mixed(torch.ones(ROWS), torch.ones(ROWS), norms)


def test_gradient__of_others_counts_where_that_of_the_counted_is_zero() -> None:
    norms = torch.zeros(ROWS)
    assert not mixed(torch.ones(ROWS), torch.ones(ROWS), norms)
    norms[2] = 1e-12
    assert mixed(torch.ones(ROWS), torch.ones(ROWS), norms)


# --- Sums ---------------------------------------------------------------------------------

DIRECTION = torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64)


def gradients(scale: float) -> Tensor:
    """All one way, so that the norm of their sum is the sum of their norms."""
    return scale * SIZES[:, None] * DIRECTION


def apart(found: dict[str, Contribution], truth: dict[str, Tensor], norms: Tensor) -> Sequence[str]:
    return [text.partition(":")[0] for text in _apart(found, truth, norms, _CLOSE)]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale", SCALES)
def test_sum__may_differ_by_a_thousandth_of_all_norms_together(scale: float, sign: int) -> None:
    rows = gradients(scale)
    found, norms = {"a": instantiated("a", rows)}, rows.square().sum(1)
    for by, refused in ((WITHIN, []), (BEYOND, ["a"])):
        truth = {"a": (1 + sign * by) * rows[COUNTED].sum(0)}
        assert apart(found, truth, norms) == refused


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_sum__is_looked_at_also_where_another_sample_is_no_number(odd: float) -> None:
    rows = gradients(1.0)
    rows[2] = odd
    found, norms = {"a": instantiated("a", rows)}, rows.square().sum(1)
    right = rows[COUNTED].sum(0)
    assert apart(found, {"a": right}, norms) == []
    assert apart(found, {"a": (1 + BEYOND) * right}, norms) == ["a"]


def test_sum__of_a_parameter_that_one_side_alone_knows_is_zero_there() -> None:
    rows = gradients(1.0)
    found, norms = {"a": instantiated("a", rows)}, rows.square().sum(1)
    right = rows[COUNTED].sum(0)
    assert apart(found, {"a": right, "b": torch.zeros(3)}, norms) == []
    assert apart(found, {"a": right, "b": 0.01 * right}, norms) == ["b"]
    assert apart(found, {}, norms) == ["a"]
    assert apart({"a": instantiated("a", 0 * rows)}, {}, norms) == []


# --- Whole batches ------------------------------------------------------------------------


def test_trial__waits_where_one_entry_of_one_gradient_is_no_number() -> None:
    """The root of zero is zero, and its slope has no bound."""
    model = nn.Linear(2, 2, bias=False).double()
    x = torch.ones(ROWS, 2, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    x[1:, 0] = 2.0
    runs: list[int] = []

    def losses() -> Tensor:
        runs.append(1)
        return model(x).abs().sqrt().sum(1)

    engine = ClippedGradients(model, clip_norm=1.0)
    for _ in range(2):
        found = engine.step(losses)
        assert found.dropped.tolist() == [True, *[False] * 5]
    assert len(runs) == 6, "tried again: it has shown nothing"


def test_trial__passes_a_table_whose_gradient_is_sparse() -> None:
    model = nn.Embedding(5, 3, sparse=True).double()
    x = torch.arange(ROWS).view(-1, 1) % 5
    found = ClippedGradients(model, clip_norm=0.5).step(lambda: losses_of(model(x)))
    dense = nn.Embedding.from_pretrained(model.weight.detach(), freeze=False)
    truth = oracle.clipped_sum(oracle.gradients(dense, losses_of, x), 0.5)
    assert oracle.difference(found.sums, truth) < 1e-12
