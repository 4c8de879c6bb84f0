"""What a task is: the one place that knows what a record's answer looks like and what it is worth.

A kind of task is two classes in one file: its settings, which stand in a config
(`TaskConfig`), and the `Task` that they become once it is known what records look
like. Everything else (training, clipping, evaluation, masks, results, reports) asks
the task and never which one it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.language import message
from fedlearn.metrics.by_class import ByClass
from fedlearn.metrics.intervals import Gap
from fedlearn.metrics.scores import Calibration
from fedlearn.metrics.sums import SumLayout, Sums, SumSpec, Table, added
from fedlearn.metrics.survival import SurvivalCurves
from fedlearn.tasks.inputs import Input, shape_of

if TYPE_CHECKING:  # reading and checking records needs no torch, which takes a second
    import torch
    from torch import Tensor

Outputs = Any
"""What a model makes of records: a tensor `float32[n, ...]`, or what the task takes in its place
(`fedlearn.tasks.tokens.TokenLogits`). It can be cut to some records, and brought to float32."""

Loss = Callable[[Outputs, "Tensor"], "Tensor"]
"""Outputs of n records and targets `[n, ...]` to one loss per record: `float32[n]`."""

Targets = NDArray[Any]
"""What records are to be answered with, one row a record; the task says what stands in it."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that `Task.metrics` computes, and how people read it."""

    name: str
    """Its key in results."""
    title: str
    """As people write it."""
    meaning: str
    """What it is, in half a sentence."""
    higher_is_better: bool = True
    short: str = ""
    """Its heading in a terminal; empty: not shown there."""
    in_summary: bool = False
    """Whether a report begins with it."""
    by_group: bool = False
    """Whether sites and groups of people are compared by it."""
    guessing: float | None = None
    """What guessing gets in it, whichever records are tested; None where it depends on them."""

    def rank(self, value: float) -> float:
        """Larger for better: to sort by."""
        return value if self.higher_is_better else -value


@dataclass(frozen=True, kw_only=True)
class TaskForm:
    """What all sites must have in common: the form of a record, and the names of what is told
    apart. It is public, agreed before training, and holds nothing that was computed from records
    but, where a data source found them there, those names."""

    input: Input
    classes: tuple[str, ...] = ()
    """Classes, labels or tags by name; empty where the task has none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelColumn:
    """A column of labels as a data source has it: one text a record, none of them missing."""

    where: str
    """What problems call it: the file and the column."""
    cells: Sequence[str]
    values: tuple[str, ...]
    """The different cells, in the order of the source."""
    numbers: Callable[[], NDArray[np.float64]]
    """What every cell is as a number, NaN where it is none: `float64[n]`."""
    events: Callable[[], NDArray[np.float64]] | None = None
    """Whether an event ended the time of every record, 1 or 0, NaN where that is not said:
    `float64[n]`; None where the source has no such column."""
    places: Callable[[Sequence[int]], str]
    """What problems call some of the records: their lines."""
    classes: tuple[str, ...] = ()
    """The classes by public knowledge, where the source was told."""
    most: int
    """Classes that the source takes at the most, where it was told none..."""
    most_key: str
    """... and the key of its settings that says so."""


def named_classes(classes: tuple[str, ...]) -> LabelColumn:
    """What a run says of a column that nobody has read."""
    return LabelColumn(
        where="",
        cells=(),
        values=(),
        numbers=lambda: np.empty(0),
        places=lambda _: "",
        classes=classes,
        most=0,
        most_key="",
    )


class Task(Protocol):
    """What is learned from records of one form.

    A kind of task subclasses it: what has a body here is right for tasks that have
    nothing to say to it.
    """

    kind: ClassVar[str]
    metrics_known: ClassVar[tuple[Metric, ...]]
    """What `metrics` can compute. The first one leads: sites and runs are ranked by it."""
    decisions_known: ClassVar[Mapping[str, str]] = {}
    """What `decisions` can compute, and what each says."""
    makes: ClassVar[str] = "A model"
    """What a model of it is called, at the beginning of a sentence."""
    next_tokens: ClassVar[bool] = False
    """Whether a model says at every place of a text which token comes next."""
    searches: ClassVar[bool] = False
    """Whether a model finds documents for queries."""
    input: Input
    classes: tuple[str, ...]
    """The names of what is told apart; none where the answer is a number."""

    @property
    def form(self) -> TaskForm:
        """What travels of the task: the rest is in the config of every party."""
        return TaskForm(input=self.input, classes=self.classes)

    def on(self, shape: Input) -> Self:
        """The same of records of another form."""
        return replace(self, input=shape)  # type: ignore[type-var]  # every task is a dataclass

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one record."""
        return shape_of(self.input)

    @property
    def leading(self) -> Metric:
        """The metric that sites and runs are ranked by."""
        return self.metrics_known[0]

    @classmethod
    def summary(cls) -> tuple[Metric, ...]:
        """What a report begins with."""
        return tuple(metric for metric in cls.metrics_known if metric.in_summary)

    @classmethod
    def compared(cls) -> tuple[Metric, ...]:
        """What sites and groups of people are compared by."""
        return tuple(metric for metric in cls.metrics_known if metric.by_group)

    @classmethod
    def metric(cls, name: str) -> Metric:
        """What is known of a metric by its key; its name alone where nothing is."""
        known = {metric.name: metric for metric in cls.metrics_known}
        return known.get(name) or Metric(name=name, title=name.replace("_", " "), meaning="")

    # --- training ---

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Numbers that a model's head gives for a record (or for each of its steps)."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of what a model gives for one record."""
        return (self.num_outputs,)

    @abstractmethod
    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """`float32[n]`, one loss per record: its gradient is what is clipped."""

    has_classes: ClassVar[bool] = True
    """Whether what is told apart has names, which sites tell of before training."""
    always_leads: ClassVar[bool] = True
    """Whether any test records have the leading metric."""
    several: ClassVar[bool] = False
    """Whether a record may have several of what is told apart, or none of it."""
    has_events: ClassVar[bool] = False
    """Whether a label is a time, of which another column says if an event ended it."""
    scale: ClassVar[float] = 1.0
    """How far apart the outputs for different records usually are, where logits have 1: steps, and
    the noise in a model, are to be small beside it (`fedlearn.config.defaults`)."""

    def training_loss(self, class_weights: Mapping[str, float], device: torch.device) -> Loss:
        """The loss to train with; `class_weights` are those that `weight_problems` let pass."""
        return self.loss

    def imitation(
        self, outputs: Outputs, teacher: Outputs, targets: Tensor, temperature: float
    ) -> Tensor:
        """`float32[n]`, how far outputs are from those of another model for the same records.

        `targets` are read for where there is an answer, if a record has several places, and not for
        what it is; `temperature` is for tasks whose outputs are logits. Of others it is the mean
        square of the difference.
        """
        found: Tensor = (outputs - teacher).flatten(1).square().mean(1)
        return found

    def weight_problems(self, class_weights: Mapping[str, float]) -> list[str]:
        """What is wrong with weights of classes, as `dotted.path: reason` lines."""
        return [
            f"training.class_weights.{name}: task={self.kind} has no classes; leave it out"
            for name in class_weights
        ]

    # --- targets ---

    @abstractmethod
    def check(self, targets: Targets) -> None:
        """Refuse targets that this task cannot learn from.

        Raises:
            ValueError: they are of another type, shape or range.
        """

    def strata(self, targets: Targets) -> NDArray[np.int64]:
        """`int64[n]`: what sites may differ in, such as classes; of each some should be tested."""
        return np.zeros(len(targets), np.int64)

    def alike(self, targets: Targets) -> str:
        """What all of the targets are, as `class 'yes'`, where they are the same; else empty."""
        return ""

    def lacking(self, targets: Targets, part: NDArray[np.bool_]) -> Iterator[tuple[str, int]]:
        """What records may be, as `alike` names it, that none is in a part; and how many are."""
        strata = self.strata(targets)
        for stratum in np.setdiff1d(strata, strata[part]):
            these = strata == stratum
            if name := self.alike(targets[these]):
                yield name, int(these.sum())

    def blank(self, count: int, like: Targets) -> Targets:
        """Targets of `count` records that nobody has, of the form of some: zeros."""
        return np.zeros((count, *like.shape[1:]), like.dtype)

    @abstractmethod
    def mislabelled(self, targets: Targets, words: NDArray[np.uint64]) -> Targets:
        """Targets that are wrong, by secret uniform `words: uint64[n]`: for an audit's canaries."""

    # --- answers ---

    @abstractmethod
    def answers(self, outputs: Outputs) -> Tensor:
        """What a model says of records, in the units of whoever asks: `float64[n, ...]`."""

    def graded(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """What `sums` is made from, a row a record: the answers, unless those are too large."""
        return self.answers(outputs)

    @abstractmethod
    def likelihood(self, graded: NDArray[np.float64], targets: Targets) -> NDArray[np.float64]:
        """`float64[n]` in [0, 1]: how well each answer fits, for attacks that ask for members."""

    @property
    @abstractmethod
    def answer_columns(self) -> tuple[str, ...]:
        """The columns of a table of answers."""

    @abstractmethod
    def answer_cells(self, answer: NDArray[np.float64]) -> Sequence[str]:
        """A line of that table."""

    # --- evaluation ---

    @property
    @abstractmethod
    def sum_layout(self) -> SumLayout:
        """The arrays that an evaluation adds up beside the number of records."""

    @abstractmethod
    def sums(self, graded: NDArray[np.float64], targets: Targets) -> Sums:
        """What test records add up to; there may be none."""

    def check_sums(self, sums: Sums) -> None:
        """Refuse what no test records add up to: a site may say anything.

        Raises:
            ValueError: they do not.
        """
        sums.check()

    @abstractmethod
    def metrics(self, sums: Sums) -> dict[str, float]:
        """Every metric that exists for `sums`, in a fixed order; none for no records."""

    def uninformed(self, sums: Sums) -> dict[str, float]:
        """What the best answer that looks at no record gets in expectation, by metric.

        From the same sums as `metrics`, so that it releases nothing more. A metric in which
        guessing can do better than that is left out; a task that knows no such answer has none.
        """
        return {}

    @property
    def noised_layout(self) -> SumLayout:
        """The arrays that a private evaluation adds up, with what one record adds at the most.

        Of all that are not empty, the number of records first.
        """
        return (SumSpec(name="count"), *(spec for spec in self.sum_layout if spec.size))

    def contributions(self, graded: NDArray[np.float64], targets: Targets) -> NDArray[np.float64]:
        """What every record adds to these arrays, one after the other: `float64[n, size]`.

        Whoever adds noise cuts it to the bounds of the layout.
        """
        names = [spec.name for spec in self.noised_layout[1:]]
        rows = [np.zeros((0, sum(spec.size for spec in self.noised_layout)))]
        for i in range(len(targets)):
            one = self.sums(graded[i : i + 1], targets[i : i + 1])
            numbers = [np.asarray(one[name], np.float64).reshape(-1) for name in names]
            rows.append(np.concatenate([[float(one.count)], *numbers])[None])
        return np.concatenate(rows)

    def noised(self, arrays: Mapping[str, NDArray[np.float64]], noise: Mapping[str, float]) -> Sums:
        """The sums that noisy arrays of `noised_layout` come nearest to.

        Counts become whole numbers, and nothing is negative, so that `metrics` knows them.
        """
        found = {spec.name: _exact(spec, arrays.get(spec.name)) for spec in self.sum_layout}
        count = max(0, round(float(arrays["count"])))
        return Sums(layout=self.sum_layout, count=count, arrays=found, noise=noise)

    def opened(self, arrays: Mapping[str, NDArray[np.float64]], noise: Mapping[str, float]) -> Sums:
        """`noised`, of arrays as they were opened, which stay with it."""
        return replace(self.noised(arrays, noise), opened=arrays)

    def added(self, parts: Sequence[Sums]) -> Sums:
        """The sums over all parts, in their order; at least one.

        Those with noise are added as they were opened: what was cut off at zero, for each part
        by itself, would make more records of them than there are.
        """
        noise = parts[0].noise
        if not noise:
            return added(parts)
        arrays = {n: np.sum([one.opened[n] for one in parts], axis=0) for n in parts[0].opened}
        return self.opened(arrays, {n: hypot(*(one.noise[n] for one in parts)) for n in arrays})

    def score(self, graded: NDArray[np.float64], targets: Targets) -> dict[str, float]:
        """The metrics of records at hand."""
        return self.metrics(self.sums(graded, targets))

    def resampled(self, sums: Sums, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        """Metrics had the records been drawn anew: `float64[draws]` each, NaN where one has none.

        A metric that is left out gets no interval.
        """
        return {}

    def resampled_noised(
        self, sums: Sums, rng: np.random.Generator
    ) -> dict[str, NDArray[np.float64]]:
        """The same for sums with noise: had the records and the noise been drawn anew."""
        return {}

    def gap(self, groups: Mapping[str, Sums], rng: np.random.Generator) -> Gap | None:
        """How far apart groups are in the leading metric, and how far by chance."""
        return None

    def decisions(self, groups: Mapping[str, Sums]) -> dict[str, float]:
        """How much what the model decides differs between groups."""
        return {}

    def calibration(self, sums: Sums, rng: np.random.Generator) -> Calibration | None:
        """How far its probabilities can be taken at their word, where it says any."""
        return None

    # --- what a report says ---

    @abstractmethod
    def says(self) -> str:
        """What the model answers, in a sentence."""

    def trained_with(self, class_weights: Mapping[str, float]) -> str:
        """What of the loss whoever reads the model's answers has to know; may be empty."""
        return ""

    def warning(self, found: Mapping[str, float]) -> str:
        """A sentence about metrics that mean the model is of no use; else empty."""
        return ""

    def one_sided(self, found: Mapping[str, float]) -> str:
        """What all test records with these metrics are of, so that some do not exist; or empty."""
        return ""

    uninformed_answer: ClassVar[str] = "an answer that looks at no record"
    """What `uninformed` is about, in words..."""
    uninformed_loss: ClassVar[str] = "the best answer that looks at no record"
    """... and where it is about the loss."""

    # --- what it is held against ---

    def known_baseline(self, targets: Targets) -> tuple[str, dict[str, float]] | None:
        """A method that learns nothing, and its metrics, where targets hold what it gets."""
        return None

    plain_model: ClassVar[str] = ""
    """What `plain` fits, in words."""

    def plain(self, features: Any, targets: Targets) -> Callable[[Any], NDArray[np.float64]] | None:
        """Fit what a statistician would try first to rows `[n, width]`, dense or sparse.

        Returns:
            What it answers to other rows, as `answers`; None where the task knows no such model.
        """
        return None

    def by_class(
        self, tested: Sums, sites: Mapping[str, Sums], rng: np.random.Generator
    ) -> ByClass | None:
        """What `tested` and some `sites` say of each class by itself, where there are any."""
        return None

    def curves(
        self, tested: Sums, sites: Mapping[str, Sums], rng: np.random.Generator
    ) -> SurvivalCurves | None:
        """What `tested` and some `sites` say of how records fare over time, where they do."""
        return None

    def uncalibrated(self, found: Mapping[str, float]) -> str:
        """Why these metrics leave `calibration` out, if it is for a reason of the task."""
        return message("task=%(kind)s says no probabilities", kind=self.kind)

    @property
    def probable(self) -> str:
        """What `calibration` speaks of."""
        return message("it")


class SearchTask(Task):
    """A task whose records are a query and, after it, the document that answers it."""

    searches: ClassVar[bool] = True

    @property
    @abstractmethod
    def lengths(self) -> tuple[int, int]:
        """Tokens of a record that are its query's, and its document's."""

    @property
    @abstractmethod
    def negatives(self) -> int:
        """Public documents that a query is told from in training."""

    @property
    @abstractmethod
    def candidates(self) -> int:
        """Documents that a test query is answered from, its own among them."""


def _exact(spec: SumSpec, noisy: NDArray[np.float64] | None) -> Table:
    """A noisy array as one that exact sums could be; one that was not added up is empty."""
    found = np.zeros(spec.shape) if noisy is None else np.maximum(noisy, 0.0)
    return found if spec.unit is not None else np.rint(found).astype(np.int64)


class TaskConfig(Protocol):
    """The settings of a kind of task, as they stand in a config."""

    learns: ClassVar[type[Task]]
    """What the settings become."""

    @property
    def kind(self) -> str:
        """The name of the task."""

    def of(self, form: TaskForm) -> Task:
        """The task on records of this form.

        Raises:
            ValueError: it is not for such a form.
        """

    def problems(self, column: LabelColumn) -> Iterator[str]:
        """Why a column of labels cannot be learned from, in sentences that say where."""

    def unreadable(self, column: LabelColumn) -> NDArray[np.bool_]:
        """`bool[n]`: whose label is none by what is public alone, whatever other records hold; a
        site leaves such a record out where nobody may learn that it is there."""

    def is_open(self, column: LabelColumn) -> bool:
        """Whether what is told apart depends on what records hold."""

    def encode(self, column: LabelColumn) -> tuple[tuple[str, ...], Targets]:
        """The names of what is told apart, and the targets, of a column without problems."""
