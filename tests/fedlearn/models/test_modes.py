"""Every model under every way of fine-tuning: what is trained, what stays, what is sent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlearn import models
from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import layout_of
from fedlearn.models.finetune import Finetune, Learner, cut, stages
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.local import train
from fedlearn.training.settings import Training
from tests.effort import slow_but, thinned

from .cases import CASES, Case, perturb

MODES = {
    "head": Finetune(mode="head"),
    "last_k": Finetune(mode="last_k", last_k=2),
    "lora": Finetune(mode="lora", lora_rank=2),
}
TRAINING = Training(
    optimizer="sgd", learning_rate=0.3, momentum=0.0, weight_decay=0.0, local_steps=3,
    sample_rate=1.0, nominal_records=12, dp_engine="fast", max_batch=1024,
)  # fmt: skip
N = 24


def whole(case: Case) -> nn.Sequential:
    """All stages of the model in one, none of them frozen, away from the zeros of the start."""
    learner = models.build(case.config, case.task, Streams(0))
    parts = [learner.model] if learner.frozen is None else [learner.frozen, learner.model]
    model = stages(**{name: stage for part in parts for name, stage in part.named_children()})
    perturb(model.requires_grad_(True))
    return model


def learner_of(case: Case, mode: str) -> Learner | None:
    """None where the model has no two stages with parameters, or no layer for adapters."""
    if mode == "lora":
        pytest.importorskip("peft", reason="adapters need fedlearn[text]")
    learnable = [stage for stage in whole(case) if any(True for _ in stage.parameters())]
    linear = [m for stage in learnable[:-1] for m in stage.modules() if isinstance(m, nn.Linear)]
    generator = torch.Generator().manual_seed(0)
    if (mode == "last_k" and len(learnable) < 2) or (mode == "lora" and not linear):
        with pytest.raises(ConfigError):
            cut(whole(case), MODES[mode], generator)
        return None
    return cut(whole(case), MODES[mode], generator)


def values(learner: Learner) -> dict[str, Tensor]:
    """All that a learner holds, by name; parts of the frozen side under `frozen`."""
    kept = {} if learner.frozen is None else learner.frozen.state_dict(prefix="frozen.")
    return {name: t.clone() for name, t in (learner.model.state_dict() | kept).items()}


@pytest.mark.parametrize("mode", slow_but(lambda mode: mode != "lora", MODES))
@pytest.mark.parametrize("case", thinned(CASES), ids=lambda case: case.name)
def test_mode__trains_and_sends_what_it_says_and_nothing_else(case: Case, mode: str) -> None:
    learner = learner_of(case, mode)
    if learner is None:
        return
    learned = {name for name, p in learner.model.named_parameters() if p.requires_grad}
    before, records = values(learner), case.records(N)
    assert torch.allclose(learner.whole().eval()(records), whole(case).eval()(records), atol=1e-5)
    inputs = records if learner.frozen is None else learner.frozen(records)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, case.classes, N))
    train(learner.model, inputs, labels, TRAINING, loss=cross_entropy, rng=np.random.default_rng(0))
    after = values(learner)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = {name for name in changed if "running_" in name or "num_batches" in name}
    assert changed - statistics == learned
    assert not any(name.startswith("frozen.") for name in changed)
    sent = {name for name, _ in layout_of(learner.model).entries}
    assert learned <= sent
    assert sent - learned <= {name for name, _ in learner.model.named_buffers()}
    assert all(said(name, mode) for name in learned), learned


def said(name: str, mode: str) -> bool:
    """Whether a mode may train this: the head, the stage before it too, adapters."""
    match mode:
        case "head":
            return name.startswith("head.")
        case "lora":
            return name.startswith("head.") or "lora_" in name
        case _:
            return True


@pytest.mark.parametrize("case", thinned(CASES), ids=lambda case: case.name)
def test_mode__last_k_trains_two_stages_with_parameters(case: Case) -> None:
    learner = learner_of(case, "last_k")
    if learner is None:
        return
    trained = {name.split(".")[0] for name, _ in learner.model.named_parameters()}
    in_order = [n for n, s in whole(case).named_children() if any(True for _ in s.parameters())]
    assert trained == set(in_order[-2:])
