"""Table one: the figures of a study's tables, as rows of a page and as lines of a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from markupsafe import Markup

from fedlearn.core.language import ENGLISH, Locale, message
from fedlearn.figures.table import (
    ChoiceFigures,
    CorrelationFigures,
    CrossingFigures,
    Estimate,
    NumberFigures,
    StatisticsFile,
    SurvivalFigures,
    TableFigures,
)

_WIDTH: Final = 6
_HEIGHT: Final = 24

Site = Callable[[TableFigures], str]


@dataclass(frozen=True, kw_only=True)
class FigureRow:
    """A line of the table: what it is of, the figure, its interval, and the same of each site."""

    name: str
    value: str
    interval: str = ""
    sites: tuple[str, ...] = ()
    indent: bool = True


@dataclass(frozen=True, kw_only=True)
class FigureGroup:
    """The lines of a column; `bars` is its histogram, `note` what is to know of it."""

    name: str
    unit: str
    rows: tuple[FigureRow, ...]
    bars: str = ""
    note: str = ""


@dataclass(frozen=True)
class FiguresPage:
    """What the page shows, in a language."""

    found: StatisticsFile
    language: Locale = ENGLISH

    @property
    def sites(self) -> Sequence[str]:
        """Those that are shown beside the sum."""
        return list(self.found.by_site)

    @cached_property
    def groups(self) -> list[FigureGroup]:
        """All columns."""
        table = self.found.pooled
        return [
            self._all(table),
            *(self._number(at, one) for at, one in enumerate(table.numbers)),
            *(self._choice(at, one) for at, one in enumerate(table.choices)),
        ]

    @property
    def survival(self) -> list[FigureGroup]:
        """Times to an event."""
        return [self._survival(at, one) for at, one in enumerate(self.found.pooled.survival)]

    @property
    def crossings(self) -> list[CrossingFigures]:
        """Pairs of columns that were counted together."""
        return self.found.pooled.crossings

    @property
    def correlations(self) -> list[CorrelationFigures]:
        """Pairs of columns of numbers."""
        return self.found.pooled.correlations

    # --- columns ------------------------------------------------------------------------

    def _all(self, table: TableFigures) -> FigureGroup:
        row = self._row(message("records"), lambda t: self._whole(t.records), table.records)
        return FigureGroup(name="", unit="", rows=(row,))

    def _number(self, at: int, one: NumberFigures) -> FigureGroup:
        say, digits = self.language.one, _digits(one)
        rows = list[FigureRow]()
        if one.mean is not None:
            rows.append(
                self._row(
                    message("mean (standard deviation)"),
                    lambda table: self._mean(table.numbers[at], digits),
                    one.mean,
                    digits,
                )
            )
        for share in one.quantiles:
            name = say("median") if float(share) == 0.5 else self._below(float(share))
            rows.append(
                self._row(
                    name,
                    lambda table, share=share: self._figure(  # type: ignore[misc]
                        table.numbers[at].quantiles.get(share), digits
                    ),
                    one.quantiles[share],
                    digits,
                )
            )
        if one.missing is not None:
            rows.append(
                self._row(
                    message("missing"),
                    lambda table: self._missing(table.numbers[at].missing, table.records),
                    one.missing,
                )
            )
        unit = "" if one.low is None else self._range(one.low, one.high or 0.0)
        note = say(_UNSURE) if one.unsure else ""
        return FigureGroup(name=one.name, unit=unit, rows=tuple(rows), bars=_bars(one), note=note)

    def _choice(self, at: int, one: ChoiceFigures) -> FigureGroup:
        rows = [
            self._row(
                category.name,
                lambda table, name=category.name: self._share(table.choices[at], name),  # type: ignore[misc]
                category.share,
                None,
            )
            for category in one.categories
            if not _is_no(one, category.name)
        ]
        if one.missing is not None and one.missing.count.value >= 0.5:
            rows.append(
                self._row(
                    message("missing or another"),
                    lambda table: self._share(table.choices[at], ""),
                    one.missing.share,
                    None,
                )
            )
        note = ""
        if one.threshold is not None and self.found.unit != "none":
            least = self.language.number(math.ceil(one.threshold), ",")
            note = self.language.one(_FEW) % {"least": least}
        return FigureGroup(name=one.name, unit="", rows=tuple(rows), note=note)

    def _survival(self, at: int, one: SurvivalFigures) -> FigureGroup:
        rows = [
            self._row(
                f"{self.language.number(time, 'g')} {one.unit}",
                lambda table, k=k: self._percent(table.survival[at].surviving[k].value),  # type: ignore[misc]
                one.surviving[k],
                None,
            )
            for k, time in enumerate(one.times)
        ]
        return FigureGroup(name=one.name, unit=self.language.one(_SURVIVING), rows=tuple(rows))

    def _row(self, name: str, of: Site, figure: Estimate, digits: int | None = 0) -> FigureRow:
        """`digits` are those of the interval; None for shares."""
        sites = tuple(of(table) for table in self.found.by_site.values())
        interval = ""
        if figure.low < figure.high:
            interval = self._between(figure.low, figure.high, digits)
        value = of(self.found.pooled)
        return FigureRow(name=self.language.say(name), value=value, interval=interval, sites=sites)

    # --- cells --------------------------------------------------------------------------

    def _between(self, low: float, high: float, digits: int | None) -> str:
        ends = {"low": self._written(low, digits), "high": self._written(high, digits)}
        return self.language.one("%(low)s to %(high)s") % ends

    def _range(self, low: float, high: float) -> str:
        ends = {"low": self.language.number(low, ",g"), "high": self.language.number(high, ",g")}
        return self.language.one("%(low)s to %(high)s") % ends

    def _written(self, value: float, digits: int | None) -> str:
        if digits is None:
            return self._percent(value)
        value = round(value, digits)
        return self.language.number(value + 0.0, f",.{max(digits, 0)}f")

    def _figure(self, figure: Estimate | None, digits: int) -> str:
        return "-" if figure is None else self._written(figure.value, digits)

    def _whole(self, figure: Estimate) -> str:
        return self._written(figure.value, 0)

    def _percent(self, share: float) -> str:
        return self.language.number(share, ".1%")

    def _mean(self, one: NumberFigures, digits: int) -> str:
        if one.mean is None:
            return "-"
        return f"{self._figure(one.mean, digits)} ({self._figure(one.sd, digits)})"

    def _missing(self, figure: Estimate | None, records: Estimate) -> str:
        if figure is None:
            return "-"
        share = min(figure.value / max(records.value, 1.0), 1.0)
        return f"{self._whole(figure)} ({self._percent(share)})"

    def _share(self, choice: ChoiceFigures, name: str) -> str:
        there = [one for one in choice.categories if one.name == name]
        if not name and choice.missing is not None:
            there = [choice.missing]
        if not there:
            return "-"
        return f"{self._whole(there[0].count)} ({self._percent(there[0].share.value)})"

    def _below(self, share: float) -> str:
        return self.language.one("%(share)s are below") % {
            "share": self.language.number(share, ".3g") if share < 0.001 else self._short(share)
        }

    def _short(self, share: float) -> str:
        return self.language.number(share, ".0%" if round(share * 100, 6).is_integer() else ".1%")

    def cell(self, figure: Estimate | None, digits: int = 0) -> str:
        """A figure with its interval, or a dash."""
        if figure is None:
            return "-"
        value = self._written(figure.value, digits)
        if figure.low >= figure.high:
            return value
        return f"{value} ({self._between(figure.low, figure.high, digits)})"


_UNSURE: Final = message(
    "At this epsilon nobody can say where these numbers lie: the interval of a quantile is half of "
    "the range or more."
)
_SURVIVING: Final = message("share without the event until then (Kaplan and Meier)")
_FEW: Final = message("Categories are not public here: one of fewer than %(least)s is not named.")


def _is_no(one: ChoiceFigures, name: str) -> bool:
    """Whether the share of a category is what is left by that of a yes."""
    return one.is_share and name == "0"


def _digits(one: NumberFigures) -> int:
    """Decimals by which some hundredth of the range is seen."""
    span = (one.high or 0.0) - (one.low or 0.0)
    return max(0, min(6, math.ceil(2.5 - math.log10(span)))) if span > 0 else 1


def _bars(one: NumberFigures) -> Markup:
    """A histogram the height of two lines; what it shows stands in the rows as well."""
    if not one.counts or max(one.counts) <= 0:
        return Markup()
    most, bars = max(one.counts), []
    for at, count in enumerate(one.counts):
        height = round(_HEIGHT * count / most, 1)
        top = round(_HEIGHT - height, 1)
        bars.append(f'<rect x="{at * _WIDTH}" y="{top}" width="{_WIDTH - 1}" height="{height}"/>')
    width = _WIDTH * len(one.counts)
    return Markup(
        f'<svg class="bars" viewBox="0 0 {width} {_HEIGHT}" width="{width}" height="{_HEIGHT}" '
        f'aria-hidden="true">{"".join(bars)}</svg>'
    )


def lines(found: StatisticsFile) -> Iterator[str]:
    """The same for a terminal: a line for each figure."""
    page = FiguresPage(found)
    percent = f"{100 * found.confidence:g}"
    yield f"figures of all sites; in brackets behind each its {percent} percent interval"
    for group in [*page.groups, *page.survival]:
        if group.name:
            yield f"{group.name}{f' [{group.unit}]' if group.unit else ''}"
        for row in group.rows:
            tail = f"  ({row.interval})" if row.interval else ""
            yield f"  {row.name}: {row.value}{tail}"
        if group.note:
            yield f"  {group.note}"
    for one in page.crossings:
        yield f"{one.one}, {one.other}: odds ratio {page.cell(one.odds_ratio, 2)}"
    for pair in page.correlations:
        yield f"{pair.one}, {pair.other}: correlation {page.cell(pair.value, 2)}"
    yield found.statement.strip().split("\n\n", 1)[0].strip()
