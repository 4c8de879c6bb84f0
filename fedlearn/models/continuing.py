"""A text that a model reads on and on: what it computed of earlier tokens is kept.

The layers of transformers keep the keys and values of what they have read in a cache of their
own. Whatever other network says of tokens is asked for the whole text every time.
"""

from __future__ import annotations

from inspect import signature
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from fedlearn.models.huggingface import Block, Embed, Head
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
    return WholeReader(network)


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
            layer: Any = stages[1].layer
            there = signature(layer.forward).parameters
            name = next(name for name in _NAMES if name in there)
            self._seen = {name: DynamicCache(), "use_cache": True}

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


def _of_last(outputs: Tensor | TokenLogits) -> Tensor:
    """The logits of the last place of the only text, `float32[vocabulary]`."""
    if isinstance(outputs, TokenLogits):
        last = TokenLogits(outputs.hidden[:, -1:], outputs.weight, outputs.low)
        outputs = last.written_out()
    return outputs[0, -1].float()
