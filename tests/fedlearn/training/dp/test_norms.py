"""Normalisations, by each of the ways that their per-sample gradients are computed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedlearn.training.dp import ClippedGradients, contribution, normalisation
from tests.fedlearn.training.dp import oracle
from tests.fedlearn.training.dp.cases import losses_of


def exact(model: nn.Module, x: Tensor, axis: int = 0) -> None:
    """The engine's sum and norms are those of a loop over samples."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            drawn = torch.Generator().manual_seed(number)
            parameter += 0.5 * torch.randn(parameter.shape, generator=drawn)
    model, x = model.double(), x.double()
    truth = oracle.gradients(model, lambda y: losses_of(y, axis), x, axis)
    norms = [oracle.norm(one) for one in truth]
    found = ClippedGradients(model, clip_norm=sorted(norms)[1]).step(
        lambda: losses_of(model(x), axis)
    )
    assert oracle.difference(found.sums, oracle.clipped_sum(truth, sorted(norms)[1])) < 1e-12
    assert found.norms.tolist() == pytest.approx(norms, rel=1e-9)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.LayerNorm(6, eps=0.3),
    "layer without bias": lambda: nn.LayerNorm(6, eps=0.3, bias=False),
    "two axes": lambda: nn.LayerNorm((4, 6), eps=0.3),
    "root mean square": lambda: nn.RMSNorm(6, eps=0.3),
    "groups": lambda: nn.GroupNorm(2, 4, eps=0.3),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_norm__adds_its_own_number_to_the_variance(name: str, first: bool) -> None:
    """Where it sees the records themselves no gradient goes on: that is another way."""
    norm = NORMS[name]()
    exact(norm if first else nn.Sequential(nn.Linear(6, 6), norm), drawn(5, 4, 6))


@pytest.mark.parametrize("name", ["layer", "two axes", "root mean square"])
def test_norm__over_more_samples_than_are_taken_at_once(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(contribution, "IN_CACHE", 2 * 24)
    exact(NORMS[name](), drawn(5, 4, 6))


@pytest.mark.parametrize("name", ["layer", "layer without bias", "two axes"])
def test_norm__by_one_call_of_the_kernel_for_each_sample(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(normalisation, "_WORTH_A_CALL", 1)
    exact(nn.Sequential(nn.Linear(6, 6), NORMS[name]()), drawn(5, 4, 6))


def test_norm__whose_samples_are_on_the_second_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalisation, "_WORTH_A_CALL", 1)
    exact(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0), drawn(3, 5, 8), axis=1)


class Turned(nn.Module):
    """A group norm between linear layers that see other axes: nothing lies as it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.norm(self.a(x).transpose(1, 2)).transpose(1, 2))
        return y


def test_norm__of_what_does_not_lie_in_order() -> None:
    exact(Turned(), drawn(5, 3, 4))


@pytest.mark.parametrize("name", ["groups", "layer"])
def test_norm__of_what_was_computed_in_half_precision(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(normalisation, "_WORTH_A_CALL", 1)
    model, x = nn.Sequential(nn.Linear(6, 6), NORMS[name]()), drawn(5, 4, 6)

    def losses() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return losses_of(model(x).float())

    found = ClippedGradients(model, clip_norm=0.5).step(losses)
    truth = oracle.clipped_sum(oracle.gradients(model, losses_of, x), 0.5)
    assert oracle.difference(found.sums, truth) < 0.05


def test_norm__of_axes_that_hold_the_samples_is_refused() -> None:
    model = nn.LayerNorm((5, 6))
    with pytest.raises(ValueError, match="the samples' among them"):
        ClippedGradients(model, clip_norm=1.0).step(lambda: losses_of(model(drawn(5, 6))))
