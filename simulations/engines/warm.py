"""What a run needs before its first round and imports late, imported now.

Start-up is mostly imports, and a fifth of that is Python's garbage collector
looking through modules. And whatever is loaded before processes are forked is
loaded once for all of them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # this module comes before the imports that take time
    from fedlearn.config import RunConfig


@contextmanager
def nothing_collected() -> Iterator[None]:
    """No garbage collection while this lasts; what it has made is never looked at again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def warm_up(config: RunConfig) -> None:
    """Import what `config` will need; torch runs on as many threads as it says."""
    import torch

    torch.set_num_threads(config.engine.threads)
    if config.privacy.unit == "none":
        return
    if config.privacy.clips_with(config.training.dp_engine):
        import fedlearn.training.private  # noqa: F401  (Opacus)
    import dp_accounting.pld  # noqa: F401
