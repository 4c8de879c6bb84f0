"""What is used of Opacus, whose import sets up the logging of a whole process: not through here."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """A user's own `logging.basicConfig` does nothing once the root logger has a handler."""
    root = logging.getLogger()
    before = [*root.handlers]
    try:
        yield
    finally:
        root.handlers[:] = before


with _handlers_kept():
    from opacus import GradSampleModule
    from opacus.accountants import PRVAccountant
    from opacus.optimizers import DPOptimizer

__all__ = ["DPOptimizer", "GradSampleModule", "PRVAccountant"]
