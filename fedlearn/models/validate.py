"""Can this model be trained with DP-SGD? Every reason why not, with the layer's name and the fix.

DP-SGD needs the gradient of each record by itself. A layer that mixes records
(batch normalisation) has none, and a parameter that is not owned by a layer
with a known per-sample gradient would be trained without clipping: the epsilon
would be false. Dropout draws for all records of a batch from one generator that is
no secret. All of these are refused before training, not met during it.
"""

from __future__ import annotations

from torch import nn

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
