# ruff: noqa: E501 - one case per line reads as the table it is
"""The models that the DP-SGD benchmarks time: common shapes, small enough for two cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.training.dp import SampleParameter


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model with the batches to time it on; `inputs` draws a batch."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, torch.Generator], Tensor]
    classes: int
    batches: tuple[int, ...]


def small_cnn(channels: int, side: int) -> nn.Module:
    """Three convolutions and two linear layers: 0.2 to 0.4 million parameters."""
    last = side // 8
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128 * last * last, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


class Block(nn.Module):
    """Two 3x3 convolutions with group norm and a shortcut (He et al. 2016; Wu & He 2018)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, outside)
        self.shortcut = (
            nn.Identity()
            if inside == outside and stride == 1
            else nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.GroupNorm(8, outside)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output: float[batch, outside, height / stride, width / stride]."""
        inner = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(inner + self.shortcut(x))


def resnet18(width: int = 32) -> nn.Module:
    """ResNet-18 with group norm for 32x32 images."""
    blocks: list[nn.Module] = []
    inside = width
    for stage in range(4):
        for place in range(2):
            outside = width * 2**stage
            blocks.append(Block(inside, outside, 2 if stage and not place else 1))
            inside = outside
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU(),
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10),
    )  # fmt: skip


class Attention(nn.Module):
    """Self-attention from four linear layers and torch's fused kernel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attended positions: float[batch, length, width]."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """Pre-norm attention and a four times wider perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output: float[batch, length, width]."""
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(functional.gelu(self.wide(self.norm2(x))))


class Transformer(nn.Module):
    """An encoder with learned positions, mean pooling and a linear head."""

    def __init__(self, width: int = 256, length: int = 128, vocabulary: int = 2000) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = SampleParameter(torch.zeros(length, width).normal_(std=0.02))
        self.layers = nn.Sequential(*(TransformerLayer(width, 4) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, ids: Tensor) -> Tensor:
        """Class scores: float[batch, 10]."""
        x = self.layers(self.embed(ids) + self.position(ids))
        return self.head(self.norm(x).mean(1))


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trained product of rank `rank` (Hu et al. 2021)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The adapted output: float[..., out_features]."""
        return self.base(x) + 2.0 * self.up(self.down(x))


def lora_transformer(rank: int = 8) -> nn.Module:
    """The Transformer with everything frozen but adapters at query and value, and the head."""
    model = Transformer().requires_grad_(False)
    for layer in model.layers:
        attention = layer.attention
        assert isinstance(attention, Attention)
        attention.query = LoraLinear(attention.query, rank)  # type: ignore[assignment]
        attention.value = LoraLinear(attention.value, rank)  # type: ignore[assignment]
    model.head.requires_grad_(True)
    return model


def _images(channels: int, side: int) -> Callable[[int, torch.Generator], Tensor]:
    return lambda batch, generator: torch.randn(batch, channels, side, side, generator=generator)


def _ids(batch: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2000, (batch, 128), generator=generator)


CASES = (
    Case(name="CNN 1x28x28", build=lambda: small_cnn(1, 28), inputs=_images(1, 28), classes=10, batches=(64, 256)),
    Case(name="CNN 3x32x32", build=lambda: small_cnn(3, 32), inputs=_images(3, 32), classes=10, batches=(64, 256)),
    Case(name="ResNet-18-GN", build=resnet18, inputs=_images(3, 32), classes=10, batches=(64, 256)),
    Case(name="Transformer", build=Transformer, inputs=_ids, classes=10, batches=(64,)),
    Case(name="LoRA", build=lora_transformer, inputs=_ids, classes=10, batches=(64,)),
)  # fmt: skip
