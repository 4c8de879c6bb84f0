"""Scenario `credit`: will a card application default? 39,988 applications at 31 shops of a chain.

The table of the PAKDD 2009 data mining competition: applications for a private
label credit card in Brazil, one in five of which defaulted. Every shop is a
site, the three that hold 14 applications between them as well: a federation has
small members. The best that is known to be had from these columns is an area
under the curve near .68.

Left out are columns that hold one value only. Amounts of money and spans of
time become logarithms; the age, the day of payment, the profession and the
shop are categories too, so that a linear model can follow them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

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

RECORDS = 39_988

_SHOPS = (*range(1, 26), 50, 55, 66, 77, 81, 96)
SITES = tuple(f"shop-{number:02d}" for number in _SHOPS)

RANGES: Mapping[str, tuple[float, float]] = {
    "age": (18.0, 75.0),  # years
    "log_income": (4.0, 8.5),  # ln(1 + monthly net income in reais): 54 to 4,900
    "log_months_in_residence": (0.0, 6.5),  # ln(1 + months): to 55 years
    "log_months_in_job": (0.0, 6.2),  # to 41 years
    "male": (0.0, 1.0),
    "works_in_town_of_residence": (0.0, 1.0),
    # Here most applicants have 0, and a range around 0 leaves that as it is: a record with
    # nothing unusual about it then spends nothing of its clipped gradient on these.
    "log_mate_income": (-8.5, 8.5),
    "additional_cards": (-2.0, 2.0),
    "no_phone": (-1.0, 1.0),
    "mothers_name_missing": (-1.0, 1.0),
    "fathers_name_missing": (-1.0, 1.0),
    "works_in_another_state": (-1.0, 1.0),
    "other_postal_address": (-1.0, 1.0),
}
"""What a lender expects to see, in the order of the numeric features.

Written with this old, public table at hand; a lender's own would be written from
its product rules.
"""

_OUTCOME = "TARGET_LABEL_BAD=1"

_AGE_BANDS = (18, 19, 20, 21, 22, 23, 24, 26, 28, 30, 33, 36, 40, 45, 50, 55, 60, 65, 70)
"""The highest age of each band but the last: years while young, then more."""

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "marital_status": ("C", "D", "O", "S", "V"),
    "residence": ("A", "C", "O", "P"),
    "payment_day": tuple(str(day) for day in range(1, 32)),
    "shop_rank": tuple(str(rank) for rank in range(4)),
    "area_code": tuple(str(code) for code in range(1, 100)),
    "age_band": tuple(str(band) for band in range(len(_AGE_BANDS) + 1)),
    "profession_group": tuple(
        str(group) for group in range(100)
    ),  # the code without its last digit
    "shop": tuple(str(number) for number in _SHOPS),
}
"""Which categories there can be, in the order of the categorical features: from the form."""

_NUMBERED = {  # feature: (column, the cell that counts as 1)
    "male": ("SEX", "M"),
    "no_phone": ("FLAG_RESIDENCIAL_PHONE", "N"),
    "mothers_name_missing": ("FLAG_MOTHERS_NAME", "N"),
    "fathers_name_missing": ("FLAG_FATHERS_NAME", "N"),
    "works_in_another_state": ("FLAG_RESIDENCE_STATE_eq_WORKING_STATE", "N"),
    "other_postal_address": ("FLAG_RESIDENCIAL_ADDRESS_eq_POSTAL_ADDRESS", "N"),
    "works_in_town_of_residence": ("FLAG_RESIDENCE_TOWN_eq_WORKING_TOWN", "Y"),
}


@config
class Credit(Scenario):
    """Card applications of 31 shops (PAKDD 2009); only the scaling is open."""

    kind: Literal["credit"] = "credit"
    tells = "nothing"
    dataset = Dataset(
        records=RECORDS,
        sites=SITES,
        classes=lending.CLASSES,
        source="PAKDD 2009 data mining competition: card applications of 31 shops in Brazil",
        archive=ARCHIVES["credit"],
    )
    scaling: Scaling = field(default_factory=lambda: Ranges(columns=dict(RANGES)))

    def load(self, reading: Reading) -> Pool:
        """The applications whose outcome is known, fetched when they are not in the cache.

        **Guarantees:** the same split for every seed. Twelve applications of 40,000 have no
        outcome and are left out.
        """
        known = applications(reading.cache)
        labels = np.array(known.column(_OUTCOME), np.int64)
        return lending.as_pool("credit", described(known, RANGES, labels), self.scaling)


def applications(cache: Path) -> Table:
    """Those whose outcome is known, as they were filled in.

    Raises:
        DataError: see `lending.read`.
    """
    table = lending.read("creditscoring2", "tab", cache)
    outcome = table.cells(_OUTCOME)
    return table.take(outcome.rows(outcome.among(("0", "1"))))


def described(known: Table, names: Iterable[str], labels: NDArray[Any]) -> Applications:
    """What applications say: the named numbers, all categories, their shops, and a label each."""
    column = {name: known.column(name) for name in known.header if name}
    numbers = _numbers(column)
    return Applications(
        table=known,
        numbers={name: numbers[name] for name in names},
        categories={name: (cells, CATEGORIES[name]) for name, cells in _cells(column).items()},
        labels=labels,
        sites=np.array([f"shop-{int(number):02d}" for number in column["ID_SHOP"]]),
    )


def _numbers(column: Mapping[str, list[str]]) -> dict[str, NDArray[np.float64]]:
    """Every feature of `RANGES`, in its own units."""
    found = {
        "age": numbers(column["AGE"]),
        "log_income": _logarithms(column["PERSONAL_NET_INCOME"]),
        "log_months_in_residence": _logarithms(column["MONTHS_IN_RESIDENCE"]),
        "log_months_in_job": _logarithms(column["MONTHS_IN_THE_JOB"]),
        "log_mate_income": _logarithms(column["MATE_INCOME"]),
        "additional_cards": numbers(column["QUANT_ADDITIONAL_CARDS_IN_THE_APPLICATION"]),
    }
    for name, (source, yes) in _NUMBERED.items():
        found[name] = np.array([float(cell == yes) for cell in column[source]])
    return found


def _logarithms(cells: Sequence[str]) -> NDArray[np.float64]:
    """`ln(1 + x)` of amounts, some of which have a decimal comma."""
    return np.log1p(numbers([cell.replace(",", ".") for cell in cells]))


def _cells(column: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The categories of every application, in the order of `CATEGORIES`."""
    return {
        "marital_status": column["MARITAL_STATUS"],
        "residence": column["RESIDENCE_TYPE"],
        "payment_day": column["PAYMENT_DAY"],
        "shop_rank": column["SHOP_RANK"],
        "area_code": column["AREA_CODE_RESIDENCIAL_PHONE"],
        "age_band": banded(numbers(column["AGE"]), _AGE_BANDS),
        "profession_group": [str(int(cell) // 10) for cell in column["PROFESSION_CODE"]],
        "shop": column["ID_SHOP"],
    }
