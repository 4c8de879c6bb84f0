"""Measuring a run that carried canaries: games, bounds, the verdict, and what to say of them.

Slots give one game for each seat. Every seat is scored by its exact log likelihood ratio
where the noise has a known scale, so that guesses are as good as they can be; without noise,
and where a strategy rescales coordinates, by the value of the slot itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clients.canaries import Kept, canary_file, read_canaries
from clients.owner import owner_of
from clients.records import simulated_sites, simulated_task
from fedlearn import models
from fedlearn.agreement import dimension_of
from fedlearn.auditing.bounds import bounds_of
from fedlearn.auditing.evidence import area_under_curve, log_likelihood_ratio
from fedlearn.auditing.findings import Bound, Estimator, Findings, Seat, View
from fedlearn.auditing.game import Game
from fedlearn.auditing.promise import Promise, judge, promise_of
from fedlearn.auditing.settings import MislabelledAudit, NoAudit, SlotAudit, slots_of
from fedlearn.config import RunConfig, plan_of
from fedlearn.core.errors import DataError, counted
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector
from fedlearn.data.datasets.archives import default_cache
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.report.export import read_model
from fedlearn.results.reading import task_of
from fedlearn.results.result import ResultFile
from fedlearn.tasks import Targets, Task
from fedlearn.training.local import grade
from server.audit import SlotsSeen, read_seen

DELTA: Final = 1e-5
"""At which epsilon is measured where nothing is promised."""

_ROUNDING: Final = 0.02
"""Without noise, a slot above this share of the largest one is no rounding error."""

Scores = NDArray[np.float64]


def measure(config: RunConfig, result: ResultFile) -> Findings | None:
    """What the audit of a finished run has found; None if the run carried no canaries.

    Raises:
        DataError: what the sites and the coordinator have kept cannot be read.
    """
    match config.audit:
        case SlotAudit():
            return _slots(config, config.audit, result)
        case MislabelledAudit():
            return _mislabelled(config, config.audit, result)
        case NoAudit():
            return None
        case _:
            assert_never(config.audit)


def kept_by_sites(config: RunConfig, result: ResultFile) -> dict[str, Kept]:
    """What the sites of a simulated run have kept of their canaries, by site.

    Raises:
        DataError: nothing is there, or it cannot be read.
    """
    paths = {site: canary_file(owner_of(config, site), result.run_id) for site in result.data.sites}
    kept = {site: read_canaries(path) for site, path in paths.items() if path.exists()}
    if not kept:
        raise DataError(
            f"{config.out}: the canaries of run {result.run_id} are gone from the sites' folders; "
            "without their coins nothing can be measured"
        )
    return kept


def _slots(config: RunConfig, audit: SlotAudit, result: ResultFile) -> Findings:
    plan = plan_in(config, result)
    played = games(config, plan, kept_by_sites(config, result), read_seen(Path(config.out)))
    summed = plan is not None and plan.needs_sum
    seat: Seat = "sum" if summed or "update" not in played else "update"
    found = _findings(played, seat, "clopper_pearson", audit, plan, result)
    return replace(found, notes=_of_summing(found, result))


def _findings(
    played: Mapping[Seat, Game],
    seat: Seat,
    estimator: Estimator,
    audit: SlotAudit | MislabelledAudit,
    plan: PrivacyPlan | None,
    result: ResultFile,
) -> Findings:
    """All views; the first bound and the verdict are those of `seat`."""
    independent, delta = isinstance(audit, SlotAudit), plan.delta if plan else DELTA
    noisy = plan is not None and plan.noise_multiplier > 0
    views = [
        View(
            seat=name,
            auc=area_under_curve(game.scores, game.inside),
            bounds=list(
                bounds_of(
                    game, delta=delta, alpha=audit.alpha, independent=independent, normal=noisy
                )
            ),
        )
        for name, game in played.items()
    ]
    first = next(b for v in views if v.seat == seat for b in v.bounds if b.estimator == estimator)
    promise = promise_in(plan, result)
    verdict = judge(played[seat], promise, independent=independent)
    return Findings(
        kind=audit.kind,
        seat=seat,
        estimator=estimator,
        canaries=played[seat].canaries,
        alpha=audit.alpha,
        lower_bound=first.lower_bound,
        ceiling=first.ceiling,
        verdict=verdict.text,
        p_value=verdict.p_value,
        promised=promise.epsilon if promise else None,
        delta=delta,
        views=views,
    )


def promise_in(plan: PrivacyPlan | None, result: ResultFile) -> Promise | None:
    """What the run promises; noise that a test can repeat promises nothing."""
    return None if plan is None or result.privacy.epsilon is None else promise_of(plan)


def plan_in(config: RunConfig, result: ResultFile) -> PrivacyPlan | None:
    """The plan of the run, as its parties derived it."""
    dimension = dimension_of(config, result.model.trainable + slots_of(config.audit))
    sites, task = len(result.data.sites), task_of(result)
    return plan_of(config, sites=sites, dimension=dimension, task=task)


def _of_summing(found: Findings, result: ResultFile) -> list[str]:
    """One sentence on what secure aggregation takes from the coordinator, as measured."""
    by_seat = {view.seat: view.bound("gaussian") for view in found.views}
    alone, together = by_seat.get("update"), by_seat.get("sum")
    sites = len(result.data.sites)
    if alone is None or together is None or sites < 2:
        return []
    return [
        f"From one site's update alone the coordinator would measure {_answered(alone)}; from the "
        f"sum of {counted(sites, 'site')}, all that secure aggregation opens, it measures "
        f"{_answered(together)}."
    ]


def _answered(bound: Bound) -> str:
    if bound.estimate is None or bound.lower_bound is None:
        return "an epsilon without bound"
    return f"an epsilon of {bound.estimate:.2f} (at least {bound.lower_bound:.2f})"


# --- from slots to games -------------------------------------------------------------------


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
        if plan is None or not plan.within_sites or not plan.noise_multiplier:
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


# --- canaries that are records -------------------------------------------------------------


def _mislabelled(config: RunConfig, audit: MislabelledAudit, result: ResultFile) -> Findings:
    """The loss of the final model on the wrong labels: all that an outsider can compute."""
    records, losses = simulated_sites(config), []
    kept = kept_by_sites(config, result)
    vector = read_model(Path(config.out), result)
    task, size = simulated_task(config), config.training.max_batch
    model = trained_model(config, task, vector)
    for site, one in kept.items():
        shown = records[site].train.features[one.coins.rows]
        losses.append(record_losses(model, task, shown, one.coins.labels, size))
    scores = -np.concatenate(losses)
    game = Game(
        scores=scores,
        inside=np.concatenate([one.coins.inside for one in kept.values()]),
        threshold=float(np.median(scores)),
    )
    return _findings({"model": game}, "model", "one_run", audit, plan_in(config, result), result)


def trained_model(config: RunConfig, task: Task, vector: Vector) -> nn.Module:
    """The model of a run with the trained weights `vector`, mapping records to its outputs."""
    part, cache = config.training.trained_part, default_cache(os.environ)
    return models.trained(config.model, task, Streams(config.seed), part, vector, cache)


def record_losses(
    model: nn.Module, task: Task, features: NDArray[Any], labels: Targets, max_batch: int
) -> Scores:
    """How badly what the model says fits every record: the negative logarithm of how well."""
    fit = task.likelihood(grade(model, task, torch.from_numpy(features), labels, max_batch), labels)
    return np.asarray(-np.log(np.maximum(fit, 1e-30)))
