"""A classifier class by class, and at other thresholds: the tables and the curve of a report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from fedlearn.core.language import Figure, message
from fedlearn.metrics.by_class import ByClass
from fedlearn.report import plots
from fedlearn.report.facts import Facts
from fedlearn.report.fairness import measured_cell
from fedlearn.report.measured import Row

_MOST: Final = 12
"""Classes of a matrix, or of a table by site, that a page has room for."""


@dataclass(frozen=True, kw_only=True)
class ByClassTables:
    """The section of the report; tables without rows are left out."""

    classes: tuple[Row, ...]
    """Class, records, records that are named, recall, precision, F1; AUC where `ranked`."""
    ranked: bool
    names: tuple[str, ...]
    """The columns of `matrix` and of `sites`; none of too many classes."""
    matrix: tuple[Row, ...]
    """Class, and how many of its records are named what."""
    sites: tuple[Row, ...]
    """Site, and the share of every class that is found there."""
    alarms: tuple[Row, ...]
    """Share of all records, threshold, recall, precision."""
    costs: tuple[Row, ...]
    """Ratio, threshold, cost at it, cost at one half, cost without a model."""
    curve: Markup | None


def by_class_tables(facts: Facts) -> ByClassTables | None:
    """The section of a run that has ended; None where its answer is no class."""
    found, number = facts.result.by_class, facts.language.number
    if found is None:
        return None
    names = tuple(found.classes) if len(found.classes) <= _MOST else ()
    return ByClassTables(
        classes=tuple(_classes(facts, found)),
        ranked=_ranked(found),
        names=names,
        matrix=tuple(
            (name, *(number(count, ",") for count in counts))
            for name, counts in zip(names, found.confusion, strict=False)
        ),
        sites=tuple(
            (site, *(measured_cell(one.recall, facts.language) for one in classes.values()))
            for site, classes in (found.per_site.items() if names else ())
        ),
        alarms=tuple(_alarms(facts, found)),
        costs=tuple(
            (
                number(one.ratio, "g"),
                number(one.threshold, ".3f"),
                *(number(cost, ",.0f") for cost in (one.cost, one.at_half, one.without)),
            )
            for one in found.costs
        ),
        curve=_curve(facts, found),
    )


def _ranked(found: ByClass) -> bool:
    """Whether classes have an AUC each, as several labels a record do."""
    return any(one.auc for one in found.classes.values())


def _classes(facts: Facts, found: ByClass) -> Iterator[Row]:
    number = facts.language.number
    for name, one in found.classes.items():
        shares = (one.recall, one.precision, one.f1, *([one.auc] if _ranked(found) else []))
        cells = (measured_cell(share, facts.language) for share in shares)
        yield (name, number(one.records, ","), number(one.named, ","), *cells)


def _alarms(facts: Facts, found: ByClass) -> Iterator[Row]:
    number = facts.language.number
    for one in found.alarms:
        shares = (measured_cell(share, facts.language) for share in (one.recall, one.precision))
        yield (number(one.rate, ".1%"), number(one.threshold, ".3f"), *shares)


def _curve(facts: Facts, found: ByClass) -> Markup | None:
    if len(found.curve) < 2 or found.average_precision is None:
        return None
    say, name = facts.language.say, facts.task.probable
    mean = Figure(found.average_precision.value, ".3f")
    text = message("Precision over recall of %(name)s; average precision %(mean)s.",
                   name=name, mean=mean)  # fmt: skip
    share = found.classes[name].records / max(1, sum(c.records for c in found.classes.values()))
    return plots.precision_recall(
        [(place.recall, place.precision) for place in found.curve],
        guessing=share,
        alternative=say(text),
        language=facts.language,
    )
