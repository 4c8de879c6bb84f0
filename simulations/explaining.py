"""`fedlearn report DIR --explain ...`: what a model goes by, in records that may be shown.

Explained are public records, or those in a file that the caller names: an
explanation says something about its record, and one that leaves a site is a
release of data that no epsilon covers. The methods are captum's (an extra); this
file chooses them by the kind of input:

- Tables and texts: integrated gradients (Sundararajan, Taly and Yan 2017) along the
  line from a record that says nothing: numbers in the middle of their range and
  categories that were never seen, or padding. Categories and tokens have no
  gradient; the line runs between their vectors, in the first layer that makes
  them. So for rows over time, column by column, added up over the rows. Where the score
  is a sum over columns (`model=ebm`), they are what each column adds, and nothing is approximated.
  Attributions add up to the score of the record less that of the baseline.
- Images: Grad-CAM (Selvaraju et al. 2017) at the last convolution; for a model
  without one, integrated gradients of the pixels from a grey image.

An attribution is about the model, not about the world: it does not say what
would happen to a person whose value were another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import DATASETS, Csv
from fedlearn.data.tables.scaling import reads_records
from fedlearn.models.ebm import parts_of
from fedlearn.models.tabular import widths
from fedlearn.prediction import read_array, read_rows_of
from fedlearn.report.explanations import Explanations, Of, RecordExplained, write_explanations
from fedlearn.results.reading import read_bytes
from fedlearn.tasks import ImageInput, Input, SeriesInput, TableInput, Task, TextInput, shape_of
from simulations.attacks.audited_folder import AuditedRun, open_run
from simulations.attacks.measure import trained_model

try:
    from captum.attr import IntegratedGradients, LayerGradCam, LayerIntegratedGradients
except ModuleNotFoundError as error:
    raise ConfigError(
        f"--explain: {error.name} is not installed; pip install 'fedlearn[explain]'"
    ) from None

Method = Literal["integrated_gradients", "grad_cam"]

STEPS = 64
"""Places on the line from the baseline at which gradients are taken."""

_AT_A_TIME = 256
"""Gradients computed together."""

PUBLIC: Final = "public"
"""In place of a file: the test records of a public data set."""

MOST: Final = 200
"""Records that are explained; of more, the first ones."""

SHOWN: Final = 6
"""Records that are shown one by one."""


def explain_run(folder: Path, source: str) -> None:
    """Write `explanations.json` of the run in `folder`.

    `source` is `public`, or a file: `.npz` with the array `features` in the form that
    the model takes, or for a table of numbers `.csv` with the columns' names and units.

    Raises:
        ConfigError: captum is missing, or these records may not or cannot be explained.
        DataError: the file cannot be read, or the run was changed since its end.
    """
    run = open_run(folder)
    if run.task.next_tokens:
        raise ConfigError(
            "--explain: a language model answers with texts, and what is explained is a score; "
            "nothing here follows one through it"
        )
    if run.task.searches:
        raise ConfigError(
            "--explain: an encoder for search answers with documents, and what is explained is the "
            "score of a class; `fedlearn find` shows what it finds"
        )
    shape = run.task.input
    found, words = _public(run) if source == PUBLIC else _from_file(run, Path(source))
    features = found[:MOST].astype(np.int64 if isinstance(shape, TextInput) else "f4")
    if not len(features):
        raise DataError(f"{source}: holds no records")
    explained = explain(trained_model(run.config, run.task, run.model), run.task, features)
    attributions, table = explained.attributions, _columns(shape)
    records = [
        RecordExplained(
            record=int(i),
            predicted=run.task.answer_cells(explained.scores[i])[0],
            score=float(explained.scores[i].max()),
            values=_flat(_shown(shape, features[i])),
            attributions=_flat(attributions[i]),
        )
        for i in _chosen(explained.predicted, explained.scores.max(1))
    ]
    write_explanations(
        folder,
        Explanations(
            source=words,
            model_sha256=run.result.model.sha256,
            method=explained.method,
            of=_of(shape),
            names=list(table.names) if table else [],
            size=[shape.height, shape.width] if isinstance(shape, ImageInput) else [],
            count=len(features),
            overall=_flat(np.abs(attributions).mean(0)) if table else [],
            remainder=float(np.abs(explained.remainder).max()),
            records=records,
        ),
    )


def _columns(shape: Input) -> TableInput | None:
    """The columns that attributions are of, if of any."""
    match shape:
        case TableInput():
            return shape
        case SeriesInput():
            return shape.row
        case ImageInput() | TextInput():
            return None
        case _:
            assert_never(shape)


def _shown(shape: Input, record: NDArray[Any]) -> NDArray[Any]:
    """What the report shows of a record: an image in grey, of rows over time the last."""
    match shape:
        case ImageInput():
            return np.asarray(record.mean(0))
        case SeriesInput():
            return np.asarray(record[int(record[:, -1].sum()) - 1, :-1])
        case TableInput() | TextInput():
            return record
        case _:
            assert_never(shape)


def _of(shape: Input) -> Of:
    match shape:
        case TableInput() | SeriesInput():
            return "columns"
        case TextInput():
            return "tokens"
        case ImageInput():
            return "pixels"


def _flat(values: NDArray[Any]) -> list[float]:
    """Six digits: enough to see, and an image stays small."""
    return [float(f"{value:.6g}") for value in np.asarray(values, np.float64).reshape(-1)]


def _chosen(predicted: NDArray[np.int64], certain: NDArray[np.float64]) -> list[int]:
    """The surest record of each class, and then those that the model is least sure of."""
    order = np.argsort(-certain, kind="stable")
    surest = [next(i for i in order if predicted[i] == c) for c in np.unique(predicted)]
    rest = [i for i in order[::-1] if i not in surest]
    return [int(i) for i in (*surest[: SHOWN - 2], *rest)][:SHOWN]


# --- which records ------------------------------------------------------------------


def _public(run: AuditedRun) -> tuple[NDArray[Any], str]:
    """The test records of a public set, and what they are."""
    kind = run.config.scenario.kind
    if kind not in DATASETS:
        raise ConfigError(
            f"--explain {PUBLIC}: the records of scenario={kind} are not public. Give a file "
            "of records that may be shown: --explain FILE"
        )
    tests = [site.test.features for site in run.sites.values() if len(site.test)]
    # In turn from every site, so that the first of them are not all of one.
    rows = [site[i] for i in range(max(map(len, tests))) for site in tests if i < len(site)]
    return np.stack(rows[:MOST]), f"public test records of {kind}"


def _from_file(run: AuditedRun, path: Path) -> tuple[NDArray[Any], str]:
    """The records in a file, and which file it is."""
    digest = hashlib.sha256(read_bytes(path)).hexdigest()
    if path.suffix == ".npz":
        features = read_array(path, shape_of(run.task.input)).features
    elif path.suffix == ".csv":
        features = _rows(run, path)
    else:
        raise ConfigError(f"--explain {path}: must be {PUBLIC}, or a file .npz or .csv")
    return features, f"the records in {path.name} (SHA-256 {digest})"


def _rows(run: AuditedRun, path: Path) -> NDArray[Any]:
    """Rows of a file whose columns have the names and the units of the scenario's numbers."""
    shape, scaling = run.task.input, run.config.scenario.scales()
    refusal = ConfigError(
        f"--explain {path}: rows of text are read for tables of numbers with public ranges "
        "alone; give the records as the model takes them, in the array 'features' of a "
        "file .npz"
    )
    if not isinstance(shape, TableInput) or not shape.names or shape.cardinalities:
        raise refusal
    if scaling is None or reads_records(scaling):
        raise refusal
    return read_rows_of(Csv(path=str(path), label="-", scaling=scaling), shape, {}).features


# --- how much each part spoke for a class ----------------------------------------------


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
    parts, without = (parts_of(model, some) for some in (rows, baseline))
    if parts is not None and without is not None:  # what the integral comes to
        found = (parts - without)[torch.arange(len(rows)), :, classes]
        return "integrated_gradients", found, torch.zeros(len(rows))
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
