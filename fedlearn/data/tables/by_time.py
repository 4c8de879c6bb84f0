"""A table split by time: trained on the past, validated on what follows, tested on the latest.

`scenario.split=time` goes by the column `scenario.time`. From `scenario.test_from` on records are
for the test, from `scenario.validate_from` on for validation: public times, by which each record is
asked for itself. Where they are not given, every site's own latest records are taken, as many as
the fractions say; there one record more moves others from part to part, so that a run with privacy
within sites has to give them.

What happened at one time stays together, in the later part. All rows of a record over time, or of a
person, are where the latest of them is: nobody is trained on who is tested on, and nothing that a
site trains on is later than what it is tested on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.tables.table import Table
from fedlearn.data.tables.times import IN_WORDS_OF, Kind, may_be, time_of, times_of

if TYPE_CHECKING:
    from fedlearn.data.tables.csv import Csv

_CUTS: Final = ("test_from", "validate_from")

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TimeParts:
    """What rows are for, `bool[n]` each; those in neither and without a time are not `known`."""

    train: Mask
    validation: Mask
    known: Mask


def time_problems(config: Csv) -> Iterator[str]:
    """What of the settings contradicts itself."""
    given = {name: str(getattr(config, name)) for name in _CUTS if getattr(config, name)}
    if config.split != "time":
        for name in given:
            yield f"scenario.{name}: is for scenario.split=time; set that, or leave it out"
        return
    if not config.time:
        yield "scenario.time: name the column that scenario.split=time goes by"
    if config.part:
        yield (
            f"scenario.part={config.part}: a column says which records are tested on, and so does "
            "scenario.split=time; leave one of them out, and drop its column"
        )
    for name, text in given.items():
        if not may_be(text, config):
            yield f"scenario.{name}={text}: is no time; write it as those of the column are"


def parts_by_time(
    config: Csv, table: Table, owners: Sequence[str] | None, *, by_record: bool
) -> TimeParts:
    """Which rows are for what.

    Args:
        config: the settings of the table.
        table: its rows.
        owners: whose each is, a person or a record over time; None where a row is by itself.
        by_record: whether rows without a time are left out, where otherwise all are refused.

    Guarantees: with both cuts given, what a row is for depends on the rows of its owner alone. At a
    site no row for training is later than any cut, and none of an owner is in two parts.

    Raises:
        DataError: rows have no time.
        ConfigError: there is no such column to go by, a cut is no time of its kind, or, where rows
            are not read one by one, none is for the test.
    """
    if not config.time:
        raise ConfigError([*time_problems(config)])
    times, kind = times_of(config, table)
    known = np.isfinite(times)
    if not by_record and not known.all():
        raise DataError(_without_time(config, table, np.flatnonzero(~known), kind))
    given = tuple(_cut(config, name, kind) for name in _CUTS)
    sites = np.array(table.column(config.site) if config.site else [""] * len(table), np.str_)
    units = _units(sites, owners)
    last = np.full(len(table), -np.inf)
    np.maximum.at(last, units, np.where(known, times, -np.inf))
    test, later = np.zeros((2, len(table)), np.bool_)
    for site in np.unique(sites[known]):
        mine = np.flatnonzero((sites == site) & known)
        _, first = np.unique(units[mine], return_index=True)
        from_test, from_later = _cuts(config, given, last[units[mine[first]]])
        test[mine] = last[units[mine]] >= from_test
        later[mine] = last[units[mine]] >= from_later
    if not by_record and config.test_from and not test.any():
        raise ConfigError(
            f"scenario.test_from={config.test_from}: no record is from then on, so that nothing "
            f"would be tested; choose a time before the last in {config.time!r}"
        )
    return TimeParts(known & ~later & ~test, known & later & ~test, known)


def _units(sites: NDArray[np.str_], owners: Sequence[str] | None) -> NDArray[np.int64]:
    """What stays together at a site, `int64[n]`; a row of nobody is by itself."""
    if owners is None:
        return np.arange(len(sites))
    rows = enumerate(zip(sites.tolist(), owners, strict=True))
    keys = [f"{site}\0{owner}" if owner else f"\0\0{row}" for row, (site, owner) in rows]
    return np.asarray(np.unique(np.array(keys or [""]), return_inverse=True)[1][: len(sites)])


def _cut(config: Csv, name: str, kind: Kind) -> float:
    """A time of the settings; NaN where it is left open."""
    text = str(getattr(config, name))
    if not text:
        return math.nan
    if math.isnan(found := time_of(text, kind, config.decimal)):
        raise ConfigError(
            f"scenario.{name}={text}: is not {IN_WORDS_OF[kind]}, as the times in "
            f"{config.time!r} are"
        )
    return found


def _cuts(config: Csv, given: tuple[float, ...], times: Floats) -> tuple[float, float]:
    """From which time on units of one site are for the test, and from which for validation."""
    test, validate = given
    if math.isnan(test):
        test = _latest(times, config.test_fraction)
    if math.isnan(validate) and config.validation_fraction:
        # Of all that is not tested on, as where parts are drawn.
        validate = _latest(times[times < test], config.validation_fraction)
    return test, math.inf if math.isnan(validate) else validate


def _latest(times: Floats, share: float) -> float:
    """From which time on about a `share` of them is; what happened at one time is not split."""
    if not len(times):
        return math.inf
    place = min(len(times) - 1, round(len(times) * (1 - share)))
    return float(np.sort(times)[place])


def _without_time(config: Csv, table: Table, rows: NDArray[np.int64], kind: Kind) -> str:
    where = f"{config.path}: column {config.time!r}: {table.places(rows)}"
    if len(rows) < len(table):
        return f"{where}: not {IN_WORDS_OF[kind]}, as others are; scenario.split=time goes by it"
    return (
        f"{where}: neither numbers nor dates as 2026-01-31, and scenario.split=time goes by them; "
        "say how dates are written (scenario.times=day_first or month_first)"
    )
