"""Per-sample gradients of any other layer: its forward pass again, vectorised over samples.

Exact for every layer that treats samples independently and draws nothing at
random. Slower than a rule made for the layer, and it holds that layer's
per-sample gradients; the engine lists the layers that came here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlearn.training.dp.contribution import Contribution, instantiated
from fedlearn.training.dp.layer import Call, Layer, PerSample, Rule


def _contributions(layer: Layer, calls: Sequence[Call | PerSample]) -> list[Contribution]:
    found = [_gradients(layer, call) for call in calls if isinstance(call, Call)]
    return [
        instantiated(known, sum((one[own] for one in found[1:]), start=found[0][own]))
        for own, known in layer.parameters.items()
    ]


def _gradients(layer: Layer, call: Call) -> dict[str, Tensor]:
    """Per-sample gradients of the layer's own parameters, by their own names."""
    values = {own: getattr(layer.module, own).detach() for own in layer.parameters}
    axis = 1 if layer.sequence_first else 0

    def one_sample(values: dict[str, Tensor], inputs: tuple[Tensor, ...], g: Tensor) -> Tensor:
        batched = [_as_batch(value, axis) for value in inputs]
        args, kwargs = call.again(batched) if call.again else (tuple(batched), {})
        output = torch.func.functional_call(layer.module, values, args, kwargs)
        product: Tensor = (output.to(g.dtype) * _as_batch(g, axis)).sum()
        return product

    with torch.enable_grad():
        per_sample = torch.func.vmap(torch.func.grad(one_sample), in_dims=(None, 0, 0))
        try:
            found: dict[str, Tensor] = per_sample(values, call.inputs, call.gradient)
        except torch.OutOfMemoryError:
            raise  # of which no layer is the reason
        except RuntimeError as error:
            raise ValueError(
                f"{layer.name} ({type(layer.module).__name__}): its forward pass cannot run "
                f"sample by sample ({str(error).splitlines()[0]}); build it from layers that "
                "fedlearn.training.dp.plan has a rule for, or freeze it"
            ) from error
    return {own: value.detach() for own, value in found.items()}


def _as_batch(value: Tensor, axis: int) -> Tensor:
    return value.unsqueeze(axis if value.dim() >= 2 else 0)


FALLBACK = Rule(name="vectorised forward pass", contributions=_contributions)
