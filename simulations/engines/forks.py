"""Starting processes as forks of this one, and how many fit."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fedlearn.training.device import Device, gpus


@contextmanager
def forking() -> Iterator[None]:
    """While a process is started: no Ctrl-C reaches it before it knows what to do with it.

    The new process lets interrupts in again (`pthread_sigmask`) when it does.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        with warnings.catch_warnings():
            # Newer Pythons warn of threads that a fork leaves behind; ours are those that draw
            # progress, and the idle ones of BLAS, which starts its own again.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


SHARE_A_GPU: Final = 4
"""Processes for each GPU. An estimate, for no GPU was at hand: each takes memory of its own there,
and from some number on they only wait for each other."""


def at_a_time(fit: int, device: Device) -> int:
    """How many processes may compute at a time where the cores carry `fit`; at least one."""
    shared = 0 if device == "cpu" else gpus() * SHARE_A_GPU
    return max(1, min(fit, shared) if shared else fit)


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
