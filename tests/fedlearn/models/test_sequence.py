"""The LSTM beside torch's and beside Opacus', which share no code with it."""

from __future__ import annotations

import pytest
import torch
from opacus import GradSampleModule
from opacus.layers import DPLSTM
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.models.sequence import REMEMBER, Lstm, Sequence
from fedlearn.tasks import ClassificationTask, SeriesInput, TableInput
from fedlearn.training.dp import ClippedGradients

from .cases import perturb

STEPS, COLUMNS, WIDTH = 7, 4, 5


def draw(n: int, lengths: Tensor | None = None) -> Tensor:
    """`n` records, whole or of the given lengths: `[n, STEPS, COLUMNS + 1]`."""
    x = torch.rand(n, STEPS, COLUMNS, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ends = torch.full((n,), STEPS) if lengths is None else lengths
    held = (torch.arange(STEPS) < ends[:, None]).float().unsqueeze(-1)
    return torch.cat([x * held, held], dim=-1)


class Peer(nn.Module):
    """A classifier by the last state of a recurrent layer of another's."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.lstm = kind(COLUMNS, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.lstm(x[..., :-1])[0]
        logits: Tensor = self.head(states[:, -1])
        return logits

    def take_over(self, ours: nn.Sequential) -> None:
        """The same function: one of the two biases is zero, the other holds what we add."""
        layer = ours.get_submodule("lstm0")
        theirs = dict(self.lstm.named_parameters())
        remember = torch.zeros(4 * WIDTH)
        remember[WIDTH : 2 * WIDTH] = REMEMBER
        values = {
            "weight_ih_l0": layer.get_parameter("input.weight"),
            "weight_hh_l0": layer.get_parameter("recurrent.weight"),
            "bias_ih_l0": layer.get_parameter("input.bias") + remember,
            "bias_hh_l0": torch.zeros(4 * WIDTH),
        }
        with torch.no_grad():
            for name, value in values.items():
                theirs[name].copy_(value)
            self.head.load_state_dict(ours.get_submodule("head").state_dict())


def ours() -> nn.Sequential:
    series = SeriesInput(steps=STEPS, row=TableInput(numeric=COLUMNS))
    model = Sequence(width=WIDTH, depth=1, dropout=0.0).network(
        ClassificationTask(input=series, classes=("a", "b", "c"))
    )
    perturb(model)
    return model


def test_sequence__computes_what_the_lstm_of_torch_computes() -> None:
    model, peer = ours(), Peer(nn.LSTM)
    peer.take_over(model)
    torch.testing.assert_close(model(draw(9)), peer(draw(9)), rtol=1e-5, atol=1e-6)


def test_sequence__of_padded_records_is_that_of_torch_on_each_alone() -> None:
    model, peer = ours(), Peer(nn.LSTM)
    peer.take_over(model)
    lengths = torch.tensor([1, 3, STEPS, 5])
    x = draw(4, lengths)
    alone = [peer(x[i : i + 1, :length]) for i, length in enumerate(lengths)]
    torch.testing.assert_close(model(x), torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_sequence__does_not_look_into_padding() -> None:
    x = draw(4, torch.tensor([1, 3, 2, 5]))
    other = torch.where(x[..., -1:] > 0, x, torch.cat([x[..., :-1] + 7, x[..., -1:]], dim=-1))
    model = ours()
    assert not torch.equal(x, other)
    assert torch.equal(model(x), model(other))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("clip_norm", [0.05, 1e3])
def test_sequence__clipped_sums_are_those_of_the_lstm_of_opacus(clip_norm: float) -> None:
    model, peer = ours(), Peer(DPLSTM)
    peer.take_over(model)
    x, labels = draw(16), torch.arange(16) % 3
    engine = ClippedGradients(model, clip_norm=clip_norm)
    assert engine.fallbacks == ()
    found = engine.step(lambda: functional.cross_entropy(model(x), labels, reduction="none")).sums
    expected = opacus_sums(peer, x, labels, clip_norm)
    layer = {"input.weight": "weight_ih_l0", "recurrent.weight": "weight_hh_l0"}
    layer |= {"input.bias": "bias_ih_l0"}
    pairs = {f"lstm0.{own}": f"lstm.{theirs}" for own, theirs in layer.items()}
    pairs |= {"head.weight": "head.weight", "head.bias": "head.bias"}
    assert pairs.keys() == found.keys()
    for own, theirs in pairs.items():
        apart = (found[own] - expected[theirs]).norm() / expected[theirs].norm()
        assert apart < 1e-5, own


def opacus_sums(peer: Peer, x: Tensor, labels: Tensor, clip_norm: float) -> dict[str, Tensor]:
    """Clipped sums from Opacus' per-sample gradients, norms without its second bias."""
    hooked = GradSampleModule(peer, loss_reduction="sum")
    functional.cross_entropy(hooked(x), labels, reduction="sum").backward()
    samples = {
        name.removeprefix("_module."): p.grad_sample
        for name, p in hooked.named_parameters()
        if "bias_hh" not in name
    }
    unique = {name: g for name, g in samples.items() if ".cells." not in name and g is not None}
    norms = sum(g.flatten(1).square().sum(1) for g in unique.values()).sqrt()
    factors = (clip_norm / norms).clamp(max=1)
    return {name: torch.einsum("b,b...->...", factors, g) for name, g in unique.items()}


def test_sequence__computes_in_bf16() -> None:
    model, records = ours(), draw(6, torch.tensor([7, 0, 1, 3, 7, 2]))
    exact = model(records)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(records)
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_lstm__learns_what_no_order_blind_model_can() -> None:
    """Which of two marks came first: both classes have the same rows."""
    generator = torch.Generator().manual_seed(3)
    x, labels = draw(64), torch.arange(64) % 2
    x[..., 0] = 0
    places = torch.stack([torch.randperm(STEPS, generator=generator)[:2].sort()[0] for _ in labels])
    rows = torch.arange(64)
    x[rows, places[:, 0], 0] = labels * 2.0 - 1
    x[rows, places[:, 1], 0] = 1 - labels * 2.0
    layer, head = Lstm(COLUMNS, 8, 0.0), nn.Linear(8, 2)
    for parameter in (*layer.parameters(), *head.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=generator)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        logits = head(layer(x)[:, -1, :-1])
        functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    assert (logits.argmax(1) == labels).float().mean() > 0.95
