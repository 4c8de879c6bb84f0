"""First factors of adapters that weigh evenly what layers read: by other formulas, of no record."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from fedlearn import models
from fedlearn.core.rng import Streams
from fedlearn.models import Finetune, Learner
from fedlearn.models.huggingface import HuggingFaceModel
from fedlearn.models.whitening import start_problems, whitened
from fedlearn.tasks import ClassificationTask, ImageInput, LanguageTask, TextInput
from tests.model_folders import random_model

VOCABULARY, LENGTH = 40, 24
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
PART = Finetune(mode="lora", lora_rank=4, lora_stages=2, lora_frozen_a=True, lora_start="whitened")
needs_transformers = pytest.mark.skipif(
    not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
)


def drawn(rank: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(rank, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def lopsided(tokens: int, width: int) -> Tensor:
    """What a layer reads: one direction outweighs the others, and has a mean."""
    rng = np.random.default_rng(3)
    read = rng.normal(size=(tokens, width)) * np.geomspace(1, 0.01, width)
    read += 30 * rng.normal(size=width) * (1 + 0.1 * rng.normal(size=(tokens, 1)))
    return torch.from_numpy(read)


def test_rows__are_those_of_a_matrix_root_that_another_library_takes() -> None:
    width, kept, rows = 7, 3, drawn(5, 7).double()
    read = lopsided(50, width)
    moment = read.numpy().T @ read.numpy() / 50
    values = np.sort(np.linalg.eigvals(moment).real)[::-1]
    floor = values[kept - 1] + 1e-9 * values[0]
    root = np.linalg.inv(np.real(sqrtm(moment + floor * np.eye(width))))
    usual = np.sqrt((rows.numpy() ** 2).mean())
    wanted = rows.numpy() / usual @ root / np.sqrt((values / (values + floor)).sum())
    np.testing.assert_allclose(whitened(rows, read, kept), wanted, rtol=1e-5)


def test_products__are_of_mean_square_one_and_no_direction_outweighs_the_others() -> None:
    read, rows = lopsided(4000, 40), drawn(3000, 40)
    products = read @ whitened(rows, read, 12).double().T
    assert float(products.square().mean()) == pytest.approx(1, rel=0.05)
    raw, evened = (
        np.linalg.eigvalsh((seen.T @ seen).numpy())[::-1]
        for seen in (read, read @ whitened(rows, read, 12).double().T @ rows.double())
    )
    assert raw[0] / raw.sum() > 0.9
    assert evened[0] / evened.sum() < 0.2


def test_rows__change_little_where_another_machine_rounds_otherwise() -> None:
    read = lopsided(300, 30)
    nearly = read * (1 + 1e-6 * torch.from_numpy(np.random.default_rng(1).normal(size=read.shape)))
    one, other = (whitened(drawn(4, 30), seen, 12).double() for seen in (read, nearly))
    assert float((one - other).norm() / one.norm()) < 1e-4


def test_rows__are_zero_where_nothing_is_read() -> None:
    assert not whitened(drawn(2, 5), torch.zeros(9, 5), 3).any()


def test_whitened_start__is_refused_where_nobody_can_make_up_records() -> None:
    table = ClassificationTask(classes=("a", "b"), input=ImageInput(channels=1, height=2, width=2))
    [problem] = start_problems(PART, table)
    assert problem.startswith("training.lora_start=whitened: is for models that continue texts")
    assert not [*start_problems(Finetune(mode="head", lora_start="whitened"), table)]
    assert not [*start_problems(Finetune(mode="lora"), table)]


def save_model(kind: str, folder: Path) -> None:
    more = {} if kind == "gpt2" else {"intermediate_size": 24, "max_position_embeddings": 32}
    random_model(kind, seed=7, **SIZES, **more).save_pretrained(folder)


def learner(folder: Path, part: Finetune = PART, seed: int = 0) -> Learner:
    text = TextInput(vocabulary=VOCABULARY, max_length=LENGTH, tokenizer=str(folder))
    config = HuggingFaceModel(folder=str(folder))
    task = LanguageTask(input=text)
    return models.build(config, task, Streams(seed), part, config.weights(folder.parent))


def factors(made: Learner) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in made.model.named_parameters() if "lora_A" in name}


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters__start_whitened_the_same_at_every_site_and_change_no_answer(
    tmp_path: Path, kind: str
) -> None:
    save_model(kind, tmp_path / kind)
    made, again = learner(tmp_path / kind), learner(tmp_path / kind)
    plain = learner(tmp_path / kind, Finetune(**{**vars(PART), "lora_start": "drawn"}))
    own, others, raw = factors(made), factors(again), factors(plain)
    assert all(torch.equal(own[name], others[name]) for name in own)
    assert not any(torch.equal(own[name], raw[name]) for name in own)
    assert not any(
        torch.equal(own[n], o) for n, o in factors(learner(tmp_path / kind, seed=1)).items()
    )
    tokens = torch.randint(VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(5))
    one, other = (m.whole().eval()(tokens).written_out() for m in (made, plain))
    assert torch.equal(one, other)
    assert made.model.training == plain.model.training
    assert all(p.grad is None for p in made.model.parameters())


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("stages", [2, 0])
def test_second_factors__have_gradients_of_about_one_size_in_all_layers(
    tmp_path: Path, stages: int
) -> None:
    save_model("llama", tmp_path / "llama")
    coins = torch.Generator().manual_seed(8)
    tokens, targets = (torch.randint(VOCABULARY, (64, LENGTH), generator=coins) for _ in range(2))

    def spread(start: str) -> float:
        part = Finetune(**{**vars(PART), "lora_start": start, "lora_stages": stages})
        made = learner(tmp_path / "llama", part)
        learned = [p for p in made.model.parameters() if p.requires_grad]
        squares = np.zeros(len(learned))
        task = LanguageTask(input=TextInput(vocabulary=VOCABULARY, max_length=LENGTH))
        for token, target in zip(tokens, targets, strict=True):
            loss = task.loss(made.whole()(token[None]), target[None]).sum()
            slopes = torch.autograd.grad(loss, learned)
            squares += [float(slope.square().sum()) for slope in slopes]
        return float(np.log(squares).std())

    assert spread("whitened") < 0.5 * spread("drawn")
