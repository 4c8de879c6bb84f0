"""Retrieval: a record is a query and the document that answers it; learned is how to ask.

Documents keep the vectors that the public encoder gives them; what is trained is how a query is
read. A record's loss is the cross-entropy of its own document among **public** ones, so it
depends on that record alone: what is clipped is one record's, and its epsilon true. The usual
negatives, the documents of the other records of a batch (van den Oord et al. 2018, "InfoNCE"),
are none here: one record would be in the gradient of all. And since vectors of documents never
move, no model can win by moving all texts away from the public ones, and what a firm has indexed
stays right.

A query is tested against its own document and other public ones that no training sees, as many
for every record: shares of sites compare whatever their sizes, and a rank, too, is a record's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import log, sqrt
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from fedlearn.core.language import Figure, message
from fedlearn.core.settings import Count, Positive, config
from fedlearn.metrics.intervals import (
    Gap,
    gap_of_shares,
    normal_draws,
    redrawn,
    resampled,
)
from fedlearn.metrics.sums import SumLayout, Sums, SumSpec
from fedlearn.tasks.inputs import Input, TextInput
from fedlearn.tasks.task import LabelColumn, Metric, SearchTask, Targets, Task, TaskForm

if TYPE_CHECKING:  # reading and checking records needs no torch, which takes a second
    from torch import Tensor

Floats = NDArray[np.float64]

DEPTHS: Final = (1, 5, 10)
"""How far down a list of answers is looked."""
_UNIT: Final = 2.0**-20
_EDGES: Final = (0, *DEPTHS)
_LARGEST: Final = float(-np.log(np.finfo(np.float64).tiny))
"""Nats: what a record counts at the most, so that sums are finite."""

METRICS: Final = (
    Metric(
        name="recall_at_10",
        title="recall at 10",
        short="R@10",
        meaning="the share of queries whose own document is among the first ten answers",
        in_summary=True,
        by_group=True,
    ),
    Metric(
        name="recall_at_5",
        title="recall at 5",
        meaning="the share of queries whose own document is among the first five answers",
    ),
    Metric(
        name="recall_at_1",
        title="recall at 1",
        short="R@1",
        meaning="the share of queries whose own document is the first answer",
        in_summary=True,
    ),
    Metric(
        name="mrr",
        title="mean reciprocal rank",
        short="MRR",
        meaning="one over the place of a query's own document among all candidates, on average: 1 "
        "is always the first",
        in_summary=True,
        by_group=True,
    ),
    Metric(
        name="bm25_recall_at_10",
        title="recall at 10 of BM25",
        short="BM25",
        meaning="the share of queries whose own document is among the first ten in a ranking by "
        "the words that query and document share, which learns nothing",
        in_summary=True,
    ),
    Metric(
        name="bm25_mrr",
        title="mean reciprocal rank of BM25",
        meaning="one over the place of a query's own document in that ranking, on average",
    ),
    Metric(
        name="loss",
        title="loss",
        short="loss",
        meaning="how surprised the model is by a query's own document among the public ones of "
        "training; lower is better",
        higher_is_better=False,
    ),
)


@config
class Retrieval:
    """Which document answers a query, among others; texts are made into pairs by a scenario."""

    kind: Literal["retrieval"] = "retrieval"
    query_tokens: Count = 48
    """Of a record, those of its query; the rest are its document's."""
    negatives: Count = 256
    """Public documents that a query is to be told from in training."""
    candidates: Annotated[int, Ge(max(DEPTHS) + 1)] = 200
    """Documents that a test query is answered from: its own, and other public ones."""
    temperature: Positive = 0.1
    """Of similarities, which are from -1 to 1, in the loss."""

    learns: ClassVar[type[Task]]

    def of(self, form: TaskForm) -> RetrievalTask:
        """The task on records of this form.

        Raises:
            ValueError: they are no texts, or have no room for a document.
        """
        if not isinstance(form.input, TextInput):
            raise ValueError(
                f"task=retrieval: searches texts, and records are {type(form.input).__name__}"
            )
        if form.input.max_length < self.query_tokens + 2:
            raise ValueError(
                f"task.query_tokens={self.query_tokens}: leaves no room for a document in the "
                f"{form.input.max_length} tokens of a record"
            )
        return RetrievalTask(input=form.input, settings=self)

    def problems(self, column: LabelColumn) -> Iterator[str]:
        """No column of labels says which document answers a query."""
        yield (
            f"{column.where}: task=retrieval learns from queries and documents; choose "
            "scenario=precedents"
        )

    def unreadable(self, column: LabelColumn) -> NDArray[np.bool_]:
        """All of them."""
        return np.ones(len(column.cells), bool)

    def is_open(self, column: LabelColumn) -> bool:
        """Nothing is found in records."""
        return False

    def encode(self, column: LabelColumn) -> tuple[tuple[str, ...], Any]:
        """Nothing: `problems` lets no column pass."""
        raise TypeError(f"{column.where}: task=retrieval has no labels")


@dataclass(frozen=True, kw_only=True)
class RetrievalTask(SearchTask):
    """Targets are `int64[n, 2]`: which document is the answer, and where BM25 has it.

    The answer is 0, a record's own document, or `j`, the `j`-th public one of training: such
    records audits make up. BM25's place is from 1 to `candidates`; 0 where nobody looked.
    """

    kind: ClassVar[str] = "retrieval"
    metrics_known: ClassVar = METRICS
    makes: ClassVar = "An encoder for search"
    has_classes: ClassVar = False
    uninformed_answer: ClassVar = "the model before training"

    input: Input
    settings: Retrieval
    classes: tuple[str, ...] = ()

    # --- the form of a record ---

    @property
    def lengths(self) -> tuple[int, int]:
        """As the settings say; what is left of a record is its document's."""
        if not isinstance(self.input, TextInput):
            raise TypeError(f"task=retrieval searches texts, not {type(self.input).__name__}")
        return self.settings.query_tokens, self.input.max_length - self.settings.query_tokens

    @property
    def negatives(self) -> int:
        """As the settings say."""
        return self.settings.negatives

    @property
    def candidates(self) -> int:
        """As the settings say."""
        return self.settings.candidates

    # --- training ---

    @property
    def num_outputs(self) -> int:
        """Similarities of a query to its own document, then to public ones: those of training,
        then those of tests."""
        return self.negatives + self.candidates

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """`float32[n]` of similarities `[n, num_outputs]`, in nats; those of tests do not count."""
        from torch.nn import functional

        known = outputs[:, : 1 + self.negatives] / self.settings.temperature
        return functional.cross_entropy(known, targets[:, 0], reduction="none")

    # --- targets ---

    def check(self, targets: Targets) -> None:
        """Refuse what are no two places."""
        if targets.dtype != np.int64 or targets.shape != (len(targets), 2):
            raise ValueError(
                f"targets are {targets.dtype}{list(targets.shape)}; wanted: int64[n, 2]"
            )
        most = (self.negatives, self.candidates)
        if targets.size and not ((targets >= 0) & (targets <= most)).all():
            raise ValueError("targets are places among the documents of training, and of tests")

    def mislabelled(self, targets: Targets, words: NDArray[np.uint64]) -> Targets:
        """A public document as the answer, all equally likely."""
        found = targets.copy()
        found[:, 0] = 1 + (words % np.uint64(self.negatives)).astype(np.int64)
        return found

    # --- answers ---

    def answers(self, outputs: Tensor) -> Tensor:
        """How similar a query is to its own document: `float64[n, 1]`."""
        return outputs[:, :1].double()

    def graded(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of every record its loss and the place of its own document: `float64[n, 2]`.

        Whoever is as similar comes first, so that a model that tells nothing apart finds nothing.
        """
        import torch

        own, others = outputs[:, :1], outputs[:, 1 + self.negatives :]
        places = 1 + (~(others < own)).sum(1)
        loss = self.loss(outputs.double(), targets).clamp(max=_LARGEST)
        return torch.stack([loss, places.double()], dim=1)

    def likelihood(self, graded: Floats, targets: Targets) -> Floats:
        """The chance of a record's answer among the public documents of training."""
        return np.asarray(np.exp(-graded[:, 0]))

    answer_columns: ClassVar = ("similarity",)

    def answer_cells(self, answer: Floats) -> tuple[str, ...]:
        """A number from -1 to 1."""
        return (f"{answer[0]:.6f}",)

    # --- evaluation ---

    @property
    def sum_layout(self) -> SumLayout:
        """The loss; how many queries have their document where, by the model and by BM25."""
        places = (self.candidates,)
        return (
            SumSpec(name="loss", unit=_UNIT, bound=_LARGEST),
            SumSpec(name="places", shape=places),
            SumSpec(name="bm25", shape=places),
        )

    def sums(self, graded: Floats, targets: Targets) -> Sums:
        """The sums of graded records, `float64[n, 2]`."""
        places = graded[:, 1].astype(np.int64)
        by_words = targets[:, 1][targets[:, 1] > 0]
        return Sums(
            layout=self.sum_layout,
            count=len(targets),
            arrays={
                "loss": np.asarray(graded[:, 0].sum()),
                "places": self._counted(places),
                "bm25": self._counted(by_words),
            },
        )

    def _counted(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(places - 1, minlength=self.candidates).astype(np.int64)

    def check_sums(self, sums: Sums) -> None:
        """Every query has its document at one place."""
        super().check_sums(sums)
        if sums.noise:
            return
        if sums["places"].sum() != sums.count or sums["bm25"].sum() > sums.count:
            raise ValueError("test sums that do not add up to the number of records")

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Recalls, mean reciprocal rank, those of BM25 where it was asked, loss; none of nothing.

        Of sums with noise each is within its range, whatever the noise.
        """
        if not sums.count:
            return {}
        if sums.noise:
            return self._noised_metrics(sums)
        found = {name: float(value) for name, value in self._ranked(sums["places"]).items()}
        if sums["bm25"].any():
            plain = self._ranked(sums["bm25"])
            found |= {f"bm25_{name}": float(plain[name]) for name in ("recall_at_10", "mrr")}
        return found | {"loss": float(sums["loss"]) / sums.count}

    def _ranked(self, places: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        """Of counts `[..., candidates]`."""
        total = places.sum(-1)
        gains = 1 / np.arange(1, self.candidates + 1)
        recalls = {f"recall_at_{k}": places[..., :k].sum(-1) / total for k in DEPTHS}
        return {**recalls, "mrr": places @ gains / total}

    def known_baseline(self, targets: Targets) -> tuple[str, dict[str, float]] | None:
        """BM25, where it was asked."""
        places = targets[:, 1][targets[:, 1] > 0]
        if not len(places):
            return None
        found = self._ranked(self._counted(places)).items()
        return message("BM25, a ranking by shared words"), {n: float(v) for n, v in found}

    # --- private evaluation ---

    @property
    def _guess(self) -> float:
        """Nats: what a record's loss counts at the most where noise hides it."""
        return 1 + 1.5 * log(1 + self.negatives)

    @property
    def noised_layout(self) -> SumLayout:
        """Queries by how far down their document is, what its place is worth, and the loss."""
        return (
            SumSpec(name="depths", shape=(len(_EDGES),), share=2.0),
            SumSpec(name="gain"),
            SumSpec(name="loss", bound=self._guess, share=0.5),
        )

    def contributions(self, graded: Floats, targets: Targets) -> Floats:
        """Of every record one depth, a number in (0, 1], and its bounded loss."""
        places = graded[:, 1]
        depths = np.eye(len(_EDGES))[np.searchsorted(DEPTHS, places)]
        loss = np.minimum(np.nan_to_num(graded[:, 0], nan=self._guess), self._guess)
        return np.concatenate([depths, (1 / places)[:, None], loss[:, None]], axis=1)

    def noised(self, arrays: Mapping[str, Floats], noise: Mapping[str, float]) -> Sums:
        """The arrays without cutting off what is negative: sums of sites have no bias."""
        layout = tuple(replace(spec, unit=1.0) for spec in self.noised_layout)
        found = {spec.name: np.asarray(arrays[spec.name], np.float64) for spec in layout}
        count = max(0, round(float(found["depths"].sum())))
        return Sums(layout=layout, count=count, arrays=found, noise=noise)

    def _noised_metrics(self, sums: Sums) -> dict[str, float]:
        counts, count = np.cumsum(sums["depths"]), sums.count
        recalls = {f"recall_at_{k}": counts[i] / count for i, k in enumerate(DEPTHS)}
        found = {"mrr": float(sums["gain"]) / count, **recalls}
        loss = min(max(float(sums["loss"]) / count, 0.0), self._guess)
        return {n: min(max(float(v), 0.0), 1.0) for n, v in found.items()} | {"loss": loss}

    # --- how sure it is ---

    def resampled(self, sums: Sums, rng: np.random.Generator) -> dict[str, Floats]:
        """All but the loss: queries are drawn anew, each with the place that it had."""
        if not sums.count:
            return {}
        drawn = dict(self._ranked(resampled(sums["places"], rng)))
        if sums["bm25"].any():
            plain = self._ranked(resampled(sums["bm25"], rng))
            drawn |= {f"bm25_{name}": plain[name] for name in ("recall_at_10", "mrr")}
        return drawn

    def resampled_noised(self, sums: Sums, rng: np.random.Generator) -> dict[str, Floats]:
        """Queries and noise drawn anew; of the mean reciprocal rank by the largest spread that
        numbers from 0 to 1 with such a mean have."""
        if not sums.count:
            return {}
        found, count, noise = self.metrics(sums), sums.count, sums.noise
        drawn, nearest = redrawn(sums["depths"], count, noise["depths"], rng)
        moved = (np.cumsum(drawn - nearest, axis=-1)) / count
        all_drawn = {f"recall_at_{k}": moved[:, i] for i, k in enumerate(DEPTHS)}
        mean = found["mrr"]
        spread = np.sqrt(count * mean * (1 - mean) + noise["gain"] ** 2) / count
        all_drawn["mrr"] = normal_draws(0.0, float(spread), rng)
        return {name: np.clip(found[name] + all_drawn[name], 0, 1) for name in all_drawn}

    def gap(self, groups: Mapping[str, Sums], rng: np.random.Generator) -> Gap | None:
        """In the recall at ten."""
        right = {
            n: self.metrics(one)["recall_at_10"] * one.count
            for n, one in groups.items()
            if one.count
        }
        noise = {n: groups[n].noise.get("depths", 0.0) * sqrt(len(DEPTHS)) for n in right}
        shares = {n: (round(one), groups[n].count) for n, one in right.items()}
        return gap_of_shares(shares, rng, noise)

    # --- what a report says ---

    def says(self) -> str:
        """What it is asked, and what it is measured by."""
        return message(
            "It turns a query into a vector that lies near those of the documents that answer it. "
            "Each test query is answered from its own document and %(count)s public ones.",
            count=Figure(self.candidates - 1, ","),
        )

    def warning(self, found: Mapping[str, float]) -> str:
        """That shared words find more."""
        if found.get("recall_at_10", 1.0) >= found.get("bm25_recall_at_10", 0.0):
            return ""
        return message(
            "A ranking by shared words (BM25), which learns nothing, finds more than the model: a "
            "recall at 10 of %(words)s to %(model)s.",
            words=Figure(found["bm25_recall_at_10"], ".3f"),
            model=Figure(found["recall_at_10"], ".3f"),
        )

    def uncalibrated(self, found: Mapping[str, float]) -> str:
        """It ranks."""
        return message("an encoder for search ranks documents and says no probabilities")


Retrieval.learns = RetrievalTask
