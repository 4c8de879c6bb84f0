"""Classification: a record is of one of several classes.

The loss is the cross-entropy in nats, times the weight of the record's class where the
run weighs classes. Evaluation adds up the loss, the confusion matrix, and for two classes
the histogram of scores (`fedlearn.metrics.scores`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log, sqrt
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.language import Figure, message
from fedlearn.core.settings import config
from fedlearn.metrics import intervals
from fedlearn.metrics.by_class import (
    ALARMS,
    COSTS,
    FEWEST,
    MOST,
    ByClass,
    ClassFigures,
    Scores,
    class_figures,
)
from fedlearn.metrics.confusion import (
    counted_metrics,
    differences,
    names_one_class_only,
    right,
)
from fedlearn.metrics.intervals import Gap, gap_of_shares, redrawn
from fedlearn.metrics.scores import (
    NOISED_BINS,
    SCORE_BINS,
    Calibration,
    area,
    auc,
    bins_of,
    calibration,
    fitted,
    halves,
    histogram,
    known_area,
    without_negatives,
)
from fedlearn.metrics.sums import SumLayout, Sums, SumSpec
from fedlearn.tasks.inputs import Input
from fedlearn.tasks.task import LabelColumn, Loss, Metric, Targets, Task, TaskForm

if TYPE_CHECKING:  # reading and checking records needs no torch, which takes a second
    import torch
    from torch import Tensor

_TINY: Final = np.finfo(np.float64).tiny
_LOSS_UNIT: Final = 2.0**-20
_MOST_NAMED: Final = 12
"""Of more classes only the number is said."""

METRICS: Final = (
    Metric(
        name="accuracy",
        title="accuracy",
        short="accuracy",
        meaning="the share of test records that the model classifies rightly",
        in_summary=True,
        by_group=True,
    ),
    Metric(
        name="balanced_accuracy",
        title="balanced accuracy",
        meaning="accuracy in each class by itself, averaged: a rare class counts as much as a "
        "common one",
        by_group=True,
    ),
    Metric(
        name="macro_f1",
        title="macro F1",
        short="F1",
        meaning="per class, the harmonic mean of how many of its records are found and how many "
        "of those found are right, averaged over the classes",
        in_summary=True,
    ),
    Metric(
        name="auc",
        title="AUC",
        short="AUC",
        meaning="the chance that a record of the second class is ranked above one of the first; "
        "0.5 is guessing",
        in_summary=True,
        by_group=True,
        guessing=0.5,
    ),
    Metric(
        name="loss",
        title="loss",
        short="loss",
        meaning="how surprised the model is by the true answers; lower is better",
        higher_is_better=False,
    ),
)

DECISIONS: Final = {
    "demographic_parity_difference": "The largest difference between groups in how often the "
    "model says the second class; groups in which it is not equally frequent must differ.",
    "equalized_odds_difference": "The largest difference between groups in how often the model "
    "finds the second class where it is, or says it where it is not.",
}


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(Task):
    """Classification of one record into one of `classes`: targets are `int64[n]` places there."""

    kind: ClassVar[str] = "classification"
    metrics_known: ClassVar = METRICS
    makes: ClassVar = "A classifier"
    decisions_known: ClassVar = DECISIONS

    input: Input
    classes: tuple[str, ...]

    # --- training ---

    @property
    def num_outputs(self) -> int:
        """One a class, at least two."""
        return len(self.classes)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Nats, `float32[n]`, of logits `[n, classes]`."""
        return cross_entropy(outputs, targets)

    def imitation(
        self, outputs: Tensor, teacher: Tensor, targets: Tensor, temperature: float
    ) -> Tensor:
        """The divergence from the other's probabilities, times the square of the temperature, so
        that its gradient keeps its size (Hinton et al. 2015, section 2)."""
        return divergence(outputs, teacher, temperature)

    def training_loss(self, class_weights: Mapping[str, float], device: torch.device) -> Loss:
        """Nats times the weight of the class, the largest weight being 1.

        Only ratios count. A weight above 1 would do little under a clip norm, which
        bounds what a record adds however much its loss is raised; so the other
        classes are taken down instead.
        """
        if not class_weights:
            return self.loss
        import torch

        weights = torch.tensor([class_weights.get(name, 1.0) for name in self.classes])
        return _Weighed(tuple((weights / weights.max()).tolist()), device)

    def weight_problems(self, class_weights: Mapping[str, float]) -> list[str]:
        """Weights of classes that there are not."""
        there = ", ".join(self.classes)
        return [
            f"training.class_weights.{name}: no such class; there are {there}"
            for name in class_weights
            if name not in self.classes
        ]

    # --- targets ---

    def check(self, targets: Targets) -> None:
        """Refuse what are not places in `classes`."""
        if targets.dtype.kind != "i" or targets.ndim != 1:
            raise ValueError("labels must be whole numbers, one entry per record")
        if targets.size and not 0 <= targets.min() <= targets.max() < len(self.classes):
            raise ValueError("labels must be numbers of the task's classes")

    def strata(self, targets: Targets) -> NDArray[np.int64]:
        """The classes themselves."""
        return targets

    def alike(self, targets: Targets) -> str:
        """The class that all of the targets are of."""
        found = np.unique(targets)
        return f"class {self.classes[found[0]]!r}" if len(found) == 1 else ""

    def mislabelled(self, targets: Targets, words: NDArray[np.uint64]) -> Targets:
        """Another class for each, all others equally likely."""
        off = 1 + words % np.uint64(len(self.classes) - 1)
        return np.asarray((targets + off.astype(np.int64)) % len(self.classes))

    # --- answers ---

    def answers(self, outputs: Tensor) -> Tensor:
        """The probability of each class: `float64[n, classes]`, rows sum to 1."""
        return outputs.double().softmax(1)

    def likelihood(self, answers: NDArray[np.float64], targets: Targets) -> NDArray[np.float64]:
        """The chance that the model gives to the class that is meant."""
        return np.asarray(answers[np.arange(len(targets)), targets])

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The most probable class, then the chance of each."""
        return ("predicted", *(f"chance of {name}" for name in self.classes))

    def answer_cells(self, answer: NDArray[np.float64]) -> Sequence[str]:
        """As `answer_columns` says."""
        return [self.classes[int(answer.argmax())], *(f"{chance:.6f}" for chance in answer)]

    # --- evaluation ---

    @property
    def _binary(self) -> bool:
        return len(self.classes) == 2

    @property
    def sum_layout(self) -> SumLayout:
        """The summed loss in nats; `confusion[true class, predicted class]`; of two classes the
        histogram of the scores of the second."""
        classes, bins = len(self.classes), SCORE_BINS if self._binary else 0
        return (
            SumSpec(name="loss", unit=_LOSS_UNIT, bound=float(-np.log(_TINY))),
            SumSpec(name="confusion", shape=(classes, classes)),
            SumSpec(name="scores", shape=(2, bins)),
        )

    def sums(self, graded: NDArray[np.float64], targets: Targets) -> Sums:
        """The sums for probabilities `float64[n, classes]`.

        The predicted class is the most probable one, the first of equals. A
        probability of zero for the true class counts as the smallest positive
        float64, so that a loss is large but finite; NaN propagates into the loss.
        """
        classes = len(self.classes)
        confusion = np.zeros((classes, classes), np.int64)
        np.add.at(confusion, (targets, graded.argmax(1)), 1)
        true = self.likelihood(graded, targets)
        none = np.zeros((2, 0), np.int64)
        return Sums(
            layout=self.sum_layout,
            count=len(targets),
            arrays={
                "loss": np.asarray(-np.log(np.maximum(true, _TINY)).sum()),
                "confusion": confusion,
                "scores": histogram(graded[:, 1], targets) if self._binary else none,
            },
        )

    def check_sums(self, sums: Sums) -> None:
        """Every record is in one cell of the confusion matrix, and of two classes in one bin."""
        super().check_sums(sums)
        tables = ("confusion", "scores") if self._binary else ("confusion",)
        if not sums.noise and any(sums[name].sum() != sums.count for name in tables):
            raise ValueError("test sums that do not add up to the number of records")

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Loss, accuracy, balanced accuracy, macro-F1 and, for two classes, AUC.

        A metric that does not exist is left out: everything for zero records, AUC where
        one of two classes is absent, and what averages over classes where all records are of
        one. Balanced accuracy and macro-F1 are means over the classes that occur (macro-F1:
        as truth or prediction).
        Of sums with noise every metric is within its range, whatever the noise.
        """
        if not sums.count:
            return {}
        of_counts = counted_metrics(sums["confusion"]).items()
        found = {"loss": self._loss(sums)}
        found |= {name: float(value) for name, value in of_counts if not np.isnan(value)}
        if self._binary and (sums["scores"].sum(1) > 0).all():
            found["auc"] = float(auc(sums["scores"]))
        return found

    def uninformed(self, sums: Sums) -> dict[str, float]:
        """By how often each class is true: always to name the commonest, to say these shares."""
        shares = np.maximum(sums["confusion"].sum(1), 0).astype(np.float64)
        if not (total := shares.sum()):
            return {}
        shares = shares[shares > 0] / total
        found = {"accuracy": float(shares.max()), "loss": float(-(shares * np.log(shares)).sum())}
        if len(shares) > 1:
            found["balanced_accuracy"] = 1 / len(shares)
            found |= {"auc": 0.5} if self._binary else {}
        return found

    def _loss(self, sums: Sums) -> float:
        mean = float(sums["loss"]) / sums.count
        return min(max(mean, 0.0), self._largest_loss) if sums.noise else mean

    # --- private evaluation ---

    @property
    def _largest_loss(self) -> float:
        """Nats: what a record's loss counts at the most; well above that of guessing a class."""
        return 1 + 1.5 * log(len(self.classes))

    @property
    def noised_layout(self) -> SumLayout:
        """As `sum_layout`, with a bounded loss and few bins: noise is added to every number."""
        bins = (SumSpec(name="scores", shape=(2, NOISED_BINS)),) if self._binary else ()
        return (
            SumSpec(name="confusion", shape=(len(self.classes),) * 2, share=2.0),
            SumSpec(name="loss", bound=self._largest_loss),
            *bins,
        )

    def contributions(self, graded: NDArray[np.float64], targets: Targets) -> NDArray[np.float64]:
        """One cell of the confusion matrix, the loss up to its bound, and one bin."""
        records, classes = len(targets), len(self.classes)
        row = np.arange(records)
        confusion = np.zeros((records, classes * classes))
        confusion[row, targets * classes + graded.argmax(1)] = 1
        true = np.nan_to_num(self.likelihood(graded, targets), nan=0.0)
        loss = np.minimum(-np.log(np.maximum(true, _TINY)), self._largest_loss)
        parts = [confusion, loss[:, None]]
        if self._binary:
            # A tie at one half is predicted as the first class: there its bin is, too.
            most = np.where(graded.argmax(1) == 0, NOISED_BINS // 2 - 1, NOISED_BINS - 1)
            bins = np.minimum(bins_of(graded[:, 1], NOISED_BINS), most)
            scores = np.zeros((records, 2 * NOISED_BINS))
            scores[row, targets * NOISED_BINS + bins] = 1
            parts.append(scores)
        return np.concatenate(parts, axis=1)

    def noised(self, arrays: Mapping[str, NDArray[np.float64]], noise: Mapping[str, float]) -> Sums:
        """The arrays without cutting off what is negative: what is linear in them has no bias.

        The bins of scores below and above one half add up to the cells of the confusion matrix,
        which have less noise than so many bins together.
        """
        layout = tuple(replace(spec, unit=1.0) for spec in self.noised_layout)
        if self._binary:
            arrays = {**arrays, "scores": fitted(arrays["scores"], arrays["confusion"])}
        else:
            layout = (*layout, SumSpec(name="scores", shape=(2, 0), unit=1.0))
            arrays = {**arrays, "scores": np.zeros((2, 0))}
            noise = {**noise, "scores": 0.0}
        count = max(0, round(float(arrays["confusion"].sum())))
        return Sums(layout=layout, count=count, arrays=arrays, noise=noise)

    def resampled_noised(
        self, sums: Sums, rng: np.random.Generator
    ) -> dict[str, NDArray[np.float64]]:
        """Around each metric, as far as records and noise that are drawn anew move it.

        Records are drawn from the nearest table without negative cells.
        """
        if not sums.count:
            return {}
        count, noise = sums.count, sums.noise
        drawn, nearest = redrawn(sums["confusion"], count, noise["confusion"], rng)
        value, found, around = self.metrics(sums), counted_metrics(drawn), counted_metrics(nearest)
        # What is cut off at its range says too little of how far noise has led out of it.
        value["accuracy"], found["accuracy"] = right(sums["confusion"]), right(drawn)
        if "auc" in value:
            scores = without_negatives(sums["scores"])
            records, nearest = redrawn(scores, count, 0.0, rng)
            cells, bins = (
                table + noise[name] * rng.standard_normal(table.shape)
                for name, table in (("confusion", halves(records)), ("scores", records))
            )
            value["auc"], around["auc"] = float(area(sums["scores"])), auc(nearest)
            found["auc"] = known_area(fitted(bins, cells))
        return {
            name: np.clip(value[name] + found[name] - around[name], 0.0, 1.0)
            for name in found
            if name in value
        }

    def resampled(self, sums: Sums, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        """All metrics but the loss, which needs more than its sum."""
        if not sums.count:
            return {}
        drawn = dict(counted_metrics(intervals.resampled(sums["confusion"], rng)))
        if self._binary:
            used = sums["scores"].any(axis=0)  # empty bins take no part, and most are empty
            drawn["auc"] = auc(intervals.resampled(sums["scores"][:, used], rng))
        return drawn

    def gap(self, groups: Mapping[str, Sums], rng: np.random.Generator) -> Gap | None:
        """Between the groups that have records, in accuracy; None with fewer than two."""
        hits = {
            n: (min(max(round(np.trace(one["confusion"])), 0), one.count), one.count)
            for n, one in groups.items()
        }
        noise = {n: self._noise_of_right(one) for n, one in groups.items()}
        return gap_of_shares(hits, rng, noise)

    def _noise_of_right(self, sums: Sums) -> float:
        """Standard deviation of the noise on the number of records that are right."""
        return sums.noise["confusion"] * sqrt(len(self.classes)) if sums.noise else 0.0

    def decisions(self, groups: Mapping[str, Sums]) -> dict[str, float]:
        """How much the decisions of a classifier of two classes differ between groups.

        `demographic_parity_difference`: largest difference in how often the second
        class is predicted. `equalized_odds_difference`: largest difference in how
        often it is predicted rightly, or wrongly, whichever is larger (Hardt, Price
        and Srebro 2016). A rate that a group does not have is left out; without two
        groups, or with other than two classes, there is nothing.
        """
        tables = [one["confusion"] for one in groups.values() if one.count]
        return differences(tables) if self._binary and len(tables) > 1 else {}

    def calibration(self, sums: Sums, rng: np.random.Generator) -> Calibration | None:
        """Of the second of two classes; none of sums with noise, whose bins are too few."""
        return calibration(sums["scores"], rng) if self._binary and not sums.noise else None

    def by_class(
        self, tested: Sums, sites: Mapping[str, Sums], rng: np.random.Generator
    ) -> ByClass | None:
        """Every class by itself, and of the second of two what other thresholds are worth."""
        if not tested.count:
            return None
        found = ByClass(confusion=[], classes=self._class_figures(tested, rng))
        if len(self.classes) <= MOST and _is_shown(tested):
            found = replace(
                found,
                confusion=np.rint(tested["confusion"]).astype(int).tolist(),
                per_site={
                    site: self._class_figures(sums, rng, fewest=FEWEST)
                    for site, sums in sites.items()
                    if _is_shown(sums)
                },
            )
        if not self._binary or (scores := Scores.of(tested, rng)) is None:
            return found
        return replace(
            found,
            alarms=[*scores.alarms(ALARMS)],
            costs=[*scores.costs(COSTS)],
            curve=scores.curve(),
            average_precision=scores.average_precision(),
        )

    def _class_figures(
        self, sums: Sums, rng: np.random.Generator, fewest: int = 1
    ) -> dict[str, ClassFigures]:
        noise = sums.noise.get("confusion", 0.0)
        return class_figures(self.classes, sums["confusion"], noise, rng, fewest)

    # --- what a report says ---

    def says(self) -> str:
        """Which classes there are."""
        few = len(self.classes) <= _MOST_NAMED
        listed = ", ".join(self.classes) if few else str(len(self.classes))
        return message(
            "It says to which class a record belongs. The classes: %(list)s.", list=listed
        )

    def trained_with(self, class_weights: Mapping[str, float]) -> str:
        """That classes weighed differently."""
        if not class_weights:
            return ""
        listed = ", ".join(f"{name} {weight:g}" for name, weight in class_weights.items())
        return message(
            "Classes weighed differently in training (%(list)s, any other 1): probabilities are "
            "those of such a mixture, not of how common the classes are.",
            list=listed,
        )

    def warning(self, found: Mapping[str, float]) -> str:
        """That the model has one answer to every test record."""
        if not names_one_class_only(found, len(self.classes)):
            return ""
        if "auc" not in found:
            return message(
                "The model puts every test record into the same class: the accuracy is how common "
                "that class is. More rounds, or weights for rare classes (training.class_weights), "
                "may change that."
            )
        return message(
            "The model puts every test record into the same class: the accuracy is how common that "
            "class is, and the AUC of %(auc)s how well it ranks. More rounds, or weights for rare "
            "classes (training.class_weights), may change that.",
            auc=Figure(found["auc"], ".3f"),
        )

    def one_sided(self, found: Mapping[str, float]) -> str:
        """One class; of two classes an older result shows it by the AUC that it lacks."""
        several = "balanced_accuracy" in found and ("auc" in found or not self._binary)
        return "" if several or not found else "one class"

    uninformed_answer: ClassVar = "always naming the commonest class"
    uninformed_loss: ClassVar = "answering with how common the classes are"
    plain_model: ClassVar = "a logistic regression"

    def plain(self, features: Any, targets: Targets) -> Callable[[Any], NDArray[np.float64]]:
        """Multinomial logistic regression."""
        from fedlearn.tasks.logistic import fitted

        return fitted(features, targets, len(self.classes))

    def uncalibrated(self, found: Mapping[str, float]) -> str:
        """Scores are added up for two classes."""
        if "auc" in found:
            return ""
        return message("scores are added up for two classes alone, and only where both occur")

    @property
    def probable(self) -> str:
        """The class whose probability the model says."""
        return self.classes[1] if self._binary else message("the second class")


@config
class Classification:
    """One class per record; which classes there are, the scenario says."""

    kind: Literal["classification"] = "classification"
    learns: ClassVar[type[Task]] = ClassificationTask

    def of(self, form: TaskForm) -> ClassificationTask:
        """The task on records of this form."""
        return ClassificationTask(input=form.input, classes=form.classes)

    def problems(self, column: LabelColumn) -> Iterator[str]:
        """A label that is not one of the classes, fewer than two of them, too many, or a class
        with a single record."""
        return (f"{column.where}: {problem}" for problem in _label_problems(column))

    def unreadable(self, column: LabelColumn) -> NDArray[np.bool_]:
        """What is none of the classes, where the source was told them."""
        if not column.classes:
            return np.zeros(len(column.cells), bool)
        return np.array([cell not in column.classes for cell in column.cells], bool)

    def is_open(self, column: LabelColumn) -> bool:
        """Classes that nobody has told are those that are found."""
        return not column.classes

    def encode(self, column: LabelColumn) -> tuple[tuple[str, ...], Targets]:
        """The classes (those that were given, else the different values) and places in them."""
        classes = column.classes or column.values
        place = {name: i for i, name in enumerate(classes)}
        return classes, np.array([place[cell] for cell in column.cells], dtype=np.int64)


def _is_shown(sums: Sums) -> bool:
    """Whether counts of single classes are of many records each, or have noise of their own."""
    return bool(sums.noise) or bool((sums["confusion"].sum(1) >= FEWEST).all())


def _label_problems(column: LabelColumn) -> Iterator[str]:
    cells, values = column.cells, column.values
    if not cells:
        yield "no record has one"
    elif column.classes:
        if unknown := [i for i, cell in enumerate(cells) if cell not in column.classes]:
            yield f"{column.places(unknown)}: not one of scenario.classes"
    elif len(values) == 1:
        yield f"every record is {values[0]!r}; there is nothing to learn"
    elif len(values) > column.most:
        yield (
            f"{len(values)} different values; a label is one of a few classes "
            f"(at most {column.most_key}={column.most}): group the values first"
        )
    else:
        for value in values:
            if cells.count(value) == 1:
                yield (
                    f"{column.places([cells.index(value)])}: the only record of class {value!r}; "
                    "training and testing take at least two"
                )


def divergence(outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`float32[...]`, `T^2 KL(softmax(teacher / T) || softmax(outputs / T))` of logits
    `[..., classes]`, in nats; the gradient goes to `outputs` alone."""
    import torch
    from torch.nn import functional

    wide = torch.promote_types(outputs.dtype, torch.float32)
    one, other = (
        functional.log_softmax(x.to(wide) / temperature, -1) for x in (outputs, teacher.detach())
    )
    found: Tensor = (other.exp() * (other - one)).sum(-1) * temperature**2
    return found


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Nats, `float32[n]`, of logits `[n, classes]` for the classes `int64[n]`."""
    from torch.nn import functional

    return functional.cross_entropy(outputs, targets, reduction="none")


@dataclass(frozen=True)
class _Weighed:
    """One that is equal to another of the same weights: what was tried with it is known."""

    shares: tuple[float, ...]
    device: torch.device
    """That of the model."""

    @cached_property
    def weights(self) -> Tensor:
        """`float32[classes]`."""
        import torch

        return torch.tensor(self.shares, device=self.device)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        from torch.nn import functional

        return functional.cross_entropy(outputs, targets, weight=self.weights, reduction="none")
