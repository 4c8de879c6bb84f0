"""A learned tensor that every sample uses: position tables, class tokens, biases.

A bare `nn.Parameter` in a model's `forward` leaves no trace of which sample
used it how. Held in a `SampleParameter` it does: the module hands each sample
its own copy, and the gradient at that copy is the sample's gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fedlearn.training.dp.contribution import Contribution, instantiated
from fedlearn.training.dp.layer import Call, Layer, PerSample, Rule


class SampleParameter(nn.Module):
    """Holds `value` and gives it to every sample of a batch.

    `forward(like)`, where `like` is any tensor whose first axis is the sample,
    returns `value` as a view of shape [batch, *value.shape].
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, like: Tensor) -> Tensor:
        """One copy of the value for each sample of `like`: float[batch, *value.shape]."""
        return self.value.expand(like.shape[0], *self.value.shape)


def _contributions(layer: Layer, calls: Sequence[Call | PerSample]) -> list[Contribution]:
    gradients = [call.gradient for call in calls if isinstance(call, Call)]
    return [instantiated(layer.parameters["value"], sum(gradients[1:], start=gradients[0]))]


SAMPLE_PARAMETER = Rule(
    name="sample parameter", contributions=_contributions, knows=frozenset({"value"})
)
