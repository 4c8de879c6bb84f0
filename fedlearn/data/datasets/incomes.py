"""Scenario `incomes`: what does an applicant earn a month? The applications of `credit`.

Every shop is a site. The label is the net income in reais that the form states, cut off at a
range: among 40,000 there are some of millions, one in fifty is above 2,000, and half are below
400. A shop that knows what income goes with an application sees which statements are odd.
"""

from __future__ import annotations

from dataclasses import field
from typing import Final, Literal

import numpy as np

from fedlearn.core.settings import config
from fedlearn.data.datasets import lending
from fedlearn.data.datasets.archives import ARCHIVES
from fedlearn.data.datasets.credit import RANGES, RECORDS, SITES, applications, described
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Dataset, Reading, Scenario
from fedlearn.data.tables.scaling import Ranges, Scaling
from fedlearn.tasks import Regression, RegressionTask

INCOME: Final = (0.0, 2000.0)
"""Reais a month."""

FEATURES: Final = {name: ends for name, ends in RANGES.items() if name != "log_income"}


@config
class Incomes(Scenario):
    """Monthly incomes on card applications at 31 shops (PAKDD 2009); only the scaling is open."""

    kind: Literal["incomes"] = "incomes"
    tells = "nothing"
    dataset = Dataset(
        records=RECORDS,
        sites=SITES,
        classes=(),
        source="PAKDD 2009 data mining competition: card applications of 31 shops in Brazil",
        archive=ARCHIVES["credit"],
    )
    scaling: Scaling = field(default_factory=lambda: Ranges(columns=dict(FEATURES)))

    def load(self, reading: Reading) -> Pool:
        """The same applications as those of `credit`, and the same split."""
        known = applications(reading.cache)
        stated = lending.numbers(known.column("PERSONAL_NET_INCOME"))
        labels = np.clip(stated, *INCOME).astype(np.float32)
        low, high = INCOME
        whole = Regression(low=low, high=high)
        return lending.as_pool(
            "incomes",
            described(known, FEATURES, labels),
            self.scaling,
            lambda shape: RegressionTask(input=shape, settings=whole),
        )
