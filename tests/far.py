"""A CUDA device that is not there: real arithmetic on the CPU, and a device's refusals.

`far_device` makes torch believe in one GPU. A tensor that is moved there says that
it is on `cuda:0`, computes as on the CPU, and refuses what a real one refuses: to
meet a tensor that is still on the CPU, and to be read by numpy. So code that runs
here leaves nothing behind on the CPU; what it cannot show is what CUDA's own kernels
compute, and how fast. It notes down where a program would wait for the device: copies
back, numbers that Python looks at, sizes that depend on values, and copies to it that
are not asked for as `non_blocking`.

Built as a tensor subclass, whose every operation comes through Python, and a mode
that catches the requests for a device before torch looks for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA: Final = torch.device("cuda", 0)

_MAY_MIX: Final = {"copy_", "index", "index_put_", "_index_put_impl_"}
"""CUDA takes indices from the CPU, and copies across."""

_LOOKS: Final = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal"}
"""What ends on the CPU, or has a size that the CPU must know."""

_waits: list[str] = []


class Far(Tensor):
    """A tensor that says that it is on the device; `near` holds its values."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        """A tensor without memory of its own."""
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(),
            dtype=near.dtype, device=near.device,
        )  # fmt: skip
        made.near = near
        return made  # type: ignore[no-any-return]

    def __repr__(self) -> str:  # type: ignore[override]
        """Where it is, and what it holds."""
        return f"{CUDA}: {self.near!r}"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it says that it is."""
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """What it says of itself."""
        return True

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute with the values, once it is sure that all of them are there."""
        named = dict(kwargs or {})
        seen = [one for one in tree_flatten((args, named))[0] if isinstance(one, Tensor)]
        left = [one for one in seen if not isinstance(one, Far) and one.dim()]
        if left and func.overloadpacket.__name__ not in _MAY_MIX:
            raise RuntimeError(f"Expected all tensors to be on the same device: {func}")
        if func.overloadpacket.__name__ in _LOOKS or _chooses(func, args):
            _waits.append(str(func))
        if named.get("device") is not None:
            named["device"] = torch.device("cpu")
        # What is changed in place is the same tensor before and after.
        known = {id(one.near): one for one in seen if isinstance(one, Far)}
        found = func(*tree_map(_near, args), **tree_map(_near, named))
        return tree_map(lambda one: known.get(id(one), _far(one)), found)


def _chooses(func: Any, args: Any) -> bool:
    """Whether it picks rows by truth values: how many there are is on the device."""
    if func.overloadpacket.__name__ not in ("index", "index_put_", "_index_put_impl_"):
        return False
    return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])


def _near(value: Any) -> Any:
    return value.near if isinstance(value, Far) else value


def _far(value: Any) -> Any:
    return Far(value) if isinstance(value, Tensor) else value


class _Requests(TorchFunctionMode):
    """Answers what torch would ask of a device."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is Tensor.to:
            device, dtype, free = _wanted(*args, **named)
            if device.type != args[0].device.type and not (free and device.type == "cuda"):
                _waits.append(f"to {device}")
            return _moved(args[0], device, dtype)
        if func is Tensor.cpu:
            if isinstance(args[0], Far):
                _waits.append("cpu")
            return _moved(args[0], torch.device("cpu"), args[0].dtype)
        if func is Tensor.pin_memory:
            return args[0].clone()
        if func is functional.one_hot and isinstance(args[0], Far):
            # Makes a tensor of its own in C++, where the values are on the CPU.
            return Far(func(args[0].near, *args[1:], **named))
        if func is Tensor.numpy and isinstance(args[0], Far):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        named.pop("pin_memory", None)
        if named.get("device") is not None and torch.device(named["device"]).type == "cuda":
            if func is torch.tensor:
                _waits.append("tensor")
            named["device"] = "cpu"
            learns = named.pop("requires_grad", False)
            return Far(func(*args, **named)).requires_grad_(learns)
        return func(*args, **named)


def _wanted(this: Tensor, *args: Any, **named: Any) -> tuple[torch.device, torch.dtype, bool]:
    if args and isinstance(args[0], Tensor):
        return args[0].device, args[0].dtype, bool(named.get("non_blocking"))
    named.pop("copy", None)
    device, dtype, free, *_ = torch._C._nn._parse_to(*args, **named)
    return device or this.device, dtype or this.dtype, bool(free)


def _moved(this: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    if device.type == this.device.type:
        return this if dtype == this.dtype else this.type(dtype)
    if device.type == "cpu":
        return this.detach().near.to(dtype).clone()  # type: ignore[attr-defined]
    return Far(this.detach().to(dtype).clone())


def _autocast(real: Any, device_type: str, *args: Any, **named: Any) -> Any:
    """What the values are rounded by: the CPU's."""
    return real("cpu" if device_type == "cuda" else device_type, *args, **named)


@contextmanager
def far_device(*, free: int = 2**40, count: int = 1) -> Iterator[list[str]]:
    """While this lasts, torch has `count` CUDA devices with `free` of 2^40 bytes left.

    Gives the list of what waited for the device, which grows.
    """
    module = torch.__future__
    before = module.get_overwrite_module_params_on_conversion()
    settings = {
        "device_count": lambda: count,
        "set_device": lambda device: None,
        "mem_get_info": lambda device: (free, 2**40),
        "get_rng_state": lambda device: torch.get_rng_state(),
        "set_rng_state": lambda state, device: None,
        "manual_seed": lambda seed: None,
    }
    autocast = mock.patch.object(torch, "autocast", partial(_autocast, torch.autocast))
    with mock.patch.multiple(torch.cuda, **settings), autocast, _Requests():
        # A module that moves must take other parameters: a CPU tensor cannot become far.
        module.set_overwrite_module_params_on_conversion(True)
        _waits.clear()
        try:
            yield _waits
        finally:
            module.set_overwrite_module_params_on_conversion(before)
