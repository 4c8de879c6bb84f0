"""The vocabulary between the tape, which records, and the rules, one for each kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fedlearn.training.dp.contribution import Contribution

Again = Callable[[Sequence[Tensor]], tuple[tuple[Any, ...], dict[str, Any]]]
"""Other tensors in the places of a call's inputs, to all of the call's arguments."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a layer: what went in, and the gradient of the losses at what came out.

    Every tensor has the sample as its first axis. `part` tells apart what a rule
    with a `forward` of its own recorded; `again` gives the arguments to repeat the call.
    """

    inputs: tuple[Tensor, ...]
    gradient: Tensor
    part: str = ""
    again: Again | None = None


@dataclass(frozen=True, kw_only=True)
class PerSample:
    """One call of a layer whose backward pass gave the per-sample gradients itself.

    `gradients`: by the parameter's own name, float[batch, *shape].
    """

    gradients: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A module that owns trainable parameters directly, and the rule that handles it.

    `parameters` maps the parameter's own name ("weight") to its name in the
    model ("encoder.0.weight"); frozen ones are not in it. `sequence_first`:
    activations of three or more axes have the sample on axis 1.
    """

    name: str
    module: nn.Module
    rule: Rule
    parameters: Mapping[str, str]
    sequence_first: bool = False


Deliver = Callable[[Call | PerSample], None]
Watch = Callable[[Layer, tuple[Tensor, ...], Tensor, Deliver], Tensor | None]
"""(layer, inputs, output, deliver) to the output to go on with; nothing: watch it as any other."""

Record = Callable[[tuple[Tensor, ...], Tensor, str], Tensor]
"""(inputs, output, part) of a computation inside a layer to the output to go on with."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one kind of layer turns its calls into contributions.

    `contributions` gets all calls of one batch, so that a layer used twice is
    exact. `knows` are the own names of the parameters it handles. `watch`,
    where given, replaces the tape's own way to catch the gradient at the
    output. `forward(layer, record, *args, **kwargs)`, where given, stands in for
    the layer's own forward pass and records, sample first, what goes on inside.
    `refusal` says why a module cannot be handled exactly, or nothing.
    """

    name: str
    contributions: Callable[[Layer, Sequence[Call | PerSample]], list[Contribution]]
    knows: frozenset[str] = frozenset({"weight", "bias"})
    watch: Watch | None = None
    forward: Callable[..., Any] | None = None
    refusal: Callable[[nn.Module], str | None] = lambda _: None
