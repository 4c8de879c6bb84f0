"""Models for texts: word vectors, Transformer blocks, a fixed sketch of words, or several of them.

What reads the text gives features of one length, side by side; a linear head
reads those. Pretrained word vectors or blocks are public, so that with
`training.finetune=head` what is private is learned by a few thousand numbers:
under DP-SGD that beats training an encoder on a few thousand texts by far.

- *words*: the mean of the word vectors (Iyyer et al. 2015, "Deep Unordered
  Composition"; without depth this is fastText, Joulin et al. 2017).
- *blocks*: an encoder as BERT's (Devlin et al. 2019): post-norm, learned
  places, mean over the places that hold a token (Reimers and Gurevych 2019).
- *sketch*: `fedlearn.models.sketch`; it learns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.settings import Count, Natural, Portion, config
from fedlearn.models.bert import bert_weights
from fedlearn.models.finetune import stages
from fedlearn.models.model import Model, Weights, input_as
from fedlearn.models.sketch import Sketch
from fedlearn.tasks import Task, TextInput

LENGTH = 3.0
"""Length of the features of a record. Beside it the constant input of the head's bias is
short: a tenth of the square of a clipped gradient is spent on it, and not the half."""

POSITIONS = 512
"""Places that the pretrained encoders know."""


@config
class Text(Model):
    """A classifier for texts.

    `pretrained` is `minilm` (of the pinned archive), or a folder of an uncased
    BERT with `config.json` and `model.safetensors`, of which `width` and `heads`
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
        if self.depth and self.width % self.heads:
            yield (
                f"model.heads={self.heads}: must divide model.width={self.width}; "
                "set model.width to a multiple of it"
            )
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
        width = self.width * (self.words + (self.depth > 0)) + self.sketch
        head = nn.Linear(width, task.num_outputs)
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


def _masked(vectors: Tensor, held: Tensor) -> Tensor:
    return torch.cat([vectors, held.to(vectors.dtype).unsqueeze(-1)], dim=-1)


class Words(nn.Module):
    """A vector per token, whatever its place."""

    def __init__(self, config: Text, text: TextInput) -> None:
        super().__init__()
        self.pad_id = text.pad_id
        self.word = nn.Embedding(text.vocabulary, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`int64[batch, length]` -> `[batch, length, width + 1]`."""
        return _masked(self.word(tokens), tokens != self.pad_id)


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
        return _masked(vectors, tokens != self.pad_id)


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
        return _masked(self.feed_norm(tokens + self.dropout(fed)), held)

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
