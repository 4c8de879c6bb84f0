"""Can this model be trained with DP-SGD? Every reason why not, with the layer's name and the fix.

DP-SGD needs the gradient of each record by itself. A layer that mixes records
(batch normalisation) has none, and a parameter that is not owned by a layer
with a known per-sample gradient would be trained without clipping: the epsilon
would be false. Dropout draws for all records of a batch from one generator that is
no secret. All three are refused before training, not met during it.
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


def dp_problems(model: nn.Module) -> list[str]:
    """One sentence per layer that DP-SGD cannot train; empty when the model is ready."""
    problems = [
        problem
        for name, module in model.named_modules()
        if (problem := _layer_problem(name or "model", module))
    ]
    return problems + _shared(model)


def _layer_problem(name: str, module: nn.Module) -> str | None:
    label = f"layer {name} ({type(module).__name__})"
    if isinstance(module, MIXING):
        return f"{label} mixes the records of a batch; use GroupNorm or LayerNorm instead"
    trained = [key for key, p in module.named_parameters(recurse=False) if p.requires_grad]
    if isinstance(module, DROPOUT) and module.p > 0:
        return (
            f"{label} draws from torch's generator, whose 32 bits of seed are no secret, and one "
            "record more changes what is dropped for the others; set its rate (model.dropout) to 0"
        )
    if isinstance(module, nn.MultiheadAttention):
        return f"{label} hides its projections; build attention from Linear layers instead"
    if trained and not isinstance(module, KNOWN):
        return (
            f"{label} holds {', '.join(trained)} without a known per-sample gradient; "
            f"use {', '.join(kind.__name__ for kind in KNOWN)}, or freeze it"
        )
    return None


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
