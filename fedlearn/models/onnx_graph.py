"""A trained model as an ONNX graph, which other languages and machines run without torch.

torch's own exporter writes it (`pip install 'fedlearn[onnx]'`). Nothing is handed out that was not
compared: onnxruntime runs the graph on made-up records, in batches and lengths other than the one
that it was made by, and has to answer as torch does.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.models.model import Model
from fedlearn.models.validate import made_up_records
from fedlearn.tasks import Task, TextInput
from fedlearn.tasks.tokens import TokenLogits

INPUT: Final = "records"
OUTPUT: Final = "outputs"
CLOSE: Final = 1e-4
"""How far numbers may be from torch's, absolute and relative."""
_TRACED: Final = 3
"""Records that it is made by; torch.export tells 0 and 1 from all other sizes."""
_TRIED: Final = (1, 2, 5)
_SHORTER: Final = 3
"""Tokens less of a text that is tried."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What a graph takes and gives, and how near it was to torch."""

    takes: tuple[str | int, ...]
    """The shape of its input; words are of any size."""
    type: str
    gives: tuple[str | int, ...]
    apart: float
    """The largest difference from torch's outputs that was found."""


class _Plain(nn.Module):
    """A model that gives a tensor: logits that nobody had written out are written out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, records: Tensor) -> Tensor:
        found = self.network(records)
        return found.written_out() if isinstance(found, TokenLogits) else found


def write_graph(path: Path, config: Model, task: Task, network: nn.Module) -> Graph:
    """Write what `network` computes of records of `task` into the file `path`.

    **Guarantees:** batches have any size, and texts any length that the model takes where it takes
    shorter ones than its records; onnxruntime has given the same as torch, within `CLOSE`.

    Raises:
        ConfigError: onnx is not installed, or this model cannot be written so.
    """
    runtime = _runtime()
    model = _Plain(network).eval().float()
    try:
        with _quiet(), torch.no_grad():
            _export(path, model, _records(task, _TRACED, 0), _sizes(config, task))
    except Exception as error:  # noqa: BLE001  # of torch.export, of onnxscript, of the model
        raise _cannot(config, f"torch cannot write it ({_first_line(error)})") from None
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # of onnxruntime's own kinds
        raise _cannot(config, f"onnxruntime does not run it ({_first_line(error)})") from None
    return _compared(session, config, task, model)


def _compared(session: Any, config: Model, task: Task, model: nn.Module) -> Graph:
    """What a graph takes and gives, if it is what the model takes and gives."""
    apart = 0.0
    for records in _tried(config, task):
        with torch.no_grad():
            wanted = model(records).numpy()
        try:
            [found] = session.run(None, {INPUT: records.numpy()})
        except Exception as error:
            raise _cannot(config, f"the graph takes no {[*records.shape]}") from error
        far = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else np.inf
        if np.isinf(far) or not np.allclose(found, wanted, rtol=CLOSE, atol=CLOSE):
            raise _cannot(config, f"the graph is {far:.2g} from the model")
        apart = max(apart, far)
    return _described(config, task, records, wanted.shape[1:], apart)


def _export(path: Path, model: nn.Module, records: Tensor, sizes: Mapping[int, Any]) -> None:
    # `strict`: the other way takes `len` of a tensor for a constant.
    program = torch.export.export(model, (records,), dynamic_shapes=(sizes,), strict=True)
    made = torch.onnx.export(
        program, input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False,
        dynamic_shapes=(sizes,),
    )  # fmt: skip
    for part in (made.model, made.model.graph, *made.model.graph.all_nodes()):
        part.metadata_props.clear()  # in which lines of code it is written, by their paths here
    made.save(str(path))


def _sizes(config: Model, task: Task) -> dict[int, Any]:
    found = {0: torch.export.Dim("batch", min=1, max=2**20)}
    if _any_length(config, task):
        found[1] = torch.export.Dim("length", min=2, max=config.context(task))
    return found


def _any_length(config: Model, task: Task) -> bool:
    return config.any_length and isinstance(task.input, TextInput) and task.input_shape[0] > 2


def _records(task: Task, count: int, seed: int) -> Tensor:
    return made_up_records(task, count, torch.Generator().manual_seed(seed))


def _tried(config: Model, task: Task) -> Iterator[Tensor]:
    for count in _TRIED:
        records = _records(task, count, count)
        yield records
        if _any_length(config, task):
            yield records[:, : max(2, records.shape[1] - _SHORTER)].contiguous()


def _described(
    config: Model, task: Task, records: Tensor, gives: tuple[int, ...], apart: float
) -> Graph:
    length = _any_length(config, task)
    takes = ("batch", *(("length",) if length else ()), *records.shape[1 + length :])
    of_tokens = length and task.next_tokens
    return Graph(
        takes=takes,
        type=str(records.dtype).removeprefix("torch."),
        gives=("batch", *(("length",) if of_tokens else ()), *gives[of_tokens:]),
        apart=apart,
    )


def _cannot(config: Model, why: str) -> ConfigError:
    return ConfigError(
        f"--to=onnx: model.kind={config.kind} has no ONNX form: {why}. Give --to a folder, for "
        "fedlearn predict, or --to int8 for one that is smaller"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0][:200]}"


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401  # what torch's exporter imports later
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--to=onnx: needs {error.name}; install it with pip install 'fedlearn[onnx]'"
        ) from None
    return onnxruntime


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of what other packages would add, and of its own old names."""
    root = logging.getLogger("torch.onnx")
    level = root.level
    root.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            root.setLevel(level)
