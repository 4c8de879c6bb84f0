"""What a run says about itself: the contents of `result.json` (schema `fedlearn/result/v1`).

Plain data, written after every round; names are fixed by the contract with
those who script against it, so keys may be added but never renamed.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from fedlearn.auditing.findings import Findings
from fedlearn.core.code import code_digest, commit
from fedlearn.metrics.by_class import ByClass
from fedlearn.metrics.intervals import Gap, Measured
from fedlearn.metrics.scores import Calibration
from fedlearn.metrics.survival import SurvivalCurves
from fedlearn.tasks import Input

SCHEMA = "fedlearn/result/v1"

Status = Literal["finished", "stopped_budget", "interrupted", "waiting", "failed"]


@dataclass(frozen=True, kw_only=True)
class SiteSize:
    """How many records a site trains and tests on; null where it keeps that to itself.

    A site on a machine of its own does under privacy: a number of records that is told
    tells of one record who has counted the others.
    """

    train: int | None
    test: int | None
    validation: Annotated[int | None, Field(exclude_if=lambda count: count == 0)] = 0
    """Of a run that validates."""


def total_of(sizes: Iterable[int | None]) -> int | None:
    """The sum of numbers of records; None where one is not known."""
    known = list(sizes)
    return None if None in known else sum(size or 0 for size in known)


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What was learned from."""

    name: str
    unit: str = "record"
    sites: dict[str, SiteSize]
    sha256: str
    classes: list[str] = field(default_factory=list)
    """Empty in results of releases that did not say."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What was learned; `sha256` is that of the vector of all shared tensors."""

    name: str
    parameters: int
    trainable: int
    sha256: str
    input: Input | None = None
    """The form of a record, which every site told; None in results of releases that did not say."""


@dataclass(frozen=True, kw_only=True)
class Attendance:
    """Who took part in a round."""

    invited: int
    replied: int
    dropped: dict[str, str]
    """Site -> reason."""


@dataclass(frozen=True, kw_only=True)
class RefusedSum:
    """A sum that was opened and not used: honest sites could not have made it."""

    reason: str
    sites: list[str]
    """Those in the sum; at least one of them has lied, nobody sees which."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A site that is left out from a round on."""

    site: str
    round: int
    """After which it was named."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """One round: time, pooled test metrics (of validation, where there is one), traffic, and
    epsilon so far by site."""

    round: int
    seconds: float
    loss: float | None
    evaluate: dict[str, float | None]
    clients: Attendance
    bytes: dict[str, int]
    epsilon: dict[str, float | None]
    """Null stands for a number that is not finite: no privacy, or a diverged model."""
    refused: RefusedSum | None = None
    """Of a round that was paid for and has not moved the model."""
    unused: list[RefusedSum] = field(default_factory=list)
    """Sums of groups that were refused where others of the same round were used."""
    named: list[Suspect] = field(default_factory=list)
    """Who is left out from here on; what they were in is taken back."""


def sites_of_refused(rounds: Iterable[RoundResult]) -> list[list[str]]:
    """The sites of every sum that was refused."""
    found = [[*one.unused, *([one.refused] if one.refused else [])] for one in rounds]
    return [each.sites for sums in found for each in sums]


@dataclass(frozen=True, kw_only=True)
class FinalResult:
    """Test metrics of the final model: pooled, by site, and the site that does worst."""

    evaluate: dict[str, float]
    per_site: dict[str, dict[str, float]]
    worst_site: str | None
    uninformed: dict[str, float] = field(default_factory=dict)
    """What the best answer that looks at no record gets on the same test records, in the metrics
    in which guessing cannot do better; empty in results of releases that did not say."""


@dataclass(frozen=True, kw_only=True)
class BestRound:
    """The best round so far, by validation."""

    round: int
    value: float
    """Of the leading metric of the task..."""
    loss: float | None = None
    """... and of the loss, which decides between equal ones."""
    since: int = 0
    """Validations after it, none of which was better."""


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """How the model was chosen; in `rounds` metrics are those of validation, and those of `final`
    are of the test, read once."""

    metric: str
    """What rounds were compared by: the leading metric of the task."""
    kept: int
    """The round whose model is kept and tested."""
    best: BestRound | None
    """Null where no round could be measured."""
    stopped_early: bool
    """Whether the run ended before its rounds, as nothing better was found for long enough."""
    bytes: dict[str, int] = field(default_factory=dict)
    """Traffic of the test, which is in no round; none where it was not read."""


@dataclass(frozen=True, kw_only=True)
class BaselineResult:
    """What a model that was not trained by this run gets on the same test records."""

    name: str
    """Which model, in words."""
    evaluate: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """How the model does for a group of people in the test records."""

    count: int
    evaluate: dict[str, Measured]


@dataclass(frozen=True, kw_only=True)
class GroupsResult:
    """How the model does for groups of people; what is too small to be shown is only named."""

    column: str
    smallest: int
    all_sites: dict[str, GroupResult]
    """Over the sites that show the group, or over all sites where only the sum was opened."""
    per_site: dict[str, dict[str, GroupResult]]
    withheld: dict[str, list[str]]
    """Site (or `all sites`) -> groups that are too small, or would give those away."""
    gap: Gap | None
    decisions: dict[str, float]
    """As `Task.decisions` computes them."""


@dataclass(frozen=True, kw_only=True)
class FairnessResult:
    """For whom the final model works how well; intervals are for `confidence`."""

    confidence: float
    all_sites: dict[str, Measured]
    per_site: dict[str, dict[str, Measured]]
    gap: Gap | None
    """Between the sites; null where only their sum was opened."""
    groups: GroupsResult | None


Take = Literal["own", "shared"]


@dataclass(frozen=True, kw_only=True)
class OwnResult:
    """How sites' own models do beside the shared one, on the same test records."""

    confidence: float
    all_sites: dict[str, Measured]
    """Every site's test records by its own model, together."""
    per_site: dict[str, dict[str, Measured]]
    """Empty where only the sum over all sites was opened."""
    take: dict[str, Take]
    """Which model a site is to take, by a rule that looks at no test record."""
    by: Literal["records", "validation"] = "records"
    """What the rule looks at: how many training records a site has, or its validation records where
    it releases figures of these."""


@dataclass(frozen=True, kw_only=True)
class SitePrivacy:
    """What a site has spent in this run."""

    epsilon: float
    epsilon_rdp: float | None
    """The same by Renyi accounting: looser, shown as a cross-check; null where it has no bound."""
    delta: float
    steps: int
    sample_rate: float


@dataclass(frozen=True, kw_only=True)
class PromiseFacts:
    """What the statement is made of; public, so that a report can say it in any language."""

    plan: dict[str, Any] | None
    """Every number and name in the plan; null where nothing is promised."""
    noise_is_private: bool
    """Whether nobody can repeat the noise."""
    tests_epsilon: float | None
    """What test metrics would cost by themselves; null where they are not paid for."""
    screening_epsilon: float | None
    """The same of comparing tables."""

    def __post_init__(self) -> None:
        plan = self.plan or {}
        if wrong := [n for n in _NUMBERS if n in plan and type(plan[n]) not in (int, float)]:
            raise ValueError(f"plan: no numbers: {', '.join(wrong)}")


_NUMBERS: Final = (
    *("clip_norm", "delta", "max_colluders", "min_survivors", "noise_multiplier", "num_clients"),
    *("rounds", "sample_rate", "steps_per_round"),
)
"""What sentences write as numbers of a plan."""


@dataclass(frozen=True, kw_only=True)
class PrivacyResult:
    """The privacy of the whole run; `statement` says it in words."""

    unit: Literal["record", "person", "client", "none"]
    relation: str | None
    epsilon: float | None
    delta: float | None
    accountant: str | None
    noise_multiplier: float | None
    clip_norm: float | None
    sampling: str | None
    per_site: dict[str, SitePrivacy]
    statement: str
    promise: PromiseFacts | None = None
    """Null in results of releases that kept the statement alone."""


@dataclass(frozen=True, kw_only=True)
class ProtectionResult:
    """How updates travel."""

    transport: Literal["plain", "sealed"]
    secagg: Literal["off", "ring", "masked", "two_server"]
    robust: str = "none"
    false_alarm: float | None = None
    """The chance, in a run, that a site is left out which never pulls against the others; null
    where the rule names nobody."""
    helper: str = ""
    """Under `two_server`, the second server of another organisation; empty: in one process."""


@dataclass(frozen=True, kw_only=True)
class ScreeningResult:
    """That sites have compared their tables before training; what they found stays with them."""

    sites: int
    epsilon: float | None
    """What it would cost by itself; null where nothing is promised."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the run ran on."""

    python: str
    torch: str
    flwr: str
    opacus: str
    cryptography: str
    device: str
    threads: int
    code: str = ""
    """Hash of fedlearn's own source (`fedlearn.core.code`)."""
    commit: str = ""
    """The git commit of it where it is known; `+` after it: the source differs from it."""


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """The whole of `result.json`."""

    schema: str = SCHEMA
    run_id: str
    terms: str = ""
    """SHA-256 (hex) of the study's terms, as every site has joined under them; empty in results of
    before there were any."""
    status: Status
    reason: str | None = None
    """Why the run ended when it did not finish."""
    started_at: str
    seconds: float
    config: dict[str, Any]
    data: DataFacts
    model: ModelFacts
    rounds: list[RoundResult] = field(default_factory=list)
    final: FinalResult
    validation: ValidationResult | None = None
    """Null where rounds are tested."""
    baseline: BaselineResult | None = None
    """Null where nothing was compared with: in every deployment, where nobody has all records."""
    fairness: FairnessResult | None = None
    """Null until the run has ended."""
    own: OwnResult | None = None
    """Null until the run has ended, and where sites have no model beside the shared one."""
    calibration: Calibration | None = None
    """Of the final model; null until the run has ended, and where too little is tested."""
    by_class: ByClass | None = None
    """Every class by itself, and other thresholds; null until the run has ended."""
    curves: SurvivalCurves | None = None
    """Who lives through how long, where that is learned; null until the run has ended."""
    privacy: PrivacyResult
    declined: list[str] = field(default_factory=list)
    """Why sites that were asked took no part in the run."""
    protection: ProtectionResult
    screening: ScreeningResult | None = None
    """Null where tables were not compared."""
    audit: Findings | None = None
    """What an audit of the run has measured."""
    environment: Environment


def this_environment(device: str, threads: int) -> Environment:
    """The versions that matter for repeating a run."""
    return Environment(
        python=platform.python_version(),
        torch=importlib.metadata.version("torch"),
        flwr=importlib.metadata.version("flwr"),
        opacus=importlib.metadata.version("opacus"),
        cryptography=importlib.metadata.version("cryptography"),
        device=device,
        threads=threads,
        code=code_digest(),
        commit=commit(),
    )
