"""A Vision Transformer (Dosovitskiy et al. 2021): a picture as a row of patches.

Patches and their places are linear maps and tables, which DP-SGD knows; the
blocks are those of the other Transformers here. Nothing is learned twice: a
patch has no bias beside the table of places, and the class token no place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from fedlearn.core.settings import Count, Portion, config
from fedlearn.models.cnn import Centre
from fedlearn.models.finetune import stages
from fedlearn.models.tabular import ClassToken, TableBlock
from fedlearn.tasks import ImageInput


@config
class ViT:
    """A pre-norm Transformer over the patches of a picture and a class token."""

    kind: Literal["vit"] = "vit"
    patch: Count
    """Side of a patch in pixels; it divides height and width."""
    width: Count
    """Width of a token."""
    depth: Count
    """Number of Transformer blocks."""
    heads: Count
    """Attention heads; `width` is a multiple of it."""
    dropout: Portion


def build_vit(config: ViT, image: ImageInput, num_classes: int) -> nn.Sequential:
    """The model of `config`: `float32[batch, channels, height, width]` -> logits."""
    blocks = {
        f"block{i}": TableBlock(config.width, config.heads, config.dropout)
        for i in range(config.depth)
    }
    return stages(
        centre=Centre(),
        patches=Patches(config, image),
        **blocks,
        class_token=ClassToken(),
        norm=nn.LayerNorm(config.width),
        head=nn.Linear(config.width, num_classes),
    )


def vit_problems(config: ViT, image: ImageInput) -> Iterator[str]:
    """What of `config` does not fit itself or the size of a picture."""
    if config.width % config.heads:
        yield (
            f"model.heads={config.heads}: must divide model.width={config.width}; "
            "set model.width to a multiple of it"
        )
    if image.height % config.patch or image.width % config.patch:
        yield (
            f"model.patch={config.patch}: must divide a picture of {image.height} x {image.width}; "
            "choose another, or another scenario.size"
        )


class Patches(nn.Module):
    """A class token, then one token per patch: its pixels, weighted, plus a row for its place."""

    def __init__(self, config: ViT, image: ImageInput) -> None:
        super().__init__()
        places = (image.height // config.patch) * (image.width // config.patch)
        self.pixels = nn.Conv2d(
            image.channels, config.width, config.patch, config.patch, bias=False
        )
        self.place = nn.Embedding(places, config.width)
        self.class_token = nn.Embedding(1, config.width)

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> tokens `[batch, 1 + patches, width]`."""
        batch, places = len(images), self.place.num_embeddings
        # Every record looks its rows up itself: a shared look-up would have no gradient of its own.
        ids = torch.arange(places, device=images.device).expand(batch, places)
        patches = self.pixels(images).flatten(2).transpose(1, 2) + self.place(ids)
        start = torch.zeros((batch, 1), dtype=torch.long, device=images.device)
        return torch.cat([self.class_token(start), patches], dim=1)
