"""Fixed random features of a text: which words and pairs of words are in it, and how often.

Every token, and every pair of tokens in a row, falls into one of `width`
buckets with a random sign, by a hash that is the same everywhere (the hashing
trick of Weinberger et al. 2009). A bucket's count is damped like a term
frequency, and the whole scaled to length one. Nothing is learned and nothing
is read from other records, so it costs no privacy: a linear head on it is a
classifier on words whose gradient is bounded by construction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# Odd 62-bit numbers, drawn once; products wrap around as int64 does.
_FIRST, _SECOND, _MIX = 0x2545F4914F6CDD1D, 0x1B873593CC9E2D51, 0x27D4EB2F165667C5


class Sketch(nn.Module):
    """`int64[batch, length]` of token ids -> `float32[batch, width]` of length one, or zero."""

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
