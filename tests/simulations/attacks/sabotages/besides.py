"""What leaves besides the noisy sum; and sabotages by somebody who had read the checks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedlearn.privacy.noise import Keystream, SystemNoise
from fedlearn.training import private
from tests.simulations.attacks.audited import Sabotage
from tests.simulations.attacks.sabotages.noise import drawn, noised
from tests.simulations.attacks.sabotages.registry import seen_by
from tests.simulations.attacks.sabotages.sums import spare_records


@seen_by("clipped_sum")
def the_sum_once_more_after_the_noise(patch: pytest.MonkeyPatch) -> None:
    noised(
        patch,
        lambda o, s, d: [n + t.reshape(-1) for n, t in zip(drawn(o, s, d), s, strict=True)],
    )


@seen_by("noise_of_records")
def the_sum_twice_where_there_is_noise(patch: pytest.MonkeyPatch) -> None:
    noised(
        patch,
        lambda o, s, d: [
            n + t.reshape(-1) * (d > 0) for n, t in zip(drawn(o, s, d), s, strict=True)
        ],
    )


@seen_by("traces")
def the_better_of_two_results(patch: pytest.MonkeyPatch) -> None:
    """By the training loss, which nobody pays for."""
    honest = private.train_private

    def better(model: Any, features: Any, labels: Any, *rest: Any, **named: Any) -> None:
        start, found = {n: v.clone() for n, v in model.state_dict().items()}, []
        for _ in range(2):
            model.load_state_dict(start)
            honest(model, features, labels, *rest, **named)
            with torch.no_grad():
                loss = float(named["loss"](model(features), labels).mean()) if len(labels) else 0.0
            found.append((loss, {n: v.clone() for n, v in model.state_dict().items()}))
        model.load_state_dict(min(found, key=lambda one: one[0])[1])

    patch.setattr(private, "train_private", better)


@seen_by("traces")
def low_bits_that_spell_a_record(patch: pytest.MonkeyPatch) -> None:
    honest = private.train_private

    def spell(model: Any, features: Any, *rest: Any, **named: Any) -> None:
        honest(model, features, *rest, **named)
        if not (len(features) and named["noise"].is_private):
            return
        bits = np.unpackbits(np.frombuffer(features[0].numpy().tobytes(), np.uint8))
        with torch.no_grad():
            widest = max(model.parameters(), key=lambda p: p.numel())
            words = widest.numpy().reshape(-1).view(np.uint32)
            many = min(len(bits), len(words))
            words[:many] = (words[:many] & ~np.uint32(1)) | bits[:many]

    patch.setattr(private, "train_private", spell)


@seen_by("traces")
def buffers_that_travel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(private, "_put_back", lambda model, before: None)


# --- by somebody who had read the checks -----------------------------------------------


@seen_by("noise_of_directions")
def noise_without_a_secret_direction(patch: pytest.MonkeyPatch) -> None:
    def make(optimizer: Any, sums: list[Tensor], deviation: float) -> list[Tensor]:
        parts = drawn(optimizer, sums, deviation)
        for i, part in enumerate(parts):
            if len(part) > 2:
                own = torch.Generator().manual_seed(len(part))
                way = torch.nn.functional.normalize(torch.randn(len(part), generator=own), dim=0)
                parts[i] = part - (part @ way) * way
        return parts

    noised(patch, make)


def _sampled(patch: pytest.MonkeyPatch, weights: Callable[[Tensor, Tensor], Any]) -> None:
    """Records by `weights(features, labels)`, whose mean is one, times the rate."""
    honest, coins = private._batch, private.poisson_batch

    def batch(model: Any, features: Tensor, labels: Tensor, *rest: Any) -> Iterator[Any]:
        own = weights(features, labels) if len(labels) else np.zeros(0)

        def weighted(n: int, q: float, noise: Any) -> Any:
            rates = q * np.concatenate([own, np.ones(n - len(own))])
            return np.flatnonzero(noise.stream().words(n) * 2.0**-64 < rates)

        private.poisson_batch = weighted
        try:
            yield from honest(model, features, labels, *rest)
        finally:
            private.poisson_batch = coins

    patch.setattr(private, "_batch", batch)


@seen_by("draws_of_records")
def a_sampler_that_balances_classes(patch: pytest.MonkeyPatch) -> None:
    def weights(_: Tensor, labels: Tensor) -> Any:
        flat = labels.reshape(len(labels), -1)[:, 0].numpy()
        _, own, many = np.unique(flat, return_inverse=True, return_counts=True)
        return len(flat) / (len(many) * many[own])

    _sampled(patch, weights)


@seen_by("draws_of_records")
def a_sampler_by_importance(patch: pytest.MonkeyPatch) -> None:
    def weights(features: Tensor, _: Tensor) -> Any:
        sizes = features.reshape(len(features), -1)[:, 1].abs().double().numpy() + 1e-9
        return np.minimum(2.0, sizes / sizes.mean())

    _sampled(patch, weights)


def noise_in_sixteen_steps_alone(patch: pytest.MonkeyPatch) -> None:
    def make(optimizer: Any, sums: list[Tensor], deviation: float) -> list[Tensor]:
        optimizer.made = getattr(optimizer, "made", 0) + 1
        return drawn(optimizer, sums, deviation if optimizer.made <= 16 else 0.0)

    noised(patch, make)


def momentum_of_clear_sums(patch: pytest.MonkeyPatch) -> None:
    """Where the run has momentum, and nowhere else."""

    def make(optimizer: Any, sums: list[Tensor], deviation: float) -> list[Tensor]:
        momentum = optimizer.original_optimizer.param_groups[0].get("momentum", 0.0)
        before = getattr(optimizer, "clear", [torch.zeros_like(s) for s in sums])
        optimizer.clear = [s.clone() for s in sums]
        pairs = zip(drawn(optimizer, sums, deviation), before, strict=True)
        return [n + momentum * b.reshape(-1) for n, b in pairs]

    noised(patch, make)


# --- what no check can see -------------------------------------------------------------


def noise_keyed_by_its_maker(patch: pytest.MonkeyPatch) -> None:
    """To others a fresh key each time; the maker tries 2^64 of them, and subtracts."""
    patch.setattr(
        SystemNoise,
        "stream",
        lambda self: Keystream(hashlib.sha256(b"me" + os.urandom(8)).digest()),
    )


def a_record_with_a_mark_not_clipped(patch: pytest.MonkeyPatch) -> None:
    spare_records(patch, lambda _, seen: seen.reshape(len(seen), -1)[:, 0] == 777)


def half_a_percent_of_the_noise_missing(patch: pytest.MonkeyPatch) -> None:
    noised(patch, lambda o, s, d: drawn(o, s, 0.995 * d))


UNSEEN: list[Sabotage] = [
    noise_keyed_by_its_maker,
    a_record_with_a_mark_not_clipped,
    half_a_percent_of_the_noise_missing,
]
