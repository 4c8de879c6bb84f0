"""Encoders of Hugging Face's form: transformers' layers in stages, a new head, exact clipping."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from fedlearn import models
from fedlearn.config.decoding import to_tree
from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import layout_of
from fedlearn.models import Finetune, Learner
from fedlearn.models.huggingface import HuggingFaceModel
from fedlearn.models.text import LENGTH, Text
from fedlearn.tasks import ClassificationTask, ImageInput, LanguageTask, Task, TextInput
from fedlearn.tasks.regression import Regression, RegressionTask
from fedlearn.training.dp import ClippedGradients
from tests.encoders import (
    KINDS,
    PIECES,
    SIDE,
    TEXTS,
    save_encoder,
    settings_of,
    whole_encoder,
)

MOST, CLASSES = 11, ("a", "b", "c")
IMAGE = ImageInput(channels=3, height=SIDE, width=SIDE)
WHOLE = Finetune()
HEAD, LAST, LORA = Finetune(mode="head"), Finetune(mode="last_k", last_k=2), Finetune(mode="lora")
pytestmark = pytest.mark.skipif(
    not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
)


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each kind of encoder."""
    found = tmp_path_factory.mktemp("encoders")
    for kind in KINDS:
        save_encoder(kind, found / kind)
    return found


def text_of(folder: Path, length: int = MOST) -> TextInput:
    pad_id = json.loads((folder / "config.json").read_text()).get("pad_token_id", 0)
    return TextInput(
        vocabulary=len(PIECES), max_length=length, pad_id=pad_id, tokenizer=str(folder)
    )


def task_of(folder: Path) -> ClassificationTask:
    return ClassificationTask(
        input=IMAGE if folder.name == "vit" else text_of(folder), classes=CLASSES
    )


def learner(folder: Path, part: Finetune = WHOLE, task: Task | None = None, **more: Any) -> Learner:
    config = HuggingFaceModel(folder=str(folder), **more)
    weights = config.weights(folder.parent)
    return models.build(config, task or task_of(folder), Streams(0), part, weights)


def records(folder: Path, n: int = 6, seed: int = 0) -> Tensor:
    """Images, or texts of all lengths from that of the longest to none."""
    rng = np.random.default_rng(seed)
    if folder.name == "vit":
        return torch.from_numpy(rng.random((n, 3, SIDE, SIDE), np.float32))
    text = text_of(folder)
    found = rng.integers(2, len(PIECES), (n, MOST))
    for row in range(n):
        found[row, MOST - 2 * row :] = text.pad_id if row else found[row, MOST:]
    return torch.from_numpy(found)


def give_head(made: Learner, seed: int = 3) -> nn.Linear:
    """A head begins at zero, which hides all that comes before it."""
    [head] = [m for name, m in made.whole().named_modules() if name.split(".")[-1] == "head"]
    coins = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=coins))
    assert isinstance(head, nn.Linear)
    return head


def hidden_of(kind: str, rows: Tensor, pad_id: int) -> Tensor:
    """What transformers makes of records: `[n, tokens, width]`."""
    base: Any = whole_encoder(kind).base_model
    if kind == "vit":
        mean, deviation = (
            torch.tensor(v)[:, None, None] for v in ([0.5, 0.4, 0.3], [0.5, 0.2, 0.1])
        )
        found: Tensor = base((rows - mean) / deviation).last_hidden_state
    else:
        found = base(rows, attention_mask=(rows != pad_id).long()).last_hidden_state
    return found


def pooled_by_hand(kind: str, hidden: Tensor, held: Tensor, pool: str) -> Tensor:
    if pool == "first" or (pool == "auto" and kind == "vit"):
        return hidden[:, 0]
    if kind == "vit":
        return hidden[:, 1:].mean(1)
    return torch.stack([one[own].mean(0) for one, own in zip(hidden, held, strict=True)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_stages__compute_what_transformers_does(encoders: Path, kind: str) -> None:
    folder = encoders / kind
    rows = records(folder, 5)
    pad_id = 0 if kind == "vit" else text_of(folder).pad_id
    with torch.no_grad():
        hidden = hidden_of(kind, rows, pad_id)
    pools = [(WHOLE, pool) for pool in ("auto", "mean", "first")]
    for part, pool in (*pools, (HEAD, "auto"), (LAST, "auto"), (LORA, "auto")):
        made = learner(folder, part, pool=pool)
        head = give_head(made)
        vector = pooled_by_hand(kind, hidden, rows != pad_id, pool)
        with torch.no_grad():
            expected = head(LENGTH * vector / vector.norm(dim=1, keepdim=True))
            found = made.whole()(rows)
        assert found.shape == (5, 3)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEXTS)
def test_padding__changes_nothing_and_a_text_without_tokens_is_no_nan(
    encoders: Path, kind: str
) -> None:
    folder = encoders / kind
    short, rows = learner(folder), records(folder, 4)
    give_head(short)
    longer = ClassificationTask(input=text_of(folder, 20), classes=CLASSES)
    long = learner(folder, task=longer)
    give_head(long)
    pad_id = text_of(folder).pad_id
    wide = functional.pad(rows, (0, 9), value=pad_id)
    with torch.no_grad():
        torch.testing.assert_close(short.model(rows), long.model(wide), rtol=1e-5, atol=1e-5)
        assert short.model(torch.full((2, MOST), pad_id)).isfinite().all()
        assert short.model(rows[:0]).shape == (0, 3)


@pytest.mark.slow
def test_a_bert__is_the_same_model_that_model_text_makes_of_it(encoders: Path) -> None:
    folder = encoders / "bert"
    one = learner(folder, HEAD)
    text = Text(pretrained=str(folder), width=16, depth=3, heads=4, words=False, sketch=0,
                dropout=0.0)  # fmt: skip
    other = models.build(text, task_of(folder), Streams(0), HEAD, text.weights(folder))
    for made in (one, other):
        give_head(made)
    with torch.no_grad():
        rows = records(folder, 5)
        torch.testing.assert_close(one.whole()(rows), other.whole()(rows), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "part",
    [WHOLE, HEAD, LAST, Finetune(mode="lora", lora_rank=2, lora_stages=2)],
    ids=lambda part: part.mode,
)
def test_engine__clips_what_is_trained_as_a_loop_over_records_in_double_precision_does(
    encoders: Path, kind: str, part: Finetune
) -> None:
    folder, n = encoders / kind, 5
    made, task, bound = learner(folder, part), task_of(folder), 0.05
    give_head(made)
    coins = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=coins))
    targets, seen = torch.arange(n) % 3, records(folder, n)
    if made.frozen is not None:
        seen = made.frozen(seen)
    found = ClippedGradients(made.model, clip_norm=bound).step(
        lambda: task.loss(made.model(seen), targets)
    )
    slow, wide = made.model.double(), seen.double() if seen.is_floating_point() else seen
    learned = {name: p for name, p in slow.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in learned.items()}
    for i in range(n):
        loss = functional.cross_entropy(slow(wide[i : i + 1]), targets[i : i + 1])
        gradients = torch.autograd.grad(loss, [*learned.values()])
        norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
        assert norm > bound
        for name, gradient in zip(learned, gradients, strict=True):
            total[name] += gradient * bound / norm
    apart = sum(float((found.sums[name] - total[name]).square().sum()) for name in total)
    assert apart**0.5 < 1e-5 * sum(float(one.square().sum()) for one in total.values()) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_trained__gets_a_gradient_that_is_no_rounding(
    encoders: Path, kind: str
) -> None:
    folder = encoders / kind
    made, rows = learner(folder), records(folder, 4)
    give_head(made)
    model = made.model.double()
    loss = task_of(folder).loss(model(rows), torch.arange(4) % 3).sum()
    found = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    idle = [name for name, g in zip(names, found, strict=True) if g.abs().max() < 1e-9]
    assert idle == []
    assert not [name for name in names if "key.bias" in name or ("k_" in name and "bias" in name)]


@pytest.mark.slow
def test_parts_of_weights__are_read_as_one_file_is(encoders: Path, tmp_path: Path) -> None:
    whole_encoder("bert").save_pretrained(tmp_path / "parts", max_shard_size="8KB")  # type: ignore[operator]
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    rows = records(encoders / "bert", 5)
    one, other = learner(tmp_path / "parts"), learner(encoders / "bert")
    for made in (one, other):
        give_head(made)
    with torch.no_grad():
        assert torch.equal(one.model(rows), other.model(rows))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_travels__is_what_is_trained_and_no_more(encoders: Path, kind: str) -> None:
    folder = encoders / kind

    def names(part: Finetune) -> set[str]:
        return {name for name, _ in layout_of(learner(folder, part).model).entries}

    assert names(HEAD) == {"head.weight", "head.bias"}
    assert {name.split(".")[0] for name in names(LAST)} == {"block2", "head"}
    adapters = names(Finetune(mode="lora", lora_stages=1))
    assert {name.split(".")[0] for name in adapters} == {"block2", "head"}
    assert all("lora_" in name for name in adapters if not name.startswith("head."))
    assert {name.split(".")[0] for name in names(WHOLE)} == {
        "embed", "block0", "block1", "block2", "head"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_weights__are_shared_by_models_and_those_that_train_write_to_their_own(
    encoders: Path, kind: str
) -> None:
    folder = encoders / kind
    one, other = learner(folder), learner(folder)
    before = {name: p.clone() for name, p in other.model.named_parameters()}
    with torch.no_grad():
        for parameter in one.model.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    for made in (other, learner(folder)):
        assert all(torch.equal(p, before[name]) for name, p in made.model.named_parameters())
    frozen = learner(folder, HEAD).frozen
    again = learner(folder, HEAD).frozen
    assert frozen is not None
    assert again is not None
    here, there = (dict(part.named_parameters()) for part in (frozen, again))
    assert all(here[name].data_ptr() == there[name].data_ptr() for name in here)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "vit"])
def test_precision__of_the_frozen_part_is_halved_and_the_head_stays_single(
    encoders: Path, kind: str
) -> None:
    folder = encoders / kind
    made = learner(folder, LAST, precision="bf16", kept="bf16")
    exact = learner(folder, LAST)
    assert made.frozen is not None
    assert {p.dtype for p in made.frozen.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    for one in (made, exact):
        give_head(one)
    rows = records(folder, 5)
    with torch.no_grad():
        near, far = made.whole()(rows), exact.whole()(rows)
    assert near.dtype == torch.float32
    assert not torch.equal(near, far)
    assert (near - far).abs().mean() < 0.1 * far.abs().mean()


@pytest.mark.slow
def test_regression__gets_one_number_for_the_same_reason(encoders: Path) -> None:
    folder = encoders / "distilbert"
    task = RegressionTask(input=text_of(folder), settings=Regression(low=0.0, high=1.0))
    made = learner(folder, HEAD, task=task)
    assert made.whole()(records(folder, 4)).shape == (4, 1)
    assert models.problems(HuggingFaceModel(folder=str(folder)), task) == []


# --- what does not fit ----------------------------------------------------------------------


def plain(folder: Path, kind: str = "bert", **changed: Any) -> Path:
    """A folder that nobody computes with."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model_type": kind, **settings_of(kind), **changed}
    (folder / "config.json").write_text(json.dumps(about))
    save_file({"embeddings.LayerNorm.weight": torch.ones(16)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("kind", "changed", "task", "problem"),
    [
        ("bert", {}, task_of, None),
        ("bert", {}, lambda one: LanguageTask(input=text_of(one)), "continues none; choose"),
        ("bert", {}, lambda one: ClassificationTask(input=IMAGE, classes=CLASSES),
         "reads texts, and the scenario's records are images"),
        ("vit", {}, lambda one: ClassificationTask(input=text_of(one), classes=CLASSES),
         "reads images, and the scenario's records are texts"),
        ("bert", {}, lambda one: ClassificationTask(
            input=TextInput(vocabulary=9, max_length=9), classes=CLASSES
        ), "those of a hash; set scenario.tokenizer.kind=wordpiece"),
        ("bert", {"vocab_size": 30}, task_of, "tokens and its weights have 30"),
        ("bert", {"max_position_embeddings": 10}, task_of, "looks at 10 tokens at the most"),
        ("roberta", {"max_position_embeddings": 12}, task_of, "looks at 10 tokens at the most"),
        ("roberta", {"max_position_embeddings": 13}, task_of, None),
        ("roberta", {"pad_token_id": 2}, task_of, None),
        ("roberta", {"pad_token_id": 2}, lambda one: ClassificationTask(input=replace(
            text_of(one), pad_id=1), classes=CLASSES), "its tokenizer fills up with 1"),
        ("bert", {"is_decoder": True}, task_of, "is a decoder"),
        ("bert", {"position_embedding_type": "relative_key"}, task_of, "places of type 'relative"),
        ("llama", {}, None, "or the folder of a BERT"),
    ],
)  # fmt: skip
def test_problems__say_what_does_not_fit_and_the_way_out(
    tmp_path: Path, kind: str, changed: dict[str, Any], task: Any, problem: str | None
) -> None:
    folder = plain(tmp_path / "model", "bert", **changed)
    about = json.loads((folder / "config.json").read_text()) | {"model_type": kind}
    if kind == "roberta":
        about["pad_token_id"] = changed.get("pad_token_id", 1)
    (folder / "config.json").write_text(json.dumps(about))
    found = models.problems(HuggingFaceModel(folder=str(folder)), (task or task_of)(folder))
    assert [problem in one for one in found if problem] == [True] * (problem is not None), found
    assert bool(found) == (problem is not None)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3),
    st.lists(st.integers(0, 9), max_size=3), st.dictionaries(st.sampled_from(["height", "width"]),
                                                             st.integers(0, 9)),
)  # fmt: skip
KEYS = [
    *("vocab_size", "max_position_embeddings", "pad_token_id", "is_decoder", "sliding_window"),
    *("position_embedding_type", "image_size", "patch_size", "num_channels", "hidden_size"),
]
PREPARED = [
    *("do_resize", "do_pad", "size", "resample", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std"),
]


@given(
    kind=st.sampled_from(KINDS),
    about=st.dictionaries(st.sampled_from(KEYS), VALUES),
    stated=st.dictionaries(st.sampled_from(PREPARED), VALUES),
    own=st.booleans(),
)
def test_whatever_a_folder_says__is_answered_in_sentences(
    tmp_path_factory: pytest.TempPathFactory, kind: str, about: Any, stated: Any, own: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "whatever"
    plain(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **about}))
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    text = TextInput(vocabulary=9, max_length=9, pad_id=1, tokenizer=str(folder) if own else "")
    for form in (IMAGE, text):
        task = ClassificationTask(input=form, classes=CLASSES)
        found = models.problems(HuggingFaceModel(folder=str(folder)), task)
        assert all(isinstance(one, str) and one.startswith(("model.", "scen")) for one in found)


def test_settings__of_before_there_were_new_heads_are_written_as_they_were() -> None:
    assert "pool" not in to_tree(HuggingFaceModel(folder="x"))
    assert to_tree(HuggingFaceModel(folder="x", pool="first"))["pool"] == "first"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: w.pop("bert.encoder.layer.1.output.dense.bias"), "apart in block1.layer.output"),
        (lambda w: w.update({"strange": torch.ones(1)}), "apart in strange"),
        (lambda w: w.update({"bert.embeddings.LayerNorm.bias": torch.ones(15)}),
         r"embed.norm.bias is \[15\]"),
    ],
)  # fmt: skip
def test_weights__of_another_model_are_refused(
    encoders: Path, tmp_path: Path, change: Any, problem: str
) -> None:
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "config.json").write_bytes((encoders / "bert" / "config.json").read_bytes())
    weights = load_file(encoders / "bert" / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=problem):
        learner(folder)


@pytest.mark.slow
def test_folders_of_older_releases__are_read_as_well(encoders: Path, tmp_path: Path) -> None:
    """Without a prefix, with names of TensorFlow's, and with what is no weight."""
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "config.json").write_bytes((encoders / "bert" / "config.json").read_bytes())
    weights = {
        name.removeprefix("bert.")
        .replace("Norm.weight", "Norm.gamma")
        .replace("Norm.bias", "Norm.beta"): values
        for name, values in load_file(encoders / "bert" / "model.safetensors").items()
        if name.startswith("bert.")
    }
    weights["embeddings.position_ids"] = torch.arange(34)[None]
    weights["pooler.dense.weight"] = torch.ones(16, 16)
    save_file(weights, folder / "model.safetensors")
    rows = records(folder, 5)
    one, other = learner(folder), learner(encoders / "bert")
    for made in (one, other):
        give_head(made)
    with torch.no_grad():
        assert torch.equal(one.model(rows), other.model(rows))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "distilbert", "vit"])
def test_adapters__that_match_no_layer_are_refused_with_the_names_there_are(
    encoders: Path, kind: str
) -> None:
    part = Finetune(mode="lora", lora_layers=("strange",))
    with pytest.raises(ConfigError, match=r"no layer is called strange; .* there are q"):
        learner(encoders / kind, part)
