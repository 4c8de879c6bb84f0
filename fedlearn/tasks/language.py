"""Language: a record is a text, and what is learned is how its answer goes on, token by token.

A record holds a prompt and its answer (or is an answer from its first token on), as ids of
tokens, filled up at the end. Its loss is the mean over its answer tokens, in nats: a long answer
weighs as much as a short one, and what is clipped is one record's. Evaluation adds up nats, hits
and tokens, so that every token counts alike there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlearn.core.language import Figure, message
from fedlearn.core.settings import Name, config
from fedlearn.metrics.intervals import Gap, gap_of_means
from fedlearn.metrics.ratios import Ratio
from fedlearn.metrics.sums import SumLayout, Sums, SumSpec
from fedlearn.tasks.inputs import Input, TextInput
from fedlearn.tasks.task import LabelColumn, Metric, Targets, Task, TaskForm

if TYPE_CHECKING:  # reading and checking records needs no torch, which takes a second
    from torch import Tensor

    from fedlearn.tasks.tokens import TokenOutputs

_LARGEST: Final = float(-np.log(np.finfo(np.float64).tiny))
"""Nats: what a token counts at the most, so that sums are finite."""
_UNIT: Final = 2.0**-20
_TRIED: Final = 8
"""Answer tokens of a record that nobody has, at the most: what is tried with it is the same for
each of them."""

METRICS: Final = (
    Metric(
        name="nats_per_token",
        title="nats per token",
        short="nats",
        meaning="how surprised the model is by a token of an answer; lower is better",
        higher_is_better=False,
        in_summary=True,
        by_group=True,
    ),
    Metric(
        name="perplexity",
        title="perplexity",
        short="perplexity",
        meaning="the number of tokens that would be as hard to guess among, were all equally "
        "likely: e to the nats per token",
        higher_is_better=False,
        in_summary=True,
    ),
    Metric(
        name="token_accuracy",
        title="token accuracy",
        short="tokens",
        meaning="the share of answer tokens that are the likeliest by the model",
        in_summary=True,
        by_group=True,
    ),
)


@dataclass(frozen=True, kw_only=True)
class LanguageTask(Task):
    """The next token: targets are `int64[n, max_length]`.

    `targets[i, t]` is the id of token `t + 1` of record `i` where that is to be learned, and -1
    where not: in the prompt and after the end.
    """

    kind: ClassVar[str] = "language"
    metrics_known: ClassVar = METRICS
    makes: ClassVar = "A language model"
    next_tokens: ClassVar = True
    has_classes: ClassVar = False
    uninformed_answer: ClassVar = "the model before training"

    input: Input
    classes: tuple[str, ...] = ()

    @property
    def text(self) -> TextInput:
        """The form of a record."""
        if not isinstance(self.input, TextInput):
            raise TypeError(f"task=language learns from texts, not {type(self.input).__name__}")
        return self.input

    # --- training ---

    @property
    def num_outputs(self) -> int:
        """One a token of the vocabulary, at every place."""
        return self.text.vocabulary

    @property
    def output_shape(self) -> tuple[int, ...]:
        """`(max_length, vocabulary)`."""
        return self.text.max_length, self.text.vocabulary

    def loss(self, outputs: TokenOutputs, targets: Tensor) -> Tensor:
        """The mean over the answer tokens of each record, in nats; 0 where there is none."""
        from fedlearn.tasks.tokens import token_losses

        count = (targets >= 0).sum(1).clamp(min=1)
        return token_losses(outputs, targets).sum(1) / count

    def imitation(
        self, outputs: TokenOutputs, teacher: TokenOutputs, targets: Tensor, temperature: float
    ) -> Tensor:
        """The divergence from the other's next tokens, the mean over answer tokens; see
        `fedlearn.tasks.classification.divergence`. 0 where there is none."""
        from fedlearn.tasks.classification import divergence
        from fedlearn.tasks.tokens import logits_where

        there = targets >= 0
        one, other = (logits_where(given, there) for given in (outputs, teacher))
        losses = one.new_zeros(there.shape).masked_scatter(
            there, divergence(one, other, temperature)
        )
        return losses.sum(1) / there.sum(1).clamp(min=1)

    # --- targets ---

    def check(self, targets: Targets) -> None:
        """Refuse what are no places of the vocabulary, or not one for every place of a text."""
        wanted = (len(targets), self.text.max_length)
        if targets.shape != wanted or targets.dtype != np.int64:
            raise ValueError(
                f"targets are {targets.dtype}{list(targets.shape)}; wanted: int64{list(wanted)}"
            )
        if targets.size and not -1 <= targets.min() <= targets.max() < self.text.vocabulary:
            raise ValueError("targets are ids below the vocabulary, or -1")

    def blank(self, count: int, like: Targets) -> Targets:
        """A few answer tokens at the end, of every record another number: where those of a record
        stand in a piece of logits is then tried as well, in whatever company.

        With a vocabulary of 50,000 each is dear.
        """
        found = np.full((count, *like.shape[1:]), -1, like.dtype)
        for row, own in enumerate(found):
            own[-(1 + row % _TRIED) :] = 0
        return found

    def mislabelled(self, targets: Targets, words: NDArray[np.uint64]) -> Targets:
        """Another token in the place of each that is to be learned."""
        coins = (np.random.default_rng(int(word)) for word in words)
        others = [c.integers(1, self.text.vocabulary, targets.shape[1]) for c in coins]
        moved = (targets + np.array(others, np.int64).reshape(targets.shape)) % self.num_outputs
        return np.where(targets < 0, targets, moved)

    # --- answers ---

    def answers(self, outputs: TokenOutputs) -> Tensor:
        """The likeliest next token at every place, `float64[n, max_length]`."""
        from fedlearn.tasks.tokens import likeliest

        return likeliest(outputs).double()

    def graded(self, outputs: TokenOutputs, targets: Tensor) -> Tensor:
        """Of every record nats, nats of which no token has more than a guess, and hits."""
        import torch

        from fedlearn.tasks.tokens import token_grades

        losses, hits = token_grades(outputs, targets)
        losses = losses.double()
        bounds = _LARGEST, self._guess
        return torch.stack([*(losses.clamp(max=b).sum(1) for b in bounds), hits.double().sum(1)], 1)

    def likelihood(self, graded: NDArray[np.float64], targets: Targets) -> NDArray[np.float64]:
        """The geometric mean of the chances of a record's answer tokens; 1 where it has none."""
        return np.asarray(np.exp(-graded[:, 0] / np.maximum(_tokens(targets), 1)))

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """What follows every token."""
        return ("next_tokens",)

    def answer_cells(self, answer: NDArray[np.float64]) -> Sequence[str]:
        """Ids, as a tokenizer takes them."""
        return [" ".join(str(int(token)) for token in answer)]

    # --- evaluation ---

    @property
    def sum_layout(self) -> SumLayout:
        """Nats, hits and tokens; and their products, which say how sure they are."""
        return (
            SumSpec(name="nats", unit=_UNIT),
            SumSpec(name="hits"),
            SumSpec(name="tokens"),
            SumSpec(name="products", shape=(5,), unit=1.0),
        )

    def sums(self, graded: NDArray[np.float64], targets: Targets) -> Sums:
        """The sums of graded records, `float64[n, 3]`; NaN propagates into the nats."""
        tokens = _tokens(targets)
        nats, hits = graded[:, 0], np.nan_to_num(graded[:, 2]).astype(np.int64)
        pairs = ((nats, nats), (hits, hits), (tokens, tokens), (nats, tokens), (hits, tokens))
        return Sums(
            layout=self.sum_layout,
            count=len(targets),
            arrays={
                "nats": np.asarray(nats.sum()),
                "hits": np.asarray(hits.sum()),
                "tokens": np.asarray(tokens.sum()),
                "products": np.array([float((a * b).sum()) for a, b in pairs]),
            },
        )

    def check_sums(self, sums: Sums) -> None:
        """A record has no more tokens than places, and no more hits than tokens."""
        super().check_sums(sums)
        if sums.noise:
            return
        most = sums.count * self.text.max_length
        if not sums["hits"] <= sums["tokens"] <= most:
            raise ValueError("test sums with more tokens than records have places, or more hits")

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Nats per token, perplexity and token accuracy; none without tokens.

        Of sums with noise each is within its range, whatever the noise.
        """
        tokens = float(sums["tokens"])
        if not sums.count or tokens < 1:
            return {}
        nats, share = float(sums["nats"]) / tokens, float(sums["hits"]) / tokens
        if sums.noise:
            nats, share = min(max(nats, 0.0), self._guess), min(max(share, 0.0), 1.0)
        return {
            "nats_per_token": nats,
            "perplexity": exp(min(nats, _LARGEST)),
            "token_accuracy": share,
        }

    # --- private evaluation ---

    @property
    def _guess(self) -> float:
        """Nats of a guess among all tokens: what one counts at the most where noise hides it."""
        return log(self.text.vocabulary)

    @property
    def noised_layout(self) -> SumLayout:
        """A record has as many tokens as places at the most, each no worse than a guess."""
        most = float(self.text.max_length)
        return (
            SumSpec(name="count", share=0.25),
            SumSpec(name="nats", bound=most * self._guess, share=2.0),
            SumSpec(name="hits", bound=most),
            SumSpec(name="tokens", bound=most, share=2.0),
        )

    def contributions(self, graded: NDArray[np.float64], targets: Targets) -> NDArray[np.float64]:
        """Every record by itself: 1, its bounded nats, its hits and its tokens."""
        tokens = _tokens(targets)
        return np.stack([np.ones(len(tokens)), graded[:, 1], graded[:, 2], tokens], axis=1)

    def noised(self, arrays: Mapping[str, NDArray[np.float64]], noise: Mapping[str, float]) -> Sums:
        """The arrays without cutting off what is negative: sums of sites have no bias."""
        layout = tuple(replace(spec, unit=1.0) for spec in self.noised_layout[1:])
        count = max(0, round(float(arrays["count"])))
        found = {spec.name: np.asarray(arrays[spec.name], np.float64) for spec in layout}
        return Sums(layout=layout, count=count, arrays=found, noise=noise)

    # --- how sure it is ---

    def resampled(self, sums: Sums, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
        """Of sums of many records: their law is near a normal one with the moments that we have."""
        nats, hits = _ratios(sums)
        drawn = nats.drawn(rng)
        return {
            "nats_per_token": drawn,
            "perplexity": np.exp(np.minimum(drawn, _LARGEST)),
            "token_accuracy": np.clip(hits.drawn(rng), 0.0, 1.0),
        }

    def gap(self, groups: Mapping[str, Sums], rng: np.random.Generator) -> Gap | None:
        """Between the groups that have tokens, in nats; none of sums with noise."""
        known = {name: one for name, one in groups.items() if one.count and one["tokens"] >= 1}
        if any(one.noise for one in known.values()):
            return None
        ratios = {name: _ratios(one)[0] for name, one in known.items()}
        values = {name: one.value for name, one in ratios.items()}
        return gap_of_means(values, {name: one.stddev for name, one in ratios.items()}, rng)

    # --- what a report says ---

    def says(self) -> str:
        """What it is asked, and how many answers there are."""
        return message(
            "It continues a text: after every token it says how likely each of %(count)s tokens is "
            "to come next. It is measured on the tokens of answers, and not on those of prompts.",
            count=Figure(self.text.vocabulary, ","),
        )

    def warning(self, found: Mapping[str, float]) -> str:
        """That it does no better than a guess."""
        if found.get("nats_per_token", 0.0) < self._guess:
            return ""
        return message(
            "The model is no better than a guess among all tokens (%(guess)s nats): it has learned "
            "nothing of these texts, or training has diverged.",
            guess=Figure(self._guess, ".2f"),
        )

    def uncalibrated(self, found: Mapping[str, float]) -> str:
        """Nats say it."""
        return message(
            "nats per token stand for it: whoever is surer than is right has more of them"
        )


def _tokens(targets: Targets) -> NDArray[np.int64]:
    """How many tokens of every record are to be learned."""
    return np.asarray((targets >= 0).sum(1), np.int64)


def _ratios(sums: Sums) -> tuple[Ratio, Ratio]:
    """Nats per token and hits per token."""
    nats2, hits2, tokens2, nats_tokens, hits_tokens = (float(p) for p in sums["products"])
    count, tokens = sums.count, float(sums["tokens"])
    return (
        Ratio(count, (float(sums["nats"]), tokens), (nats2, nats_tokens, tokens2)),
        Ratio(count, (float(sums["hits"]), tokens), (hits2, hits_tokens, tokens2)),
    )


@config
class Language:
    """The next token of texts, or of answers to prompts; which there are, a scenario says."""

    kind: Literal["language"] = "language"
    prompts: Annotated[tuple[Name, ...], Field(exclude_if=lambda prompts: not prompts)] = ()
    """Public ones, out of no record, that a model card shows the answers to."""
    learns: ClassVar[type[Task]] = LanguageTask

    def of(self, form: TaskForm) -> LanguageTask:
        """The task on records of this form.

        Raises:
            ValueError: they are no texts.
        """
        if not isinstance(form.input, TextInput):
            raise ValueError(
                f"task=language: learns from texts, and records are {type(form.input).__name__}"
            )
        return LanguageTask(input=form.input)

    def problems(self, column: LabelColumn) -> Iterator[str]:
        """No column of labels says how a text goes on."""
        yield f"{column.where}: task=language learns from texts alone; choose scenario=language"

    def unreadable(self, column: LabelColumn) -> NDArray[np.bool_]:
        """All of them."""
        return np.ones(len(column.cells), bool)

    def is_open(self, column: LabelColumn) -> bool:
        """Which tokens there are says a tokenizer, and no record."""
        return False

    def encode(self, column: LabelColumn) -> tuple[tuple[str, ...], Any]:
        """Nothing: `problems` lets no column pass."""
        raise TypeError(f"{column.where}: task=language has no labels")
