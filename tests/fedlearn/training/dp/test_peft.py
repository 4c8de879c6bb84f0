"""Adapters as peft makes them: clipped exactly, and as Opacus clips them."""

from __future__ import annotations

import pytest
import torch
from opacus import GradSampleModule
from torch import Tensor, nn

from fedlearn.training.dp import ClippedGradients
from tests.fedlearn.training.dp import oracle
from tests.fedlearn.training.dp.cases import losses_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
    pytest.mark.slow,  # peft takes seconds to import
]


class Encoder(nn.Module):
    """Tokens, one convolution, attention by linear layers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Embedding(9, 8), nn.Conv1d(8, 8, 3, padding=1)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.conv(self.embed(ids).transpose(1, 2)).transpose(1, 2)
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        return self.head(self.norm(scores.softmax(-1) @ self.value(x)).mean(1))


def adapted(*targets: str, **options: object) -> tuple[nn.Module, Tensor]:
    """The encoder with adapters at `targets`, none of them zero, and a batch."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        peft = pytest.importorskip("peft", reason="adapters need fedlearn[text]")
        config = peft.LoraConfig(r=2, target_modules=list(targets), **options)
        model = peft.get_peft_model(Encoder(), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model, torch.randint(0, 9, (6, 7), generator=generator)


CASES = {
    "linear": (["query", "value"], {"modules_to_save": ["head"]}),
    "linear, its bias too": (["query", "key"], {"bias": "lora_only"}),
    "convolution": (["conv"], {"use_rslora": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_peft__adapters_are_clipped_exactly(name: str) -> None:
    targets, options = CASES[name]
    model, x = adapted(*targets, **options)
    truth = oracle.gradients(model.double(), losses_of, x)
    bound = sorted(oracle.norm(one) for one in truth)[3]
    clipped = ClippedGradients(model, clip_norm=bound).step(lambda: losses_of(model(x)))
    assert oracle.difference(clipped.sums, oracle.clipped_sum(truth, bound)) < 1e-12


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_peft__adapters_are_clipped_as_by_opacus(name: str) -> None:
    targets, options = CASES[name]
    model, x = adapted(*targets, **options)
    truth = oracle.gradients(model, losses_of, x)
    bound = sorted(oracle.norm(one) for one in truth)[3]
    clipped = ClippedGradients(model, clip_norm=bound).step(lambda: losses_of(model(x)))
    names = {id(p): known for known, p in model.named_parameters()}
    hooked = GradSampleModule(model, loss_reduction="sum")
    losses_of(hooked(x)).sum().backward()
    samples = {names[id(p)]: p.grad_sample for p in model.parameters() if p.requires_grad}
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in samples.values()]).norm(dim=0)
    factors = (bound / (norms + 1e-6)).clamp(max=1.0)
    expected = {known: torch.einsum("i,i...", factors, g) for known, g in samples.items()}
    assert oracle.difference(clipped.sums, expected) < 1e-5
    hooked.remove_hooks()


def test_peft__adapters_of_embeddings_are_refused() -> None:
    model, x = adapted("embed")
    with pytest.raises(ValueError, match=r"lora_embedding_A\.default.*used outside the layer"):
        ClippedGradients(model, clip_norm=1.0).step(lambda: losses_of(model(x)))
