"""The first model of a run that begins from another one: tensors by name, and what they must be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load

from fedlearn.config import RunConfig
from fedlearn.config.parent import weights_of
from fedlearn.core.errors import ConfigError, some
from fedlearn.core.vector import Layout, Vector
from fedlearn.tasks import Task
from server.parent_form import other_classes, other_form


def first_model(
    config: RunConfig, task: Task, layout: Layout, drawn: Vector
) -> tuple[Vector, tuple[str, ...]]:
    """`drawn`, with every tensor in it that the parent of the run has under the same name, and
    notes on what of it begins anew or stood for something else.

    A tensor of another shape, as a head for other classes is, stays as it was drawn. The vector
    holds what is trained: what a run holds frozen is no parent's.

    Raises:
        ConfigError: the file is not the one in the terms, holds nothing or more than this model,
            or a number that is not finite, or its weights are of other columns.
    """
    if config.parent is None:
        return drawn, ()
    theirs = _read(config.init, config.parent.sha256)
    ours = layout.split(drawn.copy())
    shapes = {name: tensor.shape for name, tensor in theirs.items()}
    taken = [name for name, own in ours.items() if shapes.get(name) == own.shape]
    if found := [*_problems(ours, theirs, taken), *other_form(config.init, task)]:
        raise ConfigError([f"init={config.init}: {problem}" for problem in found])
    fresh = [name for name in ours if name not in taken]
    for name in taken:
        ours[name][...] = theirs[name]
    notes = [*_anew(config.init, fresh, len(ours)), *other_classes(config.init, task)]
    model = np.concatenate([part.reshape(-1) for part in ours.values()]).astype(np.float32)
    return model, tuple(notes)


def _anew(init: str, fresh: Sequence[str], all_of_them: int) -> Iterator[str]:
    if fresh:
        yield (
            f"init={init}: {len(fresh)} of {all_of_them} tensors begin anew, for it has none of "
            f"this shape: {some(fresh)}"
        )


def _problems(ours: Mapping[str, Any], theirs: Mapping[str, Any], taken: list[str]) -> list[str]:
    if not taken:
        return [
            f"has no tensor of this model: it holds {some(sorted(theirs))}, and trained are "
            f"{some(list(ours))}. Choose the model and training.finetune that it was trained with"
        ]
    problems = []
    # Of a run's own model nothing may be lost: what it has trained would silently be as it was.
    if more := [name for name in theirs if name not in ours]:
        problems.append(
            f"has tensors that this run does not train: {some(sorted(more))}. Choose the model "
            "and training.finetune that it was trained with"
        )
    if bad := [name for name in taken if not np.isfinite(theirs[name]).all()]:
        problems.append(f"has numbers that are not finite: {some(bad)}")
    return problems


def _read(init: str, sha256: str) -> dict[str, NDArray[np.float32]]:
    path = weights_of(init)
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ConfigError([f"init={init}: {path} has changed since the run was composed"])
        found = load(content)
        return {n: t.float().numpy() for n, t in found.items() if t.is_floating_point()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError([f"init={init}: {path} is no file of weights: {error}"]) from None
