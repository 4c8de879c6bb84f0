"""From what a run has kept of its audit slots to one game for each seat.

Every seat is scored by its exact log likelihood ratio where the noise has a
known scale, so that guesses are as good as they can be; without noise, and
where a strategy rescales coordinates, by the value of the slot itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clients.canaries import Kept
from fedlearn.auditing.evidence import log_likelihood_ratio
from fedlearn.auditing.findings import Seat
from fedlearn.auditing.game import Game
from fedlearn.config import RunConfig
from fedlearn.mechanisms import PrivacyPlan
from server.audit import SlotsSeen

_ROUNDING: Final = 0.02
"""Without noise, a slot above this share of the largest one is no rounding error."""

Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One canary in one step moves a slot by `unit`; noise has the deviation `noise` units.

    Both are those of one site's own update.
    """

    unit: float
    noise: float
    rate: float
    steps: int

    @classmethod
    def of(cls, config: RunConfig, plan: PrivacyPlan | None) -> Signal | None:
        """None where there is no noise to compare with."""
        if plan is None or plan.unit != "record" or not plan.noise_multiplier:
            return None
        training = config.training
        divisor = training.sample_rate * training.nominal_records
        return cls(
            unit=training.learning_rate * plan.clip_norm / divisor,
            noise=plan.noise_multiplier,
            rate=plan.sample_rate,
            steps=plan.steps_per_round,
        )


def games(
    config: RunConfig,
    plan: PrivacyPlan | None,
    kept: Mapping[str, Kept],
    seen: Sequence[SlotsSeen],
) -> dict[Seat, Game]:
    """The games of all seats that the run has; `kept` is by site."""
    numbers = np.concatenate([one.coins.numbers for one in kept.values()])
    inside = np.concatenate([one.coins.inside for one in kept.values()])
    signal = Signal.of(config, plan)
    found: dict[Seat, Game] = {}
    if all(one.changes for one in kept.values()):
        scores = np.concatenate([_own(one, signal) for one in kept.values()])
        found["update"] = _game(scores, inside, signal)
    shared = plan is not None and plan.needs_sum
    found["sum"] = _game(_of_sums(seen, signal, numbers, shared=shared), inside, signal)
    found["model"] = _of_model(config, seen, signal, numbers, inside, shared=shared)
    return found


def _own(kept: Kept, signal: Signal | None) -> Scores:
    changes = np.array(list(kept.changes.values()), np.float64)
    if signal is None:
        return _total(-changes)
    noise = signal.noise * math.sqrt(signal.steps)
    return _total([_ratio(-c / signal.unit, signal, noise, signal.steps) for c in changes])


def _of_sums(
    seen: Sequence[SlotsSeen], signal: Signal | None, numbers: NDArray[np.int64], *, shared: bool
) -> Scores:
    if signal is None:
        return _total([-one.change[numbers] for one in seen])
    parts = []
    for one in seen:
        # Noise that the sites share is planned for the sum; noise of their own adds up.
        noise = signal.noise * math.sqrt(signal.steps * (1 if shared else one.sites))
        summed = -one.change[numbers].astype(np.float64) * one.sites / signal.unit
        parts.append(_ratio(summed, signal, noise, signal.steps))
    return _total(parts)


def _total(rounds: Sequence[NDArray[Any]] | NDArray[Any]) -> Scores:
    return np.asarray(np.sum(np.asarray(rounds, np.float64), axis=0))


def _of_model(
    config: RunConfig,
    seen: Sequence[SlotsSeen],
    signal: Signal | None,
    numbers: NDArray[np.int64],
    inside: NDArray[np.bool_],
    *,
    shared: bool,
) -> Game:
    """The slots of the last model: the sum of all rounds, seen at once."""
    scores = -seen[-1].model[numbers].astype(np.float64)
    cohorts = {one.sites for one in seen}
    if signal is None:
        return _game(scores, inside, None)
    if not config.strategy.takes_mean or len(cohorts) > 1:
        return Game(scores=scores, inside=inside, threshold=float(np.median(scores)))
    sites, steps = cohorts.pop(), signal.steps * len(seen)
    noise = signal.noise * math.sqrt(steps * (1 if shared else sites))
    return _game(_ratio(scores * sites / signal.unit, signal, noise, steps), inside, signal)


def _ratio(signals: Scores, signal: Signal, noise: float, steps: int) -> Scores:
    return log_likelihood_ratio(signals, noise=noise, rate=signal.rate, steps=steps)


def _game(scores: Scores, inside: NDArray[np.bool_], signal: Signal | None) -> Game:
    """Ratios have their threshold at zero; bare slots are zero but for rounding if out."""
    threshold = 0.0 if signal else _ROUNDING * float(max(0.0, scores.max()))
    return Game(scores=scores, inside=inside, threshold=threshold)
