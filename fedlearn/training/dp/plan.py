"""Which module owns which trainable parameter, which rule handles it, and what is refused.

Refused is whatever cannot be exact: layers that mix samples, parameters that
two layers share, layers that hide where their parameters are used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from fedlearn.core.errors import ConfigError
from fedlearn.training.dp.attention import ATTENTION
from fedlearn.training.dp.convolution import CONVOLUTION
from fedlearn.training.dp.fallback import FALLBACK
from fedlearn.training.dp.layer import Layer, Rule
from fedlearn.training.dp.linear import LINEAR
from fedlearn.training.dp.normalisation import GROUP_NORM, LAYER_NORM, RMS_NORM
from fedlearn.training.dp.tables import EMBEDDING, SAMPLE_PARAMETER, SampleParameter

RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: LINEAR,
    nn.Conv1d: CONVOLUTION,
    nn.Conv2d: CONVOLUTION,
    nn.Embedding: EMBEDDING,
    nn.LayerNorm: LAYER_NORM,
    nn.RMSNorm: RMS_NORM,
    nn.GroupNorm: GROUP_NORM,
    nn.MultiheadAttention: ATTENTION,
    SampleParameter: SAMPLE_PARAMETER,
}
"""Adding a kind of layer is one module and one line here."""

_WAYS_OUT: dict[type[nn.Module], str] = {
    nn.LSTM: "runs all steps in one call; use opacus.layers.DPLSTM",
    nn.GRU: "runs all steps in one call; use opacus.layers.DPGRU",
    nn.RNN: "runs all steps in one call; use opacus.layers.DPRNN",
    nn.EmbeddingBag: "mixes ids of all samples in one list; use nn.Embedding and a sum",
    _BatchNorm: "mixes the samples of a batch; use nn.GroupNorm",
}


def layers_of(model: nn.Module) -> tuple[Layer, ...]:
    """The layers that own the trainable parameters of `model`, in the model's order.

    Raises: ConfigError with every layer that cannot be handled exactly, and its way out.
    """
    if problems := refusals(model):
        raise ConfigError(problems)
    known = _trainable(model)
    held: dict[int, dict[str, str]] = {}
    for parameter, (module, *_) in _owners(model).items():
        for own, value in module.named_parameters(recurse=False):
            if id(value) == parameter:
                held.setdefault(id(module), {})[own] = known[parameter]
    first = sequence_first(model)
    found = []
    for name, module in model.named_modules():
        if id(module) not in held and not (_opened(module) and _learns(module)):
            continue
        parameters = held.get(id(module), {})
        rule = _rule(module, parameters)
        found.append(
            Layer(
                name=name or type(module).__name__,
                module=module,
                rule=rule,
                parameters=parameters,
                # What a rule records from inside a layer has the sample first.
                sequence_first=id(module) in first and rule.forward is None,
            )
        )
    return tuple(found)


def refusals(model: nn.Module, *, besides: Collection[str] = ()) -> list[str]:
    """Why the engine cannot handle `model` exactly, with the ways out; empty when it can.

    `besides`: names of modules that were refused for another reason.
    """
    problems = list(_problems(model, besides))
    known = _trainable(model)
    if not known:
        problems.append("the model has no trainable parameter; unfreeze a part of it")
    names = {id(module): name for name, module in model.named_modules()}
    for parameter, modules in _owners(model).items():
        if len(modules) > 1:
            places = ", ".join(names[id(module)] for module in modules)
            problems.append(
                f"{known[parameter]} is shared by {places}: untie it, freeze it, or "
                "call one module twice"
            )
    return problems


def _trainable(model: nn.Module) -> dict[int, str]:
    return {id(p): name for name, p in model.named_parameters() if p.requires_grad}


def mixing(model: nn.Module) -> list[str]:
    """Names of modules that, as they stand now, compute statistics over the batch."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats)
    ]


def sequence_first(model: nn.Module) -> set[int]:
    """Ids of the modules whose sample is on axis 1: the next one above that says where has
    `batch_first=False`."""
    found: set[int] = set()

    def descend(module: nn.Module, first: bool) -> None:
        says = _batch_first(module)
        first = first if says is None else not says
        for child in module.children():
            if first:
                found.add(id(child))
            descend(child, first)

    descend(model, False)
    return found


def _batch_first(module: nn.Module) -> bool | None:
    """What a module says of the axes inside it; torch's Transformers say it by their parts."""
    match module:
        case nn.TransformerEncoderLayer() | nn.TransformerDecoderLayer():
            return _batch_first(module.self_attn)
        case nn.TransformerEncoder() | nn.TransformerDecoder():
            return _batch_first(next(iter(module.layers)))
    says = getattr(module, "batch_first", None)
    return says if isinstance(says, bool) else None


def _rule(module: nn.Module, parameters: dict[str, str]) -> Rule:
    """The rule of the class whose `forward` the module runs; else the fallback."""
    for kind, rule in RULES.items():
        # With a forward pass of its own it is a different layer, whatever it inherits.
        same = isinstance(module, kind) and type(module).forward is kind.forward
        same = same and "forward" not in vars(module)
        if same and rule.knows.issuperset(parameters):
            return rule
    return FALLBACK


def _problems(model: nn.Module, besides: Collection[str]) -> Iterator[str]:
    for name, module in model.named_modules():
        if name in besides:
            continue
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        place = f"{name or 'model'} ({type(module).__name__})"
        if parametrize.is_parametrized(module):
            yield (
                f"{place}: is parametrized; bake it with "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
        elif own and (reason := _refused(module)):
            yield f"{place}: {reason}"
        elif own and _holds_others(module) and not _opened(module):
            yield (
                f"{place}: has trainable parameters of its own beside layers with parameters; "
                "hold them in a fedlearn.training.dp.SampleParameter"
            )


def _refused(module: nn.Module) -> str | None:
    for kind, way_out in _WAYS_OUT.items():
        if isinstance(module, kind):
            return way_out
    for kind, rule in RULES.items():
        if isinstance(module, kind) and (reason := rule.refusal(module)):
            return reason
    return None


def _holds_others(module: nn.Module) -> bool:
    """Whether a parameter of the module's own sits beside children that have different ones."""
    own = {id(p) for p in module.parameters(recurse=False) if p.requires_grad}
    below = {id(p) for child in module.children() for p in child.parameters()}
    # Opacus' recurrent layers register their cells' parameters again under torch's names.
    return bool(below) and not own <= below


def _opened(module: nn.Module) -> bool:
    """Whether a rule runs the layer's forward pass itself, and with it the layers inside."""
    return any(isinstance(module, kind) and rule.forward for kind, rule in RULES.items())


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _owners(model: nn.Module) -> dict[int, list[nn.Module]]:
    """Parameter to the modules that hold it directly, without those that hold such a module."""
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                owners.setdefault(id(parameter), []).append(module)
    return {
        parameter: [
            module
            for module in modules
            if not any(inner is not module and inner in list(module.modules()) for inner in modules)
        ]
        for parameter, modules in owners.items()
    }
