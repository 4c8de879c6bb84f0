"""How numeric columns come to a common scale, and what each way reads.

A scaling computed from records is itself a release: a site's mean tells its
case mix to whoever sees the model or the scaling. The default therefore reads
nothing; its ranges are public knowledge, written down before data is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, refuse
from fedlearn.core.settings import config
from fedlearn.tasks import SQUASH_UNIT

Floats = NDArray[np.float32]


@config
class Ranges:
    """Public `(low, high)` per column, mapped to [-1, 1]; values outside are clipped.

    Reads no records, so it costs no privacy, and every value is bounded. A
    range is what the field holds possible (an age of 20 to 90 years), **not**
    the minimum and maximum of one's data. `unlisted` says what becomes of a
    numeric column without a range: `squash` takes `sign(x) log(1 + |x|) / log(1001)`,
    which needs no data either and which models spread over features of their own
    (`fedlearn.models.tabular`): values are told apart by some ten percent of their size,
    worse where they vary by less (a temperature, a year); `refuse` is an error.
    """

    kind: Literal["ranges"] = "ranges"
    columns: dict[str, tuple[float, float]] = field(default_factory=dict)
    unlisted: Literal["squash", "refuse"] = "squash"


@config
class StandardisePerSite:
    """Each site subtracts the mean of its own training records and divides by their deviation.

    Reads every training record of the site, outside any privacy accounting:
    **the guarantee of a differentially private run does not cover it.** The
    means and deviations stay at the site, yet the model is trained on what
    they produced. It also takes the case mix out of the features: a hospital
    of sicker patients looks like any other, which costs accuracy.
    """

    kind: Literal["standardise_per_site"] = "standardise_per_site"


@config
class Unscaled:
    """Numeric columns as they are: for data that comes scaled. Reads nothing; bounds nothing."""

    kind: Literal["none"] = "none"


Scaling = Ranges | StandardisePerSite | Unscaled


def reads_records(scaling: Scaling) -> bool:
    """Whether the scaling is computed from records, and so breaks a differential privacy claim."""
    return isinstance(scaling, StandardisePerSite)


def public_ranges(scaling: Scaling | None) -> Mapping[str, tuple[float, float]] | None:
    """The columns that have a range, where all others are squashed; None where numbers are scaled
    by no public constant, or there are none."""
    return scaling.columns if isinstance(scaling, Ranges) else None


def scale(scaling: Scaling, names: Sequence[str], values: NDArray[np.float64]) -> Floats:
    """`values: float64[n, columns]` on the common scale, float32; NaN stays NaN.

    `StandardisePerSite` leaves them as they are: it is applied by site, in
    `fedlearn.data.pool.deal`.

    Raises:
        ConfigError: a range is empty, or names a column that is not there, or
            is missing where `unlisted` is `refuse`; every problem is listed.

    """
    match scaling:
        case Ranges():
            check_ranges(scaling, names)
            columns = [
                _to_unit(values[:, i], *scaling.columns[name])
                if name in scaling.columns
                else squash(values[:, i])
                for i, name in enumerate(names)
            ]
            return _as_float32(np.stack(columns, axis=1) if columns else values)
        case StandardisePerSite() | Unscaled():
            return _as_float32(values)
        case _:
            assert_never(scaling)


def squashed(scaling: Scaling, names: Sequence[str]) -> tuple[int, ...]:
    """The places among the numeric columns `names` of those that `scale` squashes."""
    if not isinstance(scaling, Ranges):
        return ()
    return tuple(i for i, name in enumerate(names) if name not in scaling.columns)


def _as_float32(values: NDArray[np.float64]) -> Floats:
    # What float32 cannot hold becomes infinite, and `deal` says whose it is.
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def check_ranges(scaling: Ranges, names: Sequence[str]) -> None:
    """Raises `ConfigError` with every range that does not fit the columns `names`."""
    where = "scenario.scaling.columns"
    problems = [
        f"{where}.{name}: no such numeric column; there are {', '.join(names) or 'none'}"
        for name in scaling.columns
        if name not in names
    ]
    problems += [
        f"{where}.{name}={[low, high]}: low and high must be finite and low below high"
        for name, (low, high) in scaling.columns.items()
        if not (np.isfinite([low, high]).all() and low < high)
    ]
    if scaling.unlisted == "refuse":
        problems += [
            f"{where}.{name}: has no range; give the lowest and highest value that can occur"
            for name in names
            if name not in scaling.columns
        ]
    refuse(problems, ConfigError)


def _to_unit(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return np.clip((values - low) / (high - low) * 2 - 1, -1, 1)


def squash(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`sign(x) log(1 + |x|) / log(1001)`: odd, rising, 0 at 0, 1 at 1000, 2 near 10^6."""
    return np.sign(values) * np.log1p(np.abs(values)) / SQUASH_UNIT


def standardise(train: Floats, *others: Floats, numeric: int) -> list[Floats]:
    """All parts with the first `numeric` columns standardised by the training part.

    NaN stands for a missing value and becomes 0, the mean. A column that does
    not vary in training is only centred; one that is all missing becomes 0.
    """
    values = np.ma.masked_invalid(train[:, :numeric].astype(np.float64))
    mean = values.mean(axis=0).filled(0.0)
    deviation = values.std(axis=0).filled(0.0)
    deviation[deviation == 0] = 1.0

    def apply(part: Floats) -> Floats:
        scaled = part.copy()
        scaled[:, :numeric] = np.nan_to_num((part[:, :numeric] - mean) / deviation)
        return scaled

    return [apply(part) for part in (train, *others)]
