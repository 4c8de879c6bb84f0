"""Models for rows of a table: FT-Transformer, MLP and a linear head.

The FT-Transformer (Gorishniy et al. 2021, "Revisiting Deep Learning Models
for Tabular Data", section 3.3) turns every column into a token, runs a
pre-norm Transformer over the tokens and reads the class from a class token.
Ours is compact, and every parameter sits in a layer whose per-sample gradient
is known (`Linear`, `Embedding`, `LayerNorm`), so DP-SGD sees all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.settings import Count, Portion, config
from fedlearn.models.finetune import stages
from fedlearn.models.model import Model, input_as, undivided
from fedlearn.tasks import SQUASH_UNIT, TableInput, Task


@config
class Tabular(Model):
    """A classifier for rows of a table."""

    kind: Literal["tabular"] = "tabular"
    input = (TableInput,)
    architecture: Literal["linear", "mlp", "ft_transformer"]
    width: Count
    """Width of a hidden layer (mlp) or of a token (ft_transformer)."""
    depth: Count
    """Number of hidden layers or of Transformer blocks."""
    heads: Count
    """Attention heads; `width` is a multiple of it (ft_transformer only)."""
    norm: Literal["layer", "batch", "none"]
    """Normalisation between hidden layers (mlp only); `batch` cannot be trained privately."""
    dropout: Portion

    def problems(self, task: Task) -> Iterator[str]:
        """What of the settings does not fit itself."""
        if self.architecture == "ft_transformer":
            yield from undivided("heads", self.heads, self.width)

    def square_norm(self, task: Task, finetune: str) -> float | None:
        """Of the linear model; every category is 1, and so, at the most, a number in a range."""
        if self.architecture != "linear":
            return None
        table = input_as(TableInput, task)
        squashed = len(table.squashed)
        return 1 + table.width - squashed + min(squashed, _FULL_SHARE) * _SQUARE

    def last_width(self, task: Task) -> int:
        """All features of all columns."""
        return sum(widths(input_as(TableInput, task)))

    def absolute_sum(self, task: Task) -> float:
        """Every category is 1, and so, at the most, a number in a range."""
        table = input_as(TableInput, task)
        squashed = len(table.squashed)
        share = math.sqrt(min(squashed, _FULL_SHARE) * squashed)
        return 1 + table.width - squashed + share * _SUM

    def network(self, task: Task) -> nn.Sequential:
        """`float32[batch, table.width]` -> logits `[batch, task.num_outputs]`."""
        table = input_as(TableInput, task)
        match self.architecture:
            case "linear":
                return linear(table, task.num_outputs)
            case "mlp":
                return mlp(self, table, task.num_outputs)
            case "ft_transformer":
                return ft_transformer(self, table, task.num_outputs)


# --- numbers of a scale that nobody told ----------------------------------------

PER_DECADE = 3
"""Bins in a factor of ten, as in 1, 2, 5, 10."""

FINEST, HIGHEST = 1e-3, 1e9
"""Smaller differences than the first, and what lies beyond the second, are not told apart."""

WAVES = 5
"""The first has the period of one bin, each further one half of that before."""

# In this proportion, and with a square sum near 2, steps of usual size neither crawl on a table of
# two columns nor overshoot on one of forty: docs/data.md.
_OF_BIN, _OF_WAVE = 1.5, 0.35
_SQUARE = _OF_BIN**2 * 2 / 3 + WAVES * _OF_WAVE**2
"""Of the norm of one encoded number, in the mean over where between two bins it lies."""
_SUM = _OF_BIN + WAVES * _OF_WAVE * 4 / math.pi
"""Of its features without their signs, likewise."""

_REACH = round(math.log10(HIGHEST / FINEST)) * PER_DECADE
ENCODED = 2 * _REACH + 1 + 2 * WAVES
"""Features of one number."""


def encode(squashed: Tensor) -> Tensor:
    """`float[...]` -> `float[..., ENCODED]`: bins around the value, and waves.

    A column without a public range is squashed (`fedlearn.data.tables.scaling.squash`):
    ages of 20 to 90 become .44 to .65, and a model learns next to nothing from so narrow a
    spread far from zero. Scaling by the column's own quantiles would tell them apart and read
    the records, a release of its own. Here the places are public and the same for every
    column: a piecewise linear encoding (Gorishniy et al. 2022, "On Embeddings for Numerical
    Features in Tabular Deep Learning", section 3.1) whose bins stand at equal steps of the
    logarithm, and sine and cosine waves of it (their section 3.3), which tell apart what one
    bin holds. Most bins lie where a column has no value; they get no gradient, and under
    DP-SGD noise that no prediction sees.

    With `p = 3 sign(x) log10(1 + 1000 |x|)` bin `k` from -36 to 36 is
    `1.5 max(0, 1 - |p - k|)`, so that at most two of them are not zero, and wave
    `j` from 0 is `.35 sin` and `.35 cos` of `2 pi 2^j p`.
    """
    place = _place(squashed).unsqueeze(-1)
    bins = torch.arange(-_REACH, _REACH + 1, device=place.device)
    angles = place * (2 * math.pi * 2.0 ** torch.arange(WAVES, device=place.device))
    near = (1 - (place - bins).abs()).clamp(min=0)
    return torch.cat([_OF_BIN * near, _OF_WAVE * angles.sin(), _OF_WAVE * angles.cos()], dim=-1)


def _place(squashed: Tensor) -> Tensor:
    size = torch.expm1(squashed.abs() * SQUASH_UNIT) / FINEST
    return (squashed.sign() * PER_DECADE * torch.log10(1 + size)).clamp(-_REACH, _REACH)


# --- rows -----------------------------------------------------------------------

_FULL_SHARE = 6
"""Squashed columns up to which each has its full weight; the square sum of more stays as it is."""


def widths(table: TableInput) -> list[int]:
    """How many features `OneHot` makes of each column."""
    of_numbers = [ENCODED if i in table.squashed else 1 for i in range(table.numeric)]
    return [*of_numbers, *table.cardinalities]


class OneHot(nn.Module):
    """Category codes as one-hot columns, squashed numbers encoded, other numbers as they are.

    Has no parameters; the features of a column stand together, in the order of columns.
    """

    def __init__(self, table: TableInput) -> None:
        super().__init__()
        self.table = table
        self.width = sum(widths(table))
        # Else the steps of a linear model would overshoot on a table of many columns.
        self.share = min(1.0, (_FULL_SHARE / max(1, len(table.squashed))) ** 0.5)

    def forward(self, rows: Tensor) -> Tensor:
        """`float32[batch, columns]` -> `float32[batch, self.width]`."""
        parts = self._numbers(rows) if self.table.squashed else [rows[:, : self.table.numeric]]
        for column, size in enumerate(self.table.cardinalities, start=self.table.numeric):
            parts.append(functional.one_hot(rows[:, column].long(), size).to(rows.dtype))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _numbers(self, rows: Tensor) -> list[Tensor]:
        """The features of every number, `[batch, 1]` or `[batch, ENCODED]`."""
        encoded = self.share * encode(_columns(rows, self.table.squashed))
        found = dict(zip(self.table.squashed, encoded.unbind(1), strict=True))
        return [found[i] if i in found else rows[:, i : i + 1] for i in range(self.table.numeric)]


def _columns(rows: Tensor, places: Sequence[int]) -> Tensor:
    """Some columns, `[batch, places]`, without an index that a GPU would be waited for."""
    return torch.stack([rows[:, i] for i in places], dim=1)


def linear(table: TableInput, num_outputs: int) -> nn.Sequential:
    """Multinomial logistic regression."""
    one_hot = OneHot(table)
    return stages(one_hot=one_hot, head=nn.Linear(one_hot.width, num_outputs))


def mlp(config: Tabular, table: TableInput, num_outputs: int) -> nn.Sequential:
    """Hidden layers of `Linear -> norm -> ReLU -> dropout`, then a linear head."""
    one_hot = OneHot(table)
    width = one_hot.width
    layers: list[nn.Module] = []
    for _ in range(config.depth):
        # Batch normalisation subtracts a bias again: it would never learn.
        hidden = nn.Linear(width, config.width, bias=config.norm != "batch")
        layers += [hidden, *_norm(config), nn.ReLU()]
        layers += [nn.Dropout(config.dropout)] if config.dropout else []
        width = config.width
    body = nn.Sequential(*layers)
    return stages(one_hot=one_hot, body=body, head=nn.Linear(width, num_outputs))


def _norm(config: Tabular) -> list[nn.Module]:
    match config.norm:
        case "layer":
            return [nn.LayerNorm(config.width)]
        case "batch":
            return [nn.BatchNorm1d(config.width)]
        case "none":
            return []


class FeatureTokens(nn.Module):
    """One token per column, after a class token.

    A number `x` in column `j` becomes `x * scale[j] + shift[j]`, a squashed one a
    linear map of its encoding, column by column; a category becomes the row of its
    code. The tables are embeddings, not bare parameters, because DP-SGD takes
    per-sample gradients layer by layer.
    """

    def __init__(self, table: TableInput, width: int) -> None:
        super().__init__()
        self.table = table
        self.offsets = tuple(accumulate(table.cardinalities[:-1], initial=0))
        self.class_token = nn.Embedding(1, width)
        # Only tables that are used: a parameter without a gradient is noise for nothing.
        if plain := table.numeric - len(table.squashed):
            self.scale = nn.Embedding(plain, width)
            self.shift = nn.Embedding(plain, width)
        if table.squashed:
            self.encoded = _MapOfEach(len(table.squashed), width)
        if table.cardinalities:
            self.category = nn.Embedding(sum(table.cardinalities), width)

    def forward(self, rows: Tensor) -> Tensor:
        """`float32[batch, columns]` -> tokens `[batch, 1 + columns, width]`."""
        batch, numeric = len(rows), self.table.numeric
        start = rows.new_zeros((batch, 1), dtype=torch.long)
        parts = [self.class_token(start)]
        if numeric:
            parts.append(self._numbers(rows))
        if self.table.cardinalities:
            # Pinned, or a GPU would be waited for.
            offsets = torch.tensor(self.offsets, pin_memory=rows.is_cuda)
            codes = rows[:, numeric:].long() + offsets.to(rows.device, non_blocking=True)
            parts.append(self.category(codes))
        return torch.cat(parts, dim=1)

    def _numbers(self, rows: Tensor) -> Tensor:
        """The tokens of numbers, `[batch, numeric, width]`."""
        numeric, squashed = self.table.numeric, self.table.squashed
        if not squashed:
            return self._plain(rows[:, :numeric])
        encoded: Tensor = self.encoded(_columns(rows, squashed))
        tokens = dict(zip(squashed, encoded.unbind(1), strict=True))
        if plain := [i for i in range(numeric) if i not in tokens]:
            found = self._plain(_columns(rows, plain))
            tokens |= dict(zip(plain, found.unbind(1), strict=True))
        return torch.stack([tokens[i] for i in range(numeric)], dim=1)

    def _plain(self, numbers: Tensor) -> Tensor:
        columns = torch.arange(numbers.shape[1], device=numbers.device).expand(numbers.shape)
        scaled: Tensor = numbers[..., None] * self.scale(columns) + self.shift(columns)
        return scaled


class _MapOfEach(nn.Module):
    """A linear map of its own for every squashed column, from its encoding to a token."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        # A convolution in as many groups is that, in a layer that DP-SGD knows.
        self.shape = columns, width
        self.map = nn.Conv1d(columns * ENCODED, columns * width, 1, groups=columns)

    def forward(self, squashed: Tensor) -> Tensor:
        """`[batch, columns]` -> `[batch, columns, width]`."""
        mapped: Tensor = self.map(encode(squashed).flatten(1).unsqueeze(-1))
        return mapped.view(len(squashed), *self.shape)


class Attention(nn.Module):
    """Multi-head self-attention whose projections are plain linear layers.

    Queries, keys and values have no bias: softmax cancels that of a key, and
    the shift of the norm before and the bias of `out` do the work of the others.
    Under DP-SGD a parameter without effect is noise for nothing.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[batch, length, width]` -> the same shape."""
        batch, length, width = tokens.shape
        heads = self.query_key_value(tokens)
        heads = heads.view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        joined: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return joined


class TableBlock(nn.Module):
    """A pre-norm Transformer block: attention, then a two-layer network of twice the width."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """`[batch, length, width]` -> the same shape."""
        tokens = tokens + self.attention(self.attention_norm(tokens))
        fed: Tensor = tokens + self.feed(self.feed_norm(tokens))
        return fed


class ClassToken(nn.Module):
    """The first token of each record; has no parameters."""

    def forward(self, tokens: Tensor) -> Tensor:
        """`[batch, length, width]` -> `[batch, width]`."""
        return tokens[:, 0]


def ft_transformer(config: Tabular, table: TableInput, num_outputs: int) -> nn.Sequential:
    """Feature tokens, Transformer blocks, and a linear head on the class token."""
    blocks = {
        f"block{i}": TableBlock(config.width, config.heads, config.dropout)
        for i in range(config.depth)
    }
    return stages(
        tokens=FeatureTokens(table, config.width),
        **blocks,
        class_token=ClassToken(),
        norm=nn.LayerNorm(config.width),
        head=nn.Linear(config.width, num_outputs),
    )
