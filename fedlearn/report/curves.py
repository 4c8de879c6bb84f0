"""How records fare over time: the curves and the table of a report on survival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from fedlearn.core.language import Figure, message
from fedlearn.metrics.survival import SurvivalCurve, SurvivalCurves
from fedlearn.report import plots
from fedlearn.report.facts import Facts
from fedlearn.report.measured import Row

_MOST: Final = 7
"""Sites with a line of their own; of more, all but the lines of all together are noise."""


@dataclass(frozen=True, kw_only=True)
class CurvesShown:
    """The section of the report."""

    plot: Markup
    sites_plot: Markup | None
    """None for one site, or for many."""
    rows: tuple[Row, ...]
    """Site, records, events, survival observed and predicted; all sites last."""


def curves_shown(facts: Facts) -> CurvesShown | None:
    """The section of a run that has ended; None where no times are learned."""
    found = facts.result.curves
    if found is None:
        return None
    whole = facts.language.one("all sites together")
    rows = [*found.per_site.items(), (whole, found.all_sites)]
    return CurvesShown(
        plot=_of_all(facts, found),
        sites_plot=_of_sites(facts, found) if 1 < len(found.per_site) <= _MOST else None,
        rows=tuple(_row(facts, name, one) for name, one in rows),
    )


def _row(facts: Facts, name: str, one: SurvivalCurve) -> Row:
    number = facts.language.number
    shares = (number(curve[-1], ".3f") for curve in (one.observed, one.predicted))
    return (name, number(one.records, ","), number(one.events, ","), *shares)


def _axis(facts: Facts, found: SurvivalCurves) -> str:
    of = message("time (%(unit)s)", unit=found.unit) if found.unit else message("time")
    return str(facts.language.say(of))


def _of_all(facts: Facts, found: SurvivalCurves) -> Markup:
    last = {
        "observed": Figure(found.all_sites.observed[-1], ".3f"),
        "predicted": Figure(found.all_sites.predicted[-1], ".3f"),
    }
    one = facts.language.one
    return plots.over_time(
        found.times,
        [
            plots.Course(label=one("observed"), values=found.all_sites.observed,
                         low=found.low, high=found.high),
            plots.Course(label=one("predicted"), values=found.all_sites.predicted),
        ],
        label=_axis(facts, found),
        alternative=facts.language.say(
            message("At the last time %(observed)s observed and %(predicted)s predicted.", **last)
        ),
        language=facts.language,
    )  # fmt: skip


def _of_sites(facts: Facts, found: SurvivalCurves) -> Markup:
    listed: Sequence[str] = [
        f"{site} {facts.language.number(one.observed[-1], '.3f')}"
        for site, one in found.per_site.items()
    ]
    return plots.over_time(
        found.times,
        [plots.Course(label=site, values=one.observed) for site, one in found.per_site.items()],
        label=_axis(facts, found),
        alternative=facts.language.say(
            message("Observed at the last time: %(listed)s.", listed=facts.language.listed(listed))
        ),
        language=facts.language,
    )
