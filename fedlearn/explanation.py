"""What a model goes by in single records: how much each column, place or pixel spoke for a class.

- Tables and texts: integrated gradients (Sundararajan, Taly and Yan 2017) along the
  line from a record that says nothing: numbers in the middle of their range and
  categories that were never seen, or padding. Categories and tokens have no
  gradient; the line runs between their vectors, in the first layer that makes
  them. So for rows over time, column by column, added up over the rows.
  Attributions add up to the score of the record less that of the baseline.
- Images: Grad-CAM (Selvaraju et al. 2017) at the last convolution; for a model
  without one, integrated gradients of the pixels from a grey image.

An explanation is computed from a record and says something about it: those of a
client's records are a release of data that no epsilon covers. The methods are
captum's (an extra); this file chooses them by the kind of input.

An attribution is about the model, not about the world: it does not say what
would happen to a person whose value were another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerGradCam, LayerIntegratedGradients
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.models.tabular import widths
from fedlearn.tasks import ImageInput, Input, SeriesInput, TableInput, Task, TextInput, shape_of

Method = Literal["integrated_gradients", "grad_cam"]

STEPS = 64
"""Places on the line from the baseline at which gradients are taken."""

_AT_A_TIME = 256
"""Gradients computed together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """What a model said of n records, and by what.

    `scores: float64[n, outputs]` are its answers (of a classifier, probabilities),
    `predicted: int64[n]` the largest (the most probable class), for which
    `attributions: float64[n, ...]` speak: one for each column, token, or
    pixel (`[n, height, width]`). `remainder: float64[n]` is what integrated gradients left
    unexplained of the score; zero for Grad-CAM.
    """

    method: Method
    scores: NDArray[np.float64]
    predicted: NDArray[np.int64]
    attributions: NDArray[np.float64]
    remainder: NDArray[np.float64]


def explain(model: nn.Module, task: Task, features: NDArray[Any]) -> Explained:
    """Explain what `model` says of records `features: [n, ...]` of the task.

    The model is put into evaluation mode; its weights are not changed.

    Raises:
        ValueError: the features have another shape, or the model takes no vectors
            of the categories or tokens that could be followed.
    """
    shape = task.input
    _check(shape, features)
    model.eval()
    records = torch.from_numpy(np.ascontiguousarray(features))
    with torch.no_grad():
        scores = task.answers(model(records))
    classes = scores.argmax(1)
    match shape:
        case TableInput():
            method, found, rest = _of_columns(model, shape, records, classes)
        case TextInput():
            method, found, rest = _of_tokens(model, shape, records, classes)
        case ImageInput():
            method, found, rest = _of_pixels(model, records, classes)
        case SeriesInput():
            method, found, rest = _of_steps(model, shape, records, classes)
    return Explained(
        method=method,
        scores=scores.numpy(),
        predicted=classes.numpy(),
        attributions=found.detach().double().numpy(),
        remainder=rest.detach().double().numpy(),
    )


def _check(shape: Input, features: NDArray[Any]) -> None:
    if features.shape[1:] != shape_of(shape) or not len(features):
        wanted = ", ".join(map(str, shape_of(shape)))
        raise ValueError(f"features are {list(features.shape)}; the model takes [n, {wanted}]")


Found = tuple[Method, Tensor, Tensor]


# --- tables -----------------------------------------------------------------------


def _of_columns(model: nn.Module, table: TableInput, rows: Tensor, classes: Tensor) -> Found:
    baseline = torch.zeros_like(rows)
    if not (table.cardinalities or table.squashed):
        return "integrated_gradients", *_integrated(model, rows, baseline, classes)
    first = next(iter(model.children()), None)
    if first is None:
        raise ValueError("the model has no first layer that turns categories into vectors")
    along, rest = _integrated_at(model, [first], rows, baseline, classes)
    return "integrated_gradients", _by_column(along, table), rest


def _by_column(along: Tensor, table: TableInput) -> Tensor:
    """Attributions of a layer's output, `[n, one-hot]` or `[n, tokens, width]`, as `[n, columns]`.

    A token more than there are columns comes first and belongs to none of them.
    """
    if along.ndim == 3 and along.shape[1] in (table.width, table.width + 1):
        return along.sum(2)[:, -table.width :]
    sizes = widths(table)
    if along.ndim == 2 and along.shape[1] == sum(sizes):
        return torch.stack([part.sum(1) for part in torch.split(along, sizes, dim=1)], dim=1)
    raise ValueError(
        f"the first layer gives {list(along.shape)}; expected one-hot columns, or a token each"
    )


# --- rows over time ---------------------------------------------------------------


def _of_steps(model: nn.Module, series: SeriesInput, records: Tensor, classes: Tensor) -> Found:
    """What each column did over all rows of a record; the baseline has as many rows."""
    baseline = torch.cat([torch.zeros_like(records[..., :-1]), records[..., -1:]], dim=-1)
    if not (series.row.cardinalities or series.row.squashed):
        found, rest = _integrated(model, records, baseline, classes)
        return "integrated_gradients", found[..., :-1].sum(1), rest
    first = next(iter(model.children()))
    along, rest = _integrated_at(model, [first], records, baseline, classes)
    return "integrated_gradients", _by_column(along[..., :-1].sum(1), series.row), rest


# --- texts ------------------------------------------------------------------------


def _of_tokens(model: nn.Module, text: TextInput, tokens: Tensor, classes: Tensor) -> Found:
    layers: list[nn.Module] = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Embedding) and layer.num_embeddings == text.vocabulary
    ]
    if not layers:
        raise ValueError("the model has no vectors of its tokens that could be followed")
    baseline = torch.full_like(tokens, text.pad_id)
    along, rest = _integrated_at(model, layers, tokens, baseline, classes)
    return "integrated_gradients", along.sum(2), rest


# --- images ---------------------------------------------------------------------


def _of_pixels(model: nn.Module, images: Tensor, classes: Tensor) -> Found:
    layer = _last_map(model)
    if layer is None:
        found, rest = _integrated(model, images, torch.full_like(images, 0.5), classes)
        return "integrated_gradients", found.sum(1), rest
    # Frozen layers have no parameter that asks for a gradient, so the input does.
    watched = images.clone().requires_grad_()
    coarse = LayerGradCam(model, layer).attribute(watched, target=classes, relu_attributions=True)
    size = images.shape[-2:]
    fine = functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return "grad_cam", fine[:, 0], torch.zeros(len(images))


def _last_map(model: nn.Module) -> nn.Module | None:
    """The last convolution that makes a map of the image; cutting it into patches does not."""
    found = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d)
        and (layer.kernel_size == (1, 1) or layer.stride < layer.kernel_size)
    ]
    return found[-1] if found else None


# --- integrated gradients -------------------------------------------------------------


def _integrated(
    model: nn.Module, records: Tensor, baseline: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = IntegratedGradients(model).attribute(
        records, baseline, target=classes, n_steps=STEPS, internal_batch_size=_AT_A_TIME,
        return_convergence_delta=True,
    )  # fmt: skip
    return found


def _integrated_at(
    model: nn.Module, layers: list[nn.Module], records: Tensor, baseline: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """Attributions of the output of `layers`, added up over the layers."""
    parts, rest = LayerIntegratedGradients(model, layers).attribute(
        records, baseline, target=classes, n_steps=STEPS, internal_batch_size=_AT_A_TIME,
        return_convergence_delta=True,
    )  # fmt: skip
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total, rest
