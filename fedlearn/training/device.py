"""Where a site computes: on the CPU, or on a CUDA device.

Whatever computes does so where its model is: `place` puts a model there, and
`fetch` brings it the records of a batch. Keys, masks, coins and the words that
privacy noise is made of come from the CPU in any case, where the cryptographic
generator is.

A process must not use CUDA before it forks, so nothing here starts CUDA but
`place` and `fetch`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Final, Literal

import torch
from torch import Tensor, nn

from fedlearn.errors import ConfigError, FedlearnError

Device = Literal["auto", "cpu", "cuda"]
"""`auto`: a CUDA device where there is one, else the CPU."""

CPU: Final = torch.device("cpu")
_OURS: Final = "CUBLAS_WORKSPACE_CONFIG"

_turn = 0


def take_turn(number: int) -> None:
    """Let this process, the `number`th of those that share a machine, use the device in turn."""
    global _turn
    _turn = number


def device_of(choice: Device, key: str = "training.device") -> torch.device:
    """The device that `choice` (made at `key`) means in this process; it is not touched.

    Raises:
        ConfigError: CUDA was asked for, and there is no such device.
    """
    # Asks NVIDIA's management library: the driver, once asked, can serve no forked process.
    count = 0 if choice == "cpu" else torch.cuda.device_count()
    if count:
        return torch.device("cuda", _turn % count)
    if choice != "cuda":
        return CPU
    build = "built without CUDA" if torch.version.cuda is None else "built for CUDA"
    raise ConfigError(
        [
            f"{key}=cuda: torch {torch.__version__} ({build}) finds no such device on this "
            f"machine. Set {key}=auto, or install a torch build and a driver for the GPU; the "
            "file of a site may say machine: {device: cpu}, whatever the run says"
        ]
    )


def touched() -> bool:
    """Whether this process has used CUDA; what is forked from it then cannot."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def home(module: nn.Module) -> torch.device:
    """Where `module` is, and computes."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return CPU if first is None else first.device


def place(module: nn.Module, device: torch.device) -> None:
    """Move `module` to `device`, in place; nothing where it is there already.

    Guarantees: on CUDA, float32 is computed in float32 (torch lets convolutions
    round to TF32, of 10 bits), or a gradient that was clipped to a norm would not
    have that norm; and by algorithms that repeat, wherever torch has one.
    """
    if home(module) == device:
        return
    if device.type == "cuda":
        _exact()
        torch.cuda.set_device(device)
    module.to(device)


@cache
def _exact() -> None:
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = "ieee"  # type: ignore[attr-defined]
    os.environ.setdefault(_OURS, ":4096:8")  # or cuBLAS does not repeat itself
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", ".*does not have a deterministic implementation", UserWarning)


def fetch(records: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """The `rows: int64[k]` of `records: [n, ...]`, on `device`: `[k, ...]`.

    From the CPU to CUDA through pinned memory, so that the copy runs beside what the
    device is computing; torch keeps such memory and uses it again.
    """
    if records.device == device:
        return records[rows.to(device, non_blocking=True)]
    picked = records[rows]
    return picked if device == CPU else picked.pin_memory().to(device, non_blocking=True)


def near(records: Tensor, device: torch.device) -> Tensor:
    """`records` on `device`, where they leave half of its memory free; else as they are.

    What several processes have there already counts.
    """
    if device.type == "cpu":
        return records
    free, total = torch.cuda.mem_get_info(device)
    fits = free - records.numel() * records.element_size() >= total / 2
    return records.to(device) if fits else records


@contextmanager
def within_memory(who: str) -> Iterator[None]:
    """Turn a GPU's lack of memory into a reason, from `who` uses it, with a way out.

    Raises:
        FedlearnError: it has no memory left.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise FedlearnError(
            f"{who}: its GPU has no memory left; lower training.max_batch (at one site: "
            "max_batch in the machine of its file), or, where simulated sites share the GPU, "
            "engine.workers"
        ) from error
