"""What all scenarios of texts share: from texts and labels to a pool of token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlearn.data import memory
from fedlearn.data.pool import Pool
from fedlearn.data.texts.tokens import Tokenizer, tokenize
from fedlearn.metrics.fairness import Attribute
from fedlearn.tasks import Classification, Targets, TaskConfig, TaskForm


@dataclass(frozen=True, kw_only=True, eq=False)
class Documents:
    """Texts with a label each, before a tokenizer has read them.

    `labels: [n, ...]` are as `task` takes them, `is_train: bool[n]`,
    `sites: str[n]` or None where they come without.
    """

    name: str
    texts: Sequence[str]
    classes: tuple[str, ...]
    labels: Targets
    is_train: NDArray[np.bool_]
    sites: NDArray[np.str_] | None = None
    task: TaskConfig = field(default_factory=Classification)
    notes: tuple[str, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    """What is known of them beside the text, one entry per text; nothing learns from it."""


def pool_of(documents: Documents, tokenizer: Tokenizer, cache: Path) -> Pool:
    """The documents as token ids; says in a note how many were too long for the tokenizer.

    Raises:
        DataError: the tokenizer's list cannot be read, or the ids would not fit into memory.
    """
    # Once for all, and once more as they are dealt out to sites.
    memory.require(Path(documents.name), 16 * len(documents.texts) * tokenizer.max_length)
    tokens = tokenize(tokenizer, documents.texts, cache)
    notes = list(documents.notes)
    if tokens.cut:
        notes.append(
            f"{documents.name}: {tokens.cut} of {len(tokens.ids)} texts are longer than "
            f"scenario.tokenizer.max_length={tokenizer.max_length} and were cut off there"
        )
    return Pool(
        name=documents.name,
        task=documents.task.of(TaskForm(input=tokens.shape, classes=documents.classes)),
        features=tokens.ids,
        labels=documents.labels,
        is_train=documents.is_train,
        natural_site=documents.sites,
        attributes=documents.attributes,
        notes=tuple(notes),
    )


def numbered(labels: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The different labels in order, and the place of each label there."""
    classes, places = np.unique(np.asarray(labels), return_inverse=True)
    return tuple(classes.tolist()), places.astype(np.int64)


def held_out_groups(
    groups: NDArray[np.str_], fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """`bool[n]`: who belongs to a group that is drawn for the test; no group is split.

    Groups are drawn until their records are at least `fraction` of all.
    """
    names, owner, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    drawn = np.zeros(len(names), dtype=np.bool_)
    wanted = int(np.searchsorted(np.cumsum(sizes[order]), fraction * len(groups))) + 1
    drawn[order[:wanted]] = True
    member: NDArray[np.bool_] = drawn[owner]
    return member
