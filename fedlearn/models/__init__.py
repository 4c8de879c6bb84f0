"""The models that can be federated: `MODELS` lists them, each in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedlearn.core.errors import ConfigError
from fedlearn.core.registry import Family
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, load_vector
from fedlearn.models.cnn import Cnn
from fedlearn.models.custom import Custom, check_module
from fedlearn.models.ebm import Ebm
from fedlearn.models.finetune import Finetune, Learner, cut, stages
from fedlearn.models.given import GivenModel
from fedlearn.models.huggingface import HuggingFaceModel
from fedlearn.models.initialise import allocate, initialise
from fedlearn.models.model import NAMES, NOTHING, Model, Weights
from fedlearn.models.resnet import ResNet
from fedlearn.models.retriever import Retriever
from fedlearn.models.scattering import Scattering
from fedlearn.models.sequence import Sequence
from fedlearn.models.squeezenet import SqueezeNet
from fedlearn.models.tabular import Tabular
from fedlearn.models.text import Text
from fedlearn.models.vit import ViT
from fedlearn.models.whitening import is_whitened, whiten
from fedlearn.tasks import Task

__all__ = [
    "MODELS",
    "Finetune",
    "Learner",
    "Model",
    "Weights",
    "build",
    "freezes",
    "of_the_house",
    "problems",
    "restored",
    "trained",
]

MODELS: Family[Model] = Family(
    "model",
    "fedlearn.models",
    (
        Tabular,
        Ebm,
        Cnn,
        ResNet,
        ViT,
        SqueezeNet,
        Scattering,
        Text,
        Sequence,
        HuggingFaceModel,
        Retriever,
        Custom,
        GivenModel,
    ),
    base=Model,
)

WHOLE = Finetune()


def of_the_house(config: Model) -> bool:
    """Whether all code of the model is that of this project."""
    return type(config) in MODELS.own and not isinstance(config, Custom | GivenModel)


def build(
    config: Model,
    task: Task,
    streams: Streams,
    finetune: Finetune = WHOLE,
    weights: Weights = NOTHING,
) -> Learner:
    """A new model for `task`, on the CPU, with the initial weights of the run.

    Guarantees: the same (config, task, seed, weights) give the same model, bit
    for bit, whatever part of it `finetune` trains; no global generator is read, and
    that of torch is as before where somebody's own model draws from it.

    Raises:
        ConfigError: `finetune` does not fit the model, or somebody's own cannot be trained.
        ValueError: `weights` are not those of this model.
    """
    if not isinstance(task.input, config.input):
        raise TypeError(f"the model needs other records: {problems(config, task)[0]}")
    generator = torch.Generator().manual_seed(streams.torch_seed("model"))
    if config.draws_own_weights:
        model = _drawn(config, task, streams.torch_seed("model"))
    elif config.has_all_weights:
        with torch.device("meta"):
            model = config.network(task)
        if config.learns_head:
            new = stages(head=model.get_submodule("head"))
            allocate(new)
            initialise(new, generator)
        _take_as_they_are(model, weights, but="head." if config.learns_head else None)
    else:
        with torch.device("meta"):
            model = config.network(task)
        allocate(model)
        initialise(model, generator)
        _take_over(model, config, weights)
    meant, shared = _meant(config, finetune), config.has_all_weights
    learner = cut(model, meant, generator, head=config.learns_head, shared=shared)
    if is_whitened(meant):
        whiten(learner, task, meant, generator)
    if not (config.starts_pretrained or config.draws_own_weights) and learner.frozen_parameters:
        raise ConfigError(
            f"training.finetune={finetune.mode}: would keep random weights as they are; choose "
            "a pretrained model, or training.finetune=full"
        )
    return learner


def trained(
    config: Model,
    task: Task,
    streams: Streams,
    finetune: Finetune,
    vector: Vector | None,
    cache: Path,
) -> nn.Module:
    """The whole model of a run, from records to outputs, with its trained weights `vector`, or
    as it was before training.

    `cache` is the folder that archives of public weights are kept in.

    Raises:
        DataError, ConfigError: as `Model.weights` and `build`.
    """
    learner = build(config, task, streams, finetune, config.weights(cache))
    if vector is not None:
        load_vector(learner.model, vector)
    return learner.whole()


@torch.no_grad()
def restored(config: Model, task: Task, weights: Mapping[str, Tensor]) -> nn.Module:
    """The whole model of a run with all of its weights, by the names of `forms.whole_weights`.

    Nothing public is read beside the settings in a folder that the model names.

    Raises:
        ConfigError: as `build`.
        ValueError: the weights are not those of such a model.
    """
    if config.draws_own_weights:
        model = _drawn(config, task, 0)
    else:
        with torch.device("meta"):
            model = config.network(task)
        allocate(model)
    there: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    if strange := sorted(there.keys() ^ weights.keys()):
        raise ValueError(f"weights of another model: apart in {', '.join(strange[:3])}")
    for name, tensor in there.items():
        if tensor.shape != weights[name].shape:
            raise ValueError(f"{name} is {[*weights[name].shape]}, not {[*tensor.shape]}")
        tensor.copy_(weights[name])
    return model.requires_grad_(False)


def _drawn(config: Model, task: Task, seed: int) -> nn.Sequential:
    """A model that fills its own weights, from torch's generator under the seed of the run.

    Raises:
        ConfigError: it is another one every time, or cannot be trained.
    """
    with torch.random.fork_rng(devices=[]):
        models = []
        for _ in range(2):
            torch.default_generator.manual_seed(seed)
            models.append(config.network(task))
    one, other = (model.state_dict() for model in models)
    if shapeless := [n for n, values in one.items() if is_lazy(values)]:
        raise ConfigError(
            f"model={config.kind}: {', '.join(shapeless[:3])} has no shape yet; give the size "
            "in place of a lazy layer: task.input_shape has it"
        )
    unlike = [n for n in one if n not in other or not torch.equal(one[n], other[n])]
    if unlike or one.keys() != other.keys():
        raise ConfigError(
            f"model={config.kind}: its initial weights are others at every call "
            f"({', '.join(unlike[:3])}), so sites would not start from one model; draw them "
            "from torch's generator alone, which is seeded for the call"
        )
    with torch.random.fork_rng(devices=[]):  # it may draw whatever its mode
        check_module(config.kind, models[0], task)
    return models[0]


def _take_over(model: nn.Module, config: Model, weights: Weights) -> None:
    """Puts all pretrained weights in; only the head may be without one."""
    if not config.starts_pretrained:
        return
    state = model.state_dict()
    if strange := weights.keys() - state.keys():
        raise ValueError(f"weights of no layer of the model: {', '.join(sorted(strange))}")
    if missing := [n for n in state if not n.startswith("head.") and n not in weights]:
        raise ValueError(f"no weights for {', '.join(missing)}")
    if unlike := [n for n, values in weights.items() if values.shape != state[n].shape]:
        raise ConfigError([_unlike(n, weights[n], state[n]) for n in unlike])
    with torch.no_grad():
        for name, values in weights.items():
            state[name].copy_(values)


def _take_as_they_are(model: nn.Module, weights: Weights, but: str | None) -> None:
    """Have the weights as the parameters of a model that has none, without a copy.

    What two layers share stays shared. What is trained later gets numbers of its own then. Names
    that begin with `but` are of what has its numbers already.
    """
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names -= {name for name in names if but and name.startswith(but)}
    if strange := weights.keys() ^ names:
        raise ConfigError(
            f"model.folder: holds other weights than its config.json says; apart in "
            f"{', '.join(sorted(strange)[:5])}. Download the folder again"
        )
    made: dict[Tensor, nn.Parameter] = {}
    for module_name, module in model.named_modules():
        for own, parameter in list(module.named_parameters(recurse=False)):
            name = f"{module_name}.{own}"
            if name not in names:
                continue
            if parameter not in made:
                if parameter.shape != weights[name].shape:
                    raise ConfigError([_unlike(name, weights[name], parameter)])
                made[parameter] = nn.Parameter(weights[name], requires_grad=False)
            setattr(module, own, made[parameter])
        if constants := [own for own, _ in module.named_buffers(recurse=False)]:
            raise TypeError(f"{module_name}: holds {', '.join(constants)} beside weights")


def _unlike(name: str, weight: Tensor, wanted: Tensor) -> str:
    return (
        f"model.pretrained: its {name} is {list(weight.shape)} where the model has "
        f"{list(wanted.shape)}; the model's sizes, and a scenario's tokenizer, are those of what "
        "it is pretrained from"
    )


def _meant(config: Model, finetune: Finetune) -> Finetune:
    """Where the head is all that can be trained, what comes before is computed once."""
    alone = config.learns_head_alone and finetune.mode == "full"
    return Finetune(mode="head") if alone else finetune


def freezes(config: Model, finetune: Finetune) -> bool:
    """Whether a part of the model stays as it is, and is computed once for every record."""
    return _meant(config, finetune).mode != "full"


def problems(config: Model, task: Task) -> list[str]:
    """What is wrong with this pair of model and task, as `dotted.path: reason` lines."""
    if not isinstance(task.input, config.input):
        wanted = " or ".join(NAMES[form] for form in config.input)
        there = NAMES[type(task.input)]
        return [f"model={config.kind}: needs {wanted}, and the scenario's records are {there}"]
    if task.searches != config.searches:
        way_out = "model=retriever" if task.searches else "task=retrieval"
        does = "searches" if config.searches else "does not search"
        return [f"model={config.kind}: {does}, and task={task.kind} is another; set {way_out}"]
    return list(config.problems(task))
