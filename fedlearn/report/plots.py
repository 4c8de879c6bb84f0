"""Plots as SVG text that takes its colours from the page: one image for light, dark and print.

matplotlib draws with stand-in colours, which are then replaced by CSS
variables; text stays text. No pyplot: there is no global state to leave behind.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

from fedlearn.core.language import ENGLISH, Locale

INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES: Final = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")

_VARIABLES: Final = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)
}
_WIDTH, _HEIGHT = 5.0, 3.3
"""Inches of 72 units: narrow, so that the labels stay readable on a phone."""
_DPI: Final = 72


def style_of(ink: str, muted: str, grid: str) -> dict[Any, Any]:
    """matplotlib's settings in these colours: of text, of lines beside it, of the grid."""
    return {
        "svg.fonttype": "none",
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": muted,
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": grid,
        "legend.frameon": False,
    }


STYLE: Final = style_of(INK, MUTED, GRID)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A place on a curve, and the runs that it stands for."""

    x: float
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the runs."""
        return sum(self.values) / len(self.values)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line through the means of some runs, with the range of each."""

    label: str
    places: tuple[Spread, ...]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A value with its interval, where it has one."""

    label: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Something expected (`x`), what was found (`y`), and the interval of that."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line to compare with."""

    label: str
    value: float


def trade_off(
    curves: Sequence[Curve],
    levels: Sequence[Level],
    *,
    metric: str,
    alternative: str,
    language: Locale = ENGLISH,
) -> Markup:
    """A metric against epsilon: means, the range over the runs, and reference lines."""
    figure, axes = canvas()
    for number, curve in enumerate(curves):
        colour, style = SERIES[number % len(SERIES)], _line(number // len(SERIES))
        _draw_curve(axes, curve, colour, style)
    for number, level in enumerate(levels):
        axes.axhline(level.value, color=MUTED, linestyle=("--", ":", "-.")[number % 3],
                     linewidth=1.2, label=level.label)  # fmt: skip
    places = sorted({place.x for curve in curves for place in curve.places})
    _epsilon_axis(axes, places, language)
    axes.set_ylabel(metric)
    _from_zero(axes)
    return _finished(figure, alternative, language)


def _draw_curve(axes: Axes, curve: Curve, colour: str, style: str) -> None:
    x = [place.x for place in curve.places]
    low = [min(place.values) for place in curve.places]
    high = [max(place.values) for place in curve.places]
    axes.plot(x, [place.mean for place in curve.places], color=colour, linestyle=style,
              marker="o", markersize=4, linewidth=1.8, label=curve.label)  # fmt: skip
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    for place in curve.places:
        if len(place.values) > 1:
            axes.plot([place.x] * len(place.values), place.values, linestyle="none", marker="_",
                      markersize=6, color=colour)  # fmt: skip


def _epsilon_axis(axes: Axes, places: Sequence[float], language: Locale) -> None:
    axes.set_xlabel(language.one("epsilon spent: smaller protects more"))
    if not places:
        axes.set_xticks([])
        return
    if len(places) > 1 and places[0] > 0:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_apart(places)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: language.number(value, ".2g")))


def _apart(places: Sequence[float], most: int = 8) -> list[float]:
    """At most `most` of `places`: more labels would lie on each other."""
    every = -(-len(places) // most)
    return list(places[::every])


def over_rounds(
    curves: Sequence[Curve],
    levels: Sequence[Level],
    *,
    label: str,
    alternative: str,
    language: Locale = ENGLISH,
) -> Markup:
    """Lines over the rounds of a run."""
    figure, axes = canvas()
    for number, curve in enumerate(curves):
        colour, style = SERIES[number % len(SERIES)], _line(number // len(SERIES))
        x, y = [place.x for place in curve.places], [place.mean for place in curve.places]
        marker = "o" if len(x) == 1 else ""
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1.8, marker=marker,
                  label=curve.label)  # fmt: skip
    for level in levels:
        axes.axhline(level.value, color=MUTED, linestyle="--", linewidth=1.2, label=level.label)
    axes.set_xlabel(language.one("round"))
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _from_zero(axes)
    return _finished(figure, alternative, language)


def _from_zero(axes: Axes, *, upright: bool = True) -> None:
    """Begin an axis of values at zero, unless some are below: half of it shall look like half."""
    _, high = axes.get_ylim() if upright else axes.get_xlim()
    ends = axes.dataLim.intervaly if upright else axes.dataLim.intervalx
    drawn = (line.get_ydata() if upright else line.get_xdata() for line in axes.lines)
    values = np.concatenate([ends, *(np.asarray(one, np.float64).reshape(-1) for one in drawn)])
    if np.min(values) < 0 or high <= 0:
        return
    set_limits = axes.set_ylim if upright else axes.set_xlim
    set_limits(0.0, high)


def intervals(
    bars: Sequence[Bar],
    levels: Sequence[Level],
    *,
    label: str,
    alternative: str,
    language: Locale = ENGLISH,
) -> Markup:
    """Values with their intervals, one below the other."""
    figure, axes = canvas()
    figure.set_figheight(0.9 + 0.32 * len(bars))
    for place, bar in enumerate(bars):
        if bar.low is not None and bar.high is not None:
            axes.plot([bar.low, bar.high], [place, place], color=SERIES[0], linewidth=1.8)
        axes.plot([bar.value], [place], color=SERIES[0], marker="o", markersize=5)
    for level in levels:
        axes.axvline(level.value, color=MUTED, linestyle="--", linewidth=1.2)
        named = {"label": level.label, "value": language.number(level.value, ".3f")}
        axes.set_title(language.one("dashed: %(label)s, %(value)s") % named, fontsize=9, color=INK)
    axes.set_yticks(range(len(bars)), [_room(bar.label) for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    _from_zero(axes, upright=False)
    return svg(figure, alternative, language)


def reliability(
    pairs: Sequence[Pair],
    *,
    expected: str,
    found: str,
    alternative: str,
    language: Locale = ENGLISH,
) -> Markup:
    """What was expected and what was found, both from 0 to 1, and where they are the same."""
    figure, axes = canvas()
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1.2,
              label=language.one("as expected"))  # fmt: skip
    for pair in pairs:
        axes.plot([pair.x, pair.x], [pair.low, pair.high], color=SERIES[0], linewidth=1.8)
    axes.plot([pair.x for pair in pairs], [pair.y for pair in pairs], color=SERIES[0],
              linestyle="none", marker="o", markersize=5, label=language.one("found"))  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(expected)
    axes.set_ylabel(found)
    return _finished(figure, alternative, language)


def precision_recall(
    places: Sequence[tuple[float, float]],
    *,
    guessing: float,
    alternative: str,
    language: Locale = ENGLISH,
) -> Markup:
    """A curve of `(recall, precision)`, both from 0 to 1, over what guessing gets."""
    figure, axes = canvas()
    axes.axhline(guessing, color=MUTED, linestyle="--", linewidth=1.2,
                 label=language.one("guessing"))  # fmt: skip
    recall, precision = zip(*places, strict=True)
    axes.plot(recall, precision, color=SERIES[0], linewidth=1.8, label=language.one("this model"))
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(language.one("recall"))
    axes.set_ylabel(language.one("precision"))
    return _finished(figure, alternative, language)


@dataclass(frozen=True, kw_only=True)
class Course:
    """A share that falls from one, at the times of `over_time`; with an interval or without."""

    label: str
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def over_time(
    times: Sequence[float],
    courses: Sequence[Course],
    *,
    label: str,
    alternative: str,
    language: Locale = ENGLISH,
) -> Markup:
    """Shares that live through each time, in steps, from one at the beginning."""
    figure, axes = canvas()
    at = [0.0, *times]
    for number, course in enumerate(courses):
        colour, style = SERIES[number % len(SERIES)], _line(number // len(SERIES))
        axes.step(at, [1.0, *course.values], where="post", color=colour, linestyle=style,
                  linewidth=1.8, label=course.label)  # fmt: skip
        if course.low:
            axes.fill_between(at, [1.0, *course.low], [1.0, *course.high], step="post",
                              color=colour, alpha=0.15, linewidth=0)  # fmt: skip
    axes.set_xlabel(label)
    axes.set_ylabel(language.one("share without the event"))
    axes.set_ylim(0.0, 1.02)
    axes.set_xlim(0.0, at[-1])
    return _finished(figure, alternative, language)


def bars(
    labels: Sequence[str],
    values: Sequence[float],
    *,
    label: str,
    alternative: str,
    language: Locale = ENGLISH,
) -> Markup:
    """Bars one below the other, the first on top."""
    figure, axes = canvas()
    figure.set_figheight(0.8 + 0.28 * len(labels))
    axes.barh(range(len(labels)), values, color=SERIES[0], height=0.7)
    axes.set_yticks(range(len(labels)), [_room(one) for one in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    return svg(figure, alternative, language)


def image(
    values: NDArray[np.float64], weights: NDArray[np.float64], *, title: str, alternative: str
) -> Markup:
    """An image, `float64[height, width]`, and beside it what was looked at in it."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.2, 1.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.imshow(values, cmap="gray", vmin=0, vmax=1)
        right.imshow(weights, cmap="magma")
        for axes in (left, right):
            axes.set_axis_off()
        figure.suptitle(title, fontsize=10, color=INK)
    return svg(figure, alternative)


def cost(
    rounds: Sequence[int],
    seconds: Sequence[float],
    up: Sequence[float],
    down: Sequence[float],
    *,
    alternative: str,
    language: Locale = ENGLISH,
) -> Markup:
    """Seconds and kilobytes of every round, one above the other."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    with rc_context(STYLE):
        above, below = figure.subplots(2, 1, sharex=True)
        above.bar(rounds, seconds, color=SERIES[0], width=0.7)
        above.set_ylabel(language.one("seconds"))
        below.bar(rounds, up, color=SERIES[1], width=0.7, label=language.one("from the sites"))
        below.bar(
            rounds, down, bottom=up, color=SERIES[2], width=0.7, label=language.one("to the sites")
        )
        below.set_ylabel("kB")
        below.set_xlabel(language.one("round"))
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (above, below):
            axes.grid(axis="x", visible=False)
            axes.set_axisbelow(True)
    return _finished(figure, alternative, language)


# --- what figures have in common ----------------------------------------------------------


def canvas(style: dict[Any, Any] = STYLE) -> tuple[Figure, Axes]:
    """An empty figure of the size of all, and its axes."""
    with rc_context(style):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
    axes.set_axisbelow(True)
    return figure, axes


def _line(number: int) -> str:
    return ("-", "--", ":", "-.")[number % 4]


def _finished(figure: Figure, alternative: str, language: Locale) -> Markup:
    return svg(with_legend(figure), alternative, language)


def with_legend(figure: Figure, style: dict[Any, Any] = STYLE) -> Figure:
    """The figure, and below it what its lines stand for, where there are several."""
    with rc_context(style):
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            drawn, labels = axes.get_legend_handles_labels()
            handles |= dict(zip(labels, drawn, strict=True))
        if len(handles) > 1:
            columns = min(len(handles), _columns(max(map(len, handles))))
            figure.legend(
                handles.values(), [_room(one, after=True) for one in handles],
                loc="outside lower center", ncols=columns,
            )  # fmt: skip
            figure.set_figheight(_HEIGHT + 0.2 * -(-len(handles) // columns))
    return figure


def _columns(letters: int) -> int:
    """How many labels of so many letters stand side by side."""
    if letters > 22:
        return 1
    return 2 if letters > 10 else 3


# --- letters that the font here lacks --------------------------------------------------------


def _room(label: str, *, after: bool = False) -> str:
    """A label with blanks as wide as what its letters need more than the signs put for them.

    Text stays text, and a browser takes a font that has the letters; only the place for them is
    measured here, where perhaps none is.
    """
    known = get_font(findfont(STYLE["font.family"])).get_charmap()
    missing = [letter for letter in label if ord(letter) not in known]
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in missing)
    blanks = "\u00a0" * -(-wide * 5 // 4)  # a sign for a missing letter is .6 em wide, a blank .32
    return f"{label}{blanks}" if after else f"{blanks}{label}"


# --- how a figure becomes text ----------------------------------------------------------


def svg(figure: Figure, alternative: str, language: Locale = ENGLISH) -> Markup:
    """`figure` as an SVG element that takes its colours from the page, with a text in its place."""
    for axes in figure.axes:
        _written(axes.xaxis, language)
        _written(axes.yaxis, language)
    text = _drawn(figure, salt=alternative)
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', system-ui, sans-serif")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    shown = escape(alternative)
    return Markup(
        text.replace("<svg ", f'<svg role="img" aria-label="{shown}" ', 1)
        .replace("<defs>", f"<title>{shown}</title>\n <defs>", 1)
        .strip()
    )


def _written(axis: Any, language: Locale) -> None:
    """Numbers beside an axis as the language writes them."""
    if isinstance(axis.get_major_formatter(), ScalarFormatter) and language.decimal != ".":
        axis.set_major_formatter(FuncFormatter(lambda value, _: language.number(value, "g")))


def _drawn(figure: Figure, *, salt: str) -> str:
    """What `savefig(transparent=True)` gives, which draws all of it once more to lay it out."""
    buffer, canvas = io.StringIO(), FigureCanvasSVG(figure)
    figure.dpi = _DPI
    with rc_context({**STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        if layout := figure.get_layout_engine():
            layout.execute(figure)
            figure.set_layout_engine("none")
        for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
            patch.set(facecolor="none", edgecolor="none")
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.print_svg(buffer, metadata=metadata)  # type: ignore[no-untyped-call]
    return buffer.getvalue()
