"""Regression: a record is answered with a number in a public range.

The range is what the field holds possible (a stay of 0 to 90 days), **not** the minimum and
maximum of one's data. It makes the loss and everything that an evaluation adds up bounded, and
puts the answers of a new model where the labels are: a model's output of -1 is the lower end and
1 the upper one.

Losses are in these units, half of the range: with `r = output - label`, squared is `r^2 / 2`;
Huber's (1964) the same up to `huber` and linear beyond it, so that a few large amounts do not
decide; a quantile's (Koenker and Bassett 1978) `q r-` and `(1 - q) r+`, whose best constant is
the quantile `q`.

Evaluation adds up moments of errors and labels as shares of the range. Of errors of one model on
independent records these say the mean absolute error, the root of the mean square, R squared, and
by the delta method how sure each is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot, sqrt
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.language import Figure, message
from fedlearn.core.settings import Positive, Probability, config
from fedlearn.metrics.intervals import Gap, gap_of_means, normal_draws
from fedlearn.metrics.sums import SumLayout, Sums, SumSpec
from fedlearn.tasks.inputs import Input
from fedlearn.tasks.task import LabelColumn, Metric, Targets, Task, TaskForm

if TYPE_CHECKING:  # reading and checking records needs no torch, which takes a second
    from torch import Tensor

Floats = NDArray[np.float64]

_UNIT: Final = 2.0**-30
"""Of a moment: what every record adds is at most 1, and of a billion records it is exact."""

METRICS: Final = (
    Metric(
        name="mae",
        title="mean absolute error",
        short="MAE",
        meaning="how far an answer is from the truth on average, in the unit of the label; lower "
        "is better",
        higher_is_better=False,
        in_summary=True,
        by_group=True,
    ),
    Metric(
        name="rmse",
        title="root mean square error",
        short="RMSE",
        meaning="the same with large errors counting for more; lower is better",
        higher_is_better=False,
        in_summary=True,
    ),
    Metric(
        name="r2",
        title="R squared",
        short="R2",
        meaning="the share of the labels' variance that the model explains: 0 is what their mean "
        "explains, 1 all of it",
        in_summary=True,
        by_group=True,
    ),
    Metric(
        name="bias",
        title="bias",
        meaning="how far answers are above the truth on average, in the unit of the label; 0 is "
        "best, and less than 0 is below",
        higher_is_better=False,
    ),
    Metric(
        name="coverage",
        title="coverage",
        meaning="the share of records whose label is at most the answer; of a quantile it should "
        "be that quantile",
    ),
    Metric(
        name="loss",
        title="loss",
        short="loss",
        meaning="what training makes small, with half of the range as the unit; lower is better",
        higher_is_better=False,
    ),
)

# Places in the arrays of moments: `u` is an error and `v` a label, as shares of the range.
_ABSOLUTE, _SQUARE = range(2)
_SIGNED, _FOURTH, _SQUARE_V, _SQUARE_VV, _VVV, _VVVV = range(6)


@config
class Regression:
    """A number per record, in a public range that the config says."""

    kind: Literal["regression"] = "regression"
    low: float
    high: float
    unit: str = ""
    """What the number is in, as `days` or `EUR`: reports say it."""
    loss: Literal["squared", "huber", "quantile"] = "squared"
    huber: Positive = 0.2
    """Where Huber's loss turns linear, with half of the range as the unit."""
    quantile: Probability = 0.5
    """Which one is learned: 0.5 is the median."""
    outside: Literal["refuse", "clip"] = "refuse"
    """What becomes of a label beyond the range."""

    learns: ClassVar[type[Task]]

    def contradictions(self) -> Iterator[str]:
        """A range with nothing in it."""
        if not self.low < self.high:
            yield f"low={self.low:g}: must be below high={self.high:g}"

    def of(self, form: TaskForm) -> RegressionTask:
        """The task on records of this form."""
        return RegressionTask(input=form.input, settings=self)

    def problems(self, column: LabelColumn) -> Iterator[str]:
        """No label, one that is no number or is outside the range, or the same one everywhere."""
        numbers = column.numbers()
        if not numbers.size:
            yield f"{column.where}: no record has one"
            return
        if (wrong := np.flatnonzero(~np.isfinite(numbers))).size:
            yield f"{column.where}: {column.places(wrong.tolist())}: not a number"
        if self.outside == "refuse" and (beyond := np.flatnonzero(self._beyond(numbers))).size:
            yield (
                f"{column.where}: {column.places(beyond.tolist())}: outside of "
                f"task.low={self.low:g} to task.high={self.high:g}; widen the range to what is "
                "possible, leave the records out, or set task.outside=clip"
            )
        if not wrong.size and (numbers == numbers[0]).all():
            yield f"{column.where}: every record has {numbers[0]:g}; there is nothing to learn"

    def unreadable(self, column: LabelColumn) -> NDArray[np.bool_]:
        """What `problems` says of single records."""
        numbers = column.numbers()
        outside = (
            self._beyond(numbers) if self.outside == "refuse" else np.zeros(len(numbers), bool)
        )
        return np.asarray(outside | ~np.isfinite(numbers))

    def is_open(self, column: LabelColumn) -> bool:
        """Nothing of the task is found in records: the range is in the config."""
        return False

    def encode(self, column: LabelColumn) -> tuple[tuple[str, ...], Targets]:
        """No names; the numbers, cut off at the range: `float32[n]`."""
        return (), np.clip(column.numbers(), self.low, self.high).astype(np.float32)

    def _beyond(self, numbers: Floats) -> NDArray[np.bool_]:
        return np.asarray((numbers < self.low) | (numbers > self.high))


@dataclass(frozen=True, kw_only=True)
class RegressionTask(Task):
    """One number per record: targets are `float32[n]`, from `low` to `high`."""

    kind: ClassVar[str] = "regression"
    metrics_known: ClassVar = METRICS
    num_outputs: ClassVar[int] = 1
    has_classes: ClassVar[bool] = False
    scale: ClassVar[float] = 0.2  # a public range is wider than what most labels fill

    input: Input
    settings: Regression
    classes: tuple[str, ...] = ()

    @property
    def _range(self) -> float:
        return self.settings.high - self.settings.low

    # --- training ---

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """`float32[n]` of outputs `[n, 1]`, in units of half of the range."""
        middle = (self.settings.high + self.settings.low) / 2
        wanted = (targets - middle) / (self._range / 2)
        losses: Tensor = self._loss_of(outputs[:, 0] - wanted)
        return losses

    def _loss_of(self, errors: Any) -> Any:
        """Of errors in half ranges; the same formula for tensors and for arrays."""
        size = abs(errors)
        match self.settings.loss:
            case "squared":
                return size * size / 2
            case "huber":
                near = size.clip(max=self.settings.huber)
                return near * (size - near / 2)
            case "quantile":
                return size / 2 + errors * (0.5 - self.settings.quantile)
            case other:
                assert_never(other)

    # --- targets ---

    def check(self, targets: Targets) -> None:
        """Refuse what are not numbers in the range."""
        if targets.dtype.kind != "f" or targets.ndim != 1:
            raise ValueError("labels must be numbers, one per record")
        # As float32 an end of the range may be a hair outside of it.
        least, most = np.float32(self.settings.low), np.float32(self.settings.high)
        if targets.size and not least <= targets.min() <= targets.max() <= most:
            raise ValueError("labels must be in the range of the task")

    def alike(self, targets: Targets) -> str:
        """The number that all of the targets are."""
        return f"{targets[0]:g}" if len(targets) and (targets == targets[0]).all() else ""

    def mislabelled(self, targets: Targets, words: NDArray[np.uint64]) -> Targets:
        """Any number in the half of the range that the target is not in, all equally likely."""
        low, high = self.settings.low, self.settings.high
        middle, share = (low + high) / 2, words / 2.0**64
        other = np.where(targets < middle, middle, low) + share * self._range / 2
        return np.clip(other, low, high).astype(targets.dtype)

    # --- answers ---

    def answers(self, outputs: Tensor) -> Tensor:
        """The number, within the range: `float64[n, 1]`."""
        low, high = self.settings.low, self.settings.high
        return ((high + low) / 2 + outputs.double() * (self._range / 2)).clamp(low, high)

    def likelihood(self, answers: Floats, targets: Targets) -> Floats:
        """One less the error as a share of the range."""
        return np.asarray(1 - np.abs(self._errors(answers, targets)))

    answer_columns: ClassVar = ("predicted",)

    def answer_cells(self, answer: Floats) -> Sequence[str]:
        """The number."""
        return [f"{answer[0]:.6g}"]

    # --- evaluation ---

    @property
    def _losses(self) -> tuple[int, ...]:
        """The shape of the summed loss; a squared one is among the errors already."""
        return (0,) if self.settings.loss == "squared" else (1,)

    @property
    def _covers(self) -> tuple[int, ...]:
        """The shape of what is counted for the coverage: that of a quantile alone is of use."""
        return (1,) if self.settings.loss == "quantile" else (0,)

    @property
    def sum_layout(self) -> SumLayout:
        """Loss; `|u|, u^2`; `v, v^2`; how many labels the answer reaches; and what is left of the
        moments that intervals take: `u, u^4, u^2 v, u^2 v^2, v^3, v^4`."""
        loss = SumSpec(name="loss", shape=self._losses, unit=_UNIT, bound=self._largest_loss)
        return (
            replace(loss, share=0.5),
            SumSpec(name="errors", shape=(2,), unit=_UNIT, bound=sqrt(2)),
            SumSpec(name="labels", shape=(2,), unit=_UNIT, bound=sqrt(2)),
            SumSpec(name="covered", shape=self._covers, share=0.5),
            SumSpec(name="moments", shape=(6,), unit=_UNIT, bound=sqrt(6)),
        )

    @property
    def noised_layout(self) -> SumLayout:
        """Without the moments that only intervals take: noise is added to every number."""
        return tuple(spec for spec in super().noised_layout if spec.name != "moments")

    @property
    def _largest_loss(self) -> float:
        """Of an answer in the range."""
        return float(self._loss_of(np.array([-2.0, 2.0])).max())

    def _errors(self, graded: Floats, targets: Targets) -> Floats:
        return np.asarray((graded[:, 0] - targets.astype(np.float64)) / self._range)

    def _rows(self, graded: Floats, targets: Targets) -> dict[str, Floats]:
        """What every record adds to each array: `float64[n, size]`."""
        u = self._errors(graded, targets)
        v = (targets.astype(np.float64) - self.settings.low) / self._range
        loss = self._loss_of(2 * u)
        reached = (u >= 0).astype(np.float64)
        square = u**2
        return {
            "loss": np.repeat(loss[:, None], self._losses[0], 1),
            "errors": np.column_stack([np.abs(u), square]),
            "labels": np.column_stack([v, v**2]),
            "covered": np.repeat(reached[:, None], self._covers[0], 1),
            "moments": np.column_stack([u, square**2, square * v, square * v**2, v**3, v**4]),
        }

    def sums(self, graded: Floats, targets: Targets) -> Sums:
        """The sums for answers `float64[n, 1]`; NaN propagates into all but the count."""
        rows = self._rows(graded, targets)
        arrays = {spec.name: rows[spec.name].sum(0).reshape(spec.shape) for spec in self.sum_layout}
        arrays["covered"] = arrays["covered"].astype(np.int64)
        return Sums(layout=self.sum_layout, count=len(targets), arrays=arrays)

    def contributions(self, graded: Floats, targets: Targets) -> Floats:
        """As `_rows`, after the one of the count."""
        rows = self._rows(graded, targets)
        parts = [np.ones((len(targets), 1)), *(rows[s.name] for s in self.noised_layout[1:])]
        return np.asarray(np.nan_to_num(np.concatenate(parts, axis=1), nan=1.0))

    def metrics(self, sums: Sums) -> dict[str, float]:
        """In the unit of the label. R squared is left out where all labels are alike, or differ by
        no more than noise would make them; bias, of sums with noise."""
        if not sums.count:
            return {}
        means = self._means(sums)
        found = {
            "loss": self._loss(sums, means),
            "mae": means.absolute * self._range,
            "rmse": sqrt(means.square) * self._range,
        }
        if means.variance > means.least:
            found["r2"] = 1 - means.square / means.variance
        if not sums.noise:
            found["bias"] = float(sums["moments"][_SIGNED]) / sums.count * self._range
        if self._covers[0]:
            found["coverage"] = min(float(sums["covered"][0]) / sums.count, 1.0)
        return found

    def _loss(self, sums: Sums, means: _Means) -> float:
        if not self._losses[0]:
            return 2 * means.square
        mean = float(sums["loss"][0]) / sums.count
        return min(mean, self._largest_loss) if sums.noise else mean

    def _means(self, sums: Sums) -> _Means:
        """Of sums with noise each is where it can be, and a mean square no less than the square
        of a mean."""
        count, most = sums.count, 1.0 if sums.noise else np.inf
        absolute, square = (min(float(one) / count, most) for one in sums["errors"])
        first, second = (min(float(one) / count, most) for one in sums["labels"])
        least = 3 * sums.noise["labels"] / count if sums.noise else 1e-12
        square = max(square, absolute**2) if sums.noise else square
        return _Means(absolute, square, first, second - first**2, least)

    def resampled(self, sums: Sums, rng: np.random.Generator) -> dict[str, Floats]:
        """Normal draws, by the central limit theorem and the delta method."""
        if sums.count < 2:
            return {}
        found, count = self.metrics(sums), sums.count
        means, moments = self._means(sums), sums["moments"] / count
        spread = {
            "mae": self._range * sqrt(max(means.square - means.absolute**2, 0.0)),
            "bias": self._range * sqrt(max(means.square - moments[_SIGNED] ** 2, 0.0)),
        }
        if means.square > 0:
            of_square = sqrt(max(moments[_FOURTH] - means.square**2, 0.0))
            spread["rmse"] = self._range * of_square / (2 * sqrt(means.square))
        if "r2" in found:
            spread["r2"] = _spread_of_r2(means, moments)
        if "coverage" in found:
            spread["coverage"] = sqrt(found["coverage"] * (1 - found["coverage"]))
        return {
            name: normal_draws(found[name], deviation / sqrt(count), rng)
            for name, deviation in spread.items()
        }

    def resampled_noised(self, sums: Sums, rng: np.random.Generator) -> dict[str, Floats]:
        """Metrics of means that records and noise drawn anew move, each mean by itself.

        What noise leaves unsaid counts as large as it can be: the variance of a share `x` of which
        the mean is known is at most that of a coin.
        """
        if sums.count < 2:
            return {}
        found, count, means = self.metrics(sums), sums.count, self._means(sums)

        def drawn(mean: float, variance: float, name: str) -> Floats:
            deviation = sqrt(max(variance, 0.0) / count + (sums.noise[name] / count) ** 2)
            return normal_draws(mean, deviation, rng)

        square = drawn(means.square, means.square * (1 - means.square), "errors")
        absolute = means.square - means.absolute**2
        redrawn = {
            "mae": self._range * drawn(means.absolute, absolute, "errors").clip(0.0, 1.0),
            "rmse": self._range * np.sqrt(square.clip(0.0, 1.0)),
        }
        if "r2" in found:
            first = drawn(means.first, means.variance, "labels")
            second = means.variance + means.first**2
            variance = drawn(second, second * (1 - second), "labels") - first**2
            known = np.where(variance > means.least, variance, np.nan)
            redrawn["r2"] = 1 - square.clip(0.0, 1.0) / known
        if "coverage" in found:
            share = found["coverage"]
            redrawn["coverage"] = drawn(share, share * (1 - share), "covered").clip(0.0, 1.0)
        return redrawn

    def gap(self, groups: Mapping[str, Sums], rng: np.random.Generator) -> Gap | None:
        """Between the groups that have records, in the mean absolute error."""
        known = {name: (one, self._means(one)) for name, one in groups.items() if one.count}
        deviations = {
            name: hypot(
                sqrt(max(means.square - means.absolute**2, 0.0) / one.count),
                one.noise["errors"] / one.count if one.noise else 0.0,
            )
            for name, (one, means) in known.items()
        }
        return gap_of_means(
            {name: means.absolute * self._range for name, (_, means) in known.items()},
            {name: deviation * self._range for name, deviation in deviations.items()},
            rng,
        )

    # --- what a report says ---

    def says(self) -> str:
        """What the number is, and its range."""
        low, high, unit = self.settings.low, self.settings.high, self.settings.unit
        what = {
            "squared": message("the mean to be expected"),
            "huber": message("a mean in which large deviations count for less"),
            "quantile": message("the quantile %(q)s", q=Figure(self.settings.quantile, "g")),
        }[self.settings.loss]
        return message(
            "It says a number from %(low)s to %(high)s%(unit)s: %(what)s.",
            low=Figure(low, "g"),
            high=Figure(high, "g"),
            unit=unit and f" {unit}",
            what=what,
        )

    def warning(self, found: Mapping[str, float]) -> str:
        """That the mean of the labels would do as well."""
        if self.settings.loss == "quantile" or found.get("r2", 1.0) > 0:
            return ""
        return message(
            "R squared is %(r2)s: the mean of the labels, the same for every record, would be as "
            "near to the truth. More rounds or steps, another learning rate, or a range (task.low, "
            "task.high) that fits may change that.",
            r2=Figure(found["r2"], ".3f"),
        )


@dataclass(frozen=True)
class _Means:
    """Of errors `u` and labels `v`, as shares of the range."""

    absolute: float
    square: float
    first: float
    variance: float
    """Of the labels."""
    least: float
    """Less than this is none."""


def _spread_of_r2(means: _Means, moments: Floats) -> float:
    """The standard deviation of what one record adds to `1 - E u^2 / Var v` (its influence)."""
    first, left = means.first, means.square / means.variance
    second = means.variance + first**2
    crossed = moments[_SQUARE_VV] - 2 * first * moments[_SQUARE_V] + first**2 * means.square
    fourth = moments[_VVVV] - 4 * first * moments[_VVV] + 6 * first**2 * second - 3 * first**4
    variance = moments[_FOURTH] - 2 * left * crossed + left**2 * fourth
    return sqrt(max(float(variance), 0.0)) / means.variance


Regression.learns = RegressionTask
