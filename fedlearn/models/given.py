"""Model `python`: an `nn.Module` of a program, or what makes one, as `fl.Study` takes it.

A module is copied when it is given, and trained from the weights that it has then. Weights
are taken for public, as everything that a run starts from: none of them may have been
learned from the records that are protected. A function or class is called in every run, under
torch's generator with the seed of the run.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from fedlearn.core import objects
from fedlearn.core.errors import ConfigError, refuse
from fedlearn.core.settings import Name, config
from fedlearn.models.custom import encoded, staged
from fedlearn.models.model import Model
from fedlearn.tasks import ImageInput, SeriesInput, TableInput, Task, TextInput

Builder = Callable[[Task], nn.Module]


@config
class GivenModel(Model):
    """A module of a program, which keeps it by the hash `module` (`fedlearn.core.objects`)."""

    kind: Literal["python"] = "python"
    input = (TableInput, ImageInput, TextInput, SeriesInput)
    draws_own_weights = True
    module: Name
    name: str = ""
    """Of its class or function."""

    def network(self, task: Task) -> nn.Sequential:
        """The module as stages, after what makes plain numbers of a record.

        Raises:
            ConfigError: the program that had it is gone, or its function fails.
        """
        builder: Builder = objects.find(self.module, f"model.module={self.module} ({self.name})")
        encoder, view = encoded(task)
        return staged(_made(builder, view, self.name), encoder)

    def code(self) -> tuple[str, str]:
        """A name for what it is, and its hash."""
        return f"python:{self.name}", self.module


def keep_model(made: nn.Module | Callable[..., Any], task: Task) -> GivenModel:
    """Keep a module, or a function or class that makes one; the settings that name it.

    Raises:
        ConfigError: it is neither, fails, or holds what cannot travel.
    """
    name = type(made).__name__ if isinstance(made, nn.Module) else made.__name__
    builder = _copies(made, name) if isinstance(made, nn.Module) else _calls(made, name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = _made(builder, encoded(task)[1], name)
    refuse(_problems(module), ConfigError)
    return GivenModel(module=objects.keep(_digest(module, made), builder), name=name)


def _copies(module: nn.Module, name: str) -> Builder:
    try:
        kept = copy.deepcopy(module).cpu()
    except Exception as error:
        raise ConfigError(
            f"model={name}: cannot be copied ({type(error).__name__}: {error}); give a function "
             "that makes it"
        ) from error  # fmt: skip
    return lambda task: copy.deepcopy(kept)


def _calls(function: Callable[..., Any], name: str) -> Builder:
    wanted = [
        one.name
        for one in inspect.signature(function).parameters.values()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if len(wanted) > 1:
        raise ConfigError(
            f"model={name}: takes {', '.join(wanted)}; give a function of the task alone, such "
             f"as `lambda task: {name}(...)`"
        )  # fmt: skip
    return function if wanted else lambda task: function()


def _made(builder: Builder, task: Task, name: str) -> nn.Module:
    try:
        module = builder(task)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"model={name}: cannot be made ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"model={name}: makes a {type(module).__name__}, not an nn.Module")
    return module


def _problems(module: nn.Module) -> list[str]:
    """What of a module cannot travel as numbers of 32 bits."""
    tensors = dict(module.named_parameters())
    found = [
        f"model: {name} is {tensor.dtype}; call .float() on the module"
        for name, tensor in tensors.items()
        if tensor.dtype != torch.float32
    ]
    return found + [
        f"model: {name} holds NaN or infinite weights"
        for name, tensor in tensors.items()
        if not torch.isfinite(tensor).all()
    ]


def _digest(module: nn.Module, made: object) -> str:
    """SHA-256 over structure, weights and, where they are to be had, sources."""
    digest = hashlib.sha256(f"fedlearn/module/v1\n{module}\n".encode())
    kinds = {type(part) for part in module.modules()}
    own = sorted((kind for kind in kinds if not kind.__module__.startswith("torch.")), key=str)
    for source in (*own, *(() if isinstance(made, nn.Module) else (made,))):
        digest.update(_source(source).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # typed at a prompt
        return f"{thing.__module__}.{thing.__qualname__}"
