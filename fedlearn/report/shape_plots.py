"""What an additive model adds for each column, as plots: steps over numbers, bars of categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fedlearn.core.language import ENGLISH, Figure, Locale, Message, message
from fedlearn.report import plots
from fedlearn.report.shapes import ShapeOfColumn, Shapes

Floats = NDArray[np.float64]

WIDE: Final = 1.96
"""Deviations of a normal law on each side that hold 95 percent of it."""

_MOST_CATEGORIES: Final = 25
_SEVERAL: Final = 30.0
"""Where numbers reach over more than such a factor, places are at steps of their logarithm."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One plot with its name, and how far apart its ends are."""

    name: str
    height: float
    plot: Markup


@dataclass(frozen=True, kw_only=True)
class ShapesShown:
    """The section of the report: those columns first that move the answer most."""

    shapes: tuple[Shape, ...]
    lost: tuple[str, ...]
    """Columns of which nothing stands out of the noise."""
    intervals: bool
    """Whether what noise can have done is known and drawn."""


def shapes_shown(found: Shapes, language: Locale = ENGLISH) -> ShapesShown:
    """A plot for every column."""
    unit = str(language.say(_unit(found)))
    made = [_shape(found, column, unit, language) for column in found.columns if column.clear]
    return ShapesShown(
        shapes=tuple(sorted(made, key=lambda one: -one.height)),
        lost=tuple(column.name for column in found.columns if not column.clear),
        intervals=any(column.deviation is not None for column in found.columns),
    )


def _unit(found: Shapes) -> Message:
    if len(found.classes) == 2:
        return message("adds to the log odds of %(name)s", name=found.classes[1])
    if found.classes:
        return message("adds to the score of the class")
    return message("adds to the answer")


def _shape(shapes: Shapes, column: ShapeOfColumn, unit: str, language: Locale) -> Shape:
    lines = _lines(shapes, column)
    shown = [(name, values[column.shown], None if own is None else own[column.shown])
             for name, values, own in lines]  # fmt: skip
    height = max(float(values.max() - values.min()) for _, values, _ in shown)
    low, high = (min(v.min() for _, v, _ in shown), max(v.max() for _, v, _ in shown))
    text = message(
        "What %(name)s adds: from %(low)s to %(high)s.",
        name=column.name, low=Figure(float(low), ".2f"), high=Figure(float(high), ".2f"),
    )  # fmt: skip
    figure, axes = plots.canvas()
    draw = _steps if column.kind == "number" else _bars
    draw(axes, column, lines, language)
    axes.set_title(column.name, fontsize=10, color=plots.INK)
    (axes.set_ylabel if column.kind == "number" else axes.set_xlabel)(unit)
    plot = plots.svg(plots.with_legend(figure), str(language.say(text)), language)
    return Shape(name=column.name, height=height, plot=plot)


Line = tuple[str, Floats, Floats | None]


def _lines(shapes: Shapes, column: ShapeOfColumn) -> list[Line]:
    """A curve for each output; of two classes one, of the second over the first."""
    values, noise = column.values, column.deviation
    if len(shapes.classes) == 2:
        own = None if noise is None else np.hypot(noise[:, 0], noise[:, 1])
        return [(shapes.classes[1], values[:, 1] - values[:, 0], own)]
    names = shapes.classes or shapes.outputs
    return [
        (name, values[:, i], None if noise is None else noise[:, i])
        for i, name in enumerate(names[: len(plots.SERIES)])
    ]


def _steps(axes: Axes, column: ShapeOfColumn, lines: Sequence[Line], language: Locale) -> None:
    """A step for each bin; those without an end go on as far as their neighbour is wide."""
    edges = _edges(column)
    for number, (name, values, noise) in enumerate(lines):
        own, colour = values[column.shown], plots.SERIES[number]
        axes.stairs(own, edges, baseline=None, color=colour, label=name, linewidth=1.4)
        if noise is not None:
            reach = WIDE * noise[column.shown]
            low, high = (np.append(v, v[-1]) for v in (own - reach, own + reach))
            axes.fill_between(edges, low, high, step="post", color=colour, alpha=0.18, linewidth=0)
        if column.gap:
            label = str(language.say(message("without a value")))
            axes.axhline(values[-1], color=colour, linestyle=":", linewidth=1, label=label)
    if column.open and _factor(edges) > _SEVERAL:
        small = np.abs(edges[edges != 0])
        axes.set_xscale("symlog", linthresh=float(max(small.min(), small.max() / 1e5)))


def _factor(edges: Floats) -> float:
    size = np.abs(edges[edges != 0])
    return float(size.max() / size.min()) if len(size) else 1.0


def _edges(column: ShapeOfColumn) -> Floats:
    """The ends of the bins that are shown."""
    cuts = column.cuts
    if not len(cuts):
        return np.array([0.0, 1.0])
    first = cuts[0] - (cuts[1] - cuts[0] if len(cuts) > 1 else 1.0)
    last = cuts[-1] + (cuts[-1] - cuts[-2] if len(cuts) > 1 else 1.0)
    every = np.concatenate([[first], cuts, [last]])
    return every[column.shown.start : column.shown.stop + 1]


def _bars(axes: Axes, column: ShapeOfColumn, lines: Sequence[Line], language: Locale) -> None:
    """A dot for each category with its interval, the first on top."""
    missing = str(language.say(message("missing or unknown")))
    known = column.categories or [
        str(language.say(message("category %(number)s", number=i)))
        for i in range(1, len(column.values))
    ]
    names = [missing, *known][:_MOST_CATEGORIES]
    places = np.arange(len(names))
    for number, (name, values, noise) in enumerate(lines):
        reach = None if noise is None else WIDE * noise[: len(names)]
        shift = (number - (len(lines) - 1) / 2) * 0.15
        axes.errorbar(values[: len(names)], places + shift, xerr=reach, fmt="o", markersize=4,
                      color=plots.SERIES[number], label=name, linewidth=1.2)  # fmt: skip
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
