"""Clips and coins that are not what epsilon says."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedlearn.training import private
from fedlearn.training.dp import clipping, engine
from tests.simulations.attacks.sabotages.registry import seen_by


@seen_by("clipped_sum")
def no_clip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(clipping, "_factor", lambda bound, squared: torch.ones_like(squared))


@seen_by("clipped_sum")
def clip_by_the_root_of_the_norm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(clipping, "_factor", lambda c, squared: (c / squared.sqrt().sqrt()).clamp(max=1))


def _norms(patch: pytest.MonkeyPatch, counted: Callable[[Any, Any], Any]) -> None:
    """Norms over the contributions that `counted(parameters, found)` keeps."""
    honest = engine._squared_norms

    def squared_norms(parameters: Any, clips: Any, found: Any, batch: int) -> Any:
        return honest(parameters, clips, counted(parameters, found), batch)

    patch.setattr(engine, "_squared_norms", squared_norms)


@seen_by("clipped_sum")
def norm_without_biases(patch: pytest.MonkeyPatch) -> None:
    _norms(patch, lambda own, found: {n: c for n, c in found.items() if own[n].dim() > 1})


@seen_by("clipped_sum")
def norm_of_the_last_layer(patch: pytest.MonkeyPatch) -> None:
    _norms(patch, lambda own, found: {n: found[n] for n in [n for n in own if n in found][-2:]})


@seen_by("clipped_sum")
def norm_of_the_largest_layer(patch: pytest.MonkeyPatch) -> None:
    """A record of one coordinate is clipped as it should be."""
    _norms(
        patch,
        lambda _, found: (
            dict([max(found.items(), key=lambda one: float(one[1].squared_norms.sum()))])
            if found
            else found
        ),
    )


def _factors(patch: pytest.MonkeyPatch, changed: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`changed(factors, finite)` in place of the clip factors."""
    honest = clipping.Clipping.factors

    def factors(self: Any, squared: Any, finite: Tensor) -> Any:
        return {
            group: torch.where(finite, changed(found, finite), 0.0)
            for group, found in honest(self, squared, finite).items()
        }

    patch.setattr(clipping.Clipping, "factors", factors)


@seen_by("clipped_sum")
def small_batches_not_clipped(patch: pytest.MonkeyPatch) -> None:
    _factors(patch, lambda f, finite: torch.ones_like(f) if finite.sum() <= 8 else f)


@seen_by("clipped_sum")
def factors_of_the_neighbour(patch: pytest.MonkeyPatch) -> None:
    _factors(patch, lambda f, _: f.roll(1))


@seen_by("clipped_sum")
def very_long_gradients_not_clipped(patch: pytest.MonkeyPatch) -> None:
    _factors(patch, lambda f, _: torch.where((f > 0) & (f < 1e-4), torch.ones_like(f), f))


def spare_records(patch: pytest.MonkeyPatch, spared: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Records that `spared(labels, features)` names are not clipped."""
    held, honest = list[Tensor](), private.losses_of

    def losses_of(model: Any, precision: Any, loss: Any, labels: Tensor, *seen: Tensor) -> Tensor:
        held[:] = [spared(labels, seen[0])]
        return honest(model, precision, loss, labels, *seen)

    def changed(factors: Tensor, _: Tensor) -> Tensor:
        mark = held.pop() if held else torch.zeros(0, dtype=torch.bool)
        return torch.where(mark, 1.0, factors) if len(mark) == len(factors) else factors

    patch.setattr(private, "losses_of", losses_of)
    _factors(patch, changed)


@seen_by("clipped_sum")
def records_of_a_label_not_clipped(patch: pytest.MonkeyPatch) -> None:
    spare_records(patch, lambda labels, _: labels.reshape(len(labels), -1)[:, 0] == 1)


@seen_by("clipped_sum")
def records_clipped_to_thrice_and_canaries_as_they_should(patch: pytest.MonkeyPatch) -> None:
    held, losses_of, factor = list[int](), private.losses_of, clipping._factor

    def losses(*arguments: Any) -> Tensor:
        held[:] = [3]
        return losses_of(*arguments)

    patch.setattr(private, "losses_of", losses)
    patch.setattr(clipping, "_factor", lambda c, n: factor((held.pop() if held else 1) * c, n))


def _coins(patch: pytest.MonkeyPatch, changed: Callable[[Any, int, float, Any], Any]) -> None:
    """`changed(honest, n, rate, noise)` are those who take part."""
    honest = private.poisson_batch
    patch.setattr(private, "poisson_batch", lambda n, q, noise: changed(honest, n, q, noise))


@seen_by("draws_of_records")
def everybody_in_every_step(patch: pytest.MonkeyPatch) -> None:
    _coins(patch, lambda honest, n, q, noise: np.arange(n))


@seen_by("draws")
def records_drawn_with_replacement(patch: pytest.MonkeyPatch) -> None:
    def changed(honest: Any, n: int, q: float, noise: Any) -> Any:
        many = len(honest(n, q, noise))
        return np.sort(np.random.default_rng(secrets.randbits(64)).integers(0, max(1, n), many))

    _coins(patch, changed)


@seen_by("draws_of_steps")
def one_coin_for_two_neighbours(patch: pytest.MonkeyPatch) -> None:
    _coins(
        patch, lambda _, n, q, noise: np.flatnonzero(np.repeat(noise.bernoulli(n, q)[::2], 2)[:n])
    )


@seen_by("draws_of_records")
def the_first_record_in_every_batch(patch: pytest.MonkeyPatch) -> None:
    _coins(patch, lambda honest, n, q, noise: np.union1d(honest(n, q, noise), np.arange(min(n, 1))))


@seen_by("draws")
def one_record_twice_in_a_batch(patch: pytest.MonkeyPatch) -> None:
    def changed(honest: Any, n: int, q: float, noise: Any) -> Any:
        rows = honest(n, q, noise)
        return np.sort(np.append(rows, rows[:1]))

    _coins(patch, changed)


@seen_by("source")
def coins_from_a_seed_that_is_known(patch: pytest.MonkeyPatch) -> None:
    made = [0]

    def changed(_: Any, n: int, q: float, noise: Any) -> Any:
        made[0] += 1
        return np.flatnonzero(np.random.default_rng(made[0]).random(n) < q)

    _coins(patch, changed)
