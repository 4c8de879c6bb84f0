"""Records as the frozen part of a model sees them: computed once, kept at the site.

What is kept is as sensitive as the records themselves. It lies in the site's
own cache, readable by its user alone, under a name that depends on the frozen
weights and on the records: other weights or records never meet it. Removing
the folder costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlearn import __version__
from fedlearn.data import Records

Encoded = NDArray[np.float32]

_BATCH = 256
_weights_seen: WeakKeyDictionary[nn.Module, bytes] = WeakKeyDictionary()
_in_memory: WeakKeyDictionary[Records, tuple[nn.Module, Encoded]] = WeakKeyDictionary()


def encoded(frozen: nn.Module, records: Records, *, made_by: str, cache: Path) -> Encoded:
    """The outputs of `frozen` for `records`, `float32[n, ...]`; from `cache` where they are known.

    `made_by` is the config of the model: what its weights do not say.

    **Guarantees:** what comes from the cache is, bit for bit, what was computed
    from these records by these weights; a file that cannot be read is made anew.
    """
    seen_by, kept = _in_memory.get(records, (None, None))
    if kept is None or seen_by is not frozen:
        kept = _from_disk(frozen, records, made_by, cache / "encoded")
        _in_memory[records] = frozen, kept
    return kept


def _from_disk(frozen: nn.Module, records: Records, made_by: str, folder: Path) -> Encoded:
    path = folder / f"{_digest(frozen, records, made_by)}.npy"
    try:
        kept: Encoded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        kept = _compute(frozen, records)
        _store(path, kept)
    return kept


def _compute(frozen: nn.Module, records: Records) -> Encoded:
    features = torch.from_numpy(records.features)
    starts = range(0, max(1, len(features)), _BATCH)
    with torch.no_grad():
        parts = [frozen(features[i : i + _BATCH]) for i in starts]
    return torch.cat(parts).float().contiguous().numpy()


def _store(path: Path, kept: Encoded) -> None:
    """Write the file in one step, for this user alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    content = io.BytesIO()
    np.save(content, kept)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.getbuffer())
    temporary.replace(path)


def _digest(frozen: nn.Module, records: Records, made_by: str) -> str:
    digest = hashlib.sha256(f"fedlearn/encoded/v1 {__version__} {made_by}\n".encode())
    digest.update(_weights_digest(frozen))
    for part in _canonical("records", records.features):
        digest.update(part)
    return digest.hexdigest()


def _weights_digest(frozen: nn.Module) -> bytes:
    """SHA-256 of the weights, taken once for all sites of a process: they may be 100 MB."""
    if frozen not in _weights_seen:
        digest = hashlib.sha256()
        for name, tensor in frozen.state_dict().items():
            for part in _canonical(name, tensor.numpy()):
                digest.update(part)
        _weights_seen[frozen] = digest.digest()
    return _weights_seen[frozen]


def _canonical(name: str, array: NDArray[Any]) -> Iterator[bytes]:
    yield f"{name} {array.dtype.str} {array.shape}\n".encode()
    yield np.ascontiguousarray(array).tobytes()
