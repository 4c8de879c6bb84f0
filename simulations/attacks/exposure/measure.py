"""What the models of the runs tell of the canaries: ranks, extraction and membership."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn import __version__, models
from fedlearn.auditing.evidence import area_under_curve
from fedlearn.auditing.exposure import (
    DELTAS,
    Allowed,
    by_chance,
    edge_of_chance,
    exposure,
    mean_by_chance,
    p_value,
    ranked,
)
from fedlearn.auditing.findings import VerdictText
from fedlearn.auditing.promise import FALSE_ALARMS, Promise, promise_of
from fedlearn.core.errors import DataError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, to_vector
from fedlearn.data.datasets.archives import default_cache
from fedlearn.metrics.intervals import CONFIDENCE, RESAMPLES
from fedlearn.models import Learner
from fedlearn.report.export import read_model
from fedlearn.report.exposure import (
    SCORES,
    WATCHES,
    ExposedRun,
    Exposure,
    RankedView,
    Repeated,
    Score,
    Watch,
)
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from simulations.attacks.exposure.canaries import NEVER, Canary, others
from simulations.attacks.exposure.carrier import models_of_rounds
from simulations.attacks.exposure.reading import likely, tree_of
from simulations.attacks.exposure.study import ExposureStudy, ExposureTrial
from simulations.attacks.measure import plan_in
from simulations.attacks.trials import outcome

Floats = NDArray[np.float64]

MOST_MODELS: Final = 8
"""Of rounds, evenly spaced, that are looked at from the seat that sees all."""

_UNTOUCHED: Final = "untouched"


@dataclass(frozen=True, kw_only=True)
class OfCanary:
    """What the models of a run make of one canary: nats of its secret and of the others.

    `scores` are by seat and score, the secret first: the smaller, the more it is known.
    """

    scores: Mapping[tuple[Watch, Score], Floats]
    greedy: bool
    nats: float
    """Of the secret under the final model."""


def found_in(study: ExposureStudy, command: str) -> Exposure:
    """What the runs come to.

    Raises:
        DataError: a run has failed, or what it has left cannot be read.
    """
    settings, among = study.settings, study.settings.ranked_among
    inserted = next(one for one in study.canaries if one.repetitions)
    first = _result(study.trials[0])
    return Exposure(
        version=__version__,
        experiment=study.config.experiment,
        command=command,
        model=first.model.name,
        sites=len(first.data.sites),
        site=study.site,
        records=study.records,
        inserted=settings.inserted,
        example=f"{inserted.prompt}{inserted.secret}",
        digits=settings.digits,
        candidates=among,
        exact=settings.space == among,
        tries=settings.tries,
        edge=edge_of_chance(settings.canaries, among),
        by_chance=mean_by_chance(among),
        runs=[_run(study, trial) for trial in study.trials],
    )


def _result(trial: ExposureTrial) -> ResultFile:
    """The result of a run that has ended as it should."""
    ended = outcome(trial)
    if ended is None or ended.exit_code:
        reason = "has not ended" if ended is None else f"has failed: {ended.reason}"
        raise DataError(f"{trial.config.out}: the run {reason}")
    return read_result(Path(trial.config.out))


def _run(study: ExposureStudy, trial: ExposureTrial) -> ExposedRun:
    result = _result(trial)
    plan, found = plan_in(trial.config, result), _of_canaries(study, trial, result)
    promise = None
    if plan is not None and result.privacy.epsilon is not None:
        promise = promise_of(plan, DELTAS, unit=plan.unit)
    among = study.settings.ranked_among
    levels, chances = list[Repeated](), list[float]()
    for repetitions in (NEVER, *study.settings.repetitions):
        allowed = None
        if plan is not None and promise is not None and repetitions:
            allowed = Allowed.of(promise, plan.unit, repetitions)
        mine = [one for canary, one in found if canary.repetitions == repetitions]
        never = [one for canary, one in found if canary.repetitions == NEVER]
        levels.append(_repeated(study, trial.name, repetitions, mine, never, allowed))
        if allowed is not None:
            views = levels[-1].views
            chances += [p_value(np.array(view.ranks), among, allowed) for view in views]
    verdict, chance = _verdict(promise, chances)
    return ExposedRun(
        name=trial.name,
        privacy=trial.config.privacy.kind,
        unit=trial.config.privacy.unit,
        epsilon=result.privacy.epsilon,
        delta=result.privacy.delta,
        noise_multiplier=plan.noise_multiplier if plan else None,
        rounds=len(result.rounds),
        metrics=dict(result.final.evaluate),
        verdict=verdict,
        p_value=chance,
        repeated=levels,
    )


def _verdict(promise: Promise | None, chances: list[float]) -> tuple[VerdictText, float | None]:
    """Of all tests together, each at its share (Bonferroni)."""
    if promise is None:
        return "no promise was made", None
    chance = min(1.0, len(chances) * min(chances))
    broken = chance < FALSE_ALARMS
    return "PROMISE BROKEN" if broken else "consistent with the promise", chance


# --- ranks -------------------------------------------------------------------------------


def _repeated(
    study: ExposureStudy,
    run: str,
    repetitions: int,
    mine: list[OfCanary],
    never: list[OfCanary],
    allowed: Allowed | None,
) -> Repeated:
    """All canaries of so many repetitions; `never` are those that are in no record."""
    settings = study.settings
    places: list[tuple[Watch, Score]] = [(seat, score) for seat in WATCHES for score in SCORES]
    chance = 1 / settings.space
    return Repeated(
        repetitions=repetitions,
        views=[_view(study, run, repetitions, place, mine, never) for place in places],
        greedy=sum(one.greedy for one in mine),
        sampled=float(np.mean([_once_in(settings.tries, one.nats) for one in mine])),
        exposure_allowed=allowed.mean_exposure(settings.ranked_among) if allowed else None,
        greedy_allowed=allowed.chance(chance) if allowed else None,
        sampled_allowed=allowed.chance(settings.tries * chance) if allowed else None,
        auc_allowed=allowed.chance(0.5) if allowed else None,
    )


def _once_in(tries: int, nats: float) -> float:
    """The chance that one of so many texts has what a text has with chance e^-nats."""
    chance = min(math.exp(-nats), 1 - 2.0**-53) if math.isfinite(nats) else 0.0
    return -math.expm1(tries * math.log1p(-chance))


def _view(
    study: ExposureStudy,
    run: str,
    repetitions: int,
    place: tuple[Watch, Score],
    mine: list[OfCanary],
    never: list[OfCanary],
) -> RankedView:
    among, streams = study.settings.ranked_among, Streams(study.config.seed)
    coins = streams.get("exposure", "ties", run, repetitions, *place)
    ranks = np.array([ranked(one.scores[place], coins) for one in mine], np.int64)
    bits = exposure(ranks, among)
    low, high = _interval(bits, streams.get("exposure", "interval", run, repetitions, *place))
    known = np.array([-one.scores[place][0] for one in (*mine, *never)])
    inside = np.arange(len(known)) < len(mine)
    return RankedView(
        seat=place[0],
        score=place[1],
        ranks=ranks.tolist(),
        exposure=float(bits.mean()),
        low=low,
        high=high,
        chance=by_chance(ranks, among),
        auc=area_under_curve(known, inside) if repetitions else None,
    )


def _interval(bits: Floats, rng: np.random.Generator) -> tuple[float | None, float | None]:
    """Percentiles of the means of canaries that are drawn anew (Efron 1979)."""
    if np.all(bits == bits[0]):
        return None, None
    means = bits[rng.integers(len(bits), size=(RESAMPLES, len(bits)))].mean(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


# --- models ------------------------------------------------------------------------------


def _of_canaries(
    study: ExposureStudy, trial: ExposureTrial, result: ResultFile
) -> list[tuple[Canary, OfCanary]]:
    """Every canary by what the models of a run make of it."""
    config = trial.config
    weights = config.model.weights(default_cache(os.environ))
    part = config.training.trained_part
    learner = models.build(config.model, study.task, Streams(config.seed), part, weights)
    last = read_model(Path(config.out), result)
    rounds = [*models_of_rounds(Path(config.out)), last]
    spread = np.linspace(0, len(rounds) - 1, min(MOST_MODELS, len(rounds)))
    seen = [rounds[int(place)] for place in np.rint(spread)]
    first = to_vector(learner.model)
    return [(one, _of_canary(study, trial, learner, first, seen, one)) for one in study.canaries]


def _of_canary(
    study: ExposureStudy,
    trial: ExposureTrial,
    learner: Learner,
    first: Vector,
    seen: list[Vector],
    canary: Canary,
) -> OfCanary:
    rounds = {f"round {number}": vector for number, vector in enumerate(seen)}
    final = f"round {len(seen) - 1}"
    texts = [canary.secret, *others(study.settings, canary, study.config.seed)]
    prompt, candidates = _tokens(study, canary, texts)
    found = likely(
        learner,
        {_UNTOUCHED: first} | rounds,
        prompt,
        tree_of(candidates),
        length=0 if trial.config.model.any_length else study.text.max_length,
        pad=study.text.pad_id,
    )
    loss: dict[Watch, Floats] = {
        "model": found[final].nats,
        "rounds": np.mean([found[name].nats for name in rounds], axis=0),
    }
    before = found[_UNTOUCHED].nats
    scores: dict[tuple[Watch, Score], Floats] = {}
    for seat, nats in loss.items():
        scores |= {(seat, "loss"): nats, (seat, "reference"): nats - before}
    return OfCanary(
        scores=scores,
        greedy=bool(found[final].greedy[0]),
        nats=float(found[final].nats[0]),
    )


def _tokens(
    study: ExposureStudy, canary: Canary, texts: list[str]
) -> tuple[list[int], list[list[int]]]:
    """The ids of the prompt as a record has them, and those of the candidates."""
    ids, learned = study.encoder.encoded(canary.passage)
    return ids[: learned.index(True)], [study.encoder.ids(text) for text in texts]
