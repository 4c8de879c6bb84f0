"""Privacy for whole clients: the clip, the noise and the count of a round, made again."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Final

import numpy as np

from fedlearn.auditing.chance import (
    Floats,
    Found,
    chance_check,
    exact_check,
    largest,
    of_normal,
    variance,
)
from fedlearn.auditing.findings import Check
from fedlearn.auditing.noise_laws import noise_checks, source_checks
from fedlearn.config import RunConfig
from fedlearn.config.terms import terms_of
from fedlearn.mechanisms.client import ClientPlan
from fedlearn.privacy.noise import noise_of
from fedlearn.stages import ServerRound, Stage, Total, Update
from simulations.attacks.whole_update.source import drawn_beside, source_is_sound

_SIZE, _WIDE, _SMALL = 1024, 1 << 17, 16
"""Values of a made-up update; of one for size and law alone; of one for counts."""
_ROUNDS, _COUNTS = 16, 64
_CLOSE: Final = 1e-3
_LENGTHS: Final = (0.3, 0.999, 1.5, 10.0, 1e4, 1e12)
"""Of updates, in clip norms."""


def checks_of_coordinator(
    config: RunConfig, plan: ClientPlan, coins: np.random.Generator
) -> list[Check]:
    """What made-up updates show of a round's clip, noise and count."""
    bench = _Rounds(config, plan)
    noise = {"the sum of updates": bench.noise(_ROUNDS, _SIZE, coins)}
    source = partial(noise_of, os.environ, "server", -1)
    return [
        *noise_checks(noise, others={"many values": bench.noise(2, _WIDE, coins)}),
        *bench.count_checks(coins),
        exact_check("clipped_sum", *bench.clips(coins)),
        exact_check("source", *source_is_sound(source)),
        *source_checks(*drawn_beside(source)),
    ]


class _Rounds:
    """Rounds of the stages of a plan."""

    def __init__(self, config: RunConfig, plan: ClientPlan) -> None:
        self.plan, self.stages = plan, plan.stages(terms_of(config))
        self.resolution = terms_of(config).resolution or 0.0
        # Of what is paid for, not of what is done: a round's noise may be none of the plan's.
        paid, share = plan.round_event.noise_multiplier, self.share
        self.deviation = plan.clip_norm * paid / math.sqrt(1 - share)
        self.of_count = 0.5 * paid / math.sqrt(share) if share else 0.0
        # So many that the noise leaves the share of those within the norm inside of [0, 1].
        self.sites = math.ceil(1000 + 100 * self.of_count / plan.sample_rate)

    @property
    def share(self) -> float:
        """What of the budget of a round goes to its count (Andrew et al. 2021, theorem 1)."""
        return self.plan.adaptive.count_share if self.plan.adaptive else 0.0

    def at(self, number: int, size: int) -> ServerRound:
        """A round at the coordinator."""
        return ServerRound(
            base=np.zeros(size, np.float32),
            clip_norm=self.plan.clip_norm,
            public=b"",
            noise=noise_of(os.environ, "server", -number),
            sites=self.sites,
        )

    def released(self, values: Floats, number: int) -> tuple[Floats, float]:
        """What is released of a sum, as a sum again, and the next norm; half of all within it."""
        at, weight = self.at(number, len(values)), 2 * round(self.expected / 2)
        counters = np.array([weight // 2], np.int64)
        total = Total(values=values, weight=weight, counters=counters)
        for stage in reversed(self.stages):
            total = stage.backward(total, at)
        return total.values * self.expected, at.clip_norm

    @property
    def expected(self) -> float:
        """Sites of a round."""
        return self.sites * self.plan.sample_rate

    def noise(self, rounds: int, size: int, coins: np.random.Generator) -> Floats:
        """Of so many rounds, in deviations: `float64[rounds, size]`."""
        rows = []
        for number in range(1, rounds + 1):
            values = self.plan.clip_norm * coins.normal(size=size) / math.sqrt(size)
            rows.append(self.released(values, number)[0] - values)
        return np.stack(rows) / self.deviation

    def count_checks(self, coins: np.random.Generator) -> list[Check]:
        """The noise on the count of updates within the norm, where it is released."""
        adaptive = self.plan.adaptive
        if adaptive is None:
            return []
        norms = [
            self.released(coins.normal(size=_SMALL), number)[1] for number in range(1, _COUNTS + 1)
        ]
        moved = -np.log(np.array(norms) / self.plan.clip_norm) / adaptive.learning_rate
        count = (moved + adaptive.target_quantile - 0.5) * self.expected
        found = np.asarray(count / self.of_count)
        where = "the count of updates within the norm"
        chances = (variance(found), largest(found), of_normal(found.sum() / math.sqrt(len(found))))
        return [
            chance_check("noise_of_counts", [Found(chance=one, where=where) for one in chances])
        ]

    def clips(self, coins: np.random.Generator) -> tuple[bool, str]:
        """Whether updates of all lengths and forms are brought to the norm, and no further."""
        norm, one = self.plan.clip_norm, np.zeros(_SIZE)
        one[int(coins.integers(_SIZE))] = 1.0
        half = coins.normal(size=_SIZE) * (np.arange(_SIZE) < _SIZE // 2)
        room = norm * _CLOSE + 1.1 * self.resolution * math.sqrt(_SIZE)
        for form in (one, half, coins.normal(size=_SIZE)):
            for length in _LENGTHS:
                update = form / np.linalg.norm(form) * norm
                found = self._forward(length * update)
                gap = float(np.linalg.norm(found - min(1.0, length) * update))
                if gap > room or float(np.linalg.norm(found)) > norm * (1 + _CLOSE):
                    return False, f"an update of {length:g} clip norms"
        return True, ""

    def _forward(self, values: Floats) -> Floats:
        one, at = Update(values=values), self.at(1, len(values))
        stages: tuple[Stage, ...] = self.stages
        for stage in stages:
            one = stage.forward(one, at)
        return np.asarray(one.values, np.float64)
