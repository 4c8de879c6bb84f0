"""Private evaluation: test sums as whole numbers with integer noise, in the budget of the run.

A test record adds to several arrays (a confusion matrix, a histogram of scores, a bounded
loss), each an integer vector of at most a fixed norm, so what one record moves is known
exactly. A site adds noise before anything leaves it: all of it, whoever sees the sums. Only
where single sums are hidden by masks, and the run's own noise comes in shares as well, does a
site add a share, and the sum of fewer sites than the plan of the training counts on is not
opened.

How often a run evaluates follows from public constants, so the cost is planned at its start:
`share` of the squared signal-to-noise ratio that the budget allows goes to evaluations, three
quarters of it to the last one, which tells of the model that stays. Training gets what is
left, found by the accountant over all events together. People in test records are not taken
to be others than those in training records: the costs add up.

Where a run validates, its rounds evaluate validation records, and the last evaluation, after all
rounds, the test records: one number more, and the only one that reads them. It is planned and paid
for in the same way, whatever the parts hold: a record that is validated on in every round costs
what a record that is tested on would. A run that ends early leaves out evaluations of the plan.

With `unit="person"` a site adds up the means over the test records of each person, and with
`unit="client"` it gives the mean over all of them, so that all records of a person, or of a site,
together move what one record does.

Screening (`fedlearn.screening`) gives sums of the same kind, once and before the first round, of
training records: to the plan it is one evaluation more, of a share of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Count, Natural, Positive, Probability, config
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.calibration import noise_multiplier
from fedlearn.privacy.discrete import SMALLEST_STDDEV, Law, integer_noise
from fedlearn.privacy.events import DiscreteSumEvent, GaussianEvent, Unit
from fedlearn.privacy.noise import Keystream

if TYPE_CHECKING:
    from fedlearn.mechanisms.base import Mechanism, Plan

LAST_PART: Final = 0.75
"""What the last evaluation gets of what all of them may spend."""

_LARGEST_STDDEV: Final = 1 << 15
"""Of the noise in whole numbers: a table for more takes longer and gains nothing."""
_FINEST: Final[dict[Unit, int]] = {"record": 1 << 8, "person": 1 << 10, "client": 1 << 13}
"""Steps that a record's addition is cut into, at the most; a mean needs more than a count."""
_COARSEST: Final = 4

_SLACK: Final = 1e-9  # of a square root in float64
_CLOSE: Final = 0.995  # of the budget: nearer is not looked for
_TRIES: Final = 12


@config
class Evaluations:
    """What a run evaluates, and what of the budget goes there: public, equal at both ends."""

    rounds: Count
    every: Count
    """A round of so many is evaluated, and the last one."""
    validated: Annotated[bool, Field(exclude_if=lambda yes: not yes)] = False
    """Whether that is done on validation records, and the test read once after all rounds."""
    share: Probability
    """Of the squared signal-to-noise ratio that the budget allows."""
    weights: tuple[Positive, ...]
    """Of the arrays that a record adds to: their parts of the precision."""
    dimension: Count
    """Numbers of all arrays."""
    hidden: bool
    """Whether nobody sees the sums of a single site."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The rounds that are evaluated, and the number of the test after them."""
        return _numbers(self.rounds, self.every, validated=self.validated)


def due(number: int, rounds: int, every: int) -> bool:
    """Whether a round is evaluated: one of `every`, and the last."""
    return 1 <= number <= rounds and (number == rounds or number % every == 0)


def _numbers(rounds: int, every: int, *, validated: bool) -> tuple[int, ...]:
    last = (rounds + 1,) if validated else ()
    return (*(n for n in range(1, rounds + 1) if due(n, rounds, every)), *last)


@config
class Besides:
    """What a run lets out beside training that its budget pays for; public, equal at both ends."""

    evaluation: Evaluations | None = None
    screening: Evaluations | None = None

    @property
    def share(self) -> float:
        """Of the squared signal-to-noise ratio that the budget allows."""
        return sum(one.share for one in (self.evaluation, self.screening) if one)


@config
class EvaluationPlan:
    """The noise of every evaluation of a run, and what it costs; all of it public."""

    unit: Unit
    law: Law
    rounds: Count
    every: Count
    validated: Annotated[bool, Field(exclude_if=lambda yes: not yes)] = False
    steps: tuple[Count, ...]
    """Of each array: the whole number that its bound on one record stands for."""
    stddev: Natural
    """Of one site's noise in every evaluation but the last, in steps; 0 where there is no other."""
    last_stddev: Count
    """In the last one."""
    shares: Count
    """Sites whose noise is counted: 1 where each adds all of it."""
    dimension: Count

    @property
    def l2_sensitivity(self) -> float:
        """How far one unit moves the integer vector: exactly, but for the root's rounding."""
        return math.sqrt(sum(step * step for step in self.steps)) * (1 + _SLACK)

    def stddev_at(self, number: int) -> int:
        """Of one site's noise in the evaluation of a round, in steps."""
        return self.last_stddev if number == self.numbers[-1] else self.stddev

    @property
    def numbers(self) -> tuple[int, ...]:
        """As in `Evaluations`."""
        return _numbers(self.rounds, self.every, validated=self.validated)

    def event_at(self, number: int) -> DiscreteSumEvent:
        """What the evaluation of a round costs.

        Raises:
            ValueError: the round is not evaluated.
        """
        if number not in self.numbers:
            raise ValueError(f"round {number} is not evaluated")
        return self._event(self.stddev_at(number), 1)

    @property
    def events(self) -> tuple[DiscreteSumEvent, ...]:
        """What all evaluations of the run cost."""
        before = len(self.numbers) - 1
        others = (self._event(self.stddev, before),) if before else ()
        return (*others, self._event(self.last_stddev, 1))

    def _event(self, stddev: int, steps: int) -> DiscreteSumEvent:
        return DiscreteSumEvent(
            law=self.law,
            unit=self.unit,
            l2_sensitivity=self.l2_sensitivity,
            share_stddev=stddev,
            shares=self.shares,
            dimension=self.dimension,
            rounding_failure=0.0,
            sample_rate=1.0,
            steps=steps,
        )


# --- the plan -------------------------------------------------------------------------


def planned(
    settings: Mechanism, besides: Besides, train: Callable[[Mechanism], Plan | None]
) -> Plan | None:
    """The plan of training (`train` makes one of settings) with what the run lets out besides.

    Guarantees: where the settings ask for an epsilon, all events of the plan together cost
    no more.

    Raises:
        ConfigError: the epsilon cannot be met, or is none.
    """
    target: float | None = getattr(settings, "epsilon", None)
    if target is None:
        return _beside(settings, train(settings), besides)
    if besides.share >= 1:
        raise ConfigError([_too_much(target, besides)])
    whole = noise_multiplier(target, _delta(settings), 1.0, 1)
    # What is left, were all noise unsampled and Gaussian; sampling moves it a little.
    guess = _of_gaussian(whole / math.sqrt(1 - besides.share), _delta(settings))
    best, factor = None, 1.0
    for _ in range(_TRIES):
        inner = _in_digits(min(guess * factor, target))
        plan = train(replace(settings, epsilon=inner))  # type: ignore[type-var]
        if plan is None:
            return None
        found = _with(settings, plan, besides, whole)
        if found.epsilon <= target:
            best = found
            if found.epsilon >= _CLOSE * target or inner >= target:
                break
        factor *= target / found.epsilon * (1 if found.epsilon <= target else 0.999)
    if best is None:
        raise ConfigError([_too_much(target, besides)])
    return best


def _beside(settings: Mechanism, plan: Plan | None, besides: Besides) -> Plan | None:
    """With the noise of training given: all else costs its share of what both cost."""
    if plan is None:
        return None
    alone = plan.epsilon
    if not math.isfinite(alone):
        raise ConfigError(
            [
                f"{_names(besides)}: the run promises no epsilon that it could keep to. Set "
                "privacy.epsilon, or evaluation=none and screening=none"
            ]
        )
    if besides.share >= 1:
        raise ConfigError([_too_much(alone, besides)])
    whole = noise_multiplier(alone, _delta(settings), 1.0, 1) * math.sqrt(1 - besides.share)
    return _with(settings, plan, besides, whole)


def _with(settings: Mechanism, plan: Plan, besides: Besides, whole: float) -> Plan:
    """`plan` with all that the run lets out besides, each for its share of what one Gaussian of
    noise `whole` costs."""
    found = {
        name: _planned_one(settings, plan, one, whole / math.sqrt(one.share))
        for name, one in (("evaluation", besides.evaluation), ("screening", besides.screening))
        if one is not None
    }
    try:
        return replace(plan, **found)  # type: ignore[type-var]
    except TypeError:
        raise ConfigError(
            [
                f"{_names(besides)}: the plan of privacy={plan.kind} has no field to pay for it "
                "with. Set evaluation=none and screening=none"
            ]
        ) from None


def _planned_one(
    settings: Mechanism, plan: Plan, evaluations: Evaluations, signal: float
) -> EvaluationPlan:
    """Evaluations that cost together what one Gaussian of noise `signal` does."""
    others = len(evaluations.numbers) - 1
    last = signal / math.sqrt(LAST_PART if others else 1.0)
    each = signal * math.sqrt(others / (1 - LAST_PART)) if others else 0.0
    first = plan.round_event
    in_shares = settings.noise_from == "shares" and evaluations.hidden
    shares = first.shares if in_shares and isinstance(first, DiscreteSumEvent) else 1
    law = first.law if isinstance(first, DiscreteSumEvent) else "discrete_gaussian"
    return _on_grid(plan.unit, law, evaluations, (each, last), shares)


def _on_grid(
    unit: Unit, law: Law, evaluations: Evaluations, noise: tuple[float, float], shares: int
) -> EvaluationPlan:
    """On the finest grid whose noise a table holds."""
    fine = _FINEST[unit]
    while fine >= _COARSEST:
        steps = tuple(max(1, round(fine * math.sqrt(weight))) for weight in evaluations.weights)
        plan = EvaluationPlan(
            unit=unit,
            law=law,
            rounds=evaluations.rounds,
            every=evaluations.every,
            validated=evaluations.validated,
            steps=steps,
            stddev=0,
            last_stddev=SMALLEST_STDDEV,
            shares=shares,
            dimension=evaluations.dimension,
        )
        each, last = (_whole(one * plan.l2_sensitivity / math.sqrt(shares)) for one in noise)
        if max(each, last) <= _LARGEST_STDDEV:
            return replace(plan, stddev=each if noise[0] else 0, last_stddev=last)
        fine //= 2
    raise ConfigError(
        [
            f"evaluate_every={evaluations.every}: so many evaluations leave nothing of a test "
            "figure but noise. Evaluate less often, or set evaluation=none"
        ]
    )


def _whole(stddev: float) -> int:
    return max(SMALLEST_STDDEV, math.ceil(stddev))


def _delta(settings: Mechanism) -> float:
    if settings.delta is None:
        raise ValueError("a budget without delta")
    return settings.delta


def _of_gaussian(noise: float, delta: float) -> float:
    return epsilon([GaussianEvent(noise_multiplier=noise, sample_rate=1.0, steps=1)], delta)


def _in_digits(value: float) -> float:
    """Five digits, cut off: what machines round differently must not tell their plans apart."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 4)
    return math.floor(value / unit) * unit


def _names(besides: Besides) -> str:
    """The settings that ask for it."""
    named = {"evaluation=private": besides.evaluation, "screening=sums": besides.screening}
    return " and ".join(name for name, asked in named.items() if asked)


def _too_much(target: float, besides: Besides) -> str:
    count = len(besides.evaluation.numbers) if besides.evaluation else 0
    return (
        f"{_names(besides)}: no noise keeps training, {count} evaluations and screening within "
        f"privacy.epsilon={target:g}. Raise privacy.epsilon, lower evaluation_share or "
        "screening.share, or set evaluation=none or screening=none"
    )


# --- what is done ---------------------------------------------------------------------


def whole_numbers(
    added: NDArray[np.float64], sizes: Sequence[int], bounds: Sequence[float], plan: EvaluationPlan
) -> NDArray[np.int64]:
    """What each test record adds, in steps: `float64[n, size]` to `int64[n, size]`.

    A row holds arrays of `sizes` numbers one after the other; the part of an array is cut to
    its norm in `bounds` and counted in its steps.

    Guarantees: a row's squared norm is at most the sum of the squares of the steps of these
    arrays, whatever it holds.
    """
    parts, start = [np.zeros((len(added), 0), np.int64)], 0
    for size, bound, step in zip(sizes, bounds, plan.steps, strict=False):
        part = np.asarray(added[:, start : start + size], np.float64)
        parts.append(_steps_of(part, bound, step))
        start += size
    return np.concatenate(parts, axis=1)


def summed(total: NDArray[np.int64], records: int, plan: EvaluationPlan) -> NDArray[np.int64]:
    """What a site gives for all of its `records`: the sum, or for a client their mean.

    `total` may be the sum of all rows, or of those of a group beside the other groups.

    Guarantees: for `unit="record"`, one row more or less moves it by that row alone; for
    `unit="client"` all of it has at most the norm of one row, and so have the groups together.
    For `unit="person"` it is the sum of what `by_persons` made of the rows.
    """
    return _mean(total, records) if plan.unit == "client" else total


def by_persons(
    rows: NDArray[np.int64], owners: NDArray[np.int64], records: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The mean over the rows of each person, rounded towards zero: `int64[n, d]` to `int64[k, d]`.

    Args:
        rows: what records add, in steps.
        owners: `int64[n]`, from 0 to k - 1: the person that each row is of.
        records: `int64[k]`, how many rows each of them has, here and elsewhere.

    Guarantees: a person's mean, the sums of several groups of its records together included, has
    at most the norm of its longest row.
    """
    total = np.zeros((len(records), rows.shape[1]), np.int64)
    np.add.at(total, owners, rows)
    return np.asarray(np.sign(total) * (np.abs(total) // np.maximum(records, 1)[:, None]))


def _steps_of(rows: NDArray[np.float64], bound: float, step: int) -> NDArray[np.int64]:
    """Rows `float64[n, size]`, each cut to a norm of `bound`, in steps of `bound / step`.

    A row with a number that is not finite adds nothing. Rounding goes towards zero, so that
    it makes no norm larger; a single number is rounded to the nearest step.
    """
    finite = np.isfinite(rows).all(1, keepdims=True)
    kept = np.where(finite, rows, 0.0)
    largest = np.abs(kept).max(1, keepdims=True, initial=0.0)
    # Dividing by the largest number first keeps the squares in range.
    scale = np.where(largest > 0, largest, 1.0)
    norms = scale * np.sqrt(np.square(kept / scale).sum(1, keepdims=True))
    kept = kept * (bound / np.maximum(norms, bound))
    exact = kept * (step / bound)
    whole = np.rint(exact) if rows.shape[1] == 1 else np.trunc(exact)
    return np.asarray(np.where(_within(whole, step), whole, np.trunc(exact * (1 - 1e-9))), np.int64)


def _within(whole: NDArray[np.float64], step: int) -> NDArray[np.bool_]:
    """Whether a row of whole numbers, whose squares are exact, has at most the norm `step`."""
    return np.asarray(np.square(whole).sum(1, keepdims=True) <= float(step) ** 2)


def _mean(total: NDArray[np.int64], records: int) -> NDArray[np.int64]:
    """The mean, rounded towards zero; of no records, zero."""
    return np.asarray(np.sign(total) * (np.abs(total) // max(records, 1)))


def noisy(
    total: NDArray[np.int64], plan: EvaluationPlan, number: int, stream: Keystream
) -> NDArray[np.int64]:
    """What leaves a site in the evaluation of a round: its sum with its noise.

    Raises:
        ValueError: the round is not evaluated, or the sum is of another length.
    """
    if total.shape != (plan.dimension,):
        raise ValueError(f"sum of shape {total.shape}, expected {plan.dimension}")
    event = plan.event_at(number)
    return total + integer_noise(plan.law, event.share_stddev).draw(len(total), stream)
