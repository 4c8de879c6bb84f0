"""What records leave in an update besides the noisy sum: nothing, bit for bit.

With a source that repeats an update is a function of the records alone. So records that take no
part, and what of a record no gradient depends on, must change no bit of it: neither the model's
last digits, nor what an optimiser, a buffer, a choice among several results or a noise that is
fitted to the records would make of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from fedlearn.privacy.noise import SeededNoise
from fedlearn.training.settings import Training
from simulations.attacks.whole_update.bench import Bench, Floats, count_of
from simulations.attacks.whole_update.counting import Counting
from simulations.attacks.whole_update.sums import scaled

_MOST_STEPS: Final = 4

_CLOSE: Final = 1e-3
"""Of the largest value that an optimiser gives."""
_AT_ZERO: Final = 3
"""Coordinates whose gradient may be so near to zero that rounding turns its sign."""


def leave_no_trace(bench: Bench, made: Counting, coins: np.random.Generator) -> tuple[bool, str]:
    """Whether records leave nothing but their sum, and which do."""
    tries = 2 if bench.large else 8
    if not all(_absent_alike(bench, coins) for _ in range(tries)):
        return False, "records that took no part and left a trace in the update"
    if not all(_payloads_alike(bench, made) for _ in range(tries)):
        return False, "something of records besides their gradients that is in the update"
    return True, ""


def _absent_alike(bench: Bench, coins: np.random.Generator) -> bool:
    """The site's own records, none of which takes part, and no records at all.

    Where everybody always takes part they do so without a gradient.
    """
    sampled, seed = bench.plan.sample_rate < 1, secrets.token_bytes(16)
    loss = bench.site.loss if sampled else scaled(bench.site.loss, 0.0)
    number = int(coins.integers(1, bench.site.config.rounds + 1))
    one, other = (
        bench.update(
            given,
            loss,
            coins=np.zeros(count_of(given), np.bool_),
            noise=SeededNoise(seed),
            steps=min(bench.steps, _MOST_STEPS),
            number=number,
            training=bench.own,
        )
        for given in (bench.records, bench.nobody)
    )
    return np.array_equal(one, other, equal_nan=True)


def _payloads_alike(bench: Bench, made: Counting) -> bool:
    """Made-up records with the same gradients, and all else another."""
    seed = secrets.token_bytes(16)
    # Of one length, for a clip factor is rounded.
    lengths = torch.full((made.records,), 10.0)
    one, other = (
        made.bench.update(
            made.given(lengths),
            made.loss,
            noise=SeededNoise(seed),
            steps=min(bench.steps, _MOST_STEPS),
            training=bench.own,
        )
        for _ in range(2)
    )
    return np.array_equal(one, other, equal_nan=True)


def optimizer_agrees(bench: Bench, made: Counting) -> tuple[bool, str]:
    """Whether the run's optimiser makes of noisy sums what the same rule makes of them here.

    The sums come from plain steps with a source that repeats, one step more each time.
    """
    seed, own = secrets.token_bytes(16), bench.own
    given = made.given()
    totals = [np.zeros(made.records)] + [
        made.bench.update(given, made.loss, noise=SeededNoise(seed), steps=steps)[: made.records]
        for steps in range(1, _MOST_STEPS + 1)
    ]
    share = bench.plan.clip_norm / (own.sample_rate * own.nominal_records)
    wanted = optimized([share * step for step in np.diff(totals, axis=0)], own)
    found = -made.bench.update(
        given, made.loss, noise=SeededNoise(seed), steps=_MOST_STEPS, training=own
    )[: made.records]
    off = np.abs(found - wanted) > _CLOSE * np.abs(wanted).max()
    return int(off.sum()) <= _AT_ZERO, "an optimiser that has something else than the noisy sums"


def optimized(gradients: Sequence[Floats], training: Training) -> Floats:
    """Weights, from zero, after a step on each gradient: `float64[d]`.

    As torch documents `SGD` and `Adam`, with its defaults for all that is no setting of the run.
    """
    weights = np.zeros_like(gradients[0])
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step, gradient in enumerate(gradients, 1):
        slope = gradient + training.weight_decay * weights
        if training.optimizer == "sgd":
            first = training.momentum * first + slope
            weights = weights - training.learning_rate * first
            continue
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * np.square(slope)
        size = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        weights = weights - training.learning_rate * first / (1 - 0.9**step) / size
    return weights
