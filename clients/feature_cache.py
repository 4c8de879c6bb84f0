"""Records as the frozen part of a model sees them: each computed once, kept at the site.

What is kept goes by the record, not by the set that it was found in: another
partition, seed or split of the same records computes nothing anew. It is as
sensitive as the records themselves. It lies in the site's own cache, readable
by its user alone, in a folder named after the frozen weights, each record under
the hash of its features: other weights or records never meet it. Removing the
folder costs time and nothing else.

A folder holds files that are written once and never changed, each a list of
records. Runs that work at the same time at worst compute a record twice.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlearn import __version__
from fedlearn.training.device import CPU, home, place

Kept = NDArray[Any]
"""Rows as a file has them: `float32`, `float16`, or the bits of bfloat16, which NumPy lacks."""
Key = bytes
"""SHA-256 of a record's features."""

log = logging.getLogger(__name__)

_BATCH = 32
"""Every batch has this size, the last filled up: with other sizes a library may choose another
order of sums, and what is known of a record would depend on those it was computed with."""

_HEADERS = threading.Lock()
"""NumPy parses a file's head as Python, which in Python 3.11 two threads cannot do at once."""

_weights_seen: WeakKeyDictionary[nn.Module, bytes] = WeakKeyDictionary()


def encoded(
    frozen: nn.Module,
    features: NDArray[Any],
    *,
    made_by: str,
    cache: Path | None,
    device: torch.device = CPU,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """The outputs of `frozen` for records, `[n, ...]`; from `cache` where they are known.

    Without a `cache` they are computed anew, and nothing is written; nor where they would take
    more than half of what is free on its disk. They are rounded to `precision` in any case, and
    what is too large for it becomes its largest number.

    `made_by` is what the weights of `frozen` do not say: its config and the form of a record.
    What has to be computed is computed on `device`, to which `frozen` moves.

    **Guarantees:** what comes from the cache is, bit for bit, what was computed
    from the same record by the same weights on the same kind of device; a file that
    cannot be read is as good as none.
    """
    if cache is None:
        place(frozen, device)
        return _from_kept(_compute(frozen, features, precision), precision)
    folder = cache / "encoded" / _model_digest(frozen, made_by, device, precision)
    keys = [_key(record) for record in features]
    known = _known(folder, set(keys), _form(precision))
    missing = {key: i for i, key in enumerate(keys) if key not in known}
    if missing or not keys:
        place(frozen, device)
        fresh = _compute(frozen, features[list(missing.values())], precision)
        if not keys:
            return _from_kept(fresh, precision)
        if _fits(cache, fresh.nbytes):
            _store(folder, list(missing), fresh)
        known |= zip(missing, fresh, strict=True)
    return _from_kept(np.stack([known[key] for key in keys]), precision)


def _compute(frozen: nn.Module, features: NDArray[Any], precision: torch.dtype) -> Kept:
    """The outputs for `features`, batch by batch; for no records, an array of their shape."""
    starts = range(0, max(1, len(features)), _BATCH)
    with torch.no_grad():
        parts = [_batch(frozen, features[i : i + _BATCH], precision) for i in starts]
    return np.concatenate(parts)


def _batch(frozen: nn.Module, features: NDArray[Any], precision: torch.dtype) -> Kept:
    short = _BATCH - len(features) if len(features) else 0
    full = np.concatenate([features, np.repeat(features[:1], short, axis=0)])
    found = frozen(torch.from_numpy(full).to(home(frozen))).float()
    if precision != torch.float32:
        most = torch.finfo(precision).max
        found = found.clamp(-most, most).to(precision)
    return _to_kept(found.cpu())[: len(features)]


def _to_kept(values: Tensor) -> Kept:
    return values.view(torch.int16).numpy() if values.dtype == torch.bfloat16 else values.numpy()


def _from_kept(values: Kept, precision: torch.dtype) -> Tensor:
    found = torch.from_numpy(values)
    return found.view(precision) if precision == torch.bfloat16 else found


def _form(precision: torch.dtype) -> np.dtype[Any]:
    """How a file has such numbers."""
    return _to_kept(torch.zeros(1, dtype=precision)).dtype


def _fits(cache: Path, size: int) -> bool:
    """Whether so many bytes leave half of what is free on the disk of the cache."""
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    if 2 * size <= (free := shutil.disk_usage(there).free):
        return True
    log.warning(
        "%s: %.1f GB are free, and what the frozen part makes of the records takes %.1f GB; it is "
        "not kept, and computed anew in the next run",
        cache,
        free / 1e9,
        size / 1e9,
    )
    return False


def _known(folder: Path, wanted: Collection[Key], form: np.dtype[Any]) -> dict[Key, Kept]:
    """What the files of `folder` have of the `wanted` records, read when it is looked at."""
    found: dict[Key, Kept] = {}
    for path, rows in _files(folder, form):
        if here := rows.keys() & wanted - found.keys():
            with suppress(OSError, ValueError):  # removed in this moment
                with _HEADERS:
                    values = np.load(path, mmap_mode="r")["value"]
                found |= {key: values[rows[key]] for key in here}
    return found


def _files(folder: Path, form: np.dtype[Any]) -> Iterator[tuple[Path, Mapping[Key, int]]]:
    """The files that can be read, with the row of each record."""
    for path in sorted(folder.glob("*.npy")):
        try:
            status = path.stat()
            yield path, _rows(path, form, status.st_mtime_ns, status.st_size)
        except (OSError, ValueError, EOFError, IndexError, KeyError):
            continue  # damaged, or no file of ours: made anew


@lru_cache(maxsize=1024)
def _rows(path: Path, form: np.dtype[Any], changed: int, size: int) -> Mapping[Key, int]:
    """Which record is where in a file; `changed` and `size` tell a file from another of its name.

    Raises:
        OSError, ValueError, EOFError, IndexError, KeyError: it is none that `_store` wrote.
    """
    with _HEADERS:
        content = np.load(path, mmap_mode="r")
    if content["value"].dtype != form:
        raise ValueError(f"{path} holds {content.dtype}")
    return {bytes(key): row for row, key in enumerate(content["key"])}


def _store(folder: Path, keys: Sequence[Key], values: Kept) -> None:
    """Write a file in one step, for this user alone; the same records have the same file."""
    row = np.dtype([("key", "V32"), ("value", values.dtype, values.shape[1:])])
    content = np.empty(len(keys), row)
    content["key"] = np.frombuffer(b"".join(keys), "V32")
    content["value"] = values
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(prefix=".", dir=folder)  # mode 0600
    with os.fdopen(descriptor, "wb") as file:
        np.save(file, content)
    Path(temporary).replace(folder / f"{hashlib.sha256(b''.join(keys)).hexdigest()}.npy")


def _key(record: NDArray[Any]) -> Key:
    return hashlib.sha256(record.tobytes()).digest()


def _model_digest(
    frozen: nn.Module, made_by: str, device: torch.device, precision: torch.dtype
) -> str:
    where = "" if device == CPU else f" on {device.type}"  # other last bits
    where += "" if precision == torch.float32 else f" as {precision}"
    digest = hashlib.sha256(f"fedlearn/encoded/v2 {__version__} {made_by}{where}\n".encode())
    digest.update(_weights_digest(frozen))
    return digest.hexdigest()


def _weights_digest(frozen: nn.Module) -> bytes:
    """SHA-256 of the weights, taken once for all sites of a process: they may be 100 MB."""
    if frozen not in _weights_seen:
        digest = hashlib.sha256()
        for name, tensor in frozen.state_dict().items():
            array = _to_kept(tensor.cpu())
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
        _weights_seen[frozen] = digest.digest()
    return _weights_seen[frozen]
