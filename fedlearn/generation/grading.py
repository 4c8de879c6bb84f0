"""Records that a language model is asked about: how well it knows their answers, or which of
some answers it holds for the likeliest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.texts.language import NOTHING, Passage, Span, encode
from fedlearn.data.texts.passages import passages_in
from fedlearn.generation.generator import TextGenerator, fitted
from fedlearn.prediction import Predictor
from fedlearn.training.local import grade

_BATCH = 16

Cells = Sequence[object]


@dataclass(frozen=True, kw_only=True)
class Graded:
    """A table of what a model says of records, and what to know of it."""

    header: Sequence[str]
    rows: Sequence[Cells]
    notes: tuple[str, ...] = ()


def graded(model: Predictor, generator: TextGenerator, path: Path) -> Graded:
    """Nats per token and token accuracy of every answer in a file, as an evaluation has them.

    A record is cut to as many tokens as those of the run.

    Raises:
        DataError: the file cannot be read, or no record has an answer.
        ConfigError: it has no answers among its keys.
    """
    asked = passages_as_records(generator, path)
    features, targets = torch.from_numpy(asked.ids), asked.targets
    grades = grade(model.network, model.task, features, targets, _BATCH)
    tokens = (targets != NOTHING).sum(1)
    lines = zip(
        asked.lines, tokens.tolist(), grades[:, 0] / tokens, grades[:, 2] / tokens, strict=True
    )
    return Graded(
        header=("line", "tokens", "nats_per_token", "token_accuracy"),
        rows=[(line, count, f"{nats:.6f}", f"{hits:.6f}") for line, count, nats, hits in lines],
        notes=(*asked.notes, _together(model, grades, targets)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class AsRecords:
    """Records in a file, made as those of the run were: ids `int64[n, length]`, and what is to be
    answered at every place, `NOTHING` where nothing is."""

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    lines: tuple[int, ...]
    notes: tuple[str, ...]


def passages_as_records(generator: TextGenerator, path: Path) -> AsRecords:
    """The records in a file that have answers.

    Raises:
        DataError, ConfigError: as `graded`.
    """
    rows = replace(generator.prompts.rows, path=str(path))
    try:
        passages, notes = passages_in(rows, generator.encoder)
    except ConfigError as error:
        raise ConfigError([*error.problems, _NO_ANSWERS]) from None
    written = [_as_records_are(generator, passage) for passage in passages.values()]
    found = encode(generator.encoder, written, rows.tokenizer.max_length)
    cut = _cut(found.prompts_cut, found.answers_cut, rows.tokenizer.max_length)
    return AsRecords(
        ids=found.ids, targets=found.targets, lines=tuple(passages), notes=(*notes, *cut)
    )


_NO_ANSWERS = (
    "prompts alone: `fedlearn generate` answers them, and --option names answers to choose among"
)


def chosen(generator: TextGenerator, path: Path, options: Sequence[str]) -> Graded:
    """Which of some answers is the likeliest after every prompt in a file, and the chance of each.

    The chances are those of the whole answers, up to the token that ends them, made to sum to 1.

    Raises:
        DataError: the file cannot be read, or holds no prompts.
        ConfigError: the options are not two or more different ones, or too long for the model.
    """
    if len(set(options)) < max(2, len(options)):
        raise ConfigError(
            f"--option: wants two or more different answers, not {', '.join(options)}"
        )
    endings = [_ending(generator, option) for option in options]
    room = generator.context - max(map(len, endings))
    if room < 1:
        raise ConfigError(
            f"--option: the longest has no room in the model's {generator.context} tokens"
        )
    asked = generator.prompts.read(path)
    rows: list[Cells] = []
    for one in asked:
        lead = len(generator.encoder.lead) if one.ids[:1] == generator.encoder.lead else 0
        chances = _chances(generator, fitted(one.ids, room, lead), endings)
        best = options[int(chances.argmax())]
        rows.append((one.line, best, *(f"{chance:.6f}" for chance in chances)))
    cut = sum(len(one.ids) > room for one in asked)
    notes = (f"{cut} prompts are too long for the model; their beginnings are left out",)
    header = ("line", "predicted", *(f"chance of {option}" for option in options))
    return Graded(header=header, rows=rows, notes=notes if cut else ())


def _chances(
    generator: TextGenerator, ids: list[int], endings: list[list[int]]
) -> NDArray[np.float64]:
    """Of each ending after a prompt; every one is read with it, in rows of one length."""
    longest = max(map(len, endings))
    rows = np.full((len(endings), len(ids) + longest), generator.encoder.pad_id, np.int64)
    targets = np.full_like(rows, NOTHING)
    for row, ending in enumerate(endings):
        stop = len(ids) + len(ending)
        rows[row, :stop] = ids + ending
        targets[row, len(ids) - 1 : stop - 1] = ending
    grades = grade(generator.network, generator.task, torch.from_numpy(rows), targets, _BATCH)
    if not np.isfinite(grades[:, 0]).all():
        raise DataError("the model answers with what is no number: its training has diverged")
    odds = np.exp(grades[:, 0].min() - grades[:, 0])
    return np.asarray(odds / odds.sum())


def _ending(generator: TextGenerator, option: str) -> list[int]:
    end = generator.encoder.end
    ids = generator.encoder.ids(generator.prompts.scenario.as_answer(option))
    return ids if end is None else [*ids, end]


def _as_records_are(generator: TextGenerator, passage: Passage) -> Passage:
    """A prompt and its answer, written as the scenario of the run does; else as it is."""
    scenario = generator.prompts.scenario
    match passage:
        case (Span(learned=False, control=False) as prompt, Span(control=False) as answer):
            return (
                Span(scenario.as_prompt(prompt.text)),
                Span(scenario.as_answer(answer.text), learned=True),
            )
    return passage


def _cut(prompts: int, answers: int, most: int) -> Iterator[str]:
    if prompts or answers:
        yield (
            f"longer than the run's scenario.tokenizer.max_length={most}: {prompts} records whose "
            f"prompts lost their beginnings, and {answers} whose answers lost their ends"
        )


def _together(model: Predictor, grades: NDArray[np.float64], targets: NDArray[np.int64]) -> str:
    found = model.task.score(grades, targets)
    tokens = int((targets != NOTHING).sum())
    each = ", ".join(
        f"{model.task.metric(name).title} {value:.4f}" for name, value in found.items()
    )
    return f"{len(targets):,} records, {tokens:,} answer tokens: {each}"
