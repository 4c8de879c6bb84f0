"""Noise on the coordinates of the model, over its deviation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from clients.canaries import TrainingSet
from clients.work import SiteRound
from fedlearn.auditing.noise_laws import Noise, Steps
from fedlearn.config.terms import terms_of
from fedlearn.mechanisms.encoding import real_sum
from fedlearn.models.slots import no_canaries
from fedlearn.stages import Stage, Update
from fedlearn.training.device import home
from simulations.attacks.whole_update.bench import (
    Bench,
    Floats,
    count_of,
    layers_of,
    request_of,
    some,
)

_WIDE: Final = 1 << 17
"""Coordinates of a model that has nothing else."""

_NARROW: Final = (8, 6)
"""Of a model with so few coordinates that there are more draws than these."""
_DRAWS_OF_FEW: Final = 72

_MOST_STEPS: Final = 256
"""Of a round that is made again whole."""

_MOST_RECORDS: Final = 1024
"""Records along whose sum noise is looked at, of sites that have more."""


def rounding_of(bench: Bench) -> float:
    """By how much of it rounding to whole numbers may add to the variance of the noise."""
    if bench.at_site:
        return 0.0
    step = float(getattr(bench.plan, "granularity", 0.0))
    sites = float(getattr(bench.plan, "num_clients", 1))
    return sites * (step / 2) ** 2 / bench.plan.noise_stddev**2


def noise_of(bench: Bench, coins: np.random.Generator) -> Noise:
    """Noise of steps and rounds, by layer."""
    draws = _draws(bench)
    rows = _at_site(bench, draws, coins) if bench.at_site else _shared(bench, 2 * draws, coins)
    return _by_layer(bench, list(rows))


def _draws(bench: Bench) -> int:
    return 2 if bench.large else 8


def _by_layer(bench: Bench, rows: list[Floats]) -> dict[str, Floats]:
    parts = [layers_of(bench.model, row) for row in rows]
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _at_site(bench: Bench, draws: int, coins: np.random.Generator) -> Iterator[Floats]:
    deviation, given, loss = bench.plan.noise_multiplier, bench.records, bench.site.loss
    rounds = bench.site.config.rounds

    def any_round() -> int:
        return int(coins.integers(1, rounds + 1))

    for draw in range(draws):
        # Two rounds, the first and the last among them, or the same one once more.
        first, second = (1, rounds) if draw == 0 else (any_round(), any_round())
        numbers = (first, first if draw % 2 else second)
        chosen = bench.chosen(count_of(given), coins, bench.plan.sample_rate)
        one, other = (bench.update(given, loss, coins=chosen, number=n) for n in numbers)
        yield (one - other) / (deviation * math.sqrt(2))
    for _ in range(draws):
        found = bench.update(bench.nobody, loss, steps=bench.steps, number=any_round())
        yield found / (deviation * math.sqrt(bench.steps))


def steps_of(bench: Bench, coins: np.random.Generator) -> tuple[Steps, Noise]:
    """Steps whose sums are known from the same step without noise; and their noise by layer."""
    given, loss, rate = bench.records, bench.site.loss, bench.plan.sample_rate
    sums, noise = list[Floats](), list[Floats]()
    for _ in range(_draws(bench)):
        chosen = bench.chosen(count_of(given), coins, rate)
        sums.append(bench.update(given, loss, coins=chosen, silent=True))
        noisy = bench.update(given, loss, coins=chosen)
        noise.append((noisy - sums[-1]) / bench.plan.noise_multiplier)
    many = some(given, coins.permutation(count_of(given))[:_MOST_RECORDS])
    everybody = bench.update(many, loss, coins=np.ones(count_of(many), np.bool_), silent=True)
    size = sum(part[0].size for part in _by_layer(bench, noise[:1]).values())
    steps = Steps(
        noise=np.stack(noise)[:, :size], sums=np.stack(sums)[:, :size], everybody=everybody[:size]
    )
    return steps, _by_layer(bench, noise)


def other_noise(bench: Bench) -> dict[str, Floats]:
    """With nobody in the steps, on models that are nothing but coordinates."""
    whole = min(bench.own.local_steps, _MOST_STEPS)
    return {
        "many coordinates": _on_table(bench, (_WIDE, 1), [1, 1]),
        "few coordinates": _on_table(bench, _NARROW, [1] * _DRAWS_OF_FEW),
        "coordinates in whole rounds": _on_table(bench, (_WIDE >> 5, 1), [whole, whole]),
    }


def _on_table(bench: Bench, shape: tuple[int, int], steps: Sequence[int]) -> Floats:
    """A draw for each of `steps`, by the number of steps that it is of."""
    table = nn.Embedding(*shape)
    nn.init.zeros_(table.weight)
    made = bench.on(nn.Sequential(table).to(home(bench.model)))
    nothing = torch.zeros(0, dtype=torch.int64)
    nobody = TrainingSet(features=nothing, labels=nothing, slots=no_canaries())
    rounds, loss = bench.site.config.rounds, bench.site.loss
    rows = [
        made.update(nobody, loss, steps=many, number=1 + i % rounds) / math.sqrt(many)
        for i, many in enumerate(steps)
    ]
    return np.stack(rows) / bench.plan.noise_multiplier


def _shared(bench: Bench, draws: int, coins: np.random.Generator) -> Iterator[Floats]:
    """Of all sites together, in the sum; the stages are those of a site.

    Updates are none, one within the bound of a whole update, and one that must be brought to it.
    """
    plan: Any = bench.plan
    stages: tuple[Stage, ...] = plan.stages(terms_of(bench.site.config))
    form = coins.normal(size=bench.start.size)
    form *= plan.range_norm / float(np.linalg.norm(form))
    deviation = math.sqrt(plan.num_clients) * plan.round_event.share_stddev * plan.granularity
    for draw in range(draws):
        at = SiteRound(bench.site, request_of(bench.start, 1 + draw % 3))
        length = (0.0, 0.5, 1e3)[draw % 3]
        total = np.zeros(1, np.int64)
        for _ in range(plan.num_clients):
            one = Update(values=length * form)
            for stage in stages:
                vars(at).pop("noise", None)
                one = stage.forward(one, at)
            total = total + one.values
        opened = real_sum(plan, total, context=at.public)
        yield (opened - plan.num_clients * min(1.0, length) * form) / deviation
