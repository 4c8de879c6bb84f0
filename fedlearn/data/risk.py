"""Scenario `risk`: will a borrower fall 90 days behind within two years? 150,000 borrowers.

The training table of the competition "Give Me Some Credit" (2011), one in
fifteen of whose borrowers did. It names no lender, so sites come from a
partitioner. The best that is known to be had is an area under the curve near .87.

Counts of late payments are categories: the table writes 96 and 98 where the
count is not known, and the step from 0 to 1 says more than that from 3 to 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.data import lending
from fedlearn.data.lending import Applications, banded, numbers
from fedlearn.data.pool import Pool
from fedlearn.data.scaling import Ranges, Scaling
from fedlearn.data.table import Table

RECORDS = 150_000

RANGES: Mapping[str, tuple[float, float]] = {
    "utilisation": (0.0, 1.0),  # share of the credit lines that is drawn
    "root_utilisation": (0.0, 1.0),
    "age": (18.0, 90.0),  # years
    "debt_ratio": (0.0, 1.0),  # monthly payments over monthly income
    "log_debt_ratio": (0.0, 8.0),  # without a known income the table holds the payments themselves
    "log_income": (5.0, 11.0),  # ln(1 + dollars a month): 150 to 60,000
    "open_lines": (0.0, 30.0),
    "log_open_lines": (0.0, 3.5),
    # A range around 0 leaves 0 as it is, which most borrowers have.
    "dependents": (-6.0, 6.0),
    "no_utilisation": (-1.0, 1.0),
    "no_open_line": (-1.0, 1.0),
    "income_missing": (-1.0, 1.0),
    "dependents_missing": (-1.0, 1.0),
}
"""What a lender expects to see, in the order of the numeric features; written with this old,
public table at hand."""

_LATE = {
    "late_30_days": "NumberOfTime30-59DaysPastDueNotWorse",
    "late_60_days": "NumberOfTime60-89DaysPastDueNotWorse",
    "late_90_days": "NumberOfTimes90DaysLate",
}
_UNKNOWN_FROM = 96  # what the table writes where the count is not known

_UTILISATION_BANDS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999, 1.05)
_AGE_BANDS = (25, 30, 35, 40, 45, 50, 55, 60, 65, 70)
"""The highest value of each band but the last."""

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(_LATE, ("0", "1", "2", "3+", "unknown")),
    "real_estate_loans": ("0", "1", "2", "3+"),
    "utilisation_band": tuple(str(band) for band in range(len(_UTILISATION_BANDS) + 1)),
    "age_band": tuple(str(band) for band in range(len(_AGE_BANDS) + 1)),
}
"""Which categories there can be, in the order of the categorical features."""


@dataclass(frozen=True, kw_only=True)
class Risk:
    """Borrowers of Give Me Some Credit; only the scaling is open."""

    kind: Literal["risk"] = "risk"
    scaling: Scaling = field(default_factory=lambda: Ranges(columns=dict(RANGES)))


def load(config: Risk, cache: Path) -> Pool:
    """All borrowers, fetched when they are not in the cache.

    **Guarantees:** the same split for every seed: 75 to 25 within each outcome.

    Raises:
        DataError: the archive is altered, or neither cached nor to be had.
        ConfigError: the ranges do not fit the features.

    """
    table = lending.read("creditscoring1", "comma", cache)
    found = Applications(
        numbers=_numbers(table),
        categories={name: (cells, CATEGORIES[name]) for name, cells in _cells(table).items()},
        labels=numbers(table.column("SeriousDlqin2yrs")).astype(np.int64),
        sites=None,
    )
    return lending.as_pool("risk", found, config.scaling)


def _numbers(table: Table) -> dict[str, NDArray[np.float64]]:
    """Every feature of `RANGES`, in its order and in its own units; NaN at a gap."""
    utilisation = numbers(table.column("RevolvingUtilizationOfUnsecuredLines"))
    debt = numbers(table.column("DebtRatio"))
    income = numbers(table.column("MonthlyIncome"))
    lines = numbers(table.column("NumberOfOpenCreditLinesAndLoans"))
    dependents = numbers(table.column("NumberOfDependents"))
    found = {
        "utilisation": utilisation,
        "root_utilisation": np.sqrt(utilisation),
        "age": numbers(table.column("age")),
        "debt_ratio": debt,
        "log_debt_ratio": np.log1p(debt),
        "log_income": np.log1p(income),
        "open_lines": lines,
        "log_open_lines": np.log1p(lines),
        "dependents": dependents,
        "no_utilisation": (utilisation == 0).astype(np.float64),
        "no_open_line": (lines == 0).astype(np.float64),
        "income_missing": np.isnan(income).astype(np.float64),
        "dependents_missing": np.isnan(dependents).astype(np.float64),
    }
    return {name: found[name] for name in RANGES}


def _cells(table: Table) -> dict[str, list[str]]:
    """The categories of every borrower, in the order of `CATEGORIES`."""
    utilisation = numbers(table.column("RevolvingUtilizationOfUnsecuredLines"))
    return {
        **{name: _counts(table, column) for name, column in _LATE.items()},
        "real_estate_loans": _counts(table, "NumberRealEstateLoansOrLines"),
        "utilisation_band": banded(utilisation, _UTILISATION_BANDS),
        "age_band": banded(numbers(table.column("age")), _AGE_BANDS),
    }


def _counts(table: Table, column: str) -> list[str]:
    """How often something happened, as one of the categories."""
    counts = numbers(table.column(column)).astype(int)
    return ["unknown" if n >= _UNKNOWN_FROM else "3+" if n > 2 else str(n) for n in counts]
