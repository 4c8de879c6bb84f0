"""The privacy statement: what was promised to the people in the data, in short paragraphs.

Who is protected and by how much, in other words, against whom, what is not covered, what else
leaves a site; and the proof, for who wants to check it. All of it is made from `PromiseFacts`,
which are public and which a result keeps: what a run says at its end and what a report says later,
in whatever language, are the same by construction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, Final, assert_never, cast

from fedlearn.config import RunConfig
from fedlearn.core.language import ENGLISH, Locale
from fedlearn.mechanisms import EvaluationPlan, NoPrivacy, PrivacyPlan
from fedlearn.privacy.accounting import ACCOUNTANT
from fedlearn.privacy.accounting import epsilon as account
from fedlearn.report.setup import Setup
from fedlearn.report.texts import Texts, texts
from fedlearn.results.result import PromiseFacts
from fedlearn.tasks import ImageInput, Input, SeriesInput, TableInput, TextInput

_PARTS: Final = ("promise", "meaning", "parent", "against", "not_covered")
_BESIDE_THE_MODEL: Final = ("tests", "own", "validation", "screening", "before_training", "public")
_OF_A_PLAN: Final = ("kind", "unit", "noise_multiplier", "steps_per_round", "min_survivors")
"""What of a plan may be no field of it."""


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A part of the statement that has something to say."""

    name: str
    title: str
    """Empty for the first."""
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Figures:
    """What stands for a mechanism where figures are released, whatever it is: their sentences."""

    kind: str = "statistics"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """The whole of it, in one language."""

    paragraphs: tuple[Paragraph, ...]
    proof: Paragraph | None = None
    language: Locale = ENGLISH
    """What it is in, which may not be that of the page around it."""

    @property
    def text(self) -> str:
        """Without any markup: paragraphs, with an empty line between two of them."""
        space, colon = self.language.one(" "), self.language.one(": ")
        parts = [*self.paragraphs, *([self.proof] if self.proof else [])]
        return "\n\n".join(
            (f"{part.title}{colon}" if part.title else "") + space.join(part.lines)
            for part in parts
        )


def promise_of(plan: PrivacyPlan | None, *, noise_is_private: bool) -> PromiseFacts:
    """What a plan promises, as public facts."""
    return PromiseFacts(
        plan=None if plan is None else _public(plan),
        noise_is_private=noise_is_private,
        tests_epsilon=_alone(plan, plan.evaluation) if plan else None,
        screening_epsilon=_alone(plan, plan.screening) if plan else None,
    )


def _public(plan: PrivacyPlan) -> dict[str, Any]:
    """Every number and name in a plan."""
    names = dict.fromkeys([*_OF_A_PLAN, *(field.name for field in fields(cast(Any, plan)))])
    found = {name: getattr(plan, name) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, str | int | float)}


def _alone(plan: PrivacyPlan, part: EvaluationPlan | None) -> float | None:
    """What a part of a whole run would cost by itself; None where the plan pays for none."""
    return None if part is None else account(part.events, plan.delta, unit=plan.unit)


def surest(epsilon: float) -> float:
    """How sure, in percent, a guesser at even odds can be: e^epsilon / (1 + e^epsilon).

    Rounded up, to one digit, or to as many of four as tell it from being certain.
    """
    sure = 100 / (1 + math.exp(-epsilon))
    rounded = [math.ceil(sure * 10**digits) / 10**digits for digits in (1, 2, 3, 4)]
    return next((percent for percent in rounded if percent < 100), 100.0)


def statement_of(
    promise: PromiseFacts,
    option: Any,
    config: RunConfig | None = None,
    *,
    epsilon: float,
    sum_only: bool,
    record: str,
    language: Locale = ENGLISH,
) -> Statement:
    """What was promised to the people in the data, in words for people.

    Args:
        option: an object of the mechanism's kind: its sentences are those of the kind.
        config: of the run, for what leaves a site beside the model; without one nothing is said
            of that, and tests count as open unless they are paid for.
        epsilon: the largest that any site spent; less than the plan's when the run ended early.
        sum_only: whether secure aggregation shows the coordinator nothing but sums.
        record: what one record is (`record_of`).
    """
    known = promise.plan is not None and promise.noise_is_private and not math.isinf(epsilon)
    plan = None if promise.plan is None else SimpleNamespace(**promise.plan)
    values = {
        "language": language,
        "plan": plan,
        "holds": known,
        "epsilon": epsilon,
        "surest": surest(epsilon),
        "one_in": language.number(1 / plan.delta, ",.0f") if plan else "",
        "noise_is_private": promise.noise_is_private,
        "sum_only": sum_only,
        "record": record,
        "accountant": ACCOUNTANT,
        "tests_epsilon": promise.tests_epsilon,
        "tests_open": not promise.tests_epsilon
        and (not config or (config.evaluation != "none" and config.statistics.idle)),
        "screening_epsilon": promise.screening_epsilon,
        "parent": config.parent if config else None,
        "validates": config is not None and config.validates,
    }
    makes_figures = config is not None and not config.statistics.idle
    name = "statistics" if makes_figures else "promise"
    words = texts(values, "promise", name, mechanism=_Figures() if makes_figures else option)[name]
    found = [_paragraph(words, name, words.lines(name)) for name in _PARTS]
    if config is not None and not makes_figures:
        released = _released(config, language, holds=known)
        found.append(_paragraph(words, "besides", released))
    proof = _paragraph(words, "proof", words.lines("proof"))
    return Statement(
        paragraphs=tuple(one for one in found if one.lines),
        proof=proof if proof.lines else None,
        language=language,
    )


def statement_for(
    promise: PromiseFacts,
    config: RunConfig,
    shape: Input,
    *,
    epsilon: float | None,
    language: Locale = ENGLISH,
) -> Statement:
    """The statement of a run on records of that form; `epsilon` is None where none holds."""
    return statement_of(
        promise,
        NoPrivacy() if promise.plan is None else config.privacy,
        config,
        epsilon=math.inf if epsilon is None else epsilon,
        sum_only=Setup.of(config).sum_only,
        record=record_of(config, shape, language),
        language=language,
    )


def _paragraph(words: Texts, name: str, lines: tuple[str, ...]) -> Paragraph:
    title = "" if name == "promise" else words[f"{name}_title"]
    return Paragraph(name=name, title=title, lines=lines)


def statement(
    plan: PrivacyPlan | None, *, epsilon: float, noise_is_private: bool, sum_only: bool, record: str
) -> str:
    """The statement of a plan alone, as text; `statement_of` says what the values are."""
    return statement_of(
        promise_of(plan, noise_is_private=noise_is_private),
        NoPrivacy() if plan is None else plan,
        epsilon=epsilon,
        sum_only=sum_only,
        record=record,
    ).text


def _released(config: RunConfig, language: Locale, *, holds: bool) -> tuple[str, ...]:
    setup = Setup(config=config, mechanism=config.privacy if holds else NoPrivacy())
    released = setup.texts({"language": language})["released"]
    return tuple(line for name in _BESIDE_THE_MODEL for line in released.lines(name))


def beside_the_model(config: RunConfig) -> str:
    """What a run lets out beside the model, and whether any epsilon covers it."""
    return " ".join(_released(config, ENGLISH, holds=True))


def record_of(config: RunConfig, shape: Input, language: Locale = ENGLISH) -> str:
    """What one record is, which is what record-level privacy protects."""
    values: Mapping[str, Any] = {
        "over": getattr(config.scenario, "record", ""),
        "language": language,
    }
    words = texts(values, "promise")["promise"]
    match shape:
        case TableInput():
            form = "table"
        case ImageInput():
            form = "image"
        case TextInput():
            form = "text"
        case SeriesInput():
            form = "series"
        case _:
            assert_never(shape)
    text: str = words[f"record_{form}"]
    return text
