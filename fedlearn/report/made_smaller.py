"""What was made of a run's model afterwards, and what that costs: `costs.json` of an export.

A model in eight bits, or a smaller one that has learned from its answers. Nothing here reads a
record: who has some weighs both models and hands on what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from fedlearn.core.language import ENGLISH, Locale, Message, message
from fedlearn.prediction import Predictor
from fedlearn.report.texts import texts
from fedlearn.results.folder import write_json
from fedlearn.results.reading import read_beside
from fedlearn.tasks import Task

NAME: Final = "costs.json"
SCHEMA: Final = "fedlearn/costs/v1"

Reason = Literal["", "private", "no_tests", "elsewhere"]
"""Why nothing was measured: the run's tests are private or there were none, the run has none
(`evaluation=none`), or their records are not on this machine."""
_REASONS: Final[Mapping[Reason, Message]] = {
    "private": message(
        "the run has published no exact test results, and this card does not either"
    ),
    "no_tests": message("the run was not tested"),
    "elsewhere": message("the test records of the run are not on the machine that made it"),
}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Metrics of the run's model and of what was made of it, on the same records."""

    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class AlikeAnswers:
    """How alike both models answer to records without a known answer."""

    records: int
    same: float
    """The share of records with the same answer, as `fedlearn predict` writes it."""
    largest: float
    """The largest difference between numbers of an answer."""


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """What was found on records."""

    source: str = "tests"
    """`tests` for the test records of the run's sites; else a file, with its SHA-256."""
    all_sites: Compared | None = None
    per_site: dict[str, Compared] = field(default_factory=dict)
    agreement: AlikeAnswers | None = None
    unmeasured: Reason = ""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """How a smaller model has learned from the answers of another."""

    model: str
    parameters: int
    """Of all of it, in numbers."""
    file: str
    file_sha256: str
    """Of the public records."""
    records: int
    steps: int
    batch: int
    learning_rate: float
    temperature: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Held:
    """The public model whose weights are in the file as well."""

    name: str
    sha256: str
    """Of its own weights, as its folder has them."""
    licence: str
    """Empty where its folder names none."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The contents of `costs.json`."""

    schema: str = SCHEMA
    form: Literal["int8", "student"]
    run_id: str
    model_sha256: str
    """Of the values of the run's model."""
    epsilon: float | None
    """What that has spent at its `delta`, at the site that has spent most; this adds nothing."""
    delta: float | None
    metric: str
    """The one that sites are ranked by."""
    bytes_before: int
    """Of all weights of the run's model in single precision."""
    bytes_after: int
    """Of the file of weights in eight bits; of all weights of a student in single precision."""
    weighed: Weighed
    worst_site: str | None = None
    """Where the model that was made does worst..."""
    most_lost: str | None = None
    """... and where it lost most. Null where sites were not told apart."""
    learned: Learned | None = None
    held: Held | None = None


Weigh = Callable[[Predictor, Predictor], Weighed]
"""The run's model, and what was made of it, to what differs between them."""


def sites_of(task: Task, per_site: Mapping[str, Compared]) -> tuple[str | None, str | None]:
    """Where what was made of a model does worst, and where it lost most."""
    metric = task.leading
    known = {
        site: (metric.rank(one.after[metric.name]), metric.rank(one.before[metric.name]))
        for site, one in per_site.items()
        if metric.name in one.after and metric.name in one.before
    }
    if not known:
        return None, None
    worst = min(known, key=lambda site: (known[site][0], site))
    lost = min(known, key=lambda site: (known[site][0] - known[site][1], site))
    return worst, lost


def write_costs(folder: Path, costs: Costs) -> None:
    """Write `costs.json` into an export."""
    write_json(folder / NAME, costs)


def read_costs(folder: Path) -> Costs | None:
    """What stands in an export; None where nothing was made of the model.

    Raises:
        DataError: it cannot be read.
    """
    return read_beside(Costs, folder / NAME, schema=SCHEMA, what="the costs of an export")


def texts_of(costs: Costs | None, task: Task, language: Locale = ENGLISH) -> Any:
    """The blocks of the template `made_smaller`; None where nothing was made of the model."""
    if costs is None:
        return None
    tests = message("the test records of all sites")
    values = {
        "language": language,
        "costs": costs,
        "metric": task.leading,
        "reason": why(costs),
        "source": language.say(tests) if costs.weighed.source == "tests" else costs.weighed.source,
    }
    return texts(values, "made_smaller")["made_smaller"]


def why(costs: Costs) -> Message | str:
    """Why nothing was measured at the sites, in words; empty where it was."""
    found = costs.weighed.unmeasured
    return _REASONS[found] if found else ""


def in_words(costs: Costs, task: Task, language: Locale = ENGLISH) -> tuple[str, ...]:
    """The same for a terminal, line by line."""
    blocks = texts_of(costs, task, language)
    return (*blocks.lines("size"), *blocks.lines("cost"))
