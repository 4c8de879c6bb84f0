"""Records one forward and one backward pass, and asks each layer for its contributions on the way.

While a tape runs, every layer's own parameters are constants inside the
layer's own `forward`: autograd computes gradients at activations only. Each
output is watched; as soon as the gradients of all calls of a layer are there,
its rule turns them into contributions and the factors it does not need are let
go. Outside their layer parameters stay variables, so that a use behind the
engine's back (`F.linear(x, embedding.weight)`) is seen and refused.

Nothing of this outlives the `with` block: no hook, no attribute, no `.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from fedlearn.core.recompute import LEAVES, PASS
from fedlearn.training.dp.contribution import Contribution
from fedlearn.training.dp.layer import Again, Call, Layer, PerSample


class _Entry(torch.autograd.Function):
    """Puts an output that no gradient flows through onto the graph, and catches its gradient."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, _anchor: Tensor) -> Tensor:
        # In place, for a view could not be changed in place by a later ReLU.
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(_ctx: Any, _gradient: Tensor) -> tuple[None, None]:
        return None, None


class Tape:
    """One batch through `model`: use as a context around the forward pass, then call `backward`.

    `calls`: how often each layer was called. `coarsest`: the largest unit of rounding
    among the gradients. With `disturbing`, what layers give for the samples that are
    not `left_alone` is turned upside down.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[Layer], *, disturbing: bool = False
    ) -> None:
        self._model, self._layers, self._disturbing = model, layers, disturbing
        self._stack = ExitStack()
        device = next(model.parameters()).device
        self._anchor = torch.zeros((), requires_grad=True, device=device)
        self.calls: dict[str, int] = {}
        self.coarsest = 0.0
        self._seen: dict[str, list[Call | PerSample]] = {}
        self._found: dict[str, Contribution] = {}
        self._batch = 0
        self.recording = False

    def __enter__(self) -> Tape:
        for layer in self._layers:
            if layer.rule.forward is not None:
                self._open(layer, layer.rule.forward)
                continue
            self._keep(layer.module.register_forward_pre_hook(Freeze(self, layer)))
            self._keep(
                # Before the model's own hooks: what they change is not the layer's doing.
                layer.module.register_forward_hook(
                    Unfreeze(self, layer), prepend=True, with_kwargs=True
                )
            )
        for name, module in self._model.named_modules():
            if next(module.children(), None) is not None:
                self._keep(module.register_forward_pre_hook(RefusePacked(name)))
        token = LEAVES.set((self._anchor,))
        self._stack.callback(LEAVES.reset, token)
        self.recording = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.recording = False
        self._stack.close()
        for layer in self._layers:
            set_trainable(layer, True)
        self._seen.clear()

    def _keep(self, handle: RemovableHandle) -> None:
        self._stack.callback(handle.remove)

    def _open(self, layer: Layer, forward: Callable[..., Any]) -> None:
        """Have the rule run the layer's forward pass until the tape ends."""
        own = vars(layer.module)
        own["forward"] = RecordedForward(self, layer, forward)
        self._stack.callback(own.pop, "forward")

    def record(
        self,
        layer: Layer,
        inputs: tuple[Tensor, ...],
        output: Tensor,
        part: str = "",
        again: Again | None = None,
    ) -> Tensor:
        """Watch the output of one call, or of a part of one; returns the output to go on with."""
        if PASS.get() != "again":  # which was counted as the first
            if not (torch.is_grad_enabled() or PASS.get() == "first"):
                return output
            self.calls[layer.name] = self.calls.get(layer.name, 0) + 1
        if not torch.is_grad_enabled():
            return self._going_on(layer, output)
        if output.requires_grad and layer.rule.watch is not None:
            watched = layer.rule.watch(layer, inputs, output, partial(self._take, layer))
            if watched is not None:
                return self._going_on(layer, watched)
        seen = _Inputs(layer.name, inputs)
        if not output.requires_grad:
            # Not detach(): that shares a version counter, which may be a parameter's own.
            output = _Entry.apply(output.data, self._anchor)  # type: ignore[no-untyped-call]
        output.register_hook(  # type: ignore[no-untyped-call]
            lambda g: self._take(layer, self._call(layer, seen.take(), g, part, again))
        )
        return self._going_on(layer, output)

    def _going_on(self, layer: Layer, output: Tensor) -> Tensor:
        if not self._disturbing or not output.dim():
            return output
        axis = 1 if layer.sequence_first and output.dim() >= 3 else 0
        alone = left_alone(output.shape[axis], output.device)
        alone = alone.view(-1, *[1] * (output.dim() - 1 - axis))
        return torch.where(alone, output, -output)

    def _call(
        self,
        layer: Layer,
        inputs: tuple[Tensor, ...],
        gradient: Tensor,
        part: str,
        again: Again | None,
    ) -> Call:
        """Sample first, gradient in the precision in which norms and sums are computed."""

        def sample_first(value: Tensor) -> Tensor:
            swap = layer.sequence_first and value.dim() >= 3
            return value.detach().transpose(0, 1) if swap else value.detach()

        wide = torch.promote_types(gradient.dtype, torch.float32)
        self.coarsest = max(self.coarsest, torch.finfo(gradient.dtype).eps)
        return Call(
            inputs=tuple(sample_first(value) for value in inputs),
            gradient=sample_first(gradient).to(wide),
            part=part,
            again=again,
        )

    def _check_rows(self, layer: Layer, seen: Call | PerSample) -> None:
        match seen:
            case Call():
                values = (*seen.inputs, seen.gradient)
            case PerSample():
                values = tuple(seen.gradients.values())
        for value in values:
            rows = value.shape[0] if value.dim() else 0
            if rows != self._batch:
                raise ValueError(
                    f"{layer.name}: saw {rows} rows for {self._batch} samples; the first axis of "
                    "all it sees must be the sample (expand what is shared, such as position ids)"
                )

    def _take(self, layer: Layer, seen: Call | PerSample) -> None:
        self._check_rows(layer, seen)
        calls = self._seen.setdefault(layer.name, [])
        calls.append(seen)
        if len(calls) == self.calls[layer.name]:
            self._finish(layer)

    def _finish(self, layer: Layer) -> None:
        # A rule may call the layer again, and must not round as the forward pass did.
        self.recording = False
        with torch.no_grad(), torch.autocast(self._anchor.device.type, enabled=False):
            for one in layer.rule.contributions(layer, self._seen.pop(layer.name)):
                if one.parameter in self._found:
                    raise RuntimeError(f"{layer.name}: called again after its gradient was taken")
                self._found[one.parameter] = one
        self.recording = True

    def backward(self, losses: Tensor) -> Mapping[str, Contribution]:
        """Contributions by parameter name; a parameter that no loss depends on has none.

        `losses`: float[batch]. Raises: ValueError where samples cannot be told apart.
        """
        self._batch = losses.shape[0]
        parameters = {
            known: getattr(layer.module, own)
            for layer in self._layers
            for own, known in layer.parameters.items()
        }
        found = torch.autograd.grad(
            losses.sum(), [self._anchor, *parameters.values()], allow_unused=True
        )
        outside = [name for name, g in zip(parameters, found[1:], strict=True) if g is not None]
        if outside:
            raise ValueError(
                f"{', '.join(outside)}: used outside the layer that owns it; call the layer, or "
                "hold the parameter in a fedlearn.training.dp.SampleParameter"
            )
        if self.calls and not (self._found or self._seen):
            raise ValueError("the gradient went past every layer: detach the model's inputs")
        # Calls whose output no loss depends on never get a gradient.
        for layer in self._layers:
            if layer.name in self._seen:
                self._finish(layer)
        return self._found


class _Inputs:
    """What went into one call, until it is taken: the graph, which outlives the batch's
    backward pass, must not keep it."""

    def __init__(self, layer: str, inputs: tuple[Tensor, ...]) -> None:
        self._layer, self._inputs = layer, inputs
        self._versions = [value._version for value in inputs]

    def take(self) -> tuple[Tensor, ...]:
        """The inputs, if nothing changed them since; they are forgotten here."""
        inputs = self._inputs
        if self._versions != [value._version for value in inputs]:
            raise ValueError(
                f"{self._layer}: its input was changed in place after the layer saw it; "
                "use the operation that returns a new tensor"
            )
        self._inputs, self._versions = (), []
        return inputs


def left_alone(rows: int, device: torch.device) -> Tensor:
    """Which samples of a batch a disturbing tape leaves as they are: bool[rows].

    Always the first, never the second and third, and else about every other one in an order
    of no pattern: reversed, rolled or dealt out, a batch has others in these places.
    """
    place = torch.arange(rows, device=device)
    return ((place.square() * 1657 // 2048) % 2 == 0) & (place != 1) & (place != 2)


# --- What a tape puts on the modules while it runs -----------------------------------
#
# The order matters. A layer's parameters are constants after the model's own hooks have
# prepared a call, and its output is seen before its own hooks change it.


class Freeze:
    """Makes a layer's parameters constants as its forward pass begins."""

    def __init__(self, tape: Tape, layer: Layer) -> None:
        self._tape, self._layer = tape, layer

    def __call__(self, _module: nn.Module, _args: Any) -> None:
        """Before `forward`, after the model's own hooks."""
        if self._tape.recording:
            set_trainable(self._layer, False)


class Unfreeze:
    """Makes them variables again as it ends, and records the call."""

    def __init__(self, tape: Tape, layer: Layer) -> None:
        self._tape, self._layer = tape, layer

    def __call__(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Any:
        """After `forward`, before the model's own hooks; gives the output to go on with."""
        if not self._tape.recording:
            return None
        try:
            return self._recorded(args, kwargs, output)
        finally:
            # Last, for an output that is a view of a parameter would follow it.
            set_trainable(self._layer, True)

    def _recorded(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        if not isinstance(output, Tensor):
            raise ValueError(
                f"{self._layer.name}: returns {type(output).__name__}; a layer with trainable "
                "parameters must return one tensor"
            )
        inputs = tuple(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        # Without the tensors, which would be kept alive until all of the batch is done.
        left = tuple(map(_emptied, args)), {name: _emptied(one) for name, one in kwargs.items()}
        again = partial(_filled, *left)
        return self._tape.record(self._layer, inputs, output, again=again)


_PLACE: Final = object()
"""Where a tensor was."""


def _emptied(value: Any) -> Any:
    return _PLACE if isinstance(value, Tensor) else value


def _filled(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], tensors: Sequence[Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with other tensors in the places of its own."""
    rest = iter(tensors)

    def filled(value: Any) -> Any:
        return next(rest) if value is _PLACE else value

    return tuple(map(filled, args)), {name: filled(value) for name, value in kwargs.items()}


class RecordedForward:
    """Stands in for a layer's own forward pass, with its parameters constant meanwhile."""

    def __init__(self, tape: Tape, layer: Layer, forward: Callable[..., Any]) -> None:
        self._tape, self._layer, self._forward = tape, layer, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer's own `forward` returns."""
        if not self._tape.recording:
            return type(self._layer.module).forward(self._layer.module, *args, **kwargs)
        set_trainable(self._layer, False)
        try:
            return self._forward(
                self._layer, partial(self._tape.record, self._layer), *args, **kwargs
            )
        finally:
            set_trainable(self._layer, True)


class RefusePacked:
    """Refuses packed sequences, which hold samples by length and not in the order of the losses."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        """Raises: ValueError where an argument is a packed sequence."""
        if any(isinstance(value, PackedSequence) for value in args):
            raise ValueError(
                f"{self._name}: got a PackedSequence, whose rows are not samples; "
                "pad to one length and mask"
            )


def set_trainable(layer: Layer, trainable: bool) -> None:
    """Make a layer's parameters variables of autograd, or constants.

    Raises: ValueError where they are no leaves now: under `torch.func`, or replaced for a call.
    """
    try:
        for own in layer.parameters:
            getattr(layer.module, own).requires_grad_(trainable)
    except RuntimeError as error:
        raise ValueError(
            f"{layer.name}: called under a function transform (torch.func), or with other tensors "
            "in the place of its parameters; call it as it is"
        ) from error
