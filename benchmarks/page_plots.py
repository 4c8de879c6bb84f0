"""The curves of a page: a metric against epsilon, of all sites together and of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import fedlearn.report
from benchmarks.page_data import Figures, Mean, Row
from fedlearn.report import plots
from fedlearn.tasks import metric_called

_MOST_SITES: Final = 7
_SHEET: Final = Path(fedlearn.report.__file__).parent / "templates" / "style.css.j2"


def plots_of(figures: Figures) -> dict[str, str]:
    """Kind -> SVG in the colours of the reports, light and dark."""
    found, texts = {}, alternatives(figures)
    title = f"test {_title(figures)}"
    if "epsilon" in texts:
        curves = [plots.Curve(label=label, places=places) for label, places in _curves(figures)]
        levels = [plots.Level(label=n, value=one.mean) for n, one in _levels(figures).items()]
        found["epsilon"] = _alone(
            plots.trade_off(curves, levels, metric=title, alternative=texts["epsilon"])
        )
    if "sites" in texts:
        curves = [
            plots.Curve(label=site, places=tuple(_spread(row, row.sites[site]) for row in rows))
            for site, rows in _sites(figures).items()
        ]
        found["sites"] = _alone(
            plots.trade_off(curves, [], metric=title, alternative=texts["sites"])
        )
    return found


def alternatives(figures: Figures) -> dict[str, str]:
    """Kind -> the text in the place of the curve; one for each that there is."""
    found = {}
    if curves := list(_curves(figures)):
        listed = [
            f"{label}, epsilon {place.x:.3g}: {place.mean:.3f}"
            for label, places in curves
            for place in places
        ] + [f"{name}: {one.mean:.3f}" for name, one in _levels(figures).items()]
        found["epsilon"] = f"Test {_title(figures)} against epsilon spent. {'; '.join(listed)}."
    if sites := _sites(figures):
        ends = [
            f"{site} from {rows[0].sites[site].mean:.3f} to {rows[-1].sites[site].mean:.3f}"
            for site, rows in sites.items()
        ]
        found["sites"] = (
            f"Test {_title(figures)} at each site, from the smallest epsilon to the largest: "
            f"{'; '.join(ends)}."
        )
    return found


def _title(figures: Figures) -> str:
    return metric_called(figures.metrics[0]).title


def _private(figures: Figures) -> list[Row]:
    return [row for row in figures.rows if row.epsilon is not None]


def _curves(figures: Figures) -> Iterator[tuple[str, tuple[plots.Spread, ...]]]:
    """By what a row promises beside its epsilon: one curve for each kind of noise."""
    leading, by_kind = figures.metrics[0], dict[str, list[plots.Spread]]()
    for row in _private(figures):
        _, _, kind = row.label.partition(", ")
        by_kind.setdefault(kind, []).append(_spread(row, row.metrics[leading]))
    yield from ((kind, tuple(places)) for kind, places in by_kind.items() if len(places) > 1)


def _spread(row: Row, one: Mean) -> plots.Spread:
    return plots.Spread(x=row.epsilon or 0.0, values=tuple(one.values))


def _levels(figures: Figures) -> Mapping[str, Mean]:
    leading = figures.metrics[0]
    rows = [row for row in [*figures.rows, *figures.references] if row.epsilon is None]
    return {row.label: row.metrics[leading] for row in rows if leading in row.metrics}


def _sites(figures: Figures) -> dict[str, list[Row]]:
    rows = _private(figures)
    kinds = {row.label.partition(", ")[2] for row in rows}
    if len(rows) < 2 or len(kinds) > 1:
        return {}
    shared = [site for site in rows[0].sites if all(site in row.sites for row in rows)]
    return dict.fromkeys(shared, rows) if 1 < len(shared) <= _MOST_SITES else {}


# --- a file of its own ------------------------------------------------------------------------


def _alone(svg: str) -> str:
    """A curve that brings the colours with it, which in a report are those of the page."""
    light, dark = _colours()
    style = (
        f"<style>svg {{ {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}</style>"
    )
    head, _, rest = str(svg).partition(">")
    return f'{head} width="540">{style}{rest}'


@cache
def _colours() -> tuple[str, str]:
    """The variables of a report's sheet, for light and for dark."""
    light, dark = re.findall(r":root \{(.*?)\}", _SHEET.read_text("utf-8"), re.DOTALL)[:2]
    variable = re.compile(r"--(?:ink|muted|grid|series-\d): #\w+;")
    return " ".join(variable.findall(light)), " ".join(variable.findall(dark))
