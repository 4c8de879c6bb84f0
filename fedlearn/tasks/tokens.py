"""What a language model says of tokens: logits that nobody writes out, and losses made in pieces.

For every place of a text there are as many logits as tokens are known: of 32 texts of 128 tokens
and a vocabulary of 50,000 they would take 800 MB, most of them for places whose token nobody has
to guess. So a model hands on its hidden states and the rows of the vocabulary (`TokenLogits`), and
whoever wants a loss makes the logits of a few places at a time, of those that count alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

_ROWS: Final = 128
"""Places whose logits are made at once. Always so many, the last ones filled up: a library chooses
how to multiply by shapes, and what a record owes must not depend on how many tokens others have."""

_ROWS_ON_GPU: Final = 2048


@dataclass(frozen=True, eq=False)
class TokenLogits:
    """Logits `[n, length, vocabulary]` as what they are products of.

    Args:
        hidden: `[n, length, width]`, after the last norm.
        weight: `[vocabulary, width]`, which does not learn.
        low: whether the products are made in bfloat16; losses are in float32 in any case.
    """

    hidden: Tensor
    weight: Tensor
    low: bool = False

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, rows: Any) -> TokenLogits:
        """Those of some records."""
        return replace(self, hidden=self.hidden[rows])

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.hidden.device

    def float(self) -> TokenLogits:
        """Hidden states in single precision."""
        return replace(self, hidden=self.hidden.float())

    def written_out(self) -> Tensor:
        """All of them, `[n, length, vocabulary]`: of a few records."""
        return self.hidden @ self.weight.T.to(self.hidden.dtype)


TokenOutputs = Tensor | TokenLogits
"""Logits `[n, length, vocabulary]`, or what stands for them."""


def cut_loose(outputs: Any) -> tuple[Any, Tensor]:
    """The same outputs, of no model any more, and the variable that they are now made of."""
    if isinstance(outputs, TokenLogits):
        leaf = outputs.hidden.detach().requires_grad_()
        return replace(outputs, hidden=leaf), leaf
    leaf = outputs.detach().requires_grad_()
    return leaf, leaf


def token_losses(outputs: TokenOutputs, targets: Tensor) -> Tensor:
    """Nats of every token that is to be learned, `float32[n, length]`; zero in other places.

    `targets: int64[n, length]` are the ids, -1 where nothing is to be learned.

    Guarantees: what a record has here, and the gradient to its hidden states, is a function of
    that record alone, bit for bit, where the rows of a product are.
    """
    if isinstance(outputs, TokenLogits):
        wanted = torch.is_grad_enabled() and outputs.hidden.requires_grad
        found: Tensor = _InPieces.apply(outputs.hidden, targets, outputs, wanted)  # type: ignore[no-untyped-call]
        return found
    return functional.cross_entropy(
        outputs.transpose(1, 2), targets, ignore_index=-1, reduction="none"
    )


@torch.no_grad()
def token_grades(outputs: TokenOutputs, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of every token, `float32[n, length]`, and whether it was the likeliest one, `bool`.

    Zero and False in places without a target.
    """
    if isinstance(outputs, TokenLogits):
        losses, hits, _ = _graded(outputs, targets, slopes=False)
        return losses, hits
    return token_losses(outputs, targets), (outputs.argmax(-1) == targets) & (targets >= 0)


@torch.no_grad()
def likeliest(outputs: TokenOutputs) -> Tensor:
    """The token that is likeliest to come next, at every place: `int64[n, length]`."""
    if isinstance(outputs, Tensor):
        return outputs.argmax(-1)
    flat = outputs.hidden.flatten(0, 1)
    found = flat.new_empty(len(flat), dtype=torch.int64)
    for some in _some(outputs, len(flat)):
        found[some] = (flat[some] @ _rows_of(outputs).T).argmax(-1)
    return found.view(outputs.hidden.shape[:2])


@torch.no_grad()
def logits_at(outputs: TokenOutputs, place: int) -> Tensor:
    """The logits of what follows one place of every text, `[n, vocabulary]`."""
    if isinstance(outputs, Tensor):
        return outputs[:, place]
    weight = _rows_of(outputs)
    return outputs.hidden[:, place].to(weight.dtype) @ weight.T


def logits_where(outputs: TokenOutputs, there: Tensor) -> Tensor:
    """The logits at some places of texts, `float32[places, vocabulary]`; `there: bool[n, length]`.

    All of them are written out: for a few texts at a time.
    """
    if isinstance(outputs, Tensor):
        return outputs[there].float()
    weight = _rows_of(outputs)
    return (outputs.hidden[there].to(weight.dtype) @ weight.T).float()


class _InPieces(torch.autograd.Function):
    """Losses by token, with what their gradient is made of: each needs the logits of its place,
    which are made once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, outputs: TokenLogits, slopes: bool
    ) -> Tensor:
        losses, _, found = _graded(replace(outputs, hidden=hidden), targets, slopes=slopes)
        ctx.save_for_backward(targets, *([] if found is None else [found]))
        ctx.shape = hidden.shape
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        targets, slopes = ctx.saved_tensors
        there = (targets >= 0).flatten()
        whole = slopes.new_zeros(ctx.shape).flatten(0, 1)
        whole[there] = slopes * gradient.flatten()[there, None].to(slopes.dtype)
        return whole.view(ctx.shape), None, None, None


def _graded(
    outputs: TokenLogits, targets: Tensor, *, slopes: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Losses and hits `[n, length]`, and each loss's gradient to its hidden state, `[k, d]`."""
    places = (targets.flatten() >= 0).nonzero()[:, 0]
    hidden, wanted = outputs.hidden.flatten(0, 1)[places], targets.flatten()[places]
    weight, count = _rows_of(outputs), len(places)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    found = []
    for some in _some(outputs, count):
        logits = (hidden[some].to(weight.dtype) @ weight.T).to(wide)
        found.append(_piece(logits, wanted[some], weight, slopes))
    losses, hits = (hidden.new_zeros(targets.numel(), dtype=kind) for kind in (wide, torch.bool))
    if not found:
        return losses.view(targets.shape), hits.view(targets.shape), hidden if slopes else None
    of_places = [torch.cat(part)[:count] for part in zip(*found, strict=True)]
    losses[places], hits[places] = of_places[0], of_places[1]
    slope = of_places[2].to(hidden.dtype) if slopes else None
    return losses.view(targets.shape), hits.view(targets.shape), slope


def _piece(logits: Tensor, wanted: Tensor, weight: Tensor, slopes: bool) -> list[Tensor]:
    """Of some places: losses, hits, and the slopes `(p - e) W`."""
    row = torch.arange(len(wanted), device=wanted.device)
    total = logits.logsumexp(-1)
    found = [total - logits[row, wanted], logits.argmax(-1) == wanted]
    if slopes:
        chances = logits.sub_(total[:, None]).exp_()
        chances[row, wanted] -= 1
        found.append((chances.to(weight.dtype) @ weight).to(logits.dtype))
    return found


def _rows_of(outputs: TokenLogits) -> Tensor:
    return outputs.weight.to(torch.bfloat16 if outputs.low else outputs.hidden.dtype)


def _some(outputs: TokenLogits, count: int) -> Iterator[Tensor]:
    """So many places in pieces of one size, the last filled up by its first place."""
    rows = _ROWS_ON_GPU if outputs.device.type == "cuda" else _ROWS
    for start in range(0, count, rows):
        place = torch.arange(start, start + rows, device=outputs.device)
        yield torch.where(place < count, place, start)
