"""What a page of an experiment shows of runs, as plain data: one JSON beside the pages.

It has the SHA-256 of every `result.json` that it came from (schema `fedlearn/figures/v1`). A page
is a function of it, so that a figure that was changed by hand is found without a run.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Final

from fedlearn.results.result import SiteSize, total_of

SCHEMA: Final = "fedlearn/figures/v1"


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A metric in the runs of a row, and what the size of the test part leaves open.

    `error` is the standard error of one run's figure as a sample of test records (the
    bootstrap of `fedlearn.metrics.intervals`, the middle run); null where there is none.
    """

    values: list[float]
    error: float | None

    @property
    def mean(self) -> float:
        """Over the runs."""
        return statistics.fmean(self.values)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Runs that differ in nothing but their seed."""

    label: str
    epsilon: float | None
    runs: int
    metrics: dict[str, Mean]
    """Over all test records together."""
    sites: dict[str, Mean] = field(default_factory=dict)
    """The leading metric at each site."""
    seconds: float
    """By the clock, the middle run."""
    up: int
    down: int
    """Bytes of all rounds, the middle run."""


@dataclass(frozen=True, kw_only=True)
class Guessed:
    """Telling training from test records by the final model, and the most that may be possible."""

    auc: float
    ceiling: float | None


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What canaries have shown in one run: at least so much epsilon, of so much promised."""

    row: str
    promised: float | None
    lower_bound: float | None
    ceiling: float | None
    seat: str
    verdict: str
    membership: dict[str, Guessed]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All that a page shows of runs."""

    schema: str = SCHEMA
    experiment: str
    commands: list[str]
    first: str
    last: str
    """Days of the first and the last run."""
    versions: list[str]
    unit: str
    delta: float | None
    metrics: list[str]
    """Those of a summary; the first one leads."""
    uninformed: dict[str, float]
    sites: dict[str, SiteSize]
    drawn: bool = False
    """Whether seeds draw sites or test parts anew; then `sites` are those of one seed."""
    rows: list[Row]
    references: list[Row]
    audits: list[Audited]
    results: dict[str, str]
    """SHA-256 of each `result.json`, by the names of folder and run."""

    @property
    def tested(self) -> int | None:
        """Test records of all sites together; None where one keeps its number to itself."""
        return total_of(size.test for size in self.sites.values())
