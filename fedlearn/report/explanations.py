"""What the model of a run goes by in some records: the contents of `explanations.json`.

Written for those who ask for it (`fedlearn report DIR --explain ...`), from public
records or from a file of their own; schema `fedlearn/explanations/v1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fedlearn.results.folder import write_json
from fedlearn.results.reading import read_beside

SCHEMA: Final = "fedlearn/explanations/v1"
FILE: Final = "explanations.json"

Of = Literal["columns", "tokens", "pixels"]


@dataclass(frozen=True, kw_only=True)
class RecordExplained:
    """One record: what the model says of it, and how much each part spoke for that."""

    record: int
    """Its place among the records that were explained, from 0."""
    predicted: str
    score: float
    """The probability that the model gives to what it predicts."""
    values: list[float]
    """As the model reads them, flat; of an image its brightness."""
    attributions: list[float]
    """One for each value."""


@dataclass(frozen=True, kw_only=True)
class Explanations:
    """The whole of `explanations.json`."""

    schema: str = SCHEMA
    source: str
    """Which records these are, in words."""
    model_sha256: str
    method: Literal["integrated_gradients", "grad_cam"]
    of: Of
    names: list[str]
    """Of the columns; empty where they have none."""
    size: list[int]
    """Height and width of an image; empty for others."""
    count: int
    """Records that `overall` is the mean over."""
    overall: list[float]
    """Mean absolute attribution of each column; empty for others."""
    remainder: float
    """The largest part of a score that was left unexplained."""
    records: list[RecordExplained]


def read_explanations(folder: Path) -> Explanations | None:
    """The explanations in the folder of a run; None if nobody asked for any.

    Raises:
        DataError: they are not what this version reads.
    """
    return read_beside(Explanations, folder / FILE, schema=SCHEMA, what="explanations")


def write_explanations(folder: Path, found: Explanations) -> None:
    """Write `explanations.json`."""
    write_json(folder / FILE, found)
