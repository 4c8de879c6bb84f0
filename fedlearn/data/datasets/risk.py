"""Scenario `risk`: will a borrower fall 90 days behind within two years? 150,000 borrowers.

The training table of the competition "Give Me Some Credit" (2011), one in
fifteen of whose borrowers did. It names no lender, so sites come from a
partitioner. The best that is known to be had is an area under the curve near .87.

Counts of late payments are categories: the table writes 96 and 98 where the
count is not known, and the step from 0 to 1 says more than that from 3 to 4.
Bands and pairs of them let a linear model bend: their edges are round numbers
that are part of this file, so a band reads no record but its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.settings import config
from fedlearn.data.datasets import lending
from fedlearn.data.datasets.archives import ARCHIVES
from fedlearn.data.datasets.lending import Applications, banded, numbers
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Dataset, Reading, Scenario
from fedlearn.data.tables.scaling import Ranges, Scaling
from fedlearn.data.tables.table import Table

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

# The highest value of each band but the last.
_UTILISATION = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.999,
                1.05, 1.5, 5.0)  # fmt: skip
_AGE = tuple(range(24, 80, 3))
_INCOME = (1, 1000, 1500, 2000, 2500, 3000, 4000, 5000, 6000, 7000, 8000, 10000, 12500, 20000)
_DEBT = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.5, 3.0)
_PAYMENTS = (0, 50, 200, 500, 1000, 2000, 3000, 5000)
_UTILISATION_COARSE = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999)
_DEBT_COARSE = (0.0, 0.2, 0.4, 0.7)
_LINES_COARSE = (0, 2, 4, 8, 14)

_GAP = "unknown"
_WORST = ("never", *_LATE, _GAP)
_ESTATE = ("0", "1", "2", "3", "4", "5", "6+")


def _counts_to(most: int) -> tuple[str, ...]:
    return (*(str(n) for n in range(most)), f"{most}+", _GAP)


def _bands(highest: Sequence[float]) -> tuple[str, ...]:
    return tuple(str(band) for band in range(len(highest) + 1))


def _crossed(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{a}, {b}" for a in first for b in second)


CATEGORIES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(_LATE, _counts_to(5)),
    "late_in_all": _counts_to(8),
    "real_estate_loans": _ESTATE,
    "lines": _counts_to(20),
    "family": _counts_to(5),
    "utilisation_band": _bands(_UTILISATION),
    "age_band": _bands(_AGE),
    "income_band": (*_bands(_INCOME), _GAP),
    "debt_band": (*_bands(_DEBT), *(f"payments {band}" for band in _bands(_PAYMENTS))),
    "late_by_utilisation": _crossed(_WORST, _bands(_UTILISATION_COARSE)),
    "late_by_lines": _crossed(_WORST, _bands(_LINES_COARSE)),
    "late_by_debt": _crossed(_WORST, (*_bands(_DEBT_COARSE), _GAP)),
    "estate_by_debt": _crossed(_ESTATE, (*_bands(_DEBT_COARSE), _GAP)),
}
"""Which categories there can be, in the order of the categorical features."""


@config
class Risk(Scenario):
    """Borrowers of Give Me Some Credit; only the scaling is open."""

    kind: Literal["risk"] = "risk"
    tells = "nothing"
    dataset = Dataset(
        records=RECORDS,
        sites=(),
        classes=lending.CLASSES,
        source="Give Me Some Credit (2011): borrowers, without a lender; sites by a partitioner",
        archive=ARCHIVES["credit"],
    )
    scaling: Scaling = field(default_factory=lambda: Ranges(columns=dict(RANGES)))

    def load(self, reading: Reading) -> Pool:
        """All borrowers, fetched when they are not in the cache.

        **Guarantees:** the same split for every seed.
        """
        table = lending.read("creditscoring1", "comma", reading.cache)
        found = Applications(
            table=table,
            numbers=_numbers(table),
            categories={name: (cells, CATEGORIES[name]) for name, cells in _cells(table).items()},
            labels=numbers(table.column("SeriousDlqin2yrs")).astype(np.int64),
            sites=None,
        )
        return lending.as_pool("risk", found, self.scaling)


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
    late = {name: _column(table, column) for name, column in _LATE.items()}
    used = _column(table, "RevolvingUtilizationOfUnsecuredLines")
    income, debt = _column(table, "MonthlyIncome"), _column(table, "DebtRatio")
    lines = _column(table, "NumberOfOpenCreditLinesAndLoans")
    estate = _up_to(6, _column(table, "NumberRealEstateLoansOrLines"))
    no_ratio = ~(income > 1)  # then the table holds the payments themselves
    worst = _worst(late)
    debt_coarse = _where(no_ratio, _GAP, banded(debt, _DEBT_COARSE))
    found = {
        **{name: _up_to(5, counts) for name, counts in late.items()},
        "late_in_all": _up_to(8, np.sum([*late.values()], axis=0)),
        "real_estate_loans": estate,
        "lines": _up_to(20, lines),
        "family": _up_to(5, _column(table, "NumberOfDependents")),
        "utilisation_band": banded(used, _UTILISATION),
        "age_band": banded(_column(table, "age"), _AGE),
        "income_band": _where(np.isnan(income), _GAP, banded(income, _INCOME)),
        "debt_band": [
            f"payments {payments}" if without else ratio
            for without, payments, ratio in zip(
                no_ratio, banded(debt, _PAYMENTS), banded(debt, _DEBT), strict=True
            )
        ],
        "late_by_utilisation": _pairs(worst, banded(used, _UTILISATION_COARSE)),
        "late_by_lines": _pairs(worst, banded(lines, _LINES_COARSE)),
        "late_by_debt": _pairs(worst, debt_coarse),
        "estate_by_debt": _pairs(estate, debt_coarse),
    }
    return {name: found[name] for name in CATEGORIES}


def _column(table: Table, name: str) -> NDArray[np.float64]:
    """A column; NaN where it has a gap, or a count that is not known."""
    values = numbers(table.column(name))
    return np.where(values >= _UNKNOWN_FROM, np.nan, values) if name in _LATE.values() else values


def _up_to(most: int, counts: NDArray[np.float64]) -> list[str]:
    """How often something happened, as one of the categories."""
    return [_GAP if math.isnan(n) else f"{most}+" if n >= most else f"{n:.0f}" for n in counts]


def _worst(late: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """The longest that a borrower was ever late, as one of `_WORST`."""
    worst = np.full(len(next(iter(late.values()))), "never", dtype=object)
    for name, counts in late.items():
        worst[counts > 0] = name
    worst[np.isnan([*late.values()]).any(axis=0)] = _GAP
    return [str(cell) for cell in worst]


def _where(chosen: NDArray[np.bool_], cell: str, cells: Sequence[str]) -> list[str]:
    """`cells`, with `cell` in the place of the chosen ones."""
    return [cell if here else other for here, other in zip(chosen, cells, strict=True)]


def _pairs(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return [f"{a}, {b}" for a, b in zip(first, second, strict=True)]
