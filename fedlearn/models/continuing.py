"""A text that a model reads on and on: what it computed of earlier tokens is kept.

The layers of transformers keep the keys and values of what they have read in a cache of their
own; where a prompt is read apart, what its encoder makes of it is kept as well. Whatever other
network says of tokens is asked for the whole text every time.
"""

from __future__ import annotations

from inspect import signature
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from fedlearn.models.causal_folders import Block, Embed, Head
from fedlearn.models.seq2seq_stages import AnswerBlock, PromptBlock, Seq2SeqEmbed
from fedlearn.models.text import with_mask
from fedlearn.tasks.tokens import TokenLogits

_NAMES: Final = ("cache", "past_key_values")
"""What layers call the cache, in newer releases and in older ones."""


class TokenReader(Protocol):
    """One text, from its beginning."""

    def read(self, ids: list[int]) -> Tensor:
        """Read so many more tokens, at least one: `float32[vocabulary]`, logits of the next."""


def reader(network: nn.Module) -> TokenReader:
    """A reader of a new text by a network `int64[n, length]` -> logits of tokens, or
    `TokenLogits`; with a cache where the network has layers that keep one."""
    stages = [*_flat(network)]
    known = isinstance(stages[0], Embed) and isinstance(stages[-1], Head)
    if known and all(isinstance(stage, Block) for stage in stages[1:-1]):
        return KeepingReader(stages)
    return AnswerReader(stages) if isinstance(stages[0], Seq2SeqEmbed) else WholeReader(network)


def _flat(network: nn.Module) -> list[nn.Module]:
    """The stages of a sequence of sequences."""
    if not isinstance(network, nn.Sequential):
        return [network]
    return [stage for part in network for stage in _flat(part)]


class WholeReader:
    """Reads all of a text again for every token."""

    def __init__(self, network: nn.Module) -> None:
        self._network, self._ids = network, list[int]()

    @torch.inference_mode()
    def read(self, ids: list[int]) -> Tensor:
        """As `TokenReader` says."""
        self._ids += ids
        return _of_last(self._network(torch.tensor([self._ids])))


class KeepingReader:
    """Keeps what each block has made of earlier tokens: keys and values, of float32
    `8 * width * blocks` bytes a token at the most."""

    def __init__(self, stages: list[nn.Module]) -> None:
        from transformers.cache_utils import DynamicCache  # seconds

        self._stages, self._count = stages, 0
        self._seen: dict[str, Any] = {}
        if len(stages) > 2:
            self._seen = {_cache_of(stages[1]): DynamicCache(), "use_cache": True}

    @torch.inference_mode()
    def read(self, ids: list[int]) -> Tensor:
        """As `TokenReader` says."""
        # The layers' own causal mask is right for a text from its beginning, and for one token.
        parts = [[one] for one in ids] if self._count else [ids]
        for part in parts:
            hidden = self._read(part)
        return _of_last(self._stages[-1](hidden[:, -1:]))

    def _read(self, ids: list[int]) -> Tensor:
        embed, *blocks, _ = self._stages
        hidden: Tensor = embed(torch.tensor([ids]), self._count)
        for block in blocks:
            hidden = block(hidden, self._count, **self._seen)
        self._count += len(ids)
        return hidden


class AnswerReader:
    """Reads a prompt once, with what its answer begins with; then keeps what each block of the
    decoder has made of it and of the answer's earlier tokens."""

    def __init__(self, stages: list[nn.Module]) -> None:
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache  # seconds

        self._embed, *blocks, self._head = stages
        self._encoder = [block for block in blocks if isinstance(block, PromptBlock)]
        self._decoder = [block for block in blocks if isinstance(block, AnswerBlock)]
        kept = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._seen: dict[str, Any] = {_cache_of(self._decoder[0]): kept}
        self._prompt, self._count = torch.empty(1, 0, 0), 0

    @torch.inference_mode()
    def read(self, ids: list[int]) -> Tensor:
        """As `TokenReader` says; what is read first has a prompt and the beginning of an answer."""
        if not self._count:
            answer = self._begin(self._embed(torch.tensor([ids])))
        else:
            words: Any = self._embed
            for one in ids:
                answer = self._go_on(words.word(torch.tensor([[one]])))
        last = answer[:, -1:]
        return _of_last(self._head(with_mask(last, last.new_zeros(1, 1))))

    def _begin(self, hidden: Tensor) -> Tensor:
        for block in self._encoder:
            hidden = block(hidden)
        asked = hidden[0, :, -1] > 0
        self._prompt = hidden[:, asked, :-1]
        return self._go_on(hidden[:, ~asked, :-1])

    def _go_on(self, answer: Tensor) -> Tensor:
        count, self._count = self._count, self._count + answer.shape[1]
        for block in self._decoder:
            answer = block.go_on(answer, self._prompt, count, **self._seen)
        return answer


def _cache_of(block: nn.Module) -> str:
    """What a block's layer calls the cache."""
    layer: Any = block.layer
    there = signature(layer.forward).parameters
    return next(name for name in _NAMES if name in there)


def _of_last(outputs: Tensor | TokenLogits) -> Tensor:
    """The logits of the last place of the only text, `float32[vocabulary]`."""
    if isinstance(outputs, TokenLogits):
        last = TokenLogits(outputs.hidden[:, -1:], outputs.weight, outputs.low)
        outputs = last.written_out()
    return outputs[0, -1].float()
