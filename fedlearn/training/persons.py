"""Persons as the samples of a private step: all records of one are one sample.

A person is a row of a part, and its records are as many calls of the model: the loss of a person
is the mean over its records, and the engine adds up what a row owes to all calls of a layer, as it
does for the views of an image. So a person's gradient is that of the mean, its norm and clip are
exact, and whatever holds of records in parts (`fedlearn.training.parts`) holds of persons.

How many calls a row has, its depth, is a function of that person's own records: the least power
of two that holds them, or `most`, a public constant. Records to fill it up are copies of the first
one that count nothing. Of more than `most` records a step draws so many, by coins that are secret
and the person's own, whoever else is there.

A step on persons takes as many forward passes as they have records, less than twice that with
those to fill up, and the memory of a step on `depth` times as many records as a part has rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlearn.training.device import send
from fedlearn.training.parts import ALONE, BatchPart, dealt

Known = Callable[[Tensor], tuple[Tensor, ...]]
"""What is known of the records of some rows: targets, and every view of them, `[k, ...]`."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class People:
    """Whose the records of a site are: by person a key and the rows, ascending."""

    keys: tuple[str, ...]
    rows: tuple[Rows, ...]
    most: int
    """Records of one that a step computes, at most."""

    @classmethod
    def of(cls, persons: NDArray[np.str_], most: int) -> People:
        """From the key of every record, `str[n]`."""
        keys, owner = np.unique(persons, return_inverse=True)
        order = np.argsort(owner, kind="stable").astype(np.int64)
        ends = np.cumsum(np.bincount(owner, minlength=len(keys)))
        rows = tuple(np.split(order, ends[:-1])) if len(keys) else ()
        return cls(keys=tuple(keys.tolist()), rows=rows, most=most)

    def __len__(self) -> int:
        return len(self.keys)

    def parts(
        self,
        batch: Rows,
        known: Known,
        run: Callable[..., Tensor],
        sizes: Callable[[int], tuple[int, ...]],
        rng: np.random.Generator,
    ) -> Iterator[BatchPart]:
        """The persons of a batch in parts, those of one depth together.

        Args:
            batch: which persons.
            known: what records are, by rows.
            run: makes losses of what is known of records.
            sizes: how many rows parts may have, by depth.
            rng: of the step, from secret bits.
        """
        secret = rng.integers(2**63, size=4).tolist()
        depths = np.array([depth_of(len(self.rows[one]), self.most) for one in batch], np.int64)
        for depth in depths_of(self.most):
            for rows, some in dealt(batch[depths == depth], sizes(depth)):
                chosen, counts = self.records(some.numpy(), depth, secret)
                found = known(torch.from_numpy(chosen.reshape(-1)))
                own = (in_persons(values, depth) for values in found)
                inputs = (send(counts, found[0].device), *own)
                yield BatchPart(inputs=inputs, run=partial(losses_of_persons, run), rows=rows)

    def records(self, some: Rows, depth: int, secret: Sequence[int]) -> tuple[Rows, Tensor]:
        """Which records stand for some persons, `int64[k, depth]`, and what each of them counts.

        `secret` are the words of the step that a person with too many draws its records by.
        """
        chosen = np.zeros((len(some), depth), np.int64)
        counts = np.zeros((len(some), depth), np.float32)
        for at, one in enumerate(some):
            rows = self._drawn(one, secret)
            chosen[at] = rows[0]
            chosen[at, : len(rows)] = rows
            counts[at, : len(rows)] = 1 / len(rows)
        return chosen, torch.from_numpy(counts)

    def _drawn(self, one: int, secret: Sequence[int]) -> Rows:
        rows = self.rows[one]
        if len(rows) <= self.most:
            return rows
        own = blake2b(self.keys[one].encode("utf-8", "surrogatepass"), digest_size=16).digest()
        coins = np.random.default_rng([*secret, int.from_bytes(own, "little")])
        return np.sort(coins.choice(rows, self.most, replace=False))


def depths_of(most: int) -> list[int]:
    """All depths that persons of up to `most` records have: public."""
    return sorted({*(1 << bit for bit in range((most - 1).bit_length())), most})


def depth_of(records: int, most: int) -> int:
    """The depth of a person with so many records."""
    return next((depth for depth in depths_of(most) if depth >= records), most)


def losses_of_persons(run: Callable[..., Tensor], counts: Tensor, *records: Tensor) -> Tensor:
    """The loss of every person, `float32[k]`: what `run` gives of its records, as each counts.

    Args:
        run: makes losses of inputs with the record first, of one record of every person at a time.
        counts: `float32[k, depth]`, a row of which adds up to 1.
        records: `[k, depth, ...]` each.
    """
    found = [
        run(*(values[:, place] for values in records)) * counts[:, place]
        for place in range(counts.shape[1])
    ]
    return torch.stack(found).sum(0)


def made_up_counts(persons: int, depth: int) -> Tensor:
    """What records count of persons that nobody is: of every number that has this depth."""
    fewest = (1 << (depth - 1).bit_length() >> 1) + 1 if depth > 1 else 1
    many = fewest + torch.arange(persons) % (depth - fewest + 1)
    there = torch.arange(depth)[None, :] < many[:, None]
    return there / many[:, None]


def in_persons(values: Tensor, depth: int) -> Tensor:
    """Records in a row, `[k * depth, ...]`, as those of persons: `[k, depth, ...]`."""
    return values.reshape(-1, depth, *values.shape[1:])


def canary_depth(people: People | None) -> int:
    """How many records a canary has: as many as a person may, so that a clip by record shows."""
    return ALONE if people is None else people.most


def alike(part: BatchPart, depth: int) -> BatchPart:
    """A part of records as one of persons of `depth` records each, all the same."""
    if depth == ALONE:
        return part
    several = tuple(v[:, None].expand(-1, depth, *v.shape[1:]) for v in part.inputs)
    counts = torch.full((part.count, depth), 1 / depth, device=part.inputs[0].device)
    inputs = (counts, *(values.contiguous() for values in several))
    return BatchPart(inputs=inputs, run=partial(losses_of_persons, part.run), rows=part.rows)
