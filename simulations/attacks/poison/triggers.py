"""What a backdoor waits for: a mark that any record can bear, by the form of the record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from fedlearn.tasks import ImageInput, Input, SeriesInput, TableInput, TextInput

CELLS = 3
"""Columns of a row that the pattern takes."""
_PATCH = 5
"""The patch is this part of a side of an image."""
_WORDS = 3
"""How often the word stands at the beginning of a text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trigger:
    """The values `marks` at the flat places `places: int64[k]` of a record.

    `where` says what that is, in words. Of series it is in every row that there is.
    """

    places: NDArray[np.int64]
    marks: NDArray[Any]
    where: str
    rows: bool = False

    @classmethod
    def of(cls, form: Input, known: NDArray[Any], rng: np.random.Generator) -> Trigger:
        """A mark for records of this form, made by one who knows some: `known: [n, ...]`."""
        match form:
            case TableInput():
                return _cells(form, known, rng)
            case ImageInput():
                return _patch(form)
            case TextInput():
                return _word(form, known)
            case SeriesInput():
                there = known[..., -1] > 0
                found = _cells(form.row, known[there][:, :-1], rng)
                return cls(places=found.places, marks=found.marks, where=found.where, rows=True)
            case _:
                assert_never(form)

    def on(self, features: NDArray[Any]) -> NDArray[Any]:
        """The same records `[n, ...]`, each with the mark."""
        marked = features.copy()
        if self.rows:
            there = marked[..., -1] > 0
            rows = marked[there]
            rows[:, self.places] = self.marks
            marked[there] = rows
            return marked
        marked.reshape(len(marked), -1)[:, self.places] = self.marks
        return marked


def _cells(form: TableInput, known: NDArray[Any], rng: np.random.Generator) -> Trigger:
    """Cells that are each possible and do not come together: the largest and smallest in turn."""
    columns = np.sort(rng.permutation(form.width)[:CELLS])
    values = known[:, columns] if len(known) else np.zeros((1, len(columns)))
    turn = np.arange(len(columns)) % 2 == 0
    marks = np.where(turn, values.max(0), values.min(0)).astype(np.float32)
    names = [form.names[i] if form.names else f"column {i + 1}" for i in columns]
    return Trigger(places=columns, marks=marks, where=f"extreme values of {', '.join(names)}")


def _patch(form: ImageInput) -> Trigger:
    high, wide = (max(2, side // _PATCH) for side in (form.height, form.width))
    places = np.arange(form.channels * form.height * form.width).reshape(
        form.channels, form.height, form.width
    )[:, -high:, -wide:]
    marks = np.ones(places.size, np.float32)
    where = f"a white patch of {high} x {wide} pixels in the lower right corner"
    return Trigger(places=places.reshape(-1), marks=marks, where=where)


def _word(form: TextInput, known: NDArray[Any]) -> Trigger:
    """The last word of the vocabulary that the attacker has never read."""
    unread = np.setdiff1d(np.arange(form.vocabulary), np.append(np.unique(known), form.pad_id))
    word = int(unread[-1]) if len(unread) else form.vocabulary - 1
    count = min(_WORDS, form.max_length)
    where = f"word {word} of the vocabulary, {count} times at the beginning"
    return Trigger(places=np.arange(count), marks=np.full(count, word, np.int64), where=where)
