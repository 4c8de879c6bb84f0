"""`fedlearn audit demo=inversion`: what its words ask for, what it draws and leaves on disk.

`fedlearn audit demo=inversion out=DIR` shows all ways to protect updates beside
each other; `fedlearn audit RUN demo=inversion` shows the one that the run in the
folder RUN has, and leaves the files there, for its report.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from fedlearn.config import decode
from fedlearn.core import terminal
from fedlearn.core.errors import ConfigError, DataError, counted
from fedlearn.core.files import write_atomically
from fedlearn.report.comparison import FILE as COMPARISON
from fedlearn.report.inversion import (
    FILE,
    SEATS,
    Finding,
    Inversion,
    Likeness,
    Protected,
    pixels,
    write_inversion,
)
from fedlearn.report.page import write_report
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from simulations.attacks.inversion import demonstrate
from simulations.attacks.inversion_scene import FEWEST_SITES, MOST_SITES, Settings

IMAGE: Final = "inversion.png"

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


def command(words: Sequence[str]) -> None:
    """Run the demonstration that `words` describe, print it, and write it down.

    Raises:
        ConfigError: the words make no sense, or there is a demonstration already.
        FedlearnError: the images cannot be had, or a federation could not run.
    """
    settings, result = read_words(words)
    folder = Path(settings.out)
    _refuse_old(folder)
    inversion = demonstrate(settings, result)
    console = terminal.console()
    terminal.show(console, table(inversion))
    for path in write(folder, inversion):
        console.print(str(path), soft_wrap=True)


def read_words(words: Sequence[str]) -> tuple[Settings, ResultFile | None]:
    """The settings, and the run whose protection is asked for.

    Raises:
        ConfigError: with everything that is wrong with the words.
        DataError: there is no run where one is named.
    """
    folders = [word for word in words if "=" not in word]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    found = [f"{word}: one folder of a run is enough" for word in folders[1:]]
    known = [field.name for field in fields(Settings)]
    found += [
        f"{key}={value}: demo=inversion has no such key; it has {', '.join(known)}"
        for key, value in given.items()
        if key not in known
    ]
    if folders and "out" in given:
        found.append(f"out={given['out']}: the files go into the folder of the run, {folders[0]}")
    if folders and "sites" in given:
        found.append(f"sites={given['sites']}: follows from the run in {folders[0]}")
    values = {key: _value(key, text) for key, text in given.items() if key in known}
    try:
        settings = decode(Settings, json.dumps(values))
    except ConfigError as error:
        raise ConfigError([*found, *error.problems]) from None
    if found:
        raise ConfigError(found)
    return _of_run(settings, Path(folders[0])) if folders else (settings, None)


def _of_run(settings: Settings, run: Path) -> tuple[Settings, ResultFile]:
    result = read_result(run)
    sites = max(FEWEST_SITES, min(len(result.data.sites), MOST_SITES))
    return replace(settings, out=str(run), sites=sites), result


def _value(key: str, text: str) -> Any:
    """A number where it is one; paths stay as they are written."""
    if key in ("images", "out"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _refuse_old(folder: Path) -> None:
    if old := [str(folder / name) for name in (FILE, IMAGE) if (folder / name).exists()]:
        raise ConfigError(
            [f"out={folder}: holds a demonstration already; remove {' and '.join(old)} first"]
        )


def write(folder: Path, inversion: Inversion) -> list[Path]:
    """Write the figures and the image, and a report anew where there is something to report on.

    Raises:
        DataError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_inversion(folder, inversion)
        write_atomically(folder / IMAGE, image(inversion))
    except OSError as error:
        raise DataError(f"out={folder}: cannot be written to ({error.strerror})") from None
    written = [folder / FILE, folder / IMAGE]
    if any((folder / name).is_file() for name in ("result.json", COMPARISON)):
        written.append(write_report(folder))
    return written


# --- the image --------------------------------------------------------------------------------


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
        f"{counted(inversion.sites, 'site trains', 'sites train')} for a round on "
        f"{inversion.each} each\n"
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
