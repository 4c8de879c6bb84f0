"""Several labels: a record has any number of them, or none, as findings, topics or duties.

Every label is a question of its own, yes or no, with one logit. The loss of a record is the mean of
the binary losses of its labels, so that a record is clipped as one. Evaluation adds up, label by
label, what is found, said wrongly and missed, and the histogram of scores
(`fedlearn.metrics.labels`).

A cell of the column of labels lists them, parted by `separator`; a word says that there are none,
for an empty cell is a label that nobody has given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, sqrt
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.language import message
from fedlearn.core.settings import Count, Name, config
from fedlearn.metrics import labels
from fedlearn.metrics.by_class import FEWEST, ByClass, ClassFigures
from fedlearn.metrics.scores import SCORE_BINS, bins_of
from fedlearn.metrics.sums import SumLayout, Sums, SumSpec
from fedlearn.tasks.inputs import Input
from fedlearn.tasks.task import LabelColumn, Metric, Targets, Task, TaskForm

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]

JOINED: Final = "\u241f"
"""Ends every label in a cell that was made of several columns."""

_TINY: Final = np.finfo(np.float64).tiny
_LOSS_UNIT: Final = 2.0**-20
_LARGEST_LOSS: Final = 1 + 1.5 * log(2)
"""Nats: what a record's loss counts at the most under noise; well above that of guessing."""
_MOST_BINS: Final = 1 << 13
"""Of the histograms of all labels."""
_MOST_NAMED: Final = 12
"""Of more labels only the number is said."""

METRICS: Final = (
    Metric(
        name="micro_f1",
        title="micro F1",
        short="micro F1",
        meaning="over all labels of all test records, the harmonic mean of how many are found and "
        "how many of those said are right",
        in_summary=True,
        by_group=True,
    ),
    Metric(
        name="macro_f1",
        title="macro F1",
        short="F1",
        meaning="F1 of each label by itself, averaged: a rare label counts as much as a common one",
        in_summary=True,
    ),
    Metric(
        name="macro_auc",
        title="macro AUC",
        short="AUC",
        meaning="the chance that a record with a label is ranked above one without, averaged over "
        "the labels; 0.5 is guessing",
        in_summary=True,
        guessing=0.5,
    ),
    Metric(
        name="exact_match",
        title="exact match",
        short="exact",
        meaning="the share of test records of which every label is right",
        by_group=True,
    ),
    Metric(
        name="loss",
        title="loss",
        short="loss",
        meaning="how surprised the model is by the true answers, a mean over labels; lower is "
        "better",
        higher_is_better=False,
    ),
)


@dataclass(frozen=True, kw_only=True)
class LabelsTask(Task):
    """Which of `classes` a record has: targets are `int64[n, labels]`, 1 where it has one."""

    kind: ClassVar[str] = "labels"
    metrics_known: ClassVar = METRICS
    makes: ClassVar = "A model of several labels"
    several: ClassVar = True
    always_leads: ClassVar = False

    input: Input
    classes: tuple[str, ...]
    counted: int = 8
    """Answers of a record that are not rightly no, which a private evaluation counts in full."""

    # --- training ---

    @property
    def num_outputs(self) -> int:
        """A logit for every label."""
        return len(self.classes)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Nats, `float32[n]`: the mean over the labels of `[n, labels]` logits."""
        from torch.nn import functional

        wanted = targets.to(outputs.dtype)
        each = functional.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
        mean: Tensor = each.mean(1)
        return mean

    def weight_problems(self, class_weights: Mapping[str, float]) -> list[str]:
        """There are none: a record has several."""
        return [
            f"training.class_weights.{name}: task={self.kind} gives every label the same weight; "
            "leave it out"
            for name in class_weights
        ]

    # --- targets ---

    def check(self, targets: Targets) -> None:
        """Refuse what is not a row of zeros and ones, one for every label."""
        shape = (len(targets), len(self.classes))
        if targets.dtype.kind != "i" or targets.shape != shape:
            raise ValueError(f"labels must be whole numbers, {len(self.classes)} for every record")
        if targets.size and not 0 <= targets.min() <= targets.max() <= 1:
            raise ValueError("labels must be 1 where a record has them, and 0 where not")

    def strata(self, targets: Targets) -> NDArray[np.int64]:
        """The first of its labels; one beyond the last for a record that has none."""
        return np.where(targets.any(1), targets.argmax(1), len(self.classes))

    def alike(self, targets: Targets) -> str:
        """The labels that all of the targets have, and no other."""
        if not len(targets) or (targets != targets[0]).any():
            return ""
        return f"set of labels ({', '.join(self._names(targets[0] > 0)) or 'none'})"

    def lacking(self, targets: Targets, part: NDArray[np.bool_]) -> Iterator[tuple[str, int]]:
        """The labels that no record of a part has, though others have them."""
        whole, there = targets.sum(0), targets[part].sum(0)
        for name, count in zip(self.classes, np.where(there == 0, whole, 0).tolist(), strict=True):
            if count:
                yield f"label {name!r}", count

    def mislabelled(self, targets: Targets, words: NDArray[np.uint64]) -> Targets:
        """One answer of every record is the other one, all equally likely."""
        wrong, rows = targets.copy(), np.arange(len(targets))
        wrong[rows, (words % np.uint64(len(self.classes))).astype(np.int64)] ^= 1
        return wrong

    # --- answers ---

    def answers(self, outputs: Tensor) -> Tensor:
        """The probability of each label: `float64[n, labels]`."""
        return outputs.double().sigmoid()

    def likelihood(self, answers: Floats, targets: Targets) -> Floats:
        """What the model gives to the true answers, a geometric mean over the labels."""
        return np.exp(-self._nats(answers, targets))

    def _nats(self, answers: Floats, targets: Targets) -> Floats:
        true = np.where(targets == 1, answers, 1 - answers)
        return np.asarray(-np.log(np.maximum(true, _TINY)).mean(1))

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The labels that are likelier than not, then the chance of each."""
        return ("predicted", *(f"chance of {name}" for name in self.classes))

    def answer_cells(self, answer: Floats) -> Sequence[str]:
        """As `answer_columns` says; `none` of no label."""
        predicted = "; ".join(self._names(answer > 0.5)) or "none"
        return [predicted, *(f"{chance:.6f}" for chance in answer)]

    def _names(self, which: NDArray[np.bool_]) -> list[str]:
        return [name for name, has in zip(self.classes, which, strict=True) if has]

    # --- evaluation ---

    @property
    def _bins(self) -> int:
        """Of the scores of a label: fewer of many labels, always an even number."""
        return max(16, min(SCORE_BINS, _MOST_BINS // (2 * len(self.classes)) & ~1))

    @property
    def sum_layout(self) -> SumLayout:
        """The summed loss; by label what is found, said wrongly and missed; second moments; records
        all of whose labels are right; by label `scores[lacks it or has it, bin]`."""
        number = len(self.classes)
        return (
            SumSpec(name="loss", unit=_LOSS_UNIT, bound=float(-np.log(_TINY))),
            SumSpec(name="cells", shape=(number, 3)),
            SumSpec(name="moments", shape=(3,)),
            SumSpec(name="exact"),
            SumSpec(name="scores", shape=(number, 2, self._bins)),
        )

    def sums(self, graded: Floats, targets: Targets) -> Sums:
        """The sums for probabilities `float64[n, labels]`; a label is said above one half."""
        truth = targets == 1
        cells = labels.cells_of(graded > 0.5, truth)
        scores = np.zeros((len(self.classes), 2, self._bins), np.int64)
        places = np.broadcast_to(np.arange(len(self.classes)), targets.shape)
        np.add.at(scores, (places, targets, bins_of(graded, self._bins)), 1)
        return Sums(
            layout=self.sum_layout,
            count=len(targets),
            arrays={
                "loss": np.asarray(self._nats(graded, targets).sum()),
                "cells": cells.sum(0),
                "moments": labels.moments_of(cells).sum(0),
                "exact": np.asarray((~cells[..., 1:].any((1, 2))).sum()),
                "scores": scores,
            },
        )

    def check_sums(self, sums: Sums) -> None:
        """Every record has one score of every label, and is in one of its cells at the most."""
        super().check_sums(sums)
        if sums.noise:
            return
        scores, cells = sums["scores"].sum(2), sums["cells"]
        fits = (scores.sum(1) == sums.count).all() and sums["exact"] <= sums.count
        having = cells[:, labels.FOUND] + cells[:, labels.MISSED]
        if not fits or (having != scores[:, 1]).any() or (cells[:, 1] > scores[:, 0]).any():
            raise ValueError("test sums that do not add up to the number of records")

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Loss, F1 over all answers and by label, AUC by label, and records that are right.

        What does not exist is left out: F1 where no label is true or said, AUC where no label is
        both had and lacked; and under noise what it leaves nothing of, or is not added up.
        """
        if not sums.count:
            return {}
        exact, noise = not sums.noise, sums.noise.get("cells", 0.0)
        found = {
            "loss": self._loss(sums),
            "micro_f1": labels.micro_f1(sums["cells"]),
            "macro_f1": labels.macro_f1(sums["cells"], noise),
            "macro_auc": labels.macro_auc(sums["scores"]) if exact else None,
            "exact_match": float(sums["exact"]) / sums.count if exact else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _loss(self, sums: Sums) -> float:
        mean = float(sums["loss"]) / sums.count
        return min(max(mean, 0.0), _LARGEST_LOSS) if sums.noise else mean

    def uninformed(self, sums: Sums) -> dict[str, float]:
        """Saying the same labels of every record, and their shares where chances are asked for."""
        if not sums.count:
            return {}
        cells = sums["cells"]
        having = np.clip(cells[:, labels.FOUND] + cells[:, labels.MISSED], 0, sums.count)
        shares = np.stack([having, sums.count - having]) / sums.count
        nats = -shares * np.log(np.where(shares > 0, shares, 1.0))
        found = {"loss": float(nats.sum(0).mean()), "macro_auc": 0.5}
        best = labels.best_constant(cells, sums.count)
        return found | ({} if best is None else {"micro_f1": best})

    # --- private evaluation ---

    @property
    def noised_layout(self) -> SumLayout:
        """The number of records, the cells, and a bounded loss; no scores: of many labels noise
        would leave nothing of them."""
        most = min(len(self.classes), self.counted)
        return (
            SumSpec(name="count", share=0.5),
            SumSpec(name="cells", shape=(len(self.classes), 3), bound=sqrt(most), share=4.0),
            SumSpec(name="loss", bound=_LARGEST_LOSS, share=0.5),
        )

    def contributions(self, graded: Floats, targets: Targets) -> Floats:
        """One record, its cells (cut to their norm where they are many), the loss to its bound."""
        known = np.nan_to_num(graded, nan=0.0)
        cells = labels.cells_of(known > 0.5, targets == 1).reshape(len(targets), -1)
        loss = np.minimum(self._nats(known, targets), _LARGEST_LOSS)
        return np.column_stack([np.ones(len(targets)), cells, loss])

    def noised(self, arrays: Mapping[str, Floats], noise: Mapping[str, float]) -> Sums:
        """The arrays without cutting off what is negative: their sums have no bias."""
        layout = tuple(replace(spec, unit=1.0) for spec in self.noised_layout[1:])
        count = max(0, round(float(arrays["count"])))
        kept = {spec.name: arrays[spec.name] for spec in layout}
        return Sums(layout=layout, count=count, arrays=kept, noise=noise)

    def resampled(self, sums: Sums, rng: np.random.Generator) -> dict[str, Floats]:
        """F1 over all answers, and exact matches. Means over labels have no interval: it would
        take how labels go together."""
        if not sums.count:
            return {}
        share = float(sums["exact"]) / sums.count
        exact = rng.binomial(sums.count, share, 1000) / sums.count
        drawn = labels.micro_f1_drawn(sums["cells"], sums["moments"], sums.count, rng)
        return {"micro_f1": drawn, "exact_match": np.asarray(exact)}

    def resampled_noised(self, sums: Sums, rng: np.random.Generator) -> dict[str, Floats]:
        """F1 over all answers, as if labels were independent of each other."""
        if not sums.count:
            return {}
        return {"micro_f1": labels.micro_f1_noised(sums["cells"], sums.noise["cells"], rng)}

    def by_class(
        self, tested: Sums, sites: Mapping[str, Sums], rng: np.random.Generator
    ) -> ByClass | None:
        """Every label by itself; of a site those that enough of its records have."""
        if not tested.count:
            return None
        whole = self._figures(tested, rng)
        of_sites = {site: self._figures(sums, rng, FEWEST) for site, sums in sites.items()}
        return ByClass(
            confusion=[],
            classes=whole,
            per_site={
                site: found
                for site, found in of_sites.items()
                if tested.noise or all(one.records >= FEWEST for one in found.values())
            },
        )

    def _figures(
        self, sums: Sums, rng: np.random.Generator, fewest: int = 1
    ) -> dict[str, ClassFigures]:
        scores, noise = None if sums.noise else sums["scores"], sums.noise.get("cells", 0.0)
        return labels.label_figures(
            self.classes, sums["cells"], sums.count, noise, scores, rng, fewest
        )

    # --- what a report says ---

    def says(self) -> str:
        """Which labels there are."""
        few = len(self.classes) <= _MOST_NAMED
        listed = ", ".join(self.classes) if few else str(len(self.classes))
        return message(
            "It says which labels a record has, any number of them or none. The labels: %(list)s.",
            list=listed,
        )

    uninformed_answer: ClassVar = "saying the same labels of every record"
    uninformed_loss: ClassVar = "answering with how common the labels are"
    plain_model: ClassVar = "a logistic regression of each label"

    def plain(self, features: Any, targets: Targets) -> Callable[[Any], Floats]:
        """Logistic regression, a label at a time."""
        from fedlearn.tasks.logistic import fitted_labels

        return fitted_labels(features, targets)

    def uncalibrated(self, found: Mapping[str, float]) -> str:
        """One label at a time it could be said; together it says nothing."""
        return message("a record has several labels, each with a probability of its own")

    @property
    def probable(self) -> str:
        """No label is before others."""
        return message("a label")


@config
class Labels:
    """Several labels per record; which labels there are, the scenario says (`scenario.classes`)."""

    kind: Literal["labels"] = "labels"
    learns: ClassVar[type[Task]] = LabelsTask
    separator: Name = ";"
    """What parts the labels of a cell."""
    none: Name = "none"
    """The word for a record that has none; an empty cell is a label that nobody has given."""
    counted: Count = 8
    """Answers of a record that a private evaluation counts in full: those that are not rightly no.
    A record with more counts for less; a public number, the smaller the less noise."""

    def of(self, form: TaskForm) -> LabelsTask:
        """The task on records of this form."""
        return LabelsTask(input=form.input, classes=form.classes, counted=self.counted)

    def read(self, cell: str) -> tuple[str, ...]:
        """The labels in a cell, each once; none where it says so."""
        if JOINED in cell:
            return tuple(filter(None, cell.split(JOINED)))
        parts = dict.fromkeys(part.strip() for part in cell.split(self.separator))
        found = tuple(part for part in parts if part)
        return () if found == (self.none,) else found

    def problems(self, column: LabelColumn) -> Iterator[str]:
        """Labels that are none of those given, too many of them, or none at all."""
        return (f"{column.where}: {problem}" for problem in self._problems(column))

    def _problems(self, column: LabelColumn) -> Iterator[str]:
        cells = [self.read(cell) for cell in column.cells]
        names = {name for cell in cells for name in cell}
        if not cells:
            yield "no record has one"
        elif column.classes:
            unknown = [i for i, cell in enumerate(cells) if not {*cell} <= {*column.classes}]
            if unknown:
                yield f"{column.places(unknown)}: not all of them are in scenario.classes"
        elif not names:
            yield "no record has any label; there is nothing to learn"
        elif len(names) > column.most:
            yield (
                f"{len(names)} different labels, where at most {column.most_key}={column.most} are "
                "taken: group them first, or name those to learn in scenario.classes"
            )
        torn = [i for i, cell in enumerate(cells) if self.none in cell]
        if torn:
            yield f"{column.places(torn)}: {self.none!r} stands beside labels; it is for no label"

    def unreadable(self, column: LabelColumn) -> NDArray[np.bool_]:
        """What has a label that is none of those given."""
        cells = [self.read(cell) for cell in column.cells]
        known = {*column.classes}
        wrong = [self.none in cell or (bool(known) and not {*cell} <= known) for cell in cells]
        return np.array(wrong, bool)

    def is_open(self, column: LabelColumn) -> bool:
        """Labels that nobody has told are those that are found."""
        return not column.classes

    def encode(self, column: LabelColumn) -> tuple[tuple[str, ...], Targets]:
        """The labels (those that were given, else all that are found) and who has which."""
        cells = [self.read(cell) for cell in column.cells]
        classes = column.classes or tuple(sorted({name for cell in cells for name in cell}))
        place = {name: i for i, name in enumerate(classes)}
        targets = np.zeros((len(cells), len(classes)), np.int64)
        for row, cell in zip(targets, cells, strict=True):
            row[[place[name] for name in cell]] = 1
        return classes, targets
