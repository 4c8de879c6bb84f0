"""What a table of figures says, as data: `statistics.json` holds it, and the page shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

SCHEMA: Final = "fedlearn/statistics/v1"
FILE: Final = "statistics.json"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its interval: of a count where noise may have put it, of all else where the
    choice of records may have put it as well."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class NumberFigures:
    """Of a column of numbers; what cannot be known is null."""

    name: str
    is_label: bool = False
    low: float | None
    """The public range, to which numbers are cut off; null where there is none."""
    high: float | None
    step: float | None
    """How far two points are apart; null where this grows with the numbers."""
    present: Estimate
    missing: Estimate | None
    mean: Estimate | None
    sd: Estimate | None
    quantiles: dict[str, Estimate]
    unsure: bool
    """Whether the interval of a quantile is half of the range, or more."""
    bins: list[float]
    """Ends of the bins of the histogram, from the lowest."""
    counts: list[float]
    edges: list[float]
    """Between them there are about as many records each, as far as noise lets it be seen."""


@dataclass(frozen=True, kw_only=True)
class CategoryFigures:
    """How many records have a category, and their share."""

    name: str
    count: Estimate
    share: Estimate


@dataclass(frozen=True, kw_only=True)
class ChoiceFigures:
    """Of a column of categories, or of shares from 0 to 1, whose categories are `0` and `1`."""

    name: str
    is_label: bool = False
    is_share: bool = False
    categories: list[CategoryFigures]
    missing: CategoryFigures | None
    """A gap, or none of the categories named; null where there is no place for it."""
    threshold: float | None
    """Where the categories are not public: the count from which on one is named."""


@dataclass(frozen=True, kw_only=True)
class CrossingFigures:
    """Of two columns of categories together."""

    one: str
    other: str
    rows: list[str]
    columns: list[str]
    counts: list[list[Estimate]]
    odds_ratio: Estimate | None
    """Of two times two; null for others, and where a count may be zero."""


@dataclass(frozen=True, kw_only=True)
class CorrelationFigures:
    """Of two columns of numbers: Pearson's coefficient; null where it cannot be known."""

    one: str
    other: str
    value: Estimate | None


@dataclass(frozen=True, kw_only=True)
class SurvivalFigures:
    """Of times to an event: the share that lives through each interval (Kaplan and Meier)."""

    name: str
    unit: str
    times: list[float]
    surviving: list[Estimate]
    events: Estimate


@dataclass(frozen=True, kw_only=True)
class TableFigures:
    """Of all records of a site, or of all sites."""

    records: Estimate
    numbers: list[NumberFigures]
    choices: list[ChoiceFigures]
    crossings: list[CrossingFigures]
    correlations: list[CorrelationFigures]
    survival: list[SurvivalFigures]


@dataclass(frozen=True, kw_only=True)
class StatisticsFile:
    """The contents of `statistics.json`."""

    experiment: str
    run_id: str
    unit: Literal["record", "person", "none"]
    epsilon: float | None
    """Of the whole release, at each site; null without privacy."""
    delta: float | None
    confidence: float
    noise_is_private: bool
    """Whether nobody can repeat the noise."""
    sites: list[str]
    statement: str
    pooled: TableFigures
    by_site: dict[str, TableFigures] = field(default_factory=dict)
    language: str = "en"
    schema: str = SCHEMA
