"""Survival: when does a record's event come, where for some it had not come when they were lost?

Time up to a public `horizon` is cut into intervals, and the answer is the chance to live through
each. A model gives the hazard of each interval: the chance of the event there, for who lived until
then. The loss is the negative log likelihood of discrete hazards (Cox 1972, Brown 1975; as in
Gensheimer and Narasimhan 2019), which is **a record's own**. Cox's partial likelihood sets every
event beside all who were at risk, so it is no sum over records, and clipping the gradient of one
record would bound nothing.

A record that is lost in an interval counts as having lived through it if it was seen for half of
it or more. What comes after the horizon is not looked at: such a record has lived through all.

Hazards are smooth: their logits are a polynomial in time (in Legendre's form), whose coefficients
are what a model gives. With `degree=0` they are constant over time, as high as the record makes
them; with `degree` one less than the number of intervals they are free. A new model says that half
of the records live through the horizon.

Evaluation counts records by what became of them, by interval and by risk, and adds up squares
(`fedlearn.metrics.survival`). So pairs of Harrell's C that end in one interval are not compared,
and risks that share a bin are a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log, sqrt
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import numpy as np
from annotated_types import Le, MaxLen
from numpy.typing import NDArray

from fedlearn.core.errors import DataError
from fedlearn.core.language import Figure, message
from fedlearn.core.settings import Count, Natural, Positive, config
from fedlearn.metrics import survival
from fedlearn.metrics.intervals import CONFIDENCE, Gap, gap_of_means, normal_draws, redrawn
from fedlearn.metrics.scores import NOISED_BINS, bins_of
from fedlearn.metrics.sums import SumLayout, Sums, SumSpec
from fedlearn.metrics.survival import EVENT, SurvivalCurve, SurvivalCurves
from fedlearn.tasks import logistic
from fedlearn.tasks.inputs import Input
from fedlearn.tasks.task import LabelColumn, Metric, Targets, Task, TaskForm

if TYPE_CHECKING:  # reading and checking records needs no torch, which takes a second
    from torch import Tensor

Floats = NDArray[np.float64]

RISK_BINS: Final = 256

MOST_INTERVALS: Final = 500
"""Sums of squares are a table of all intervals by all, at every site and on the coordinator."""

_UNIT: Final = 2.0**-30
"""Of a share: what every record adds is at most 1, and of a billion records it is exact."""

_RAREST: Final = 1e-4
"""A hazard is held to be this and one less this at the ends, so that a loss is finite."""

METRICS: Final = (
    Metric(
        name="c_index",
        title="concordance (Harrell's C)",
        short="C",
        meaning="of two records of which it is known who had the event first, how often the model "
        "gave that one the higher risk: 0.5 is chance, 1 is perfect",
        in_summary=True,
        by_group=True,
        guessing=0.5,
    ),
    Metric(
        name="brier",
        title="integrated Brier score",
        short="Brier",
        meaning="the mean squared error of the chance to be alive, over all times; lower is better",
        higher_is_better=False,
        in_summary=True,
    ),
    Metric(
        name="survival",
        title="survival observed",
        meaning="the share that lives through the horizon (Kaplan and Meier)",
        in_summary=True,
    ),
    Metric(
        name="survival_predicted",
        title="survival predicted",
        meaning="the mean of what the model says of it",
        in_summary=True,
    ),
    Metric(
        name="calibration_gap",
        title="calibration gap",
        meaning="how far the mean of the predicted curves is from the observed one where they are "
        "furthest apart; lower is better",
        higher_is_better=False,
        by_group=True,
    ),
    Metric(
        name="loss",
        title="loss",
        short="loss",
        meaning="what training makes small: the negative log likelihood of a record, in nats; "
        "lower is better",
        higher_is_better=False,
    ),
)


@config
class Survival:
    """When an event comes, of records some of which are lost from sight before it."""

    kind: Literal["survival"] = "survival"
    horizon: Positive
    """Public: what comes later is not looked at."""
    unit: str = "days"
    """What times are in: reports say it."""
    intervals: Annotated[Count, Le(MOST_INTERVALS)] = 20
    """Of equal length, up to the horizon."""
    cuts: Annotated[tuple[Positive, ...], MaxLen(MOST_INTERVALS)] = ()
    """The ends of intervals, in their place; public, and the last one is the horizon."""
    degree: Natural = 3
    """How a record's hazard may bend over time: the degree of a polynomial."""

    learns: ClassVar[type[Task]]

    def contradictions(self) -> Iterator[str]:
        """Intervals that are none, or a polynomial of more degrees than there are intervals."""
        if self.cuts and list(self.cuts) != sorted(set(self.cuts)):
            yield f"cuts={list(self.cuts)}: must be rising"
        if self.cuts and self.cuts[-1] != self.horizon:
            yield f"cuts: the last one is {self.cuts[-1]:g}; it must be horizon={self.horizon:g}"
        if self.degree >= len(self.ends):
            yield (f"degree={self.degree}: must be below the number of intervals, {len(self.ends)}")

    @property
    def ends(self) -> Floats:
        """Of the intervals: `float64[intervals]`, in the unit."""
        if self.cuts:
            return np.array(self.cuts)
        return np.asarray(np.arange(1, self.intervals + 1) * (self.horizon / self.intervals))

    def of(self, form: TaskForm) -> SurvivalTask:
        """The task on records of this form."""
        return SurvivalTask(input=form.input, settings=self)

    def problems(self, column: LabelColumn) -> Iterator[str]:
        """No times, or none that are; no events, or nobody who is lost for another reason."""
        if column.events is None:
            yield _without_events(column)
            return
        times, events = column.numbers(), column.events()
        if not times.size:
            yield f"{column.where}: no record has one"
            return
        for wrong, why in (
            (~np.isfinite(times), "no time"),
            (times < 0, "a time below zero"),
            (np.isnan(events), "neither 1 nor 0 in the column of events (true, false; yes, no)"),
        ):
            if (at := np.flatnonzero(wrong)).size:
                yield f"{column.where}: {column.places(at.tolist())}: {why}"
        if not (events == 1).any() and not np.isnan(events).any():
            yield f"{column.where}: no record has an event; there is nothing to learn"

    def unreadable(self, column: LabelColumn) -> NDArray[np.bool_]:
        """What `problems` says of single records."""
        times = column.numbers()
        events = np.zeros(len(times)) if column.events is None else column.events()
        return np.asarray(~np.isfinite(times) | (times < 0) | np.isnan(events))

    def is_open(self, column: LabelColumn) -> bool:
        """Nothing of the task is found in records: the intervals are in the config."""
        return False

    def encode(self, column: LabelColumn) -> tuple[tuple[str, ...], Targets]:
        """No names; intervals lived through, and whether the event came next: `int64[n, 2]`.

        Raises:
            DataError: the source has no column of events.
        """
        if column.events is None:
            raise DataError([_without_events(column)])
        return (), self.outcomes(column.numbers(), column.events())

    def outcomes(self, times: Floats, events: Floats) -> NDArray[np.int64]:
        """What became of records, `float64[n]` each: `int64[n, 2]`, as targets are."""
        ends = self.ends
        begins = np.concatenate([[0.0], ends[:-1]])
        there = np.minimum(np.searchsorted(ends, times), len(ends) - 1)
        ended = (events == 1) & (times <= self.horizon)
        half = times >= (begins + ends)[there] / 2
        lived = np.where(ended, there, there + half)
        return np.column_stack([lived, ended]).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class SurvivalTask(Task):
    """Hazards over time: targets are `int64[n, 2]`, intervals lived through and 1 for an event."""

    kind: ClassVar[str] = "survival"
    metrics_known: ClassVar = METRICS
    has_classes: ClassVar[bool] = False
    has_events: ClassVar[bool] = True
    always_leads: ClassVar[bool] = False  # of pairs it may be that none can be told apart

    input: Input
    settings: Survival
    classes: tuple[str, ...] = ()

    @property
    def num_outputs(self) -> int:
        """Coefficients of the polynomial."""
        return int(self.settings.degree) + 1

    @property
    def _intervals(self) -> int:
        return len(self.settings.ends)

    # --- training ---

    @cached_property
    def _polynomials(self) -> Floats:
        """`float64[intervals, degree + 1]`: Legendre's, at the middles of the intervals."""
        places = (np.arange(self._intervals) + 0.5) / self._intervals
        return np.asarray(
            np.polynomial.legendre.legvander(2 * places - 1, int(self.settings.degree))
        )

    @property
    def _usual(self) -> float:
        """The logit of the hazard with which half of all live through the horizon."""
        rest = 0.5 ** (1 / self._intervals)
        return log((1 - rest) / rest)

    def _logits(self, outputs: Tensor) -> Tensor:
        """Of the hazards: `[n, intervals]`."""
        import torch

        basis = torch.from_numpy(self._polynomials).to(outputs.device, outputs.dtype)
        logits: Tensor = outputs @ basis.T + self._usual
        return logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """`float32[n]` nats of outputs `[n, degree + 1]`: of every interval that was lived
        through, and of the event."""
        import torch
        from torch.nn.functional import softplus

        logits = self._logits(outputs)
        lived, ended = targets[:, :1], targets[:, 1:]
        at = torch.arange(self._intervals, device=outputs.device)[None]
        ends_here = ((at == lived) & (ended == 1)).to(logits.dtype)
        at_risk = (at < lived).to(logits.dtype) + ends_here
        return (at_risk * softplus(logits) - ends_here * logits).sum(1)

    # --- targets ---

    def check(self, targets: Targets) -> None:
        """Refuse what are no outcomes."""
        if targets.dtype.kind != "i" or targets.ndim != 2 or targets.shape[1] != 2:
            raise ValueError("labels must be pairs of whole numbers: intervals, and 1 for an event")
        lived, ended = targets[:, 0], targets[:, 1]
        if not ((ended == 0) | (ended == 1)).all():
            raise ValueError("the second of a pair must be 1 for an event, or 0")
        if not ((lived >= 0) & (lived + ended <= self._intervals)).all():
            raise ValueError("intervals lived through must be those of the task")

    def strata(self, targets: Targets) -> NDArray[np.int64]:
        """Whether the event ended."""
        return np.asarray(targets[:, 1])

    def alike(self, targets: Targets) -> str:
        """That no event came, or that all did."""
        if not len(targets) or (targets[:, 1] != targets[0, 1]).any():
            return ""
        return "an event" if targets[0, 1] else "no event"

    def mislabelled(self, targets: Targets, words: NDArray[np.uint64]) -> Targets:
        """An event in any interval of the half that the record did not end in."""
        half = max(self._intervals // 2, 1)
        drawn = (words % np.uint64(half)).astype(np.int64)
        late = np.minimum(drawn + self._intervals - half, self._intervals - 1)
        lived = np.where(targets[:, 0] < self._intervals / 2, late, drawn)
        return np.column_stack([lived, np.ones_like(lived)]).astype(targets.dtype)

    # --- answers ---

    def answers(self, outputs: Tensor) -> Tensor:
        """The chance to live through each interval: `float64[n, intervals]`."""
        hazards = self._logits(outputs.double()).sigmoid()
        return (1 - hazards).cumprod(1)

    def _likely(self, curves: Floats, targets: Targets) -> Floats:
        """Nats of each record, as `loss` has them."""
        staying = _staying(curves)
        lived, ended = targets[:, :1], targets[:, 1:]
        at = np.arange(self._intervals)[None]
        nats = np.where(at < lived, -np.log(staying), 0.0)
        nats += np.where((at == lived) & (ended == 1), -np.log1p(-staying), 0.0)
        return np.asarray(nats.sum(1))

    def likelihood(self, graded: Floats, targets: Targets) -> Floats:
        """The chance that the model gives to what became of the record."""
        return np.asarray(np.exp(-self._likely(graded, targets)))

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The chance of an event within the horizon, and when half have had it."""
        return (f"chance within {self.settings.horizon:g}", "median")

    def answer_cells(self, answer: Floats) -> Sequence[str]:
        """As `answer_columns` says; between the ends of intervals the curve is straight."""
        curve = np.concatenate([[1.0], answer])
        if curve[-1] > 0.5:
            return [f"{1 - curve[-1]:.6f}", f">{self.settings.horizon:g}"]
        times = np.concatenate([[0.0], self.settings.ends])
        median = np.interp(-0.5, -curve, times)
        return [f"{1 - curve[-1]:.6f}", f"{median:.6g}"]

    # --- evaluation ---

    @property
    def _widths(self) -> Floats:
        ends = self.settings.ends
        return np.asarray(np.diff(ends, prepend=0.0) / ends[-1])

    @property
    def sum_layout(self) -> SumLayout:
        """Loss; what became of records, and by risk; squares by the interval of the event, of the
        rest in the last row; and the predicted curves."""
        number = self._intervals
        return (
            SumSpec(name="loss", unit=_UNIT, bound=-number * log(_RAREST)),
            SumSpec(name="outcomes", shape=(2, number + 1)),
            SumSpec(name="ranks", shape=(2, number + 1, RISK_BINS)),
            SumSpec(name="squares", shape=(number + 1, number), unit=_UNIT, bound=sqrt(number)),
            SumSpec(name="curves", shape=(number,), unit=_UNIT, bound=sqrt(number)),
        )

    def _risks(self, graded: Floats, bins: int) -> NDArray[np.int64]:
        """The bin of each record: how much of the time up to the horizon it is to lose."""
        return bins_of(1 - graded @ self._widths, bins)

    def sums(self, graded: Floats, targets: Targets) -> Sums:
        """The sums for curves `float64[n, intervals]`; NaN propagates into all but the counts."""
        number = self._intervals
        lived, ended = targets[:, 0], targets[:, 1]
        ranks = np.zeros((2, number + 1, RISK_BINS), np.int64)
        np.add.at(ranks, (ended, lived, self._risks(graded, RISK_BINS)), 1)
        squares = np.zeros((number + 1, number))
        through = np.arange(number)[None] < lived[:, None]
        squares[-1] = np.where(through, (1 - graded) ** 2, 0.0).sum(0)
        last = np.where(through, 0.0, graded**2)
        np.add.at(squares, lived[ended == 1], last[ended == 1])
        return Sums(
            layout=self.sum_layout,
            count=len(targets),
            arrays={
                "loss": np.asarray(self._likely(graded, targets).sum()),
                "outcomes": ranks.sum(2),
                "ranks": ranks,
                "squares": squares,
                "curves": graded.sum(0),
            },
        )

    def check_sums(self, sums: Sums) -> None:
        """Every record has one outcome and one risk, and shares from 0 to 1."""
        super().check_sums(sums)
        if sums.noise:
            return
        outcomes = sums["outcomes"]
        if outcomes.sum() != sums.count or (sums["ranks"].sum(2) != outcomes).any():
            raise ValueError("test sums that do not add up to the number of records")
        if outcomes[EVENT, -1]:
            raise ValueError("test sums with events after the last interval")
        self._check_real_sums(sums)

    def _check_real_sums(self, sums: Sums) -> None:
        """Refuse what no chances of so many records add up to; a model that has diverged gives
        what is no number."""
        outcomes, number = sums["outcomes"], self._intervals
        events = np.repeat(outcomes[EVENT, :-1, None], number, axis=1)
        through = np.cumsum(outcomes.sum(0)[::-1])[::-1][1:]
        most: Mapping[str, Any] = {
            "loss": sums.count * self.sum_layout[0].bound,
            "squares": np.concatenate([events, through[None]]),
            "curves": sums.count,
        }
        rounding = 1e-6 * sums.count
        for name, highest in most.items():
            if ((sums[name] < -rounding) | (sums[name] > highest + rounding)).any():
                raise ValueError(f"test sums ({name}) that no chances of the records add up to")

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Concordance where a pair can be told apart; Brier's score of exact sums alone."""
        if not sums.count:
            return {}
        found = {"loss": self._loss(sums)}
        if not np.isnan(value := survival.concordance(sums["ranks"])):
            found["c_index"] = float(np.clip(value, 0.0, 1.0))
        if score := self._brier(sums):
            found["brier"] = score.model
        observed = survival.kaplan_meier(sums["outcomes"])
        predicted = np.clip(sums["curves"] / sums.count, 0.0, 1.0)
        found["survival"] = float(observed[-1])
        found["survival_predicted"] = float(predicted[-1])
        found["calibration_gap"] = float(np.abs(observed - predicted).max())
        return found

    def _brier(self, sums: Sums) -> survival.Brier | None:
        if sums.noise:
            return None
        return survival.brier(sums["squares"], sums["outcomes"], self._widths)

    def _loss(self, sums: Sums) -> float:
        mean = float(sums["loss"]) / sums.count
        return min(max(mean, 0.0), self._largest_loss) if sums.noise else mean

    def uninformed(self, sums: Sums) -> dict[str, float]:
        """What the curve of Kaplan and Meier gets, the same for every record."""
        if not sums.count:
            return {}
        found = {"c_index": 0.5, "loss": _least_loss(np.maximum(sums["outcomes"], 0))}
        if score := self._brier(sums):
            found["brier"] = score.uninformed
        return found

    uninformed_answer: ClassVar[str] = "the same curve for every record"
    uninformed_loss: ClassVar[str] = "the observed curve for every record"

    # --- private evaluation ---

    @property
    def _largest_loss(self) -> float:
        """Nats: what a record's loss counts at the most; well above that of one in the middle."""
        return 1 + 1.5 * log(2 * self._intervals)

    @property
    def noised_layout(self) -> SumLayout:
        """A bounded loss, few bins of risk, and no squares: noise is added to every number."""
        number = self._intervals
        return (
            SumSpec(name="outcomes", shape=(2, number + 1), share=2.0),
            SumSpec(name="loss", bound=self._largest_loss),
            SumSpec(name="ranks", shape=(2, number + 1, NOISED_BINS), share=2.0),
            SumSpec(name="curves", shape=(number,), bound=sqrt(number)),
        )

    def contributions(self, graded: Floats, targets: Targets) -> Floats:
        """One outcome, the loss up to its bound, one risk, and the curve."""
        records, number = len(targets), self._intervals
        row, place = np.arange(records), targets[:, 1] * (number + 1) + targets[:, 0]
        outcomes = np.zeros((records, 2 * (number + 1)))
        outcomes[row, place] = 1
        curves = np.clip(np.nan_to_num(graded, nan=0.0), 0.0, 1.0)
        loss = np.minimum(self._likely(curves, targets), self._largest_loss)
        ranks = np.zeros((records, 2 * (number + 1) * NOISED_BINS))
        ranks[row, place * NOISED_BINS + self._risks(curves, NOISED_BINS)] = 1
        return np.concatenate([outcomes, loss[:, None], ranks, curves], axis=1)

    def noised(self, arrays: Mapping[str, Floats], noise: Mapping[str, float]) -> Sums:
        """The arrays without cutting off what is negative: what is linear in them has no bias."""
        layout = tuple(replace(spec, unit=1.0) for spec in self.noised_layout)
        count = max(0, round(float(arrays["outcomes"].sum())))
        return Sums(layout=layout, count=count, arrays=arrays, noise=noise)

    # --- how sure it is ---

    def resampled(self, sums: Sums, rng: np.random.Generator) -> dict[str, Floats]:
        """Concordance by its influence, the observed curve by drawing outcomes anew."""
        if sums.count < 2:
            return {}
        found = self.metrics(sums)
        drawn = survival.kaplan_meier(_drawn(sums["outcomes"], sums.count, rng))
        redone = {"survival": drawn[:, -1]}
        if (spread := survival.spread_of_concordance(sums["ranks"])) and "c_index" in found:
            redone["c_index"] = normal_draws(found["c_index"], spread, rng).clip(0.0, 1.0)
        return redone

    def resampled_noised(self, sums: Sums, rng: np.random.Generator) -> dict[str, Floats]:
        """Around each, as far as records and noise that are drawn anew move it."""
        if sums.count < 2:
            return {}
        found, redone = self.metrics(sums), {}
        for name, table, of in (
            ("c_index", "ranks", survival.concordance),
            ("survival", "outcomes", lambda one: survival.kaplan_meier(one)[..., -1]),
        ):
            if name in found:
                drawn, nearest = redrawn(sums[table], sums.count, sums.noise[table], rng)
                around = found[name] + of(drawn) - of(nearest)
                redone[name] = np.clip(around, 0.0, 1.0)
        return redone

    def gap(self, groups: Mapping[str, Sums], rng: np.random.Generator) -> Gap | None:
        """Between the groups in which pairs can be told apart, in concordance."""
        known = {name: self._concordance(one, rng) for name, one in groups.items() if one.count}
        found = {name: one for name, one in known.items() if one is not None}
        # Of means less is better, and of concordance more.
        return gap_of_means(
            {name: -value for name, (value, _) in found.items()},
            {name: spread for name, (_, spread) in found.items()},
            rng,
        )

    def _concordance(self, sums: Sums, rng: np.random.Generator) -> tuple[float, float] | None:
        value = self.metrics(sums).get("c_index")
        if value is None:
            return None
        if not sums.noise:
            spread = survival.spread_of_concordance(sums["ranks"])
            return None if spread is None else (value, spread)
        drawn = self.resampled_noised(sums, rng).get("c_index", np.zeros(0))
        return (value, float(np.nanstd(drawn))) if drawn.size else None

    def curves(
        self, tested: Sums, sites: Mapping[str, Sums], rng: np.random.Generator
    ) -> SurvivalCurves | None:
        """Over all, and at the sites that are large enough."""
        if not tested.count:
            return None
        noise = tested.noise["outcomes"] if tested.noise else 0.0
        drawn, _ = redrawn(tested["outcomes"].astype(np.float64), tested.count, noise, rng)
        rest = (1 - CONFIDENCE) / 2
        low, high = np.nanquantile(survival.kaplan_meier(drawn), (rest, 1 - rest), axis=0)
        return SurvivalCurves(
            times=self.settings.ends.tolist(),
            unit=self.settings.unit,
            all_sites=_curve(tested),
            low=low.tolist(),
            high=high.tolist(),
            per_site={
                site: _curve(sums) for site, sums in sites.items() if sums.count >= survival.FEWEST
            },
        )

    def uncalibrated(self, found: Mapping[str, float]) -> str:
        """The curves say it."""
        return message("the curves over time show it")

    # --- what it is held against ---

    plain_model: ClassVar[str] = "a discrete-time hazard regression"

    def plain(self, features: Any, targets: Targets) -> Callable[[Any], Floats]:
        """The same hazards, linear in the features, by their likelihood."""
        fit = logistic.fitted_hazards(features, targets, self._polynomials, self._usual)
        return lambda rows: np.asarray(np.cumprod(1 - fit(rows), 1))

    # --- what a report says ---

    def says(self) -> str:
        """What the curve is of."""
        settings = self.settings
        return message(
            "It says how probable it is that a record's event has not come by each of %(times)s "
            "times up to %(horizon)s%(unit)s.",
            times=len(settings.ends),
            horizon=Figure(settings.horizon, "g"),
            unit=settings.unit and f" {settings.unit}",
        )

    def warning(self, found: Mapping[str, float]) -> str:
        """That chance would order records as well."""
        if found.get("c_index", 1.0) > 0.5:
            return ""
        return message(
            "Concordance is %(value)s: chance would say as well who has the event first. More "
            "rounds or steps, another learning rate, or other intervals (task.horizon, task.cuts) "
            "may change that.",
            value=Figure(found["c_index"], ".3f"),
        )


def _without_events(column: LabelColumn) -> str:
    return (
        f"{column.where}: task=survival asks for times and for whether the event came: name the "
        "column of the second, 1 or 0, as scenario.event=COLUMN (tables alone have one)"
    )


def _curve(sums: Sums) -> SurvivalCurve:
    return survival.curve(sums["outcomes"], sums["curves"], sums.count)


def _drawn(counts: NDArray[np.int64], records: int, rng: np.random.Generator) -> Any:
    drawn, _ = redrawn(counts.astype(np.float64), records, 0.0, rng)
    return drawn


def _staying(curves: Floats) -> Floats:
    """The chance to live through each interval for who lives at its beginning, of `[n, K]`."""
    before = np.column_stack([np.ones(len(curves)), curves[:, :-1]])
    staying = np.divide(curves, before, out=np.ones(curves.shape), where=before > 0)
    return np.clip(staying, _RAREST, 1 - _RAREST)


def _least_loss(outcomes: NDArray[np.int64] | Floats) -> float:
    """Nats a record, of one who gives to everybody the hazards that there were."""
    (staying,) = _staying(survival.kaplan_meier(outcomes)[None])
    nats = survival.lived_through(outcomes) @ -np.log(staying)
    nats += outcomes[EVENT, :-1] @ -np.log1p(-staying)
    return float(nats) / float(max(outcomes.sum(), 1))


Survival.learns = SurvivalTask
