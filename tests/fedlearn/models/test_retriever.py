"""The encoder for search: documents stay as they are, and a record's gradient is its own."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn import models
from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import to_vector
from fedlearn.models import Finetune, Learner
from fedlearn.models.huggingface import HuggingFaceModel
from fedlearn.models.retriever import Retriever, document_reader, query_reader, vectors_of
from fedlearn.tasks import ClassificationTask, Retrieval, RetrievalTask, TextInput
from fedlearn.training.dp import ClippedGradients
from fedlearn.training.settings import Training
from fedlearn.training.trials import try_out
from tests.encoders import PIECES, save_encoder

QUERY, DOCUMENT, WIDTH = 6, 9, 16
SETTINGS = Retrieval(query_tokens=QUERY, negatives=40, candidates=12)
TURN, LAST = Finetune(mode="last_k"), Finetune(mode="last_k", last_k=2)
LORA = Finetune(mode="lora", lora_rank=2, lora_stages=0)
pytestmark = pytest.mark.skipif(
    not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder("distilbert", tmp_path_factory.mktemp("retriever") / "enc")


def parts(folder: Path) -> tuple[Retriever, RetrievalTask]:
    shape = TextInput(vocabulary=len(PIECES), max_length=QUERY + DOCUMENT, tokenizer=str(folder))
    config = Retriever(folder=str(folder), public_tokens=DOCUMENT)
    return config, RetrievalTask(input=shape, settings=SETTINGS)


def learner(folder: Path, finetune: Finetune = TURN) -> Learner:
    """With public vectors out of a stream, which an archive has otherwise."""
    config, task = parts(folder)
    weights = dict(config.query_weights(folder))
    drawn = torch.randn(weights["head.public"].shape, generator=torch.Generator().manual_seed(3))
    weights["head.public"] = functional.normalize(drawn, dim=1)
    return models.build(config, task, Streams(0), finetune, weights)


def some_records(n: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, len(PIECES), (n, QUERY + DOCUMENT))
    ids[:, QUERY - 2 : QUERY] = ids[:, -3:] = 0  # filled up
    return torch.from_numpy(ids)


def answers(n: int) -> Tensor:
    return torch.zeros(n, 2, dtype=torch.int64)


def moved(made: Learner) -> None:
    """Weights that training might come to."""
    coins = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=coins))


def whole(made: Learner) -> nn.Module:
    return made.whole().eval()


@pytest.mark.parametrize("finetune", [TURN, LAST, LORA], ids=["turn", "last_k", "lora"])
def test_documents__keep_their_vectors_whatever_is_trained(
    folder: Path, finetune: Finetune
) -> None:
    made, records = learner(folder, finetune), some_records(5)
    before = whole(made)(records)
    moved(made)
    after = whole(made)(records)
    assert not torch.allclose(before, after)
    documents = vectors_of(document_reader(str(folder), folder), records[:, QUERY:].numpy(), 0)
    read = query_reader(whole(made), WIDTH)
    queries = read(records[:, :QUERY])
    own = (queries * torch.from_numpy(documents)).sum(1)
    torch.testing.assert_close(own, after[:, 0], rtol=1e-4, atol=1e-5)
    assert not any("tower" in n for n, p in made.whole().named_parameters() if p.requires_grad)


def test_model__begins_as_the_encoder_that_reads_documents(folder: Path) -> None:
    records = some_records(4)
    read = query_reader(whole(learner(folder)), WIDTH)
    same = vectors_of(document_reader(str(folder), folder), records[:, :QUERY].numpy(), 0)
    torch.testing.assert_close(
        read(records[:, :QUERY]), torch.from_numpy(same), rtol=1e-4, atol=1e-5
    )


def test_document__is_not_seen_by_the_reading_of_its_query(folder: Path) -> None:
    made = learner(folder, LAST)
    moved(made)
    records = some_records(3)
    changed = records.clone()
    changed[:, QUERY:] = some_records(3, seed=9)[:, QUERY:]
    apart = whole(made)(changed) - whole(made)(records)
    assert apart[:, 0].abs().max() > 1e-3
    assert apart[:, 1:].abs().max() < 1e-6


def clipped(made: Learner, records: Tensor, loss: object, bound: float) -> dict[str, Tensor]:
    assert made.frozen is not None
    with torch.no_grad():
        seen = made.frozen(records)
    step = ClippedGradients(made.model, clip_norm=bound).step(
        lambda: loss(made.model(seen), answers(len(seen)))  # type: ignore[operator]
    )
    return {name: total.clone() for name, total in step.sums.items()}


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one))


@pytest.mark.parametrize("finetune", [TURN, LAST, LORA], ids=["turn", "last_k", "lora"])
def test_neighbours__are_one_clip_norm_apart_with_and_two_with_another_record(
    folder: Path, finetune: Finetune
) -> None:
    bound, records = 0.01, some_records(7)
    _, task = parts(folder)
    made = learner(folder, finetune)
    moved(made)
    whole_sum = clipped(made, records, task.loss, bound)
    for i in range(len(records)):
        less = torch.cat([records[:i], records[i + 1 :]])
        assert apart(whole_sum, clipped(made, less, task.loss, bound)) <= bound * (1 + 1e-4)
    other = records.clone()
    other[3] = some_records(1, seed=8)[0]
    assert apart(whole_sum, clipped(made, other, task.loss, bound)) <= 2 * bound * (1 + 1e-4)


class InBatch(nn.Module):
    """What most train search with: the documents of the other records are the negatives."""

    def __init__(self, made: Learner) -> None:
        super().__init__()
        self.stages = nn.Sequential(*list(made.model.children())[:-1])

    def forward(self, hidden: Tensor) -> Tensor:
        query, document = self.stages(hidden).chunk(2, dim=1)
        near: Tensor = query @ document.T
        return near


def _in_batch(near: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(near / 0.1, torch.arange(len(near)), reduction="none")


def _by_autograd(made: Learner, records: Tensor, bound: float) -> dict[str, Tensor]:
    """What a loop over the losses of a batch would clip, were nobody to look."""
    model = InBatch(made)
    assert made.frozen is not None
    with torch.no_grad():
        seen = made.frozen(records)
    learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in learned.items()}
    losses = _in_batch(model(seen), answers(len(seen)))
    for loss in losses:
        own = torch.autograd.grad(loss, [*learned.values()], retain_graph=True)
        norm = float(sum(g.square().sum() for g in own)) ** 0.5
        for name, gradient in zip(learned, own, strict=True):
            total[name] += gradient * min(1.0, bound / norm)
    return total


def test_neighbours__of_negatives_within_the_batch_are_further_apart_than_their_clip_norm(
    folder: Path,
) -> None:
    bound, records = 0.01, some_records(7)
    made = learner(folder)
    moved(made)
    whole_sum = _by_autograd(made, records, bound)
    moves = [
        apart(whole_sum, _by_autograd(made, torch.cat([records[:i], records[i + 1 :]]), bound))
        for i in range(len(records))
    ]
    assert max(moves) > 1.1 * bound


def test_trials__pass_this_loss_and_refuse_negatives_within_the_batch(folder: Path) -> None:
    made, records = learner(folder), some_records(70)
    _, task = parts(folder)
    assert made.frozen is not None
    with torch.no_grad():
        seen = made.frozen(records)
    config = Training(
        optimizer="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0, local_steps=1,
        sample_rate=1.0, nominal_records=20, dp_engine="fast", max_batch=32,
    )  # fmt: skip
    before = to_vector(made.model).copy()
    try_out(made.model, lambda n: (seen[:n], answers(n)), config, loss=task.loss)
    assert np.array_equal(to_vector(made.model), before)
    with pytest.raises(ConfigError, match=r"record|sample"):
        try_out(InBatch(made), lambda n: (seen[:n], answers(n)), config, loss=_in_batch)


def test_problems__name_the_setting_and_the_way_out(folder: Path) -> None:
    config, task = parts(folder)
    assert models.problems(config, task) == []
    other = replace(config, public_tokens=4)
    assert "model.public_tokens=4" in models.problems(other, task)[0]
    greedy = RetrievalTask(input=task.input, settings=replace(SETTINGS, negatives=10_000))
    assert "task.negatives=10000" in models.problems(config, greedy)[0]
    plain = ClassificationTask(input=task.input, classes=("a", "b"))
    assert "set task=retrieval" in models.problems(config, plain)[0]
    for reads in (HuggingFaceModel(folder=str(folder)),):
        assert "set model=retriever" in models.problems(reads, task)[0]


@pytest.mark.parametrize("mode", ["full", "head"])
def test_finetune__of_what_cannot_learn_is_refused(folder: Path, mode: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.finetune=.*stays as it is"):
        learner(folder, Finetune(mode=mode))  # type: ignore[arg-type]


def test_weights__of_another_encoder_are_refused_by_their_hash(folder: Path) -> None:
    config, _ = parts(folder)
    pinned = config.pinned()
    assert pinned.sha256
    assert pinned.query_weights(folder)
    with pytest.raises(ConfigError, match=r"model\.sha256=.*are others here"):
        replace(config, sha256="0" * 64).query_weights(folder)
