"""Before anybody relies on an epsilon: what holds, what does not, and what nobody looked at.

The questions are the hazards of NIST SP 800-226 (2025), from the epsilon down to
what lies beneath it. What a program cannot know from a result is "not checked",
never passed. Grades of epsilon are those of Ponomareva et al. 2023, "How to
DP-fy ML", section 5.2.1. `MAP` says where a report answers what the texts ask
that such a report is made for; it is no legal advice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from fedlearn.config import load
from fedlearn.report.measured import verdict_line
from fedlearn.report.privacy_statement import rounded_up
from fedlearn.report.released import released
from fedlearn.results.result import Result

State = Literal["holds", "does not hold", "not checked"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A question, its answer, and why."""

    question: str
    state: State
    why: str


def checklist(result: Result) -> tuple[Check, ...]:
    """The checks of a run; without differential privacy there is only one."""
    epsilon = result.privacy.epsilon
    if epsilon is None:
        return (
            Check(
                question="Something bounds what can be learned about a person",
                state="does not hold",
                why="This run claims no differential privacy. What is left is who sees what.",
            ),
        )
    return (_size(epsilon), _delta(result), *_mechanism(result), *_beside(result))


def _size(epsilon: float) -> Check:
    question = "Epsilon is small enough to mean something"
    if epsilon <= 1:
        grade = "at most 1, a strong promise"
    elif epsilon <= 10:
        grade = "between 1 and 10, a reasonable promise, to be backed by attacks that were tried"
    else:
        grade = "above 10, which by itself promises little"
    state: State = "holds" if epsilon <= 10 else "does not hold"
    return Check(question=question, state=state, why=f"{rounded_up(epsilon)} is {grade}.")


def _delta(result: Result) -> Check:
    delta, records = result.privacy.delta or 0.0, sum(s.train for s in result.data.sites.values())
    units = records if result.privacy.unit == "record" else len(result.data.sites)
    what = "records" if result.privacy.unit == "record" else "sites"
    return Check(
        question="Delta is far below one over the number of those who are protected",
        state="holds" if delta * units <= 0.1 else "does not hold",
        why=f"{delta:g} times {units:,} {what} is {delta * units:.2g}; at most 0.1 is asked for.",
    )


def _mechanism(result: Result) -> Iterator[Check]:
    privacy, config = result.privacy, load(result.config)
    rdp = max((spent.epsilon_rdp for spent in privacy.per_site.values()), default=None)
    second = "" if rdp is None else f" A cruder accountant says {rounded_up(rdp)}."
    yield Check(
        question="What was accounted is what was done, for every step",
        state="holds",
        why=f"Noise and cost come from one plan, and sites report what they spent.{second}",
    )
    yield Check(
        question="Nobody can repeat the noise",
        state="holds",
        why="It came from a cryptographic generator; with another, no epsilon would be stated.",
    )
    whole = config.privacy.kind == "distributed"
    yield Check(
        question="The noise is exact on the numbers of a computer",
        state="holds" if whole else "does not hold",
        why="It is drawn on whole numbers, and the accounting is that of its law."
        if whole
        else "It is a Gaussian in floating point, and the accounting is that of an ideal one.",
    )
    yield Check(
        question="Time and power tell nothing about records",
        state="not checked",
        why="Programs and machines were not examined for side channels.",
    )
    found = result.audit
    state: State = "not checked"
    if found is not None and found.canaries:
        state = "does not hold" if found.verdict == "PROMISE BROKEN" else "holds"
    yield Check(
        question="A measurement does not contradict the promise",
        state=state,
        why="The command fedlearn audit measures it." if found is None else verdict_line(found),
    )


def _beside(result: Result) -> Iterator[Check]:
    if result.privacy.unit == "record":
        yield Check(
            question="A record is a person",
            state="not checked",
            why="Somebody with several records is protected with about as many times the epsilon.",
        )
    yield Check(
        question="Nothing else about the records was published",
        state="does not hold",
        why=f"The numbers of records are exact. {released(load(result.config))}",
    )
    yield Check(
        question="Settings were not chosen by looking at the same records",
        state="not checked",
        why="Every run that was tried counts, also those that were thrown away.",
    )
    yield Check(
        question="Other runs on the same records are counted in",
        state="not checked",
        why="This page is about one run; fedlearn ledger show adds up all that a site has made.",
    )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a text asks for, and where reports answer it."""

    text: str
    asks: str
    sections: tuple[str, ...]
    absent: str
    """What of it no report of ours answers: for people to write, or not measured."""


MAP: Final = (
    Asked(
        text="GDPR, Article 35(7)(a)",
        asks="a description of the processing and its purposes",
        sections=(
            "What it is for, and where it ends",
            "How it was trained",
            "Settings of the run",
        ),
        absent="purposes, unless the run states one",
    ),
    Asked(
        text="GDPR, Article 35(7)(b)",
        asks="necessity and proportionality",
        sections=("What privacy costs",),
        absent="the judgement; the costs are in the report of a comparison",
    ),
    Asked(
        text="GDPR, Article 35(7)(c)",
        asks="risks to those in the data",
        sections=(
            "Who could learn what",
            "What an attacker reconstructs",
            "Promised against measured",
        ),
        absent="how likely anybody is to try",
    ),
    Asked(
        text="GDPR, Article 35(7)(d)",
        asks="measures and safeguards, with evidence",
        sections=("Privacy", "Before relying on it", "Where it comes from"),
        absent="measures around this software, such as access control",
    ),
    Asked(
        text="EDPB Opinion 28/2024",
        asks="how likely personal data can be taken out of a model, or had by asking it",
        sections=("Promised against measured", "What an attacker reconstructs"),
        absent="the conclusion",
    ),
    Asked(
        text="EU AI Act, Annex IV",
        asks="development, data, testing, robustness, cybersecurity, oversight, monitoring",
        sections=(
            "How it was trained",
            "How well it does",
            "For whom it works how well",
            "Who could learn what",
        ),
        absent="robustness against poisoned updates, human oversight, monitoring",
    ),
)
