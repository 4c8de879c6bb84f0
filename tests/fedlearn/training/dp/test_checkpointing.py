"""What is computed again in the backward pass is what was not kept, and clipped the same."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlearn import models
from fedlearn.core.recompute import PASS
from fedlearn.core.rng import Streams
from fedlearn.models import Finetune
from fedlearn.models.finetune import checkpointed, stages
from fedlearn.models.huggingface import HuggingFaceModel
from fedlearn.tasks import ClassificationTask, ImageInput, LanguageTask, Task, TextInput
from fedlearn.training.device import CPU
from fedlearn.training.dp import ClippedGradients
from fedlearn.training.engines import rows_by
from fedlearn.training.local import lent_generator
from tests.effort import slow_but
from tests.encoders import PIECES, SIDE, save_encoder
from tests.fedlearn.training.dp.cases import CASES, Case, build, draw, losses_of
from tests.model_folders import VOCABULARY, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")

BATCH = 5
LAST = Finetune(mode="last_k", last_k=2)


def staged(case: Case, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """The model of a case as one stage before a head that does nothing."""
    coins = torch.Generator().manual_seed(7)
    model = stages(body=build(case, coins, dtype), head=nn.Identity())
    x = draw(case, BATCH, coins)
    return model, x if case.ids else x.to(dtype)


def sums(model: nn.Module, losses: Callable[[], Tensor], again: bool) -> dict[str, Tensor]:
    with checkpointed(model, again):
        return dict(ClippedGradients(model, clip_norm=0.5).step(losses).sums)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize(
    "case",
    slow_but(lambda case: case.name != "attention with learned key", CASES),
    ids=lambda case: case.name,
)
def test_clipped_sums__are_the_same_to_the_bit_for_every_layer(case: Case) -> None:
    model, x = staged(case)
    kept, again = (sums(model, lambda: losses_of(model(x), case.axis), on) for on in (False, True))
    assert same(kept, again)
    assert all(p.grad is None for p in model.parameters())


def mlp(*widths: int, dropout: float = 0.0) -> nn.Sequential:
    blocks = {
        f"block{i}": nn.Sequential(nn.Linear(a, b), nn.Tanh(), nn.Dropout(dropout), nn.Linear(b, b))
        for i, (a, b) in enumerate(pairwise(widths))
    }
    model, coins = stages(**blocks, head=nn.Linear(widths[-1], 2)), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=coins) / 3)
    return model.double()


def test_calls__in_several_views_are_one_gradient_of_a_record() -> None:
    model, x = mlp(4, 6, 6), torch.randn(BATCH, 4, dtype=torch.float64)
    views = lambda: torch.stack([model(v).square().sum(1) for v in (x, -2 * x)]).mean(0)  # noqa: E731
    kept, again = (sums(model, views, on) for on in (False, True))
    assert same(kept, again)
    assert max(float(one.abs().max()) for one in again.values()) > 0


def test_plain_training__has_the_same_gradients_and_dropout_draws_the_same() -> None:
    found, states = [], []
    for on in (False, True):
        model, x = mlp(4, 6, 6, dropout=0.5).train(), torch.ones(BATCH, 4, dtype=torch.float64)
        with lent_generator(np.random.default_rng(9), CPU), checkpointed(model, on):
            model(x).square().sum().backward()
            states.append(torch.get_rng_state())
        found.append([p.grad for p in model.parameters()])
    for kept, again in zip(*found, strict=True):
        assert kept is not None
        assert again is not None
        assert torch.equal(kept, again)
        assert kept.abs().max() > 0
    assert torch.equal(*states)  # what is drawn next is what it would have been


def test_a_stretch__is_computed_again_in_the_same_precision_and_writes_no_gradients() -> None:
    found = []
    for on in (False, True):
        model, x = mlp(4, 6, 6), torch.linspace(-1, 1, 4 * BATCH).reshape(BATCH, 4)
        model.float()
        with checkpointed(model, on):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(x).float().square().sum()
            # The backward pass is outside of autocast, as it is in training.
            found.append(torch.autograd.grad(loss, [*model.parameters()]))
        assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(kept, again) for kept, again in zip(*found, strict=True))
    assert found[0][0].abs().max() > 0


def test_opacus__finds_the_same_per_sample_gradients() -> None:
    model, x = mlp(4, 6, 6), torch.randn(BATCH, 4, dtype=torch.float64)
    found = []
    for on in (False, True):
        with checkpointed(model, on), rows_by("opacus", model) as rows:
            found.append(rows(lambda: model(x).square().sum(1)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(
    not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
)
@pytest.mark.parametrize("part", [Finetune(mode="lora", lora_rank=2), LAST], ids=lambda p: p.mode)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "t5", "bert", "vit"])
def test_pretrained_models__are_clipped_the_same(tmp_path: Path, kind: str, part: Finetune) -> None:
    task, ids = pretrained(kind, tmp_path)
    config = HuggingFaceModel(folder=str(tmp_path))
    made = models.build(config, task, Streams(0), part, config.weights(tmp_path))
    made.whole().double()
    coins = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=coins))
    x = ids if made.frozen is None else made.frozen(ids)
    targets = ids % 2 if not task.next_tokens else torch.where(ids % 3 == 0, ids, -1)
    targets = targets if task.next_tokens else targets.flatten(1)[:, 0].long()
    found = [
        sums(made.model, lambda: task.loss(made.model(x), targets), on) for on in (False, True)
    ]
    assert same(*found)
    assert all(one.abs().max() > 0 for one in found[0].values())


def pretrained(kind: str, folder: Path) -> tuple[Task, Tensor]:
    """What a model of the kind, which is put into the folder, is asked, and some records."""
    rng, most = np.random.default_rng(1), 12
    if kind == "vit":
        save_encoder(kind, folder)
        images = ImageInput(channels=3, height=SIDE, width=SIDE)
        return ClassificationTask(input=images, classes=("a", "b")), torch.from_numpy(
            rng.random((BATCH, 3, SIDE, SIDE))
        )
    known = len(PIECES) if kind == "bert" else VOCABULARY
    text = TextInput(vocabulary=known, max_length=most, tokenizer=str(folder))
    ids = torch.from_numpy(rng.integers(1, known, (BATCH, most)))
    if kind == "bert":
        save_encoder(kind, folder)
        return ClassificationTask(input=text, classes=("a", "b")), ids
    tiny_model(folder, kind, moved=0.1)
    return LanguageTask(input=text), ids


def test_a_weight_used_outside_of_its_layer__is_still_seen() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) @ self.layer.weight

    model = stages(body=Tied(), head=nn.Identity())
    with pytest.raises(ValueError, match=r"body.layer.weight: used outside the layer"):
        sums(model, lambda: model(torch.ones(2, 4)).sum(1), True)


def test_a_mix_of_records__is_still_seen() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    model = stages(body=nn.Sequential(nn.Linear(4, 4), Mean()), head=nn.Linear(4, 1))
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="take out what mixes the batch"):
        sums(model, lambda: model(x)[:, 0], True)


def test_a_graph__holds_what_stages_read_and_not_what_is_inside_of_them() -> None:
    def kept(on: bool) -> int:
        """Numbers that there are between forward pass and backward pass."""
        model, x = mlp(8, 32, 32, 32, 32), torch.ones(BATCH, 8, dtype=torch.float64)
        held: list[int] = []

        def pack(values: Tensor) -> Tensor:
            if PASS.get() == "only" and values.dim() == 2 and len(values) == BATCH:
                held.append(values.numel())
            return values

        hooks: Any = torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values)
        with checkpointed(model, on), hooks:
            model(x).sum().backward()
        return sum(held)

    assert kept(True) < 0.5 * kept(False)
