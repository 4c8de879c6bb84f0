"""Language models of Hugging Face's form: transformers' layers in stages, adapters, and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedlearn import models
from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import layout_of, to_vector
from fedlearn.data.datasets.archives import nothing_brought
from fedlearn.models import Finetune, Learner
from fedlearn.models.huggingface import HuggingFaceModel
from fedlearn.tasks import ClassificationTask, LanguageTask, Task, TextInput
from fedlearn.training.dp import ClippedGradients
from tests.model_folders import KINDS, random_model, settings_of

VOCABULARY = 40
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
LLAMA_SIZES = {**SIZES, "intermediate_size": 24, "max_position_embeddings": 32}
LENGTH = 9
LORA = Finetune(mode="lora", lora_rank=2, lora_stages=2)
needs_transformers = pytest.mark.skipif(
    not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each kind of model."""
    found = tmp_path_factory.mktemp("folders")
    for kind in KINDS:
        whole_model(kind).save_pretrained(found / kind)
    return found


def whole_model(kind: str) -> Any:
    return random_model(kind, seed=7, **(SIZES if kind == "gpt2" else LLAMA_SIZES))


def task_of(folder: Path, length: int = LENGTH) -> LanguageTask:
    text = TextInput(vocabulary=VOCABULARY, max_length=length, tokenizer=str(folder))
    return LanguageTask(input=text)


def learner(
    folder: Path, part: Finetune = LORA, seed: int = 0, config: HuggingFaceModel | None = None
) -> Learner:
    config = config or HuggingFaceModel(folder=str(folder))
    weights = config.weights(folder.parent)
    return models.build(config, task_of(folder), Streams(seed), part, weights)


def ids(n: int = 4, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, VOCABULARY, (n, LENGTH)))


def trained(made: Learner) -> set[str]:
    return {name for name, _ in layout_of(made.model).entries}


# --- without transformers ------------------------------------------------------------------


def plain_folder(folder: Path, **changed: object) -> Path:
    """A folder that nobody computes with."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model_type": "llama", **settings_of("llama", **LLAMA_SIZES), **changed}
    (folder / "config.json").write_text(json.dumps(about))
    save_file({"model.norm.weight": torch.ones(16)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("changed", "task", "problem"),
    [
        ({}, lambda where: task_of(where), None),
        (
            {},
            lambda where: ClassificationTask(input=task_of(where).text, classes=("a", "b")),
            "task=classification asks for something else; choose task=language",
        ),
        (
            {"model_type": "bart"},
            task_of,
            "holds a model of type 'bart'; there are layers for llama",
        ),
        ({}, lambda where: task_of(where / ".."), "set scenario.tokenizer.folder="),
        ({"vocab_size": 39}, task_of, "its tokenizer has 40 tokens and its weights have 39"),
        ({}, lambda where: task_of(where, 33), "looks at 32 tokens at the most; set"),
        ({"sliding_window": 8}, task_of, "looks at 8 tokens at the most; set"),
        ({"sliding_window": 8, "use_sliding_window": False}, task_of, None),
    ],
)
def test_problems__say_what_does_not_fit_and_the_way_out(
    tmp_path: Path, changed: dict[str, object], task: object, problem: str | None
) -> None:
    folder = plain_folder(tmp_path / "model", **changed)
    wanted: Task = task(folder)  # type: ignore[operator]
    found = models.problems(HuggingFaceModel(folder=str(folder)), wanted)
    assert [problem in one for one in found if problem] == [True] * (problem is not None)
    assert bool(found) == (problem is not None)


def test_way_out__of_a_folder_with_a_space_in_its_name_is_an_override(tmp_path: Path) -> None:
    folder = plain_folder(tmp_path / "my model")
    (problem,) = models.problems(HuggingFaceModel(folder=str(folder)), task_of(tmp_path))
    assert problem.endswith(f"set scenario.tokenizer.folder='{folder}'")


def test_pinned__names_the_weights_and_others_are_refused(tmp_path: Path) -> None:
    folder = plain_folder(tmp_path / "model")
    config = HuggingFaceModel(folder=str(folder)).pinned()
    assert len(config.sha256) == 64
    assert config.pinned() == config
    save_file({"model.norm.weight": torch.zeros(17)}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"the weights in .* are others .*\(model.sha256=''\)"):
        config.weights(tmp_path)
    assert HuggingFaceModel(folder=str(folder)).pinned().sha256 != config.sha256


@pytest.mark.slow
def test_import__of_models_does_not_load_transformers() -> None:
    code = "import sys, fedlearn.models; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- what transformers computes --------------------------------------------------------------


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "part", [LORA, Finetune(mode="last_k", last_k=1), Finetune(mode="lora")], ids=lambda p: p.mode
)
def test_stages__compute_what_the_whole_model_does(
    folders: Path, kind: str, part: Finetune
) -> None:
    made = learner(folders / kind, part)
    with torch.no_grad():
        found = made.whole()(ids()).written_out()
        expected = whole_model(kind)(ids()).logits
    assert found.shape == (4, LENGTH, VOCABULARY)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_stages__do_not_look_at_what_comes_later_nor_at_what_is_filled_in(
    folders: Path, kind: str
) -> None:
    made, mine = learner(folders / kind), ids()
    other = mine.clone()
    other[:, 5:] = 0
    with torch.no_grad():
        one, two = (made.whole()(tokens).hidden[:, :5] for tokens in (mine, other))
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_losses__are_those_that_transformers_computes(folders: Path, kind: str) -> None:
    made, mine = learner(folders / kind), ids(1)
    targets = torch.cat([mine[:, 1:], torch.full((1, 1), -1)], 1)
    loss = task_of(folders / kind).loss(made.whole()(mine), targets)
    expected = whole_model(kind)(mine, labels=mine).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters__alone_travel_and_begin_at_what_the_model_was(folders: Path, kind: str) -> None:
    named = {"llama": ("q_proj", "down_proj"), "gpt2": ("c_attn",)}[kind]
    part = Finetune(mode="lora", lora_rank=2, lora_stages=2, lora_layers=named)
    made = learner(folders / kind, part)
    assert made.frozen is not None
    assert [name for name, _ in made.frozen.named_children()] == ["embed", "block0"]
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained(made)}
    assert layers == set(named)
    assert {name.split(".")[0] for name in trained(made)} == {"block1", "block2"}
    frozen = learner(folders / kind, Finetune(**{**vars(part), "lora_frozen_a": True}))
    assert trained(frozen) == {name for name in trained(made) if "lora_B" in name}
    assert not to_vector(frozen.model).any()
    a, b = (
        {n: p for n, p in one.model.named_parameters() if "lora_A" in n} for one in (made, frozen)
    )
    assert all(torch.equal(a[name], b[name]) for name in a)  # drawn alike, of the run's seed


@needs_transformers
@pytest.mark.slow
def test_adapters__that_match_no_layer_are_refused_with_the_names_there_are(folders: Path) -> None:
    part = Finetune(mode="lora", lora_layers=("q_proj", "query"))
    with pytest.raises(ConfigError, match=r"no layer is called query; .* there are q_proj, k_proj"):
        learner(folders / "llama", part)


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "head"])
def test_vocabulary__is_never_trained(folders: Path, mode: str) -> None:
    words = rf"training\.finetune={mode}: the head of this model \(a vocabulary.*stays as it is"
    with pytest.raises(ConfigError, match=words):
        learner(folders / "llama", Finetune(mode=mode))  # type: ignore[arg-type]


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "part",
    [
        LORA,
        Finetune(mode="lora", lora_rank=2, lora_stages=2, lora_frozen_a=True),
        Finetune(mode="last_k", last_k=2),
    ],
    ids=["lora", "frozen_a", "last_k"],
)
def test_engine__clips_what_is_trained_as_a_loop_over_records_in_double_precision_does(
    folders: Path, kind: str, part: Finetune
) -> None:
    made, task, bound, n = learner(folders / kind, part), task_of(folders / kind), 0.05, 7
    coins = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=coins))
    rng = np.random.default_rng(2)
    drawn = rng.integers(0, VOCABULARY, (n, LENGTH))
    targets = torch.from_numpy(np.where(rng.random((n, LENGTH)) < 0.5, drawn, -1))
    assert made.frozen is not None
    hidden = made.frozen(ids(n))
    found = ClippedGradients(made.model, clip_norm=bound).step(
        lambda: task.loss(made.model(hidden), targets)
    )
    slow, wide = made.model.double(), hidden.double()
    learned = {name: p for name, p in slow.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in learned.items()}
    for i in range(n):
        logits = slow(wide[i : i + 1]).written_out()[0]
        known = targets[i] >= 0
        loss = torch.nn.functional.cross_entropy(logits[known], targets[i][known])
        gradients = torch.autograd.grad(loss, [*learned.values()])
        norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
        assert norm > bound
        for name, gradient in zip(learned, gradients, strict=True):
            total[name] += gradient * bound / norm
    apart = sum(float((found.sums[name] - total[name]).square().sum()) for name in total)
    assert apart**0.5 < 1e-5 * sum(float(one.square().sum()) for one in total.values()) ** 0.5


@needs_transformers
@pytest.mark.slow
def test_weights__are_shared_by_models_and_written_to_by_none(folders: Path) -> None:
    one = learner(folders / "llama", Finetune(mode="last_k", last_k=1))
    other = learner(folders / "llama", Finetune(mode="last_k", last_k=1))
    here, there = (dict(made.whole().named_parameters()) for made in (one, other))
    shared = {n for n in here if here[n].data_ptr() == there[n].data_ptr()}
    assert shared == {n for n, p in here.items() if not p.requires_grad}
    with torch.no_grad():
        for parameter in here.values():
            if parameter.requires_grad:
                parameter.zero_()
    again = learner(folders / "llama")
    with torch.no_grad():
        found = again.whole()(ids()).written_out()
        torch.testing.assert_close(found, whole_model("llama")(ids()).logits, rtol=1e-5, atol=1e-5)


@needs_transformers
@pytest.mark.slow
def test_precision__of_the_frozen_part_is_halved_and_adapters_stay_single(folders: Path) -> None:
    config = HuggingFaceModel(folder=str(folders / "llama"), precision="bf16", kept="bf16")
    made = learner(folders / "llama", config=config)
    kinds = {p.requires_grad: p.dtype for p in made.whole().parameters()}
    assert kinds == {False: torch.bfloat16, True: torch.float32}
    with torch.no_grad():
        found = made.whole()(ids()).float().written_out()
        exact = whole_model("llama")(ids()).logits
    assert not torch.equal(found, exact)
    assert (found - exact).abs().mean() < 0.05 * exact.abs().mean()


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), "apart in block1.layer.mlp.up_proj"),
        (lambda w: [w.pop(n) for n in [*w] if ".layers.2." in n], "there are 2 of 3 blocks"),
        (lambda w: w.update({"model.norm.weight": torch.ones(15)}), r"head.norm.weight is \[15\]"),
        (lambda w: w.update({"strange": torch.ones(1)}), "apart in strange"),
    ],
)
def test_weights__of_another_model_are_refused(
    folders: Path, tmp_path: Path, change: object, problem: str
) -> None:
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "config.json").write_bytes((folders / "llama" / "config.json").read_bytes())
    weights = load_file(folders / "llama" / "model.safetensors")
    change(weights)  # type: ignore[operator]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=problem):
        learner(folder)


def test_pinned__of_a_model_by_name_needs_nothing_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLEARN_CACHE", str(tmp_path))
    with nothing_brought():
        pinned = HuggingFaceModel(folder="smollm2-135m").pinned()
    assert len(pinned.sha256) == 64
    assert list(tmp_path.iterdir()) == []
