"""What a tape puts on the modules of a model while it runs: parameters made constant, calls seen.

The order matters. A layer's parameters are constants after the model's own hooks
have prepared a call, and its output is seen before its own hooks change it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fedlearn.training.dp.layer import Layer

if TYPE_CHECKING:
    from fedlearn.training.dp.tape import Tape


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
        # Without an output the forward pass failed, and its error ends the tape.
        if not self._tape.recording or output is None:
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
