"""Figures of the tables of all sites from Python, as `fedlearn statistics` makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.records import forget
from fedlearn.core.files import shortest
from fedlearn.figures import StatisticsFile, TableFigures
from fedlearn.figures.table import Estimate
from fedlearn.results.statistics import USABLE, read_statistics
from server.stop import Stop
from simulations.api.asking import words_of
from simulations.api.progress import Line
from simulations.api.result import html_table
from simulations.api.running import (
    ONE_AT_A_TIME,
    claimed_folder,
    interruptible,
    one_process_where_torch_has_threads,
    parted,
    torch_for_a_run,
)
from simulations.api.study import Study, called_by_its_keywords, in_this_process
from simulations.statistics import composed, make

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class TableOne:
    """The figures of a study's tables: what `fl.statistics` returns.

    Everything is read from `folder`: `statistics.json`, `report.html`, and `statistics.yaml`,
    which has ranges, categories and edges of bins for the next run.
    """

    folder: Path

    @cached_property
    def _stored(self) -> StatisticsFile:
        return read_statistics(self.folder)

    @property
    def epsilon(self) -> float | None:
        """What all figures together cost a site; None without privacy."""
        return self._stored.epsilon

    @property
    def statement(self) -> str:
        """What is promised, to whom and against whom, in sentences."""
        return self._stored.statement

    @property
    def pooled(self) -> TableFigures:
        """Figures of all records, with their intervals."""
        return self._stored.pooled

    @property
    def by_site(self) -> Mapping[str, TableFigures]:
        """Those of each site; empty unless they were asked for (`statistics.by_site=true`)."""
        return self._stored.by_site

    @property
    def usable(self) -> Path:
        """The file that the next run can take ranges and categories from."""
        return self.folder / USABLE

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each figure: site (empty for all), column, statistic, value, low, high."""
        for site, table in {"": self.pooled, **self.by_site}.items():
            for (column, statistic), figure in _named(table):
                yield {
                    "site": site, "column": column, "statistic": statistic,
                    "value": figure.value, "low": figure.low, "high": figure.high,
                }  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """`rows` as a frame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame needs pandas: pip install pandas") from error
        return pd.DataFrame(self.rows())

    def report(self) -> Path:
        """The page, which is there already; its path."""
        return self.folder / "report.html"

    def __repr__(self) -> str:
        spent = "none" if self.epsilon is None else f"{self.epsilon:.3g}"
        columns = len(self.pooled.numbers) + len(self.pooled.choices)
        return f"TableOne({columns} columns, epsilon={spent}, folder={shortest(self.folder)!r})"

    def _repr_html_(self) -> str:
        rows = [
            [row["column"], row["statistic"], *(f"{row[n]:.4g}" for n in ("value", "low", "high"))]
            for row in self.rows()
            if not row["site"]
        ]
        heads = ["column", "statistic", "value", "low", "high"]
        return html_table(escape(repr(self)), heads, rows, [self.statement.split("\n\n")[0]])


def _named(table: TableFigures) -> Iterator[tuple[tuple[str, str], Estimate]]:
    """Every figure of a table, by its column and what it is."""
    yield ("", "records"), table.records
    for number in table.numbers:
        found = {"present": number.present, "missing": number.missing, "mean": number.mean}
        found |= {"sd": number.sd}
        found |= {f"quantile {share}": one for share, one in number.quantiles.items()}
        yield from (((number.name, name), one) for name, one in found.items() if one is not None)
    for choice in table.choices:
        for one in [*choice.categories, *([choice.missing] if choice.missing else [])]:
            name = one.name or "missing or another"
            yield (choice.name, f"count of {name}"), one.count
            yield (choice.name, f"share of {name}"), one.share
    for crossing in table.crossings:
        pair = f"{crossing.one}, {crossing.other}"
        for row, counts in zip(crossing.rows, crossing.counts, strict=True):
            for column, figure in zip(crossing.columns, counts, strict=True):
                yield (pair, f"count of {row}, {column}"), figure
        if crossing.odds_ratio is not None:
            yield (pair, "odds ratio"), crossing.odds_ratio
    for both in table.correlations:
        if both.value is not None:
            yield (f"{both.one}, {both.other}", "correlation"), both.value
    for curve in table.survival:
        for time, figure in zip(curve.times, curve.surviving, strict=True):
            yield (curve.name, f"survival at {time:g} {curve.unit}"), figure


def statistics(
    *words: Study | str,
    out: Path | str | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> TableOne:
    """Make figures of the tables of all sites, before anything is trained.

    Args:
        words: a study, or the words of `fedlearn statistics`, such as
            "experiment=medical_heart" or "statistics.tables=[[male,label]]".
        out: the folder; by default a new one is made below `runs/`.
        progress: whether a line says what is going on.
        settings: values by name, such as `epsilon=1`.

    Returns:
        Counts, gaps, means, quantiles and shares, each with its interval, of all records; with
        privacy all of them have its noise and cost one epsilon together.

    Raises:
        ConfigError: what was asked for is wrong; every problem, with the way out.
        PrivacyError: a privacy budget or a site's policy refused.
        ProtocolError: too few sites were left.
        DataError: records could not be read.

    Example:
        >>> import fedlearn as fl
        >>> fl.statistics("experiment=medical_heart", epsilon=1).to_frame()  # doctest: +SKIP
    """
    study, texts = parted(words)
    place = {} if out is None else {"out": str(out)}
    given = words_of(texts, settings | place, base=study.words if study else ())
    with called_by_its_keywords(study):
        config = one_process_where_torch_has_threads(composed(given))
    name = Path(config.out)
    if study:
        in_this_process(config)
        name = Path("runs") / f"{study.name}-statistics"
    stop = Stop()
    with (
        called_by_its_keywords(study), ONE_AT_A_TIME, Line.shown(progress) as line,
        claimed_folder(config, given, name) as placed, torch_for_a_run(), interruptible(stop, line),
    ):  # fmt: skip
        forget()
        line.say("figures of tables")
        make(placed, stop)
    return TableOne(Path(placed.out))
