"""What all scenarios of texts share: from texts and labels to a pool of token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.rng import Streams
from fedlearn.data import memory
from fedlearn.data.pool import Pool
from fedlearn.data.split import by_content
from fedlearn.data.texts.tokens import Tokenizer, tokenize
from fedlearn.metrics.fairness import Attribute
from fedlearn.tasks import CLASSIFICATION, Targets, TaskConfig, TaskForm


def pool_of(
    tokenizer: Tokenizer,
    cache: Path,
    *,
    name: str,
    texts: Sequence[str],
    classes: tuple[str, ...],
    labels: Targets,
    is_train: NDArray[np.bool_],
    sites: NDArray[np.str_] | None = None,
    task: TaskConfig = CLASSIFICATION,
    notes: tuple[str, ...] = (),
    attributes: Mapping[str, Attribute] | None = None,
) -> Pool:
    """Texts with a label each as token ids; a note says how many the tokenizer cut short.

    Args:
        labels: `[n, ...]` as `task` takes them.
        sites: None where texts come without.
        attributes: what is known of texts beside their words; nothing learns from it.

    Raises:
        DataError: the tokenizer's list cannot be read, or the ids would not fit into memory.
    """
    # Once for all, and once more as they are dealt out to sites.
    memory.require(Path(name), 16 * len(texts) * tokenizer.max_length)
    tokens = tokenize(tokenizer, texts, cache)
    if tokens.cut:
        cut = (
            f"{name}: {tokens.cut} of {len(texts)} texts are longer than "
            f"scenario.tokenizer.max_length={tokenizer.max_length} and were cut off there"
        )
        notes = (*notes, cut)
    return Pool(
        name=name,
        task=task.of(TaskForm(input=tokens.shape, classes=classes)),
        features=tokens.ids,
        labels=labels,
        is_train=is_train,
        natural_site=sites,
        attributes=attributes or {},
        notes=notes,
    )


def numbered(labels: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The different labels in order, and the place of each label there."""
    classes, places = np.unique(np.asarray(labels), return_inverse=True)
    return tuple(classes.tolist()), places.astype(np.int64)


def held_out_groups(
    groups: NDArray[np.str_], fraction: float, streams: Streams
) -> NDArray[np.bool_]:
    """`bool[n]`: who belongs to a group that is drawn for the test; no group is split.

    **Guarantees:** a group is drawn by its name alone, with chance `fraction`, whatever other
    groups and records there are (`fedlearn.data.split`).
    """
    return ~by_content(map(str.encode, groups.tolist()), fraction, streams)
