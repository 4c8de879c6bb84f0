"""A stretch of a model whose insides are computed again in the backward pass, and not kept.

Of a stretch what it reads is kept, and nothing of what it computes on the way; when the gradient
of what it gives is there it is run once more (Chen et al. 2016, "Training Deep Nets with Sublinear
Memory Cost"). So of all stretches one is in memory at a time, for one more forward pass.

Whoever watches layers (`fedlearn.training.dp.tape`) sees every call twice, and asks `PASS` which it
is: the first, without a graph, or the one again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

PASS: Final[ContextVar[Literal["only", "first", "again"]]] = ContextVar("PASS", default="only")
"""Which pass through a stretch this is; `only` outside of all."""

LEAVES: Final[ContextVar[tuple[Tensor, ...]]] = ContextVar("LEAVES", default=())
"""What a stretch's gradient has to be taken at as well, so that its hooks are reached."""


def computed_again(stretch: nn.Module, x: Tensor) -> Tensor:
    """`stretch(x)`, one tensor, of which only `x` is kept for the backward pass.

    **Guarantees:** gradients are those of `stretch(x)`, with the same random numbers and the same
    precision inside; no `.grad` is written but by the backward pass around it.
    """
    if not torch.is_grad_enabled():
        found: Tensor = stretch(x)
        return found
    learned = [parameter for parameter in stretch.parameters() if parameter.requires_grad]
    return _Again.apply(stretch, x, *learned)  # type: ignore[no-untyped-call, no-any-return]


class _Again(torch.autograd.Function):
    """Parameters are inputs, so that whoever asks for their gradients gets them from here."""

    @staticmethod
    def forward(ctx: Any, stretch: Callable[[Tensor], Tensor], x: Tensor, *learned: Tensor) -> Any:
        ctx.stretch, ctx.learned, ctx.leaves = stretch, learned, LEAVES.get()
        ctx.conditions = _Conditions.now(x.device)
        ctx.save_for_backward(x)
        with _in_pass("first"):
            return stretch(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        inside = x.detach().requires_grad_(ctx.needs_input_grad[1])
        with torch.enable_grad(), ctx.conditions.again(), _in_pass("again"):
            given = ctx.stretch(inside)
        at = [inside, *ctx.learned]
        wanted = [leaf for leaf in at if leaf.requires_grad]
        if not given.requires_grad:
            return None, *[None] * len(at)
        found = torch.autograd.grad(given, [*wanted, *ctx.leaves], gradient, allow_unused=True)
        slopes = iter(found)
        return None, *(next(slopes) if leaf.requires_grad else None for leaf in at)


@contextmanager
def _in_pass(which: Literal["first", "again"]) -> Iterator[None]:
    token = PASS.set(which)
    try:
        yield
    finally:
        PASS.reset(token)


@dataclass(frozen=True)
class _Conditions:
    """Under which a stretch was run: torch's generators and its precision."""

    device: torch.device
    states: tuple[Tensor, ...]
    low: torch.dtype | None

    @classmethod
    def now(cls, device: torch.device) -> _Conditions:
        states = [torch.get_rng_state()]
        if device.type == "cuda":
            states.append(torch.cuda.get_rng_state(device))
        low = torch.is_autocast_enabled(device.type)
        return cls(device, tuple(states), torch.get_autocast_dtype(device.type) if low else None)

    @contextmanager
    def again(self) -> Iterator[None]:
        """The same once more; torch's generators are as before afterwards."""
        cuda = self.device.type == "cuda"
        with (
            torch.random.fork_rng([self.device] if cuda else []),
            torch.autocast(self.device.type, self.low, enabled=self.low is not None),
        ):
            torch.set_rng_state(self.states[0])
            if cuda:
                torch.cuda.set_rng_state(self.states[1], self.device)
            yield
