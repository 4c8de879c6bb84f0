"""Noise that is not what epsilon says."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedlearn.privacy import noise as noises
from fedlearn.privacy.noise import Keystream, SeededNoise, SystemNoise
from fedlearn.training.private import PrivateOptimizer
from tests.simulations.attacks.sabotages.registry import seen_by

Make = Callable[[Any, list[Tensor], float], list[Tensor]]


def noised(patch: pytest.MonkeyPatch, make: Make) -> None:
    """`make(optimizer, sums, deviation)` gives what is added to each sum."""

    def add_noise(self: Any) -> None:
        deviation = self.noise_multiplier * self.max_grad_norm
        sums = [p.summed_grad for p in self.params]
        parts = make(self, sums, deviation)
        for parameter, total, part in zip(self.params, sums, parts, strict=True):
            parameter.grad = (total + part.view_as(total)).view_as(parameter).to(parameter.dtype)

    patch.setattr(PrivateOptimizer, "add_noise", add_noise)


def drawn(optimizer: Any, sums: list[Tensor], deviation: float) -> list[Tensor]:
    return [torch.from_numpy(optimizer.noise.normal(s.numel(), deviation)) for s in sums]


@seen_by("noise_size")
def deviation_over_the_root_of_the_batch(patch: pytest.MonkeyPatch) -> None:
    noised(patch, lambda o, s, d: drawn(o, s, d / math.sqrt(max(1, o.expected_batch_size))))


@seen_by("noise_size")
def a_tenth_of_the_noise_missing(patch: pytest.MonkeyPatch) -> None:
    noised(patch, lambda o, s, d: drawn(o, s, 0.9 * d))


@seen_by("noise_size")
def deviation_shared_among_layers(patch: pytest.MonkeyPatch) -> None:
    noised(patch, lambda o, s, d: drawn(o, s, d / math.sqrt(len(s))))


@seen_by("noise_size")
def deviation_of_the_norm_and_not_of_a_coordinate(patch: pytest.MonkeyPatch) -> None:
    noised(patch, lambda o, s, d: [n / math.sqrt(n.numel()) for n in drawn(o, s, d)])


@seen_by("noise_size")
def noise_in_every_second_step(patch: pytest.MonkeyPatch) -> None:
    made = [0]

    def make(optimizer: Any, sums: list[Tensor], deviation: float) -> list[Tensor]:
        made[0] += 1
        return drawn(optimizer, sums, deviation if made[0] % 2 else 0.0)

    noised(patch, make)


@seen_by("noise_size")
def noise_by_the_size_of_the_sum(patch: pytest.MonkeyPatch) -> None:
    def make(optimizer: Any, sums: list[Tensor], deviation: float) -> list[Tensor]:
        size = math.sqrt(sum(float(s.double().square().sum()) for s in sums))
        return drawn(optimizer, sums, deviation * min(1.0, size))

    noised(patch, make)


@seen_by("noise_size")
def biases_in_clear(patch: pytest.MonkeyPatch) -> None:
    noised(
        patch,
        lambda o, s, d: [n * (p.dim() > 1) for n, p in zip(drawn(o, s, d), o.params, strict=True)],
    )


@seen_by("noise_size")
def noise_only_where_the_sum_is_not_zero(patch: pytest.MonkeyPatch) -> None:
    noised(
        patch,
        lambda o, s, d: [n * (t.reshape(-1) != 0) for n, t in zip(drawn(o, s, d), s, strict=True)],
    )


@seen_by("noise_of_directions")
def one_coordinate_of_a_hundred_in_clear(patch: pytest.MonkeyPatch) -> None:
    def make(optimizer: Any, sums: list[Tensor], deviation: float) -> list[Tensor]:
        parts = drawn(optimizer, sums, deviation)
        for part in parts:
            part[7::100] = 0
        return parts

    noised(patch, make)


@seen_by("noise_of_directions")
def noise_centred_on_every_layer(patch: pytest.MonkeyPatch) -> None:
    """Sums over a layer are in clear."""
    noised(patch, lambda o, s, d: [n - n.mean() if len(n) > 1 else n for n in drawn(o, s, d)])


@seen_by("noise_at_a_distance")
def noise_of_rank_one(patch: pytest.MonkeyPatch) -> None:
    def make(optimizer: Any, sums: list[Tensor], deviation: float) -> list[Tensor]:
        parts = drawn(optimizer, sums, deviation)
        for i, parameter in enumerate(optimizer.params):
            if parameter.dim() > 1 and min(parameter.shape) > 1:
                sides = [torch.zeros(side) for side in parameter.shape]
                u, v = drawn(optimizer, sides, 1.0)
                parts[i] = deviation * torch.outer(u, v).reshape(-1)
        return parts

    noised(patch, make)


def _by_box_muller(patch: pytest.MonkeyPatch, half_again: Callable[[Any, Any], None]) -> None:
    """`half_again(words, out)` fills a vector of an even length from as many words."""

    def make(_: Any, sums: list[Tensor], deviation: float) -> list[Tensor]:
        parts = []
        for total in sums:
            size = total.numel() + total.numel() % 2
            out = np.zeros(size)
            coins = np.random.default_rng(secrets.randbits(64))
            half_again(coins.integers(2**64, size=size, dtype=np.uint64), out)
            parts.append(deviation * torch.from_numpy(out[: total.numel()]))
        return parts

    noised(patch, make)


@seen_by("noise_at_a_distance")
def sines_that_repeat_the_cosines(patch: pytest.MonkeyPatch) -> None:
    def half_again(words: Any, out: Any) -> None:
        noises.box_muller(words, 1.0, out)
        out[len(out) // 2 :] = out[: len(out) // 2]

    _by_box_muller(patch, half_again)


@seen_by("noise_law")
def one_uniform_for_radius_and_angle(patch: pytest.MonkeyPatch) -> None:
    def half_again(words: Any, out: Any) -> None:
        words[len(out) // 2 :] = words[: len(out) // 2]
        noises.box_muller(words, 1.0, out)

    _by_box_muller(patch, half_again)


@seen_by("noise_size")
def noise_that_the_next_step_takes_back(patch: pytest.MonkeyPatch) -> None:
    """Sums over steps telescope: the noise of a run is that of one step."""
    last = dict[tuple[int, ...], list[Tensor]]()

    def make(optimizer: Any, sums: list[Tensor], deviation: float) -> list[Tensor]:
        key, fresh = tuple(s.numel() for s in sums), drawn(optimizer, sums, deviation)
        before = last.get(key, [torch.zeros_like(n) for n in fresh])
        last[key] = fresh
        return [n - b for n, b in zip(fresh, before, strict=True)]

    noised(patch, make)


@seen_by("noise_law")
def noise_with_the_sign_of_the_sum(patch: pytest.MonkeyPatch) -> None:
    def make(optimizer: Any, sums: list[Tensor], deviation: float) -> list[Tensor]:
        signs = [s.reshape(-1).sign() for s in sums]
        pairs = zip(drawn(optimizer, sums, deviation), signs, strict=True)
        return [torch.where(s != 0, n.abs() * s, n.double()) for n, s in pairs]

    noised(patch, make)


@seen_by("noise_size")
def noise_keyed_by_the_batch(patch: pytest.MonkeyPatch) -> None:
    def make(_: Any, sums: list[Tensor], deviation: float) -> list[Tensor]:
        key = b"".join(np.round(s.numpy(), 3).tobytes() for s in sums)
        own = SeededNoise(key)
        return [torch.from_numpy(own.normal(s.numel(), deviation)) for s in sums]

    noised(patch, make)


@seen_by("noise_law")
def noise_of_equal_chances(patch: pytest.MonkeyPatch) -> None:
    noised(
        patch,
        lambda o, s, d: [
            (2 * torch.special.ndtr(n / d) - 1) * d * math.sqrt(3) if d else n
            for n in drawn(o, s, d)
        ],
    )


@seen_by("noise_law")
def small_noise_lost_to_a_coarse_type(patch: pytest.MonkeyPatch) -> None:
    noised(patch, lambda o, s, d: [n * (n.abs() >= 0.2 * d) for n in drawn(o, s, d)])


@seen_by("source")
def noise_from_a_key_of_two_bytes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SystemNoise, "stream", lambda self: Keystream(os.urandom(2) + bytes(30)))


@seen_by("source_draws")
def one_key_for_coins_and_noise(patch: pytest.MonkeyPatch) -> None:
    """The noise on a coordinate tells the coin of the record of that number."""
    kept = [b""]

    def bernoulli(self: Any, size: int, probability: float) -> Any:
        kept[0] = os.urandom(32)
        return noises._bernoulli(kept[0], size, probability)

    def stream(self: Any) -> Keystream:
        key, kept[0] = kept[0] or os.urandom(32), b""
        return Keystream(key)

    patch.setattr(SystemNoise, "bernoulli", bernoulli)
    patch.setattr(SystemNoise, "stream", stream)
