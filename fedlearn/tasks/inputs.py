"""The forms of a record: a row of a table, an image, a text, rows over time.

They are public. Data sources state them, models are built from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SQUASH_UNIT = math.log(1001)
"""A number `x` of unknown scale stands in a record as `sign(x) log(1 + |x|)` over this."""


@dataclass(frozen=True, kw_only=True)
class TableInput:
    """A row of a table: `float32[numeric + len(cardinalities)]`.

    The first `numeric` columns are numbers, the rest are category codes
    (whole numbers stored as float32, code `i` of column `j` below
    `cardinalities[j]`; code 0 is kept for "missing or never seen"). `names`
    are those of all columns in this order; empty where they have none. `squashed`
    are the places of numbers of unknown scale (`SQUASH_UNIT`), which models encode
    (`fedlearn.models.tabular`).
    """

    numeric: int
    cardinalities: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    squashed: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.numeric + len(self.cardinalities)


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """An image: `float32[channels, height, width]`, values in [0, 1]."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """A text: `int64[max_length]` of token ids, padded at the end with `pad_id`.

    `tokenizer` names the public list of pieces that the ids are places in;
    empty where they are hashes.
    """

    vocabulary: int
    max_length: int
    pad_id: int = 0
    tokenizer: str = ""


@dataclass(frozen=True, kw_only=True)
class SeriesInput:
    """Rows of a table over time: `float32[steps, row.width + 1]`.

    The rows of a record come first, in the order of their times; what is left of
    `steps` is zeros. The last column is 1 in a row and 0 in padding.
    """

    steps: int
    row: TableInput


Input = TableInput | ImageInput | TextInput | SeriesInput


def shape_of(shape: Input) -> tuple[int, ...]:
    """The shape of one record."""
    match shape:
        case TableInput():
            return (shape.width,)
        case ImageInput():
            return (shape.channels, shape.height, shape.width)
        case TextInput():
            return (shape.max_length,)
        case SeriesInput():
            return (shape.steps, shape.row.width + 1)
