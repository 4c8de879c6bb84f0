# ruff: noqa: E501 - one case per line reads as the table it is
"""Models that the engine must be exact on: one small network for each layer and each awkward option."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from opacus.layers import DPGRU, DPLSTM, DPMultiheadAttention
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fedlearn.training.dp import SampleParameter


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, the shape of one sample, and what else is particular.

    `ids`: inputs are whole numbers below it. `axis`: where the sample is.
    `fallbacks`: how many layers have no rule. `opacus`: whether Opacus' hooks
    handle it, so that it can be the reference.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    ids: int = 0
    axis: int = 0
    fallbacks: int = 0
    opacus: bool = True


class Twice(nn.Module):
    """Calls one module twice, on different inputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.sin(self.inner(x))) + 2 * self.inner(x.flip(-1))


class TwoTables(nn.Module):
    """One table of embeddings looked up twice, with different gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5, padding_idx=2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids[:, :3]).sum(1) * torch.sin(self.table(ids[:, 2:])).sum(1)


class SelfAttention(nn.Module):
    """Opacus' attention of a sequence with itself."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.attention = DPMultiheadAttention(8, 2, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


class TorchAttention(nn.Module):
    """torch's own attention, used in one of the ways that a model may use it."""

    def __init__(self, use: str = "", **options: object) -> None:
        super().__init__()
        self.attention, self.use = nn.MultiheadAttention(8, 2, **options), use  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        first = self.attention.batch_first
        length = x.shape[1 if first else 0]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        match self.use:
            case "weights":
                return torch.cat(self.attention(x, x, x), -1)
            case "weights alone":
                return self.attention(x, x, x, average_attn_weights=False)[1]
            case "causal":
                return self.attention(x, x, x, None, False, later, is_causal=True)[0]
            case "padded":
                padding = torch.zeros(len(x), length, dtype=torch.bool)
                padding[:, -1] = True
                return self.attention(x, x, x, padding, need_weights=False, attn_mask=later)[0]
            case "mask for each head":
                mask = torch.linspace(-1, 1, 2 * length**2, dtype=x.dtype)
                mask = mask.view(2, length, length).repeat(len(x), 1, 1)
                return self.attention(x, x, x, attn_mask=mask)[0]
            case "shorter memory":
                memory = torch.sin(x[:, :3] if first else x[:3])
                return self.attention(x, memory, memory, need_weights=False)[0]
            case "other widths":
                return self.attention(x, x[..., :3], x[..., :5], need_weights=False)[0]
            case "twice":
                own = self.attention(x, x, x, need_weights=False)[0]
                return own + self.attention(x, torch.sin(x), torch.cos(x), need_weights=False)[0]
        return self.attention(x, x, x, need_weights=False)[0]


def _encoder(layers: int = 0, **options: object) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, **options)  # type: ignore[arg-type]
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False) if layers else layer


class Recurrent(nn.Module):
    """The last output of an Opacus recurrent layer."""

    def __init__(self, kind: type[nn.Module], **options: object) -> None:
        super().__init__()
        self.recurrent = kind(4, 6, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(x)[0][:, -1]


class Scale(nn.Module):
    """A layer that no rule knows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.power = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.scale * x) * torch.exp(self.power)


class Lora(nn.Module):
    """A frozen linear layer with a trained product of low rank."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.down, self.up = nn.Linear(width, 2, bias=False), nn.Linear(2, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Block(nn.Module):
    """A residual block with group norm."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.GroupNorm(4, outside),
            nn.ReLU(), nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.GroupNorm(4, outside),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(inside, outside, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


class InPlace(nn.Module):
    """Changes the output of every kind of layer in place, the first layer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 8, 3, bias=False), nn.GroupNorm(4, 8)
        self.again, self.linear = nn.Conv2d(8, 8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu_(self.conv(x))
        x = functional.relu_(self.norm(x))
        out = self.again(x)
        out += x[:, :, 1:-1, 1:-1]
        return self.linear(out.mean((2, 3))).mul_(2.0)


class Checkpointed(nn.Module):
    """Forgets its activations and computes them again in the backward pass; shares a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = checkpoint(lambda y: self.norm(torch.tanh(self.wide(y))), x, use_reentrant=False)
        return x


class Transformer(nn.Module):
    """One layer of pre-norm attention with class token, positions and a mask-free mean."""

    def __init__(self, length: int = 6, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, width, padding_idx=0)
        self.token = SampleParameter(torch.full((1, width), 0.1))
        self.position = SampleParameter(torch.full((length + 1, width), 0.1))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = DPMultiheadAttention(width, 2, batch_first=True)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.cat([self.token(ids), self.embed(ids)], 1) + self.position(ids)
        normal = self.norm1(x)
        x = x + self.attention(normal, normal, normal)[0]
        x = x + self.feed(self.norm2(x))
        return self.head(x[:, 0])


def frozen(module: nn.Module, *names: str) -> nn.Module:
    """`module` with the named parameters (all, if none is named) not trained."""
    for name, parameter in module.named_parameters():
        if not names or name in names:
            parameter.requires_grad_(False)
    return module


def _conv(*args: object, **options: object) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(*args, **options)  # type: ignore[arg-type]


def small_cnn() -> nn.Module:
    """Convolutions on both sides of the ghost threshold, pooling, two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1),
        nn.Flatten(), nn.Linear(24 * 9, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


CASES = (
    Case(name="linear", build=lambda: nn.Linear(5, 3), shape=(5,)),
    Case(name="linear without bias", build=lambda: nn.Linear(5, 3, bias=False), shape=(5,)),
    Case(name="linear on short sequences", build=lambda: nn.Linear(9, 8), shape=(2, 9)),
    Case(name="linear on long sequences", build=lambda: nn.Linear(4, 3), shape=(20, 4)),
    Case(name="linear on grids", build=lambda: nn.Linear(9, 8), shape=(3, 2, 9)),
    Case(name="linear with frozen bias", build=lambda: frozen(nn.Linear(5, 3), "bias"), shape=(5,), opacus=False),
    Case(name="linear with frozen weight", build=lambda: frozen(nn.Linear(5, 3), "weight"), shape=(5,), opacus=False),
    Case(name="linear twice", build=lambda: Twice(nn.Linear(5, 5)), shape=(5,)),
    Case(name="linear twice on sequences", build=lambda: Twice(nn.Linear(5, 5)), shape=(2, 5)),
    Case(name="conv, few channels", build=_conv(2, 4, 3, padding=1), shape=(2, 7, 6)),
    Case(name="conv, grouped way", build=_conv(8, 4, 3), shape=(8, 7, 6)),
    Case(name="conv, ghost way", build=_conv(9, 12, 3, padding=1), shape=(9, 3, 4)),
    Case(name="conv, ghost way, oblong", build=_conv(9, 12, (2, 3), padding=(1, 0), dilation=(1, 2)), shape=(9, 3, 6)),
    Case(name="conv, ghost way, strided", build=_conv(16, 20, 2, stride=(1, 2), padding=1), shape=(16, 2, 3)),
    Case(name="conv, ghost way, patches", build=_conv(16, 20, 3, stride=2, padding=1), shape=(16, 4, 4)),
    Case(name="conv, 1x1", build=_conv(8, 4, 1, stride=2), shape=(8, 5, 5)),
    Case(name="conv, 1x1, ghost way", build=_conv(24, 24, 1), shape=(24, 2, 2)),
    Case(name="conv, strided", build=_conv(3, 4, 3, stride=(2, 3), padding=2), shape=(3, 8, 9)),
    Case(name="conv, strided with rest, grouped way", build=_conv(8, 4, 3, stride=2), shape=(8, 6, 8)),
    Case(name="conv, dilated", build=_conv(8, 4, 3, dilation=2), shape=(8, 7, 8)),
    Case(name="conv, in groups", build=_conv(4, 6, 3, groups=2), shape=(4, 6, 6)),
    Case(name="conv, depthwise", build=_conv(8, 16, 3, groups=8, bias=False), shape=(8, 5, 5)),
    Case(name="conv, same, even kernel", build=_conv(3, 4, (2, 4), padding="same"), shape=(3, 5, 6), opacus=False),
    Case(name="conv, valid", build=_conv(3, 4, 3, padding="valid"), shape=(3, 5, 6)),
    *(
        Case(name=f"conv, {mode} padding", build=_conv(3, 4, 3, padding=(1, 2), padding_mode=mode), shape=(3, 5, 6), opacus=False)
        for mode in ("circular", "reflect", "replicate")
    ),
    Case(name="conv with frozen weight", build=lambda: frozen(nn.Conv2d(3, 4, 3), "weight"), shape=(3, 5, 5), opacus=False),
    Case(name="conv twice", build=lambda: Twice(nn.Conv2d(12, 12, 3, padding=1)), shape=(12, 3, 3)),
    Case(name="conv1d", build=lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1, dilation=2), shape=(3, 11)),
    Case(name="conv1d, ghost way", build=lambda: nn.Conv1d(12, 12, 3, padding=1), shape=(12, 4)),
    Case(name="conv1d, in groups, circular", build=lambda: nn.Conv1d(4, 4, 3, padding=2, groups=2, padding_mode="circular"), shape=(4, 7), opacus=False),
    Case(name="embedding", build=lambda: nn.Embedding(6, 4), shape=(8,), ids=6),
    Case(name="embedding with padding", build=lambda: nn.Embedding(4, 5, padding_idx=1), shape=(8,), ids=4, opacus=False),
    Case(name="embedding on grids", build=lambda: nn.Embedding(6, 4), shape=(3, 2), ids=6),
    Case(name="embedding twice", build=TwoTables, shape=(5,), ids=7, opacus=False),
    Case(name="layer norm", build=lambda: nn.LayerNorm(6), shape=(6,)),
    Case(name="layer norm on sequences", build=lambda: nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)), shape=(4, 6)),
    Case(name="layer norm on long sequences", build=lambda: nn.Sequential(nn.Linear(4, 256), Twice(nn.LayerNorm(256))), shape=(64, 4)),
    Case(name="layer norm on long sequences without bias", build=lambda: nn.Sequential(nn.Linear(4, 256), nn.LayerNorm(256, bias=False), nn.ReLU(inplace=True)), shape=(64, 4), opacus=False),
    Case(name="layer norm over two axes", build=lambda: nn.LayerNorm((3, 4)), shape=(2, 3, 4)),
    Case(name="layer norm without bias", build=lambda: nn.LayerNorm(6, bias=False), shape=(4, 6), opacus=False),
    Case(name="RMS norm", build=lambda: nn.RMSNorm(6), shape=(4, 6), opacus=False),
    Case(name="group norm", build=lambda: nn.GroupNorm(2, 6), shape=(6, 3, 4)),
    Case(name="group norm after conv", build=lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.GroupNorm(3, 6)), shape=(2, 5, 6)),
    Case(name="group norm of vectors", build=lambda: nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6)), shape=(4,)),
    Case(name="group norm with frozen weight", build=lambda: nn.Sequential(nn.Conv1d(2, 6, 3), frozen(nn.GroupNorm(3, 6), "weight")), shape=(2, 5), opacus=False),
    Case(name="group norm twice", build=lambda: nn.Sequential(nn.Conv1d(2, 6, 3), Twice(nn.GroupNorm(3, 6))), shape=(2, 5)),
    Case(name="group norm twice, once first", build=lambda: Twice(nn.GroupNorm(3, 6)), shape=(6, 5)),
    Case(name="attention", build=lambda: SelfAttention(batch_first=True), shape=(5, 8), opacus=False),
    Case(name="attention, sequence first", build=lambda: SelfAttention(), shape=(5, 8), axis=1, opacus=False),
    Case(name="attention with learned key", build=lambda: SelfAttention(add_bias_kv=True), shape=(5, 8), axis=1, fallbacks=2, opacus=False),
    Case(name="torch's attention", build=lambda: TorchAttention(batch_first=True), shape=(5, 8), opacus=False),
    Case(name="torch's attention, sequence first", build=lambda: TorchAttention(), shape=(5, 8), axis=1, opacus=False),
    Case(name="torch's attention without bias", build=lambda: TorchAttention(bias=False), shape=(5, 8), axis=1, opacus=False),
    *(
        Case(name=f"torch's attention, {use}", build=lambda use=use: TorchAttention(use, batch_first=True), shape=(5, 8), opacus=False)
        for use in ("weights", "weights alone", "causal", "padded", "mask for each head", "shorter memory", "twice")
    ),
    Case(name="torch's attention, other widths", build=lambda: TorchAttention("other widths", kdim=3, vdim=5), shape=(5, 8), axis=1, opacus=False),
    Case(name="torch's attention, learned and empty key", build=lambda: TorchAttention("padded", add_bias_kv=True, add_zero_attn=True, batch_first=True), shape=(5, 8), opacus=False),
    Case(name="torch's attention, frozen projection", build=lambda: frozen(TorchAttention(batch_first=True), "attention.in_proj_weight", "attention.in_proj_bias"), shape=(5, 8), opacus=False),
    Case(name="torch's attention, frozen output", build=lambda: frozen(TorchAttention(batch_first=True), "attention.out_proj.weight", "attention.out_proj.bias"), shape=(5, 8), opacus=False),
    Case(name="torch's encoder layer", build=lambda: _encoder(batch_first=True), shape=(4, 8), opacus=False),
    Case(name="torch's encoder layer, sequence first", build=lambda: _encoder(norm_first=True), shape=(5, 8), axis=1, opacus=False),
    Case(name="torch's encoder, sequence first", build=lambda: _encoder(2), shape=(5, 8), axis=1, opacus=False),
    Case(name="LSTM", build=lambda: Recurrent(DPLSTM, num_layers=2, bidirectional=True), shape=(5, 4)),
    Case(name="GRU", build=lambda: Recurrent(DPGRU), shape=(5, 4)),
    Case(name="LoRA", build=lambda: nn.Sequential(Lora(8), nn.ReLU(), Lora(8)), shape=(4, 8)),
    Case(name="frozen backbone", build=lambda: nn.Sequential(frozen(nn.Conv2d(1, 3, 3)), nn.Flatten(), nn.Linear(27, 3)), shape=(1, 5, 5)),
    Case(name="frozen in the middle", build=lambda: nn.Sequential(nn.Linear(4, 5), frozen(nn.LayerNorm(5)), nn.Linear(5, 3)), shape=(4,)),
    Case(name="no rule", build=lambda: nn.Sequential(nn.Linear(4, 5), Scale(5), nn.Linear(5, 3)), shape=(4,), fallbacks=1, opacus=False),
    Case(name="no rule, twice", build=lambda: Twice(Scale(4)), shape=(4,), fallbacks=1, opacus=False),
    Case(name="transposed conv", build=lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), shape=(3, 4, 4), fallbacks=1, opacus=False),
    Case(name="conv3d", build=lambda: nn.Conv3d(2, 3, 2), shape=(2, 3, 4, 3), fallbacks=1),
    Case(name="instance norm", build=lambda: nn.InstanceNorm1d(3, affine=True), shape=(3, 7), fallbacks=1),
    Case(name="checkpointed", build=Checkpointed, shape=(3, 6), opacus=False),
    Case(name="in place", build=InPlace, shape=(2, 7, 7), opacus=False),
    Case(name="small CNN", build=small_cnn, shape=(1, 10, 10)),
    Case(name="residual network", build=lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(), Block(8, 16), Block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)), shape=(3, 8, 8)),
    Case(name="transformer", build=Transformer, shape=(6,), ids=11, opacus=False),
)  # fmt: skip


def draw(case: Case, batch: int, generator: torch.Generator) -> Tensor:
    """A batch for `case`: float32 or whole numbers, the sample on axis `case.axis`."""
    if case.ids:
        return torch.randint(0, case.ids, (batch, *case.shape), generator=generator)
    x = torch.randn(batch, *case.shape, generator=generator)
    return x.transpose(0, case.axis) if case.axis else x


def build(case: Case, generator: torch.Generator, dtype: torch.dtype) -> nn.Module:
    """The model of `case` with every parameter drawn afresh: no zeros, no ones."""
    model = case.build().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(dtype)
    return model


def losses_of(output: Tensor, axis: int = 0) -> Tensor:
    """A loss for each sample that pulls every output its own way: float[batch]."""
    flat = output.transpose(0, axis).flatten(1)
    pull = torch.cos(torch.arange(flat.shape[1], dtype=flat.dtype))
    return (flat * pull + 0.25 * flat.square()).sum(1)
