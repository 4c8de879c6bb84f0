"""Where a site computes: on the CPU, or on a CUDA device; and the memory of either.

Whatever computes does so where its model is: `place` puts a model there, and
`fetch` brings it the records of a batch. Keys, masks, coins and the words that
privacy noise is made of come from the CPU in any case, where the cryptographic
generator is.

A process must not use CUDA before it forks, so to choose and to count devices starts
none: only what puts something on a device does.

No GPU has run this yet; `tests/far.py` says what stands in for one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError, FedlearnError

Device = Literal["auto", "cpu", "cuda"]
"""`auto`: a CUDA device where there is one, else the CPU."""

CPU: Final = torch.device("cpu")
_THREADS: Final = "pt_autograd_"
"""What torch names the threads that run backward passes, one for each GPU."""

_turn = 0
_driver_asked = False


def take_turn(number: int) -> None:
    """Let this process, the `number`th of those that share a machine, use the device in turn."""
    global _turn
    _turn = number


def device_of(choice: Device, key: str = "training.device") -> torch.device:
    """The device that `choice` (made at `key`) means in this process; it is not touched.

    Raises:
        ConfigError: CUDA was asked for, and there is no such device.
    """
    count = 0 if choice == "cpu" else gpus()
    if count:
        return torch.device("cuda", _turn % count)
    if choice != "cuda":
        return CPU
    build = "built without CUDA" if torch.version.cuda is None else "built for CUDA"
    raise ConfigError(
        f"{key}=cuda: torch {torch.__version__} ({build}) finds no such device on this "
        f"machine. Set {key}=auto, or install a torch build and a driver for the GPU; the "
        "file of a site may say machine: {device: cpu}, whatever the run says"
    )


def gpus() -> int:
    """How many CUDA devices this process may use; none is touched."""
    global _driver_asked
    count = torch.cuda.device_count()
    # torch asks NVIDIA's management library. That knows no slices of a divided GPU (MIG), and is
    # missing in some containers: then the driver is asked, which can serve no forked process.
    if count and torch.version.cuda is not None and not _started():
        _driver_asked = _driver_asked or torch.cuda._device_count_nvml() < 0
    return count


def touched(choice: Device) -> bool:
    """Whether a process that is forked from this one could not compute on what `choice` means.

    With the first backward pass, wherever it computes, torch starts a thread for each GPU
    of the machine, and refuses backward passes to all processes that are forked later.
    """
    on_cuda = choice != "cpu" and (_started() or _driver_asked)
    return on_cuda or any(name.startswith(_THREADS) for name in _names_of_threads())


def _started() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _names_of_threads() -> Iterator[str]:
    """Of this process; none where the system does not tell, which is where nothing is forked."""
    for thread in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it has ended
            yield thread.read_text()


def home(module: nn.Module) -> torch.device:
    """Where `module` is, and computes."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return CPU if first is None else first.device


def place(module: nn.Module, device: torch.device) -> None:
    """Move `module` to `device`, in place; nothing where it is there already.

    Guarantees: on CUDA, float32 is computed in float32 (torch lets convolutions
    round to TF32, of 10 bits), or a gradient that was clipped to a norm would not
    have that norm; and an operation without an algorithm that repeats is an error.

    Raises:
        ConfigError: the device does not compute.
    """
    if home(module) == device:
        return
    if device.type == "cuda":
        _exact()
        _start(device)
    module.to(device)


@cache
def _exact() -> None:
    # By the old names first: what asks by those finds no contradiction to the new ones.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = "ieee"  # type: ignore[attr-defined]
    # Products of bfloat16 are added up in float32, as on the CPU.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") != ":16:8":
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # or cuBLAS does not repeat itself
    # Not "warn": attention would then take a backward pass that does not repeat. None of our
    # models has an operation that cannot. Does what `use_deterministic_algorithms` does, without
    # importing a compiler (1.7 s) to tell it so.
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _start(device: torch.device) -> None:
    """Compute something small: a GPU may be there and be of no use to this build of torch."""
    try:
        torch.cuda.set_device(device)
        (torch.ones((), device=device) + 1).item()
    except RuntimeError as error:
        if _lacks_memory(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"training.device: {device} is there, and torch {torch.__version__} cannot compute "
            f"on it ({reason}). Set training.device=cpu, or device in the machine of the site "
            "file; or install a driver and a torch build for this GPU"
        ) from error


def send(values: Tensor, device: torch.device) -> Tensor:
    """`values`, of the CPU or of `device`, on `device`; waits for nothing that the device does.

    From the CPU to CUDA through pinned memory, so that the copy runs beside what the
    device is computing; torch keeps such memory and uses it again.
    """
    if values.device == device or device == CPU:
        return values
    return values.pin_memory().to(device, non_blocking=True)


def fetch(records: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """The `rows: int64[k]` of `records: [n, ...]`, on `device`: `[k, ...]`."""
    if records.device == device:
        return records[send(rows, device)]
    return send(records[rows], device)


def near(records: Tensor, device: torch.device) -> Tensor:
    """`records` on `device`, where they leave half of its memory free; else as they are.

    What several processes have there already counts.
    """
    if device.type == "cpu":
        return records
    free, total = torch.cuda.mem_get_info(device)
    fits = free - records.numel() * records.element_size() >= total / 2
    return records.to(device) if fits else records


_LOWER: Final = (
    "lower training.max_batch (at one site: max_batch in the machine of its file), or, where "
    "simulated sites share the GPU, engine.workers"
)


@contextmanager
def within_memory(who: str, way_out: str = _LOWER) -> Iterator[None]:
    """Turn a GPU's lack of memory into a reason, from `who` uses it, with a way out.

    Raises:
        FedlearnError: it has no memory left.
    """
    try:
        yield
    except RuntimeError as error:
        if not _lacks_memory(error):
            raise
        raise FedlearnError(f"{who}: its GPU has no memory left; {way_out}") from error


def _lacks_memory(error: RuntimeError) -> bool:
    """torch's own allocator has an error for it; the driver, cuBLAS and cuDNN only words."""
    words = ("CUDA error: out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(one in str(error) for one in words)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_MOST = 2**31 - 1
_OLD_MOST = 32 * 2**20  # what glibc took for the second before 2.35


def keep_freed_memory() -> bool:
    """Keep freed memory in this process, and in those forked from it, for the next step.

    By default glibc gives large blocks back to the system after every step and asks
    for them again in the next one; the system clears every page of them, which took
    a tenth of the time of a step of plain SGD and more under DP-SGD.

    The process stays as large as it ever was. Where the C library is another,
    nothing happens, and the answer is False.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    large = mallopt(_MMAP_THRESHOLD, _MOST) or mallopt(_MMAP_THRESHOLD, _OLD_MOST)
    return bool(large and mallopt(_TRIM_THRESHOLD, _MOST))
