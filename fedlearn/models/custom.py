"""Somebody's own model: a function of theirs, found by its name on `sys.path`.

The function gets the task and the settings, and returns an `nn.Module` that maps a batch
`float32[n, *task.input_shape]` (of texts: `int64`) to `[n, task.num_outputs]`. Rows of a table
come with their categories one-hot and numbers of unknown scale encoded, so that
`task.input_shape` is `(columns,)`. Its initial weights are its own: it is called under
torch's generator, seeded with the run's stream `model` and put back afterwards.

A model that is named runs code. Its source is therefore hashed before it is imported: the hash
stands in a run's config and result, `resume` and sites compare it, and a data owner allows it
by name (`policy.allow_custom`). Hashed are all files `.py` of the package that the module
belongs to, or its one file; what these import from elsewhere is not.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Name, config
from fedlearn.models.finetune import stages
from fedlearn.models.model import Model
from fedlearn.models.sequence import OneHotSteps
from fedlearn.models.tabular import OneHot
from fedlearn.tasks import ImageInput, SeriesInput, TableInput, Task, TextInput

_NAME: Final = re.compile(r"([^\W\d]\w*)((?:\.[^\W\d]\w*)*):([^\W\d]\w*)")


@config
class Custom(Model):
    """What the function `build`, as `package.module:function`, makes of a task and `settings`.

    Example:
        `fedlearn simulate experiment=medical_heart model=custom model.build=my_models:mlp
        model.settings.width=32`, where `my_models.py` is in the current folder.
    """

    kind: Literal["custom"] = "custom"
    input = (TableInput, ImageInput, TextInput, SeriesInput)
    draws_own_weights = True
    build: Name
    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of the function besides the task."""
    sha256: str = ""
    """Of the source; filled in at the start of a run, and then to be the same everywhere."""

    def pinned(self) -> Self:
        """The same with the hash of the source that is there; the function can be called.

        Raises:
            ConfigError: there is none, or it is not the source that `sha256` names.
        """
        function_of(self.build)
        return replace(self, sha256=self._same_source())

    def code(self) -> tuple[str, str]:
        """The name of the function, and the hash of its source here; empty where there is none."""
        try:
            return self.build, source_digest(self.build)
        except ConfigError:
            return self.build, ""

    def network(self, task: Task) -> nn.Sequential:
        """The module as stages: its own where it is an `nn.Sequential` that ends in `head`.

        Raises:
            ConfigError: the function cannot be had, fails, or returns something else.
        """
        function = function_of(self.build)
        if self.sha256:
            self._same_source()
        encoder, view = encoded(task)
        try:
            module = function(view, **self.settings)
        except Exception as error:
            raise ConfigError(
                f"model.build={self.build}: fails when it is called with the task"
                f"{''.join(f', {name}={value!r}' for name, value in self.settings.items())} "
                f"({type(error).__name__}: {error}); mend it, or model.settings"
            ) from error
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"model.build={self.build}: returns an object of type {type(module).__name__}; "
                "return an nn.Module"
            )
        return staged(module, encoder)

    def _same_source(self) -> str:
        found = source_digest(self.build)
        if self.sha256 not in ("", found):
            raise ConfigError(
                f"model.sha256={self.sha256}: the source of {self.build} has changed, or is "
                f"another here: it has {found}. Put the source back, or start a new run "
                "(with model.sha256='' where the config names one)"
            )
        return found


def encoded(task: Task) -> tuple[nn.Module | None, Task]:
    """What makes plain numbers of a record, where that takes something, and the task after it."""
    match task.input:
        case TableInput() as table if table.cardinalities or table.squashed:
            one_hot = OneHot(table)
            return one_hot, task.on(TableInput(numeric=one_hot.width))
        case SeriesInput(row=row) as series if row.cardinalities or row.squashed:
            steps = OneHotSteps(series)
            wide = replace(series, row=TableInput(numeric=steps.width))
            return steps, task.on(wide)
        case TableInput() | SeriesInput() | ImageInput() | TextInput():
            return None, task


def staged(module: nn.Module, encoder: nn.Module | None) -> nn.Sequential:
    """A module as named stages, after its encoder: its own where the last of them is `head`."""
    parts = dict(module.named_children())
    own = type(module) is nn.Sequential and list(parts)[-1:] == ["head"]
    first = {"encode": encoder} if encoder else {}
    return stages(**{**first, **(parts if own and "encode" not in parts else {"model": module})})


# --- where the function is ------------------------------------------------------


def function_of(build: str) -> Callable[..., Any]:
    """The function that `build` names, imported from `sys.path` or the current folder.

    Raises:
        ConfigError: it is not there, does not import, or cannot be called; or its source is
            no longer the one that this process has imported.
    """
    where, (module, function) = f"model.build={build}", _parts(build)
    digest = source_digest(build)
    if _imported.setdefault(module, digest) != digest:
        raise ConfigError(
            f"{where}: its source has changed since this process imported it; start a new one"
        )
    try:
        found = getattr(importlib.import_module(module), function, None)
    except Exception as error:
        raise ConfigError(
            f"{where}: {module} does not import ({type(error).__name__}: {error})"
        ) from error
    if found is None:
        raise ConfigError(f"{where}: {module} has no {function}")
    if not callable(found):
        raise ConfigError(f"{where}: is a {type(found).__name__} and cannot be called")
    return found  # type: ignore[no-any-return]


_imported: dict[str, str] = {}
"""The hash of the source of every module at its import: Python does not read it again."""


def source_digest(build: str) -> str:
    """SHA-256 (hex) over the files of the package, or the one file, that `build` is in.

    Nothing is imported.

    Raises:
        ConfigError: there is no such source.
    """
    module, _ = _parts(build)
    top, _, rest = module.partition(".")
    root, paths = _sources(build, top)
    wanted = Path(*rest.split("."))
    there = {path.relative_to(root).as_posix() for path in paths}
    if rest and not {f"{wanted.as_posix()}.py", f"{wanted.as_posix()}/__init__.py"} & there:
        raise ConfigError(f"model.build={build}: there is no module {module} in {root}")
    digest = hashlib.sha256(b"fedlearn/custom/v1\n")
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _sources(build: str, top: str) -> tuple[Path, list[Path]]:
    """The folder of a package and its files, or that of a module and its file."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # the last: nothing of others is hidden by it
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module without one, such as `__main__`
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if folders:
        root = Path(folders[0])
        return root, sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix())
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ConfigError(
            f"model.build={build}: there is no module {top} on sys.path or in {Path.cwd()}; "
            "name it as package.module:function, of a file that can be imported"
        )
    return Path(spec.origin).parent, [Path(spec.origin)]


def _parts(build: str) -> tuple[str, str]:
    """Module and function; the standard library is nobody's model, and can do anything."""
    match = _NAME.fullmatch(build)
    if match is None:
        raise ConfigError(f"model.build={build}: must have the form package.module:function")
    if match[1] in sys.stdlib_module_names:
        raise ConfigError(f"model.build={build}: {match[1]} is part of Python and has no models")
    return match[1] + match[2], match[3]


# --- whether it can be trained ----------------------------------------------------


def check_module(kind: str, model: nn.Module, task: Task) -> None:
    """Try a model on one record of zeros; its modes and weights stay as they are.

    Raises:
        ConfigError: it fails, its output has another shape, or a parameter gets no gradient.
    """
    whole = isinstance(task.input, TextInput)
    record = torch.zeros((1, *task.input_shape), dtype=torch.int64 if whole else torch.float32)
    shown = f"one record {'int64' if whole else 'float32'}{list(record.shape)}"
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.inference_mode(False), torch.enable_grad():
            output = model.eval()(record)
    except Exception as error:
        raise ConfigError(
            f"model={kind}: fails on {shown} ({type(error).__name__}: {error})"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    wanted = [1, task.num_outputs]
    if not isinstance(output, Tensor) or list(output.shape) != wanted:
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"model={kind}: gives {found} for {shown}; it must give {wanted} (task.num_outputs)"
        )
    if task.num_outputs > 1 and _are_shares(output):
        raise ConfigError(
            f"model={kind}: its outputs add up to one, so they are probabilities, and the loss "
            "makes those itself; leave the softmax at its end out"
        )
    if idle := _idle(model, output):
        raise ConfigError(
            f"model={kind}: no gradient ever reaches {', '.join(idle)}, and under privacy they "
            "would be noise for nothing; use them in forward, or freeze them "
            "(requires_grad_(False))"
        )


def _are_shares(output: Tensor) -> bool:
    """Whether outputs are those of a softmax: its cross-entropy would be learned from badly."""
    values = output.detach()
    return bool((values >= 0).all()) and abs(float(values.sum()) - 1) < 1e-6


def _idle(model: nn.Module, output: Tensor) -> list[str]:
    """The parameters to train on which the output does not depend."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained or not output.requires_grad:
        return list(trained)
    found = torch.autograd.grad(output.sum(), list(trained.values()), allow_unused=True)
    return [name for name, gradient in zip(trained, found, strict=True) if gradient is None]
