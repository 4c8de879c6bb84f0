"""Models for texts: padding, and a BERT out of a folder beside the one of `transformers`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch.nn import functional

from fedlearn import models
from fedlearn.config import compose
from fedlearn.config.contradictions import task_problems
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.rng import Streams
from fedlearn.data.texts.tokens import Tokenizer, tokenize
from fedlearn.models.finetune import Finetune
from fedlearn.models.text import LENGTH, Text, bert_weights
from fedlearn.tasks import ClassificationTask

from .cases import CASES, TEXT, perturb

(BLOCKS,) = (case for case in CASES if case.name == "text-blocks")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_text__hides_padding_by_numbers_that_stay_finite(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's attention multiplies them by log2(e), autocast rounds them to bfloat16 before; of a
    row of minus infinities it makes NaN."""
    real, seen = functional.scaled_dot_product_attention, []

    def attention(*args: Any, attn_mask: torch.Tensor, **named: Any) -> torch.Tensor:
        seen.append(attn_mask)
        return real(*args, attn_mask=attn_mask, **named)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    BLOCKS.build()(BLOCKS.inputs(4))
    assert seen
    for mask in seen:
        assert (mask.to(dtype).float() * math.log2(math.e)).isfinite().all()
        assert (mask.to(dtype).float() < -1e37).any()


@pytest.mark.parametrize("bf16", [False, True])
def test_text__without_a_token_has_a_finite_gradient(bf16: bool) -> None:
    model = BLOCKS.build()
    perturb(model)
    nothing = torch.full((2, TEXT.max_length), TEXT.pad_id)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(nothing)
    logits.float().square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- weights of a BERT ---------------------------------------------------------------


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "war", "##ranty", "licence", "ends", "."]
TEXTS = ["The warranty ends.", "licence", "the licence ends . the warranty ends ."]
MODEL = Text(
    pretrained="", width=8, depth=2, heads=2, words=False, sketch=0, dropout=0.0
)  # `pretrained` is the folder


BLOCK = {
    "attention.self.query": (8, 8), "attention.self.key": (8, 8), "attention.self.value": (8, 8),
    "attention.output.dense": (8, 8), "attention.output.LayerNorm": (8,),
    "intermediate.dense": (32, 8), "output.dense": (8, 32), "output.LayerNorm": (8,),
}  # fmt: skip
ABOUT = {
    "model_type": "bert", "vocab_size": len(PIECES), "hidden_size": 8, "num_hidden_layers": 3,
    "num_attention_heads": 2, "intermediate_size": 32, "hidden_act": "gelu",
    "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small BERT of random weights, as Hugging Face lays one out."""
    folder = tmp_path_factory.mktemp("bert")
    layers = {"embeddings.LayerNorm": (8,)}
    layers |= {
        f"encoder.layer.{i}.{name}": shape for i in range(3) for name, shape in BLOCK.items()
    }
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(PIECES), 8),
        "embeddings.position_embeddings.weight": (512, 8),
        "embeddings.token_type_embeddings.weight": (2, 8),
    }
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(drawn, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(ABOUT))
    (folder / "vocab.txt").write_text("\n".join(PIECES))
    return folder


def learner(folder: Path, config: Text) -> models.Learner:
    tokens = tokenize(Tokenizer(vocabulary=str(folder), max_length=16), TEXTS, folder)
    task = ClassificationTask(input=tokens.shape, classes=("a", "b"))
    config = replace(config, pretrained=str(folder))
    weights = config.weights(folder)
    return models.build(config, task, Streams(0), Finetune(mode="head"), weights)


@pytest.mark.slow  # transformers takes seconds to import
def test_bert_folder__is_read_as_transformers_reads_it(bert: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="fedlearn[text] brings transformers")
    theirs = transformers.BertModel.from_pretrained(bert, add_pooling_layer=False).eval()
    found = tokenize(Tokenizer(vocabulary=str(bert), max_length=16), TEXTS, bert).ids
    spelled = transformers.BertTokenizer(vocab=str(bert / "vocab.txt"), do_lower_case=True)
    for row, text in zip(found, TEXTS, strict=True):
        assert [i for i in row.tolist() if i] == spelled(text)["input_ids"]
    ids = torch.from_numpy(found)
    held = (ids != 0).long()
    with torch.no_grad():
        states = theirs(ids, attention_mask=held, output_hidden_states=True).hidden_states
    for depth in (1, 2, 3):
        mean = (states[depth] * held.unsqueeze(-1)).sum(1)
        expected = LENGTH * mean / mean.norm(dim=1, keepdim=True)
        ours = learner(bert, replace(MODEL, depth=depth)).frozen
        assert ours is not None
        torch.testing.assert_close(ours(ids), expected, rtol=1e-4, atol=1e-5)


def change(folder: Path, target: Path, **about: Any) -> Path:
    """A copy of the folder whose `config.json` says something else."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    said = json.loads((folder / "config.json").read_text()) | about
    (target / "config.json").write_text(json.dumps(said))
    return target


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"model_type": "gpt2"}, "holds a model of type 'gpt2', not 'bert'"),
        ({"hidden_size": 16}, r"model\.width=8: .* has 16; set model\.width=16"),
        ({"num_attention_heads": 4}, r"model\.heads=2: .* has 4; set model\.heads=4"),
        ({"num_hidden_layers": 1}, r"model\.depth=2: .* has 1 blocks"),
        ({"hidden_act": "relu"}, "its hidden_act is relu, and the blocks .* have gelu"),
        ({"max_position_embeddings": 64}, "its max_position_embeddings is 64"),
    ],
)
def test_bert_folder__refuses_what_our_blocks_cannot_compute(
    bert: Path, tmp_path: Path, about: dict[str, Any], said: str
) -> None:
    folder = change(bert, tmp_path / "changed", **about)
    with pytest.raises((ConfigError, DataError), match=said):
        bert_weights(replace(MODEL, pretrained=str(folder)), tmp_path)


def test_bert_folder__lists_all_sizes_that_do_not_fit_at_once(bert: Path, tmp_path: Path) -> None:
    folder = change(bert, tmp_path / "changed", hidden_size=16, num_hidden_layers=1)
    with pytest.raises(ConfigError) as caught:
        bert_weights(replace(MODEL, pretrained=str(folder)), tmp_path)
    assert [line.split("=")[0] for line in caught.value.problems] == ["model.width", "model.depth"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"{", "config.json: Expecting property name"),
        ("config.json", b"[]", "of type None, not 'bert'"),
        ("model.safetensors", b"\x00" * 40, "model.safetensors: "),
    ],
)
def test_bert_folder__names_the_file_that_is_damaged(
    bert: Path, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    folder = change(bert, tmp_path / "changed")
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        bert_weights(replace(MODEL, pretrained=str(folder)), tmp_path)


def test_bert_folder__says_what_is_missing(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json: cannot be read .*model\.safetensors"):
        bert_weights(replace(MODEL, pretrained=str(tmp_path / "none")), tmp_path)
    pruned = change(bert, tmp_path / "pruned")
    kept = load_file(pruned / "model.safetensors")
    del kept["encoder.layer.1.output.dense.bias"]
    save_file(kept, pruned / "model.safetensors")
    with pytest.raises(DataError, match=r"lacks encoder\.layer\.1\.output\.dense\.bias"):
        bert_weights(replace(MODEL, pretrained=str(pruned)), tmp_path)


# --- A tokenizer that does not fit its model --------------------------------------------


def test_pair__a_model_reads_the_tokens_of_its_own_tokenizer_only(
    bert: Path,
) -> None:
    """Another list of pieces has the same numbers for other words."""
    tokens = tokenize(Tokenizer(kind="hashing", max_length=16), TEXTS, Path())
    texts = ["scenario=text", "scenario.path=a.csv", "scenario.label=kind", "model=text"]
    config = compose([*texts, f"model.pretrained={bert}"])
    (found,) = task_problems(config, ClassificationTask(input=tokens.shape, classes=("a", "b")))
    assert "knows the tokens of its own tokenizer, and the records hold those of a hash" in found
    assert f"scenario.tokenizer.vocabulary={bert}" in found


def test_pair__a_list_of_another_length_than_the_model_knows_is_refused(
    bert: Path, tmp_path: Path
) -> None:
    folder = change(bert, tmp_path / "changed")
    (folder / "vocab.txt").write_text("\n".join([*PIECES, "more"]))
    with pytest.raises(ConfigError, match=r"is \[10, 8\] where the model has \[11, 8\]"):
        learner(folder, MODEL)


def test_pair__a_text_longer_than_the_model_takes_is_refused_or_cut(
    bert: Path,
) -> None:
    texts = ["scenario=text", "scenario.path=a.csv", "scenario.label=kind", "model=text"]
    config = compose([*texts, f"model.pretrained={bert}", "model.width=8", "model.depth=2",
                      "model.heads=2"])  # fmt: skip
    long = tokenize(Tokenizer(vocabulary=str(bert), max_length=600), ["the " * 700], bert)
    (found,) = task_problems(config, ClassificationTask(input=long.shape, classes=("a", "b")))
    assert "scenario.tokenizer.max_length=600" in found
    assert "takes at most 512 tokens" in found
    short = tokenize(Tokenizer(vocabulary=str(bert), max_length=512), ["the " * 700], bert)
    assert task_problems(config, ClassificationTask(input=short.shape, classes=("a", "b"))) == []
    assert short.cut == 1
    assert np.count_nonzero(short.ids) == 512


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        ("the\nlicence", r"vocab\.txt: is not a list of WordPiece: the list lacks \[PAD\]"),
        (None, r"vocab\.txt: cannot be read .* is `minilm`, or the folder of a model with its"),
    ],
)
def test_tokenizer__out_of_a_folder_that_is_none_is_refused(
    tmp_path: Path, vocabulary: str | None, said: str
) -> None:
    if vocabulary is not None:
        (tmp_path / "vocab.txt").write_text(vocabulary)
    with pytest.raises(DataError, match=said):
        tokenize(Tokenizer(vocabulary=str(tmp_path), max_length=16), TEXTS, tmp_path)
