"""A site's records on its GPU: copied once and kept, where there is room for them.

What does not fit stays on the CPU, from where training fetches it batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedlearn.data import Records
from fedlearn.training.device import near

Tensors = tuple[Tensor, Tensor]
"""Inputs `[n, ...]` and labels `int64[n]`."""

_there: WeakKeyDictionary[Records, tuple[nn.Module | None, Tensors]] = WeakKeyDictionary()


def on_device(
    records: Records, frozen: nn.Module | None, device: torch.device, read: Callable[[], Tensors]
) -> Tensors:
    """What `read` makes of `records`, seen through `frozen`, kept for as long as the records are.

    On `device` where they leave half of its memory free. A process has one device, so
    that only what the records are seen through can change.
    """
    seen_by, kept = _there.get(records, (None, None))
    if kept is None or seen_by is not frozen:
        features, labels = read()
        kept = near(features, device), near(labels, device)
        _there[records] = frozen, kept
    return kept
