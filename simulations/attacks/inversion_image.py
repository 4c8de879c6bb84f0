"""The demonstration of reconstruction as one image, and as a table for a terminal."""

from __future__ import annotations

import io
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from fedlearn.core import terminal
from fedlearn.report.inversion import (
    SEATS,
    Finding,
    Inversion,
    Likeness,
    Protected,
    pixels,
)

FILE: Final = "inversion.png"

_CELL, _LABEL, _HEAD, _CAPTION, _TOP = 1.3, 2.35, 0.62, 0.5, 2.15
"""Inches: an image, the names of the rows, those of the columns, what is under an image, and
the images at the top."""
_GAP = 0.28
_LEADING: Final = 0.0187
"""Inches from line to line, for each point of the size of a text."""
_INK, _MUTED = "#1b2430", "#5d6977"
_COLOURS: Final[dict[Finding, str]] = {
    "recovered": "#b3261e",
    "alike": "#8a4b00",
    "nothing": "#0f766e",
}


def image(inversion: Inversion) -> bytes:
    """A PNG: seats down, ways to protect updates across, and what each seat reconstructs."""
    columns, rows = len(inversion.ways), len(SEATS)
    width = _LABEL + columns * (_CELL + _GAP) + 0.1
    height = _TOP + _HEAD + rows * (_CELL + _CAPTION) + 0.1
    figure = Figure(figsize=(max(width, 6.5), height), facecolor="white")
    page = _Page(figure, *figure.get_size_inches())
    _draw_top(page, inversion)
    for column, way in enumerate(inversion.ways):
        left = _LABEL + column * (_CELL + _GAP)
        page.text(left, _TOP + 0.14, way.name, weight="bold")
        page.text(left, _TOP + 0.33, _detail(way), size=8, color=_MUTED)
        for row, view in enumerate(way.views):
            top = _TOP + _HEAD + row * (_CELL + _CAPTION)
            _draw(page.axes(left, top, _CELL), inversion, view.best)
            colour = _COLOURS[view.finding]
            page.text(left, top + _CELL + 0.17, inversion.in_words(view), size=8.5, color=colour)
            page.text(left, top + _CELL + 0.33, view.best.figures, size=8, color=_MUTED)
    for row, name in enumerate(SEATS.values()):
        top = _TOP + _HEAD + row * (_CELL + _CAPTION) + 0.5
        page.text(0.1, top, f"Seen by\n{_wrapped(name)}")
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=110, metadata={"Software": None}, pil_kwargs={"optimize": True}
    )
    return buffer.getvalue()


class _Page:
    """Inches from the top left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def axes(self, left: float, top: float, side: float) -> Axes:
        bottom = 1 - (top + side) / self.height
        place = (left / self.width, bottom, side / self.width, side / self.height)
        axes = self.figure.add_axes(place)
        axes.set_xticks([])
        axes.set_yticks([])
        return axes

    def text(
        self,
        left: float,
        top: float,
        text: str,
        *,
        size: float = 10,
        color: str = _INK,
        weight: str = "normal",
    ) -> None:
        """Lines of text, the baseline of the first at `top`."""
        first, *rest = text.split("\n")
        self.figure.text(
            left / self.width, 1 - top / self.height, first, va="baseline", size=size,
            color=color, weight=weight,
        )  # fmt: skip
        if rest:
            self.text(
                left, top + _LEADING * size, "\n".join(rest), size=size, color=color, weight=weight
            )


def _draw_top(page: _Page, inversion: Inversion) -> None:
    left = _LABEL
    original = Likeness(image=inversion.original, psnr=100.0, ssim=1.0, place=1)
    _draw(page.axes(left, 0.1, _CELL), inversion, original)
    page.text(left, _CELL + 0.27, "what a site holds", size=8.5)
    left += _CELL + _GAP
    _draw(page.axes(left, 0.1, _CELL), inversion, inversion.average)
    page.text(left, _CELL + 0.27, "the average image", size=8.5)
    page.text(left, _CELL + 0.43, inversion.average.figures, size=8, color=_MUTED)
    page.text(0.1, 0.55, "Whose image\nis it?", size=12, weight="bold")
    page.text(left + _CELL + _GAP, 0.22, _explanation(inversion), size=8.5, color=_MUTED)


def _explanation(inversion: Inversion) -> str:
    return (
        f"{inversion.sites} sites train for a round on {inversion.each} each\n"
        f"({inversion.images}).\n"
        "Shown is the nearest to the original of all that an attack\n"
        f"has found. Recovered: the error is at most {inversion.tolerance:.1%} of the range.\n"
        "Alike: nearer than the average image, which needs no update.\n"
        "That an image is hidden does not prove that epsilon is small."
    )


def _detail(way: Protected) -> str:
    first = f"transport={way.transport}"
    noise = f", epsilon {way.epsilon:.3g}" if way.epsilon is not None else ""
    return f"{first}\nsecagg={way.secagg}{noise}"


def _draw(axes: Axes, inversion: Inversion, likeness: Likeness) -> None:
    axes.imshow(pixels(inversion, likeness.image), interpolation="nearest")
    for spine in axes.spines.values():
        spine.set_color("#c3c9d1")


def _wrapped(text: str, width: int = 24) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def table(inversion: Inversion) -> Table:
    """How many images every seat has recovered, way by way."""
    title = f"images recovered, of {inversion.total} (and those nearer than the average image)"
    shown = terminal.numbers("seen by", *(way.name for way in inversion.ways), title=title)
    for row, name in enumerate(SEATS.values()):
        views = [way.views[row] for way in inversion.ways]
        shown.add_row(
            name, *(f"{view.recovered} ({view.alike - view.recovered})" for view in views)
        )
    return shown
