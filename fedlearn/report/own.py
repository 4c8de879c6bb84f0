"""Alone, shared, own: what each site gets of a model of its own, in a run and over several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fedlearn.core.language import Locale
from fedlearn.metrics.intervals import Measured
from fedlearn.report.facts import Facts
from fedlearn.report.fairness import measured_cell
from fedlearn.report.runs import Run
from fedlearn.results.reading import task_of
from fedlearn.results.result import ResultFile, Take

_APART: Final = ("strategy.", "out", "resume")
"""Settings in which a run of sites that are alone may differ from what it is held against."""
_MOST: Final = 200


@dataclass(frozen=True, kw_only=True)
class OwnRow:
    """A site: its training records, and a metric of three models with intervals."""

    run: str
    site: str
    records: int | None
    alone: str
    shared: str
    own: str
    take: Take | None
    """Which one to take, by the rule of the run; of all sites together, none."""


@dataclass(frozen=True, kw_only=True)
class OwnTable:
    """The sites by one metric."""

    metric: str
    """Its title."""
    rows: tuple[OwnRow, ...]


def own_tables(facts: Facts) -> tuple[OwnTable, ...]:
    """Every site of a run that has models of sites' own beside the shared one, and all together."""
    if facts.result.own is None:
        return ()
    alone = facts.result if _by_themselves(facts.result) else None
    return _tables([("", facts.result, alone)], facts.language)


def compared_tables(runs: Sequence[Run], language: Locale) -> tuple[OwnTable, ...]:
    """The same of several runs, each beside that in which its sites were alone at its epsilon."""
    whole = [run for run in runs if run.reference is None and run.result.own]
    drawn = [
        (run.name, run.result, _alone(run, whole))
        for run in whole
        if not _by_themselves(run.result)
    ]
    return _tables(drawn, language) if drawn else ()


def _alone(run: Run, among: Sequence[Run]) -> ResultFile | None:
    """The result of the same run but for its strategy, whose sites are by themselves."""
    wanted, alone = _besides(run), [one for one in among if _by_themselves(one.result)]
    return next((one.result for one in alone if _besides(one) == wanted), None)


def _besides(run: Run) -> dict[str, str]:
    return {key: value for key, value in run.settings.items() if not key.startswith(_APART)}


def _by_themselves(result: ResultFile) -> bool:
    """Whether a site's own model is drawn to nobody's."""
    return bool(result.own) and result.config["strategy"].get("proximal_lambda") == 0


Drawn = tuple[str, ResultFile, ResultFile | None]
"""A run by its name, and that in which its sites were alone, where there is one."""


def _tables(runs: Sequence[Drawn], language: Locale) -> tuple[OwnTable, ...]:
    metrics = task_of(runs[0][1]).compared()
    found = {m: tuple(row for one in runs for row in _rows(one, m.name, language)) for m in metrics}
    return tuple(OwnTable(metric=m.title, rows=rows[:_MOST]) for m, rows in found.items() if rows)


def _rows(run: Drawn, metric: str, language: Locale) -> Iterator[OwnRow]:
    name, result, alone = run
    own, fairness = result.own, result.fairness
    if own is None or fairness is None or metric not in own.all_sites:
        return
    without = alone.own if alone else None

    def cell(found: Mapping[str, Measured]) -> str:
        return measured_cell(found.get(metric), language)

    for site, found in own.per_site.items():
        yield OwnRow(
            run=name,
            site=site,
            records=result.data.sites[site].train if site in result.data.sites else None,
            alone=cell(without.per_site.get(site, {}) if without else {}),
            shared=cell(fairness.per_site.get(site, {})),
            own=cell(found),
            take=own.take.get(site),
        )
    yield OwnRow(
        run=name,
        site="",
        records=None,
        alone=cell(without.all_sites if without else {}),
        shared=cell(fairness.all_sites),
        own=cell(own.all_sites),
        take=None,
    )
