"""The stages of a model that reads a prompt both ways and writes its answer token by token.

A record is one row, as in models that continue texts: the prompt, the token that ends it, the one
that a decoder begins with, the answer, and padding. Between stages goes `[n, length, width + 1]`,
whose last column is 1 where a token is the prompt's and 0 after it: blocks of the encoder change
the former and those of the decoder the latter, which look at both. So every stage maps a tensor to
a tensor, the frozen ones are computed once for every record, and where a row is divided is its own
affair. Attention knows distances alone, no places: a prompt and an answer in one row are what they
are in two. Padding is behind all that is learned, and never seen.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.models.text import with_mask
from fedlearn.tasks.tokens import TokenLogits


class Seq2SeqEmbed(nn.Module):
    """A vector for every token; and what distances are worth to each head, `around` a token of the
    prompt and `before` one of the answer, which all blocks share and which never learns."""

    def __init__(self, settings: Any, end: int) -> None:
        super().__init__()
        self.end = end
        self.word = nn.Embedding(settings.vocab_size, settings.d_model)
        buckets, heads = settings.relative_attention_num_buckets, settings.num_heads
        self.around, self.before = (nn.Embedding(buckets, heads) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        """`int64[n, length]` -> `[n, length, width + 1]`."""
        return with_mask(self.word(tokens), prompts_of(tokens, self.end))


def prompts_of(tokens: Tensor, end: int) -> Tensor:
    """`bool[n, length]`: the tokens of each prompt, up to the first `end`.

    A row without one is none of a record; halves are taken of it, so that made-up ones have both.
    """
    ends = tokens == end
    up_to_it = (ends.cumsum(1) - ends.long()) == 0
    place = torch.arange(tokens.shape[1], device=tokens.device)
    return torch.where(ends.any(1, keepdim=True), up_to_it, place < (tokens.shape[1] + 1) // 2)


class Distances:
    """What a distance between two tokens adds to their attention, by a table of `Seq2SeqEmbed`.

    Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.1.
    """

    def __init__(self, table: nn.Embedding, settings: Any, *, both: bool) -> None:
        self._table, self._both = table, both
        self._most = settings.relative_attention_max_distance

    def __call__(self, queries: int, keys: int, like: Tensor) -> Tensor:
        """`[1, heads, queries, keys]`; the last query stands where the last key does."""
        query = torch.arange(keys - queries, keys, device=like.device)[:, None]
        steps = torch.arange(keys, device=like.device)[None] - query
        rows = self._table.weight.to(like.device, like.dtype)
        return functional.embedding(self._bucket(steps), rows).permute(2, 0, 1)[None]

    def _bucket(self, steps: Tensor) -> Tensor:
        """The row of a distance: one each for half of them, wider and wider ones beyond."""
        count, first = self._table.num_embeddings, torch.zeros_like(steps)
        if self._both:
            count //= 2
            first, far = (steps > 0).long() * count, steps.abs()
        else:
            far = (-steps).clamp(min=0)
        exact = count // 2
        share = torch.log(far.clamp(min=1).float() / exact) / math.log(self._most / exact)
        wide = (exact + (share * (count - exact)).long()).clamp(max=count - 1)
        return first + torch.where(far < exact, far, wide)


class PromptBlock(nn.Module):
    """A layer of the encoder, which looks at the prompt; the last has the encoder's last norm."""

    def __init__(self, layer: nn.Module, norm: nn.Module, distances: Distances) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm
        self._distances = distances  # no part of this module: all blocks have one table

    def forward(self, hidden: Tensor) -> Tensor:
        """`[n, length, width + 1]` -> the same, in the precision of the layer's weights."""
        hidden = hidden.to(next(self.layer.parameters()).dtype)
        if not len(hidden):  # transformers cannot tell the shape of no heads
            return hidden
        tokens, asked = hidden[..., :-1], hidden[..., -1] > 0
        length = tokens.shape[1]
        bias = self._distances(length, length, tokens) + _unseen(~asked[:, None, None], tokens)
        found = self.norm(self.layer(tokens, position_bias=bias)[0])
        return with_mask(torch.where(asked[..., None], found, tokens), asked)


class AnswerBlock(nn.Module):
    """A layer of the decoder, which looks at the prompt and at earlier tokens of the answer."""

    def __init__(self, layer: nn.Module, distances: Distances) -> None:
        super().__init__()
        self.layer, self._distances = layer, distances

    def forward(self, hidden: Tensor) -> Tensor:
        """`[n, length, width + 1]` -> the same, in the precision of the layer's weights."""
        hidden = hidden.to(next(self.layer.parameters()).dtype)
        if not len(hidden):
            return hidden
        tokens, asked = hidden[..., :-1], hidden[..., -1] > 0
        length = tokens.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=hidden.device).triu(1)
        own = self._distances(length, length, tokens) + _unseen(
            later | asked[:, None, None], tokens
        )
        found = self._layer(tokens, own, tokens, _unseen(~asked[:, None, None], tokens))
        return with_mask(torch.where(asked[..., None], tokens, found), asked)

    def go_on(self, answer: Tensor, prompt: Tensor, count: int, **seen: Any) -> Tensor:
        """`[1, some, width]`, more of an answer of which the layer has `seen` so many -> the same.

        Several tokens where none was seen, else one.
        """
        some, keys = answer.shape[1], count + answer.shape[1]
        later = torch.ones(some, keys, dtype=torch.bool).triu(1 + count)
        own = self._distances(some, keys, answer) + _unseen(later, answer)
        nothing = torch.zeros(1, 1, some, prompt.shape[1], dtype=answer.dtype)
        return self._layer(answer, own, prompt, nothing, **seen)

    def _layer(
        self, answer: Tensor, own: Tensor, prompt: Tensor, asked: Tensor, **seen: Any
    ) -> Tensor:
        """Masks are in what is added to attention: all releases of transformers take that."""
        found: Tensor = self.layer(
            answer,
            position_bias=own,
            encoder_hidden_states=prompt,
            encoder_decoder_position_bias=asked,
            **seen,
        )[0]
        return found


class Seq2SeqHead(nn.Module):
    """The last norm and the rows of the vocabulary. Nothing of it learns."""

    def __init__(self, norm: nn.Module, settings: Any, *, scaled: bool) -> None:
        super().__init__()
        self.norm, self.scale = norm, settings.d_model**-0.5 if scaled else 1.0
        self.weight = nn.Parameter(torch.empty(settings.vocab_size, settings.d_model))

    def forward(self, hidden: Tensor) -> TokenLogits:
        """`[n, length, width + 1]` -> logits that nobody has written out."""
        tokens = self.norm(hidden[..., :-1].to(self.weight.dtype)) * self.scale
        low = torch.is_autocast_enabled(hidden.device.type)
        return TokenLogits(tokens, self.weight, low=low)


def _unseen(hidden: Tensor, like: Tensor) -> Tensor:
    """What is added to the attention to tokens that are `hidden`, shaped like it.

    Not minus infinity: a token that sees none would become NaN.
    """
    bias = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return bias.masked_fill(hidden, torch.finfo(like.dtype).min / 2)
