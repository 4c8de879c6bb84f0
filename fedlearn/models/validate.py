"""Can this model be trained with DP-SGD? Every reason why not, with the layer's name and the fix.

DP-SGD needs the gradient of each record by itself. A layer that mixes records
(batch normalisation) has none, and a parameter that is not owned by a layer
with a known per-sample gradient would be trained without clipping: the epsilon
would be false. Dropout draws for all records of a batch from one generator that is
no secret. All of these are refused before training, not met during it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedlearn.tasks import ImageInput, SeriesInput, TableInput, Task, TextInput

_BATCH = 4

MIXING = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
KNOWN = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Embedding,
    nn.LayerNorm,
    nn.GroupNorm,
)


def record_problems(model: nn.Module) -> dict[str, str]:
    """What no way to clip can make private: module name to one sentence; empty when there is none.

    What else a way cannot do it says itself: `dp_problems` for Opacus' hooks and ghost
    clipping, `fedlearn.training.dp.refusals` for the fast engine.
    """
    found = ((name, _record_problem(name, module)) for name, module in model.named_modules())
    return {name: problem for name, problem in found if problem}


def dp_problems(model: nn.Module) -> list[str]:
    """One sentence per layer that Opacus' per-sample gradients cannot train; empty when ready."""
    records = record_problems(model)
    problems = [
        problem
        for name, module in model.named_modules()
        if (problem := records.get(name) or _layer_problem(name, module))
    ]
    return problems + _shared(model)


def _record_problem(name: str, module: nn.Module) -> str | None:
    if isinstance(module, MIXING):
        return (
            f"{layer_label(name, module)} mixes the records of a batch; use GroupNorm or LayerNorm "
            "instead"
        )
    rate = module.p if isinstance(module, DROPOUT) else getattr(module, "dropout", 0.0)
    if isinstance(rate, float) and rate > 0:
        return (
            f"{layer_label(name, module)} draws from torch's generator, whose 32 bits of seed are "
            "no secret, and one record more changes what is dropped for the others; set its rate "
            "(model.dropout) to 0"
        )
    return None


def _layer_problem(name: str, module: nn.Module) -> str | None:
    label = layer_label(name, module)
    trained = [key for key, p in module.named_parameters(recurse=False) if p.requires_grad]
    if isinstance(module, nn.MultiheadAttention):
        return (
            f"{label} hides its projections; set training.dp_engine=fast, or build attention from "
            "Linear layers"
        )
    if trained and not isinstance(module, KNOWN):
        return (
            f"{label} holds {', '.join(trained)} without a known per-sample gradient; "
            f"use {', '.join(kind.__name__ for kind in KNOWN)}, or freeze it"
        )
    return None


def layer_label(name: str, module: nn.Module) -> str:
    """A layer in messages: where it is, and its class."""
    return f"layer {name or 'model'} ({type(module).__name__})"


def _shared(model: nn.Module) -> list[str]:
    seen: dict[int, str] = {}
    problems = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            continue
        first = seen.setdefault(id(parameter), name)
        if first != name:
            problems.append(f"parameter {name} is shared with {first}; untie or freeze it")
    return problems


# --- what no list of layers shows -------------------------------------------------


def batch_problems(model: nn.Module, task: Task) -> Iterator[str]:
    """What a few random records show of somebody's own forward pass: what mixes or keeps records.

    The engine's own trial (`fedlearn.training.dp.trial`) begins at the first layer; a mean that
    is taken from a batch before it shows here. Weights are random as well, for those of a new
    model may be zero. The model's modes and torch's generator stay as they are.

    Args:
        model: records `[n, *task.input_shape]` to outputs, all of it, in the modes it trains in.
    """
    coins = torch.Generator().manual_seed(0)
    state = {name: buffer.detach().cpu().clone() for name, buffer in model.named_buffers()}
    for name, weight in model.named_parameters():
        state[name] = weight.detach().cpu() + 0.1 * torch.randn(weight.shape, generator=coins)
    before = {name: tensor.clone() for name, tensor in state.items()}
    mine, others = (made_up_records(task, _BATCH, coins) for _ in range(2))
    others[0] = mine[0]

    def first(batch: Tensor, seed: int = 0) -> Tensor:
        torch.default_generator.manual_seed(seed)
        outputs: Tensor = functional_call(model, state, (batch,))
        return outputs[0]

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            one, beside, again, drawn = first(mine), first(others), first(mine), first(mine, 1)
        except Exception as error:  # noqa: BLE001  (somebody's own code)
            yield f"fails on a batch of {_BATCH} random records ({type(error).__name__}: {error})"
            return
    if changed := [name for name in state if not _alike(state[name], before[name])]:
        yield (
            f"its forward pass changes {', '.join(changed)}, and what it keeps of a batch is not "
            "clipped; keep it constant while training"
        )
    elif not _alike(one, beside):
        yield (
            "what it says of a record depends on the others of its batch, so that no record's "
            "gradient is its own; take out what mixes the batch (a mean or a norm over it)"
        )
    elif not _alike(one, again):
        yield "it remembers the records that it has seen; what it keeps of them is not clipped"
    elif not _alike(one, drawn):
        yield (
            "its forward pass draws from torch's generator, whose 32 bits of seed are no secret, "
            "and one record more changes what the others get; leave out what is random (dropout)"
        )


def _alike(one: Tensor, other: Tensor) -> bool:
    if not one.dtype.is_floating_point:
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)


def made_up_records(task: Task, count: int, coins: torch.Generator) -> Tensor:
    """Records that nobody has, of the form of a task: `[count, *task.input_shape]`."""
    match task.input:
        case TableInput() as table:
            return _rows(table, (count,), coins)
        case SeriesInput() as series:
            rows = _rows(series.row, (count, series.steps), coins)
            return torch.cat([rows, torch.ones(count, series.steps, 1)], dim=-1)
        case ImageInput():
            return torch.rand(count, *task.input_shape, generator=coins)
        case TextInput() as text:
            return torch.randint(text.vocabulary, (count, *task.input_shape), generator=coins)


def _rows(table: TableInput, shape: tuple[int, ...], coins: torch.Generator) -> Tensor:
    numbers = torch.randn(*shape, table.numeric, generator=coins)
    codes = [torch.randint(n, (*shape, 1), generator=coins).float() for n in table.cardinalities]
    return torch.cat([numbers, *codes], dim=-1)
