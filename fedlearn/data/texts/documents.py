"""What all scenarios of texts share: from texts and labels to a pool of token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import DataError
from fedlearn.core.rng import Streams
from fedlearn.data import memory
from fedlearn.data.pool import Pool
from fedlearn.data.split import by_content
from fedlearn.data.texts.tokens import Tokenizer, tokenize
from fedlearn.metrics.fairness import Attribute
from fedlearn.tasks import CLASSIFICATION, Targets, TaskConfig, TaskForm

FEW_UNKNOWN = 0.05
"""Share of pieces that a list lacks above which it is said..."""
MOST_UNKNOWN = 0.2
"""... and above which another tokenizer is to be chosen."""


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
    most_unknown: float = 1.0,
) -> Pool:
    """Texts with a label each as token ids; a note says how many the tokenizer cut short.

    Args:
        labels: `[n, ...]` as `task` takes them.
        sites: None where texts come without.
        attributes: what is known of texts beside their words; nothing learns from it.
        most_unknown: the share of pieces that a list may lack.

    Raises:
        DataError: the tokenizer's list cannot be read or lacks more, or the ids would not fit into
            memory.
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
    if tokens.unknown > most_unknown:
        raise DataError(f"{name}: {unknown_pieces(tokens.unknown)}")
    if tokens.unknown > FEW_UNKNOWN:
        notes = (*notes, f"{name}: {unknown_pieces(tokens.unknown)}")
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


def unknown_pieces(share: float) -> str:
    """What is said where the list of a tokenizer lacks many of the pieces of texts."""
    return (
        f"{share:.0%} of all pieces are none of the tokenizer's list, and tell nothing apart: the "
        "texts are in a script that it was not made for. Choose scenario.tokenizer.kind=hashing "
        "model.pretrained='', which needs no list, or model=huggingface with the folder of a model "
        "of that language"
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
