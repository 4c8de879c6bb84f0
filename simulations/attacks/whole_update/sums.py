"""Sums of clipped gradients, against what is known of every record."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from clients.canaries import TrainingSet
from fedlearn.core.vector import load_vector
from fedlearn.tasks import Loss
from fedlearn.training.device import home
from simulations.attacks.whole_update.bench import (
    Bench,
    Floats,
    count_of,
    layers_of,
    samples_of,
    some,
)
from simulations.attacks.whole_update.counting import Counting

_CLOSE, _MORE = 5e-3, 5e-4
"""Clip norms that a sum in float32 may be off, and more for every record."""

_MOST_RECORDS: Final = (512, 64)
"""In a batch as large as a run's, and in one of a large model."""

_TRIES: Final = (
    (1.0, 1.0, 24), (1.0, 0.6, 24), (1e3, 0.6, 24), (0.1, 0.6, 24), (1.0, 1.0, 5), (1.0, 1.0, 1),
)  # fmt: skip
_TRIES_OF_LARGE: Final = ((1.0, 1.0, 8), (10.0, 1.0, 2))
"""By how much gradients are longer than where four of five are clipped, who takes part, of how
many."""

_SLOPES: Final = (0.3, 0.999, 1.5, 10.0, 1e3, 1e8, 1e25, math.inf, math.nan)
"""Gradients over the clip norm; the square of the last three is no number in float32."""


def sums_agree(bench: Bench, made: Counting, coins: np.random.Generator) -> tuple[bool, str]:
    """Whether sums without noise are those of a loop over single records, and where not."""
    where = _of_every_length(made)
    for look in (_of_few, _among_many, _bounded):
        where = where or look(bench, coins)
    return not where, where


def _of_few(bench: Bench, coins: np.random.Generator) -> str:
    for factor, rate, most in _TRIES_OF_LARGE if bench.large else _TRIES:
        given = _picked(bench, coins, most)
        chosen = bench.chosen(count_of(given), coins, rate)
        gradients = list(_gradients(bench, given))
        scale = factor * _scale(gradients, bench.plan.clip_norm)
        found = bench.update(given, scaled(bench.site.loss, scale), coins=chosen, silent=True)
        mine = [one for one, inside in zip(gradients, chosen, strict=True) if inside]
        wanted = _clipped_sum(bench, mine, scale)
        where = _apart(bench, found, wanted, _CLOSE + _MORE * len(mine))
        if where:
            return where
    return ""


def _among_many(bench: Bench, coins: np.random.Generator) -> str:
    """What a few records add to a batch as large as those of the run."""
    many = _picked(bench, coins, _MOST_RECORDS[bench.large])
    rows = np.arange(count_of(many))
    few = coins.permutation(rows)[: min(8 if bench.large else 24, len(rows) // 2)]
    gradients = list(_gradients(bench, some(many, few)))
    scale = _scale(gradients, bench.plan.clip_norm)
    loss = scaled(bench.site.loss, scale)
    whole, rest = (
        bench.update(given, loss, coins=np.ones(count_of(given), np.bool_), silent=True)
        for given in (many, some(many, np.setdiff1d(rows, few)))
    )
    room = _CLOSE + _MORE * len(few) + _MORE / 5 * len(rows)
    return _apart(bench, whole - rest, _clipped_sum(bench, gradients, scale), room)


def _of_every_length(made: Counting) -> str:
    """Made-up records whose gradients are short, long, endless and none."""
    many = made.records
    lengths = torch.tensor(np.resize(_SLOPES, many), dtype=torch.float32)
    given = made.given(lengths)
    everybody = np.ones(many + len(given.slots), np.bool_)
    found = made.bench.update(given, made.loss, coins=everybody, silent=True)[:many]
    known = lengths.numpy()
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.square(known))
    right = np.where(
        finite,
        np.abs(found - np.minimum(known, 1.0)) <= _CLOSE,
        (found == 0) | (np.isfinite(known) & (np.abs(found - 1) <= _CLOSE)),
    )
    if right.all():
        return ""
    return f"a gradient of {known[~right][0]:g} clip norms, which does not add what it should"


def _bounded(bench: Bench, coins: np.random.Generator) -> str:
    """What a record adds with the views and the precision of the run, where no sum is known."""
    own = bench.own
    if own.precision == "fp32" and not own.augmentations:
        return ""
    training = replace(
        bench.site.config.training, shifts=own.shifts, flips=own.flips, precision=own.precision
    )
    given = _picked(bench, coins, 4 if bench.large else 8)
    loss = scaled(
        bench.site.loss, 10 * _scale(list(_gradients(bench, given)), bench.plan.clip_norm)
    )
    for row in range(count_of(given)):
        one, alone = some(given, np.array([row])), np.ones(1, np.bool_)
        found = bench.update(one, loss, coins=alone, silent=True, training=training)
        if not float(np.linalg.norm(found)) <= 1 + _CLOSE:
            return "a record that adds more than a clip norm with the run's views and precision"
    return ""


def _picked(bench: Bench, coins: np.random.Generator, most: int) -> TrainingSet:
    """Records by lot, of every label at least one where labels are few."""
    given = bench.records
    firsts = np.array([rows[0] for rows in samples_of(given)], np.int64)
    order = coins.permutation(len(firsts))
    labels = given.labels.cpu().numpy()[firsts[order]]
    _, first = np.unique(labels, axis=0, return_index=True)
    if len(first) <= most // 2:
        order = np.concatenate([order[first], np.delete(order, first)])
    return some(given, coins.permutation(order[:most]))


def _apart(bench: Bench, found: Floats, wanted: Floats, room: float) -> str:
    """Where two sums are further apart than `room` allows."""
    both = layers_of(bench.model, found), layers_of(bench.model, wanted)
    gaps = {name: float(np.linalg.norm(both[0][name] - both[1][name])) for name in both[0]}
    if math.hypot(*gaps.values()) <= room:
        return ""
    return f"the sum of clipped gradients, most of all on {_worst(gaps)}"


def _worst(gaps: Mapping[str, float]) -> str:
    return max(gaps, key=lambda name: gaps[name])


def _clipped_sum(bench: Bench, gradients: Sequence[Floats], scale: float) -> Floats:
    """The sum of `scale` times the gradients, each clipped, in clip norms."""
    total, share = np.zeros(bench.start.size), scale / bench.plan.clip_norm
    for gradient in gradients:
        norm = share * float(np.linalg.norm(gradient))
        if math.isfinite(norm):
            total[: len(gradient)] += share * gradient / max(1.0, norm)
    return total


def _gradients(bench: Bench, given: TrainingSet) -> Iterator[Floats]:
    """Every sample's, one after the other, by plain automatic derivation: `float64[p]` each.

    Of a person it is that of the mean loss of its records.
    """
    load_vector(bench.model, bench.start)
    model, loss = copy.deepcopy(bench.model).double().train(), bench.site.loss
    learning = [p for p in model.parameters() if p.requires_grad]
    for rows in map(torch.from_numpy, samples_of(given)):
        one = given.features[rows], given.labels[rows]
        inputs, meant = (_wide(values).to(home(model)) for values in one)
        found = loss(model(inputs), meant).mean()
        parts = torch.autograd.grad(found, learning, allow_unused=True)
        pairs = zip(learning, parts, strict=True)
        whole = [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in pairs]
        yield torch.cat(whole).cpu().numpy()


def _wide(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values


def _scale(gradients: Sequence[Floats], clip_norm: float) -> float:
    """What makes four of five gradients longer than the clip norm, and the fifth shorter."""
    norms = [float(np.linalg.norm(gradient)) for gradient in gradients]
    finite = [norm for norm in norms if math.isfinite(norm) and norm > 0]
    return clip_norm / float(np.quantile(finite, 0.2)) if finite else 1.0


def scaled(loss: Loss, scale: float) -> Loss:
    """`scale` times the loss."""
    return lambda outputs, targets: scale * loss(outputs, targets)
