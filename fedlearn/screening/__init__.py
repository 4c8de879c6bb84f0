"""Screening: what is wrong with a site's table is noticed before it counts.

Every site adds up its training records by class and column, adds noise where the run promises
privacy, and gets back the sum over all sites. Each compares its own table with that of the others
at home; nobody else hears what it finds.
"""

from __future__ import annotations

from fedlearn.screening.choice import Rows
from fedlearn.screening.contrast import SiteSums
from fedlearn.screening.findings import TableFinding, findings
from fedlearn.screening.settings import NoScreening, Screening, SumScreening
from fedlearn.screening.sums import (
    EXACT,
    PlacedColumn,
    ScreeningLayout,
    form_problem,
    layout_of,
    noise_in,
    plausible,
    scaling_problem,
    step_of,
)

__all__ = [
    "EXACT",
    "NoScreening",
    "PlacedColumn",
    "Rows",
    "Screening",
    "ScreeningLayout",
    "SiteSums",
    "SumScreening",
    "TableFinding",
    "findings",
    "form_problem",
    "layout_of",
    "noise_in",
    "plausible",
    "scaling_problem",
    "step_of",
]
