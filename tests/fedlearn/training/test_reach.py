"""What never gets a gradient is found before the first round; what gets none at first is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedlearn.config import compose
from fedlearn.core.errors import ConfigError
from fedlearn.models.slots import attach
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.reach import check_reach

TRAINING = replace(compose([]).training, finetune="lora")


class Adapter(nn.Module):
    """`x + B A x` with a B of zeros, as adapters begin."""

    def __init__(self, used: Callable[[Adapter, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)
        nn.init.zeros_(self.b.weight)
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        return self.used(self, x)


def test_check__leaves_the_slots_of_an_audit_to_canaries() -> None:
    model = Adapter(lambda own, x: x + own.b(own.a(x)))
    attach(model, 5)
    check_reach(model, records, TRAINING, loss=cross_entropy)


def records(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 3


def test_check__passes_adapters_whose_first_factor_has_no_gradient_yet() -> None:
    model = Adapter(lambda own, x: x + own.b(own.a(x)))
    before = {name: p.clone() for name, p in model.named_parameters()}
    cross_entropy(model(records(4)[0]), records(4)[1]).sum().backward()
    assert model.a.weight.grad is not None
    assert not model.a.weight.grad.any()  # so a look at the first step alone would refuse it
    check_reach(model, records, TRAINING, loss=cross_entropy)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("used", "idle"),
    [
        (lambda own, x: x + own.b(x[:, :2]), "a.weight"),
        (lambda own, x: x + own.b(own.a(x)).detach() + 0 * own.a(x).sum(), "a.weight, b.weight"),
        (lambda own, x: x, "a.weight, b.weight"),
    ],
)
def test_check__refuses_what_no_loss_depends_on_by_name(
    used: Callable[[Adapter, Tensor], Tensor], idle: str
) -> None:
    with pytest.raises(ConfigError, match=f"no gradient reaches {idle}, so"):
        check_reach(Adapter(used), records, TRAINING, loss=cross_entropy)
