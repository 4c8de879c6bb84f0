"""A Vision Transformer (Dosovitskiy et al. 2021): an image as a row of patches.

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
from fedlearn.models.model import Model, input_as, undivided
from fedlearn.models.tabular import ClassToken, TableBlock
from fedlearn.tasks import ImageInput, Task


@config
class ViT(Model):
    """A pre-norm Transformer over the patches of an image and a class token."""

    kind: Literal["vit"] = "vit"
    input = (ImageInput,)
    patch: Count
    """Side of a patch in pixels; it divides height and width."""
    width: Count
    """Width of a token."""
    depth: Count
    """Number of Transformer blocks."""
    heads: Count
    """Attention heads; `width` is a multiple of it."""
    dropout: Portion

    def problems(self, task: Task) -> Iterator[str]:
        """What of the settings does not fit itself or the size of an image."""
        image = input_as(ImageInput, task)
        yield from undivided("heads", self.heads, self.width)
        if image.height % self.patch or image.width % self.patch:
            yield (
                f"model.patch={self.patch}: must divide an image of {image.height} x "
                f"{image.width}; choose another, or another scenario.size"
            )

    def network(self, task: Task) -> nn.Sequential:
        """`float32[batch, channels, height, width]` -> logits."""
        image = input_as(ImageInput, task)
        blocks = {
            f"block{i}": TableBlock(self.width, self.heads, self.dropout) for i in range(self.depth)
        }
        return stages(
            centre=Centre(),
            patches=Patches(self, image),
            **blocks,
            class_token=ClassToken(),
            norm=nn.LayerNorm(self.width),
            head=nn.Linear(self.width, task.num_outputs),
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
