"""The stages of an encoder: what makes vectors of a record, its blocks, and one vector of all.

Between the stages of texts goes `[n, length, width + 1]`, whose last column is 1 where there is a
token and 0 where there is padding, so that every stage maps a tensor to a tensor and the frozen
ones are computed once for every record. Of images it is `[n, 1 + patches, width]`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.models.preparation import Preparation
from fedlearn.models.text import LENGTH, MeanPool, with_mask

Pool = Literal["auto", "mean", "first"]


class TextEmbed(nn.Module):
    """A vector for every token, its place and, where the model has such, its segment: the first."""

    def __init__(self, settings: Any, pad_id: int, *, counts_tokens: bool) -> None:
        super().__init__()
        self.pad_id, self.counts_tokens = pad_id, counts_tokens
        width, segments = settings.hidden_size, getattr(settings, "type_vocab_size", 0)
        self.word = nn.Embedding(settings.vocab_size, width)
        self.place = nn.Embedding(settings.max_position_embeddings, width)
        self.segment = nn.Embedding(segments, width) if segments else None
        self.norm = nn.LayerNorm(width, eps=getattr(settings, "layer_norm_eps", 1e-12))

    def forward(self, tokens: Tensor) -> Tensor:
        """`int64[n, length]` -> `[n, length, width + 1]`."""
        held = tokens != self.pad_id
        vectors = self.word(tokens) + self.place(self._places(held))
        if self.segment is not None:
            vectors = vectors + self.segment(torch.zeros_like(tokens))
        return with_mask(self.norm(vectors), held)

    def _places(self, held: Tensor) -> Tensor:
        """A row for every record: DP-SGD asks which record used which place."""
        if self.counts_tokens:
            counted: Tensor = held.cumsum(1) * held + self.pad_id
            return counted
        return torch.arange(held.shape[1], device=held.device).expand(held.shape)


class ImageEmbed(nn.Module):
    """A first token of its own, then a vector for every patch; and one for the place of each."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        width, patch, sides = settings.hidden_size, settings.patch_size, settings.image_size
        self.pixels = nn.Conv2d(settings.num_channels, width, patch, patch)
        self.first = nn.Embedding(1, width)
        self.place = nn.Embedding(1 + (sides // patch) ** 2, width)

    def forward(self, images: Tensor) -> Tensor:
        """`[n, channels, height, width]` -> `[n, 1 + patches, width]`."""
        n, places = len(images), self.place.num_embeddings
        patches = self.pixels(images.to(self.pixels.weight.dtype)).flatten(2).transpose(1, 2)
        start = torch.zeros((n, 1), dtype=torch.long, device=images.device)
        ids = torch.arange(places, device=images.device).expand(n, places)
        tokens: Tensor = torch.cat([self.first(start), patches], dim=1) + self.place(ids)
        return tokens


class TextBlock(nn.Module):
    """A layer of transformers that looks at the places that hold a token."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor) -> Tensor:
        """`[n, length, width + 1]` -> the same, in the precision of the layer's weights."""
        hidden = hidden.to(next(self.layer.parameters()).dtype)
        if not len(hidden):  # transformers cannot tell the shape of no heads
            return hidden
        tokens, held = hidden[..., :-1], hidden[..., -1] > 0
        # Not minus infinity: a record of padding alone would become NaN; nor the smallest number,
        # which a GPU's kernel makes infinite (`fedlearn.models.text`).
        bias = torch.zeros(held.shape, dtype=hidden.dtype, device=hidden.device)
        bias = bias.masked_fill(~held, torch.finfo(hidden.dtype).min / 2)[:, None, None, :]
        return with_mask(self.layer(tokens, attention_mask=bias), held)


class ImageBlock(nn.Module):
    """A layer of transformers; the last one has the model's last norm as well."""

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, hidden: Tensor) -> Tensor:
        """`[n, 1 + patches, width]` -> the same, in the precision of the layer's weights."""
        hidden = hidden.to(next(self.layer.parameters()).dtype)
        if not len(hidden):
            return hidden
        found: Tensor = self.norm(self.layer(hidden))
        return found


class Pooled(nn.Module):
    """One vector of length `LENGTH` for a record: the mean over its tokens, or that of the first.

    The length is that of `model=text`, for the same reason: beside it the constant input of the
    head's bias is short, and a record's gradient at the head is bounded by its form.
    """

    def __init__(self, pool: Pool, *, of_text: bool) -> None:
        super().__init__()
        usual = "mean" if of_text else "first"
        self.first, self.of_text = (usual if pool == "auto" else pool) == "first", of_text
        self.mean = MeanPool(LENGTH)

    def forward(self, hidden: Tensor) -> Tensor:
        """What the last block gives -> `float32[n, width]`; zeros for a text without tokens."""
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        if self.first:
            vector = hidden[:, 0, :-1] if self.of_text else hidden[:, 0]
            return functional.normalize(vector, dim=1).mul(LENGTH)
        if self.of_text:
            found: Tensor = self.mean(hidden)
            return found
        return functional.normalize(hidden[:, 1:].sum(1), dim=1).mul(LENGTH)


class Prepared(nn.Module):
    """Pixels of [0, 1] as the model was trained on them; grey becomes colour where it sees that.

    Resized as Pillow does it: what gets smaller is smoothed.
    """

    def __init__(self, how: Preparation) -> None:
        super().__init__()
        self.how = how

    def forward(self, images: Tensor) -> Tensor:
        """`[n, 1 or channels, height, width]` -> `[n, channels, side, side]`."""
        how, sides = self.how, (self.how.side, self.how.side)
        if not len(images):
            return images.new_zeros(0, how.channels, *sides)
        if images.shape[2:] != sides:
            images = functional.interpolate(
                images, sides, mode=how.mode, align_corners=False, antialias=True
            ).clamp(0, 1)
        mean, deviation = (
            # Pinned, or a GPU would be waited for.
            torch.tensor(values, dtype=images.dtype, pin_memory=images.is_cuda).to(
                images.device, non_blocking=True
            )[:, None, None]
            for values in (how.mean, how.deviation)
        )
        return (images.expand(-1, how.channels, -1, -1) - mean) / deviation
