"""First factors of adapters that weigh evenly what layers read and are told (`whitened`).

What a layer of a pretrained language model reads lies for the most part along one direction, and
a step in one layer may change answers ten times as much as the same step in another. Adam evens
that out coordinate by coordinate, but not under privacy: noise is the same everywhere, drowns the
second moments, and leaves plain descent, whose rate the steepest direction bounds. So it is
evened out beforehand, by what nobody has to keep secret: made-up texts, tokens drawn at random,
go through the model once. With `S` the second moment of what a layer reads of them, and `g` the
root mean square of the gradient to what it gives, the first factor is

    A = (G / g) R (S + s I)^(-1/2)

with random rows R, the `KEPT * rank`-th eigenvalue s of S, and the largest g of all layers as G:
then second factors have gradients of one size. It is a preconditioner out of side information
(Li et al. 2022, "Private adaptive optimization with side information"), which here is the model
itself. A smooth function of `S`, unlike its eigenvectors: machines that round otherwise come to
nearly the same factors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedlearn.models.finetune import ADAPTER, Finetune, Learner
from fedlearn.tasks import Task, TextInput

KEPT: Final = 3
"""So many directions for each of an adapter's rank count about alike; weaker ones less."""
_TEXTS: Final = 32
_LONGEST: Final = 64
"""Tokens of a made-up text, at the most."""

Seen = dict[str, tuple[Tensor, Tensor]]
"""By layer what it reads, `[..., in]`, and what it gives, `[..., out]`."""


def start_problems(finetune: Finetune, task: Task) -> Iterator[str]:
    """Where nobody can make up what a model reads and is to answer."""
    if is_whitened(finetune) and not task.next_tokens:
        yield (
            "training.lora_start=whitened: is for models that continue texts, whose tokens can be "
            "made up; choose training.lora_start=drawn, or task=language"
        )


def is_whitened(finetune: Finetune) -> bool:
    """Whether there are adapters, and their first factors are to be made here."""
    return finetune.mode == "lora" and finetune.lora_start == "whitened"


def whiten(learner: Learner, task: Task, finetune: Finetune, generator: torch.Generator) -> None:
    """Put first factors into all adapters of `learner`, in place, out of those that were drawn.

    **Guarantees:** a function of weights, `task.input`, `finetune` and `generator` alone, of no
    record; what the model computes is unchanged, for second factors are zero.

    Raises:
        ValueError: the task is none of texts (`start_problems`).
    """
    text = task.input
    if not (task.next_tokens and isinstance(text, TextInput)):
        raise ValueError(next(start_problems(finetune, task)))
    tokens = _made_up(text, generator)
    reads, slopes = _passed(learner, task, tokens, _made_up(text, generator))
    steepest = max(slopes.values())
    for name, read in reads.items():
        first = learner.model.get_parameter(f"{name}.lora_A.{ADAPTER}.weight")
        evened = whitened(first.data, read, KEPT * finetune.lora_rank)
        share = steepest / slopes[name] if slopes[name] else 1.0
        # In half precision, where most of what machines round otherwise is gone.
        first.data.copy_((evened * share).bfloat16())


def whitened(drawn: Tensor, read: Tensor, kept: int) -> Tensor:
    """Rows `[rank, in]`, drawn evenly, as rows whose products with `read` are of mean square 1.

    `read`: `[tokens, in]`; `kept`: how many of its directions count about alike. Rows are zero
    where nothing is read.
    """
    rows = drawn.double() / drawn.double().square().mean().sqrt().clamp(min=1e-30)
    read = read.double()
    values, vectors = torch.linalg.eigh(read.T @ read / len(read))
    values = values.clamp(min=0)
    floor = values[-min(kept, len(values))] + 1e-9 * values[-1]
    if not floor > 0:
        return torch.zeros_like(drawn)
    evened = rows @ ((vectors / (values + floor).sqrt()) @ vectors.T)
    found: Tensor = evened / (values / (values + floor)).sum().sqrt()
    return found.to(drawn.dtype)


def _made_up(text: TextInput, generator: torch.Generator) -> Tensor:
    """Tokens that nobody wrote, or that nobody's texts go on with."""
    length = min(text.max_length, _LONGEST)
    return torch.randint(text.vocabulary, (_TEXTS, length), generator=generator)


def _passed(
    learner: Learner, task: Task, tokens: Tensor, targets: Tensor
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What layers with adapters read, `[tokens, in]`, and how large the gradient to what they
    give is."""
    was, seen = learner.model.training, Seen()
    with _watched(learner.model, seen), torch.enable_grad():
        losses = task.loss(learner.whole().eval()(tokens), targets)
        slopes = torch.autograd.grad(losses.sum(), [given for _, given in seen.values()])
        reads = {name: read.detach().flatten(0, -2) for name, (read, _) in seen.items()}
    learner.model.train(was)
    sizes = [float(slope.double().square().sum(-1).mean().sqrt()) for slope in slopes]
    return reads, dict(zip(reads, sizes, strict=True))


@contextmanager
def _watched(model: nn.Module, seen: Seen) -> Iterator[None]:
    """While this lasts, what every layer that has an adapter reads and gives is kept in `seen`."""

    def hook(name: str, _: nn.Module, read: tuple[Any, ...], given: Tensor) -> None:
        if not given.requires_grad:  # nothing before it learns
            given.requires_grad_()
        seen[name] = read[0], given

    layers: Mapping[str, nn.Module] = dict(model.named_modules())
    handles = [
        layers[f"{name}.base_layer"].register_forward_hook(partial(hook, name))
        for name in layers
        if f"{name}.lora_A.{ADAPTER}" in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
