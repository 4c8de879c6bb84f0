"""What a language model repeats, as one picture: exposure against repetitions, private and not.

Each canary is a dot, a line goes through the means. Below it is what chance gives a model that has
seen no secret; dashes are the most that the promise allows on average.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedlearn.auditing.exposure import exposure
from fedlearn.core.language import ENGLISH, Locale, message
from fedlearn.core.language import Figure as Number
from fedlearn.report.exposure import ExposedRun, Exposure
from fedlearn.report.exposure_page import times
from fedlearn.report.plots import (
    GRID,
    INK,
    MUTED,
    SERIES,
    canvas,
    style_of,
    svg,
    with_legend,
)

_ASIDE: Final = 0.16
"""How far the two runs stand from the middle of a column."""
_SCATTER: Final = 0.07
_DPI: Final = 130


@dataclass(frozen=True)
class Inks:
    """Colours of text, of what stands beside it, of the grid, and of the runs by name."""

    ink: str
    muted: str
    grid: str
    private: str
    plain: str

    @property
    def style(self) -> dict[Any, Any]:
        """matplotlib's settings."""
        return style_of(self.ink, self.muted, self.grid)

    def of(self, run: ExposedRun) -> str:
        """The colour of a run."""
        return self.plain if run.privacy == "none" else self.private


_PAGE: Final = Inks(INK, MUTED, GRID, SERIES[0], SERIES[1])
_PAPER: Final = Inks("#1b2430", "#5d6977", "#d9dee4", "#0b6e99", "#c2410c")


def plot(found: Exposure, language: Locale = ENGLISH) -> Markup:
    """The picture for a page, in its colours and its language."""
    with rc_context(_PAGE.style):
        return svg(_drawn(found, _PAGE, language), alternative(found, language), language)


def png(found: Exposure) -> bytes:
    """The same as a file."""
    buffer = io.BytesIO()
    with rc_context(_PAPER.style):
        figure = _drawn(found, _PAPER, ENGLISH)
        figure.suptitle("What the model repeats", fontsize=12, weight="bold", color=_PAPER.ink)
        figure.set_figheight(figure.get_figheight() + 0.3)
        figure.set_facecolor("white")
        figure.savefig(
            buffer, format="png", dpi=_DPI, metadata={"Software": None},
            pil_kwargs={"optimize": True},
        )  # fmt: skip
    return buffer.getvalue()


def alternative(found: Exposure, language: Locale = ENGLISH) -> str:
    """The picture in words."""
    runs = [
        message("%(run)s: %(means)s", run=run.called, means=_means(run, language))
        for run in found.runs
    ]
    return str(
        language.say(
            message(
                "Mean exposure of secrets, by how many records have them: %(runs)s. By chance at "
                "most %(edge)s bits, and %(most)s for a secret that is the first of all.",
                runs=language.listed(runs, "; "),
                edge=Number(found.edge, ".1f"),
                most=Number(found.most, ".1f"),
            )
        )
    )


def _means(run: ExposedRun, language: Locale) -> str:
    levels = ((times(one.repetitions), one.first.exposure) for one in run.repeated)
    return language.listed(
        message("%(times)s: %(bits)s bits", times=number, bits=Number(bits, ".1f"))
        for number, bits in levels
    )


def _drawn(found: Exposure, inks: Inks, language: Locale) -> Figure:
    figure, axes = canvas(inks.style)
    axes.axhspan(0, found.edge, color=inks.muted, alpha=0.18, linewidth=0,
                 label=language.one("by chance, 95 of 100 models"))  # fmt: skip
    axes.axhline(found.most, color=inks.muted, linestyle=":", linewidth=1.2)
    places = {repetitions: float(i) for i, repetitions in enumerate(found.repetitions)}
    for number, run in enumerate(found.runs):
        aside = 0.0 if len(found.runs) == 1 else _ASIDE * (2 * number - 1)
        _draw_run(axes, run, places, aside, inks.of(run), found.candidates, language)
    axes.set_xticks(list(places.values()), [str(language.say(times(k))) for k in places])
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_ylim(-0.04 * found.most, 1.1 * found.most)
    axes.text(-0.45, 1.02 * found.most, language.one("first of all"), fontsize=8, color=inks.muted)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel(language.one("records of the site that hold a secret"))
    axes.set_ylabel(language.one("exposure, bits"))
    return with_legend(figure, inks.style)


def _draw_run(
    axes: Axes,
    run: ExposedRun,
    places: dict[int, float],
    aside: float,
    colour: str,
    candidates: int,
    language: Locale,
) -> None:
    x = np.array([places[one.repetitions] for one in run.repeated]) + aside
    for at, one in zip(x, run.repeated, strict=True):
        bits = exposure(np.array(one.first.ranks), candidates)
        spread = np.linspace(-_SCATTER, _SCATTER, len(bits))
        axes.plot(at + spread, bits, color=colour, linestyle="none", marker="o", markersize=4,
                  alpha=0.4, markeredgewidth=0)  # fmt: skip
        if one.first.low is not None and one.first.high is not None:
            axes.plot([at, at], [one.first.low, one.first.high], color=colour, linewidth=1.6)
    means = [one.first.exposure for one in run.repeated]
    axes.plot(x, means, color=colour, marker="o", markersize=5.5, linewidth=1.8,
              label=language.say(run.called))  # fmt: skip
    label = language.one("the most that its promise allows")
    for at, one in zip(x, run.repeated, strict=True):
        if (most := one.exposure_allowed) is not None:
            axes.plot([at - 0.2, at + 0.2], [most, most], color=colour, linestyle=(0, (3, 1.5)),
                      linewidth=1.6, label=label)  # fmt: skip
