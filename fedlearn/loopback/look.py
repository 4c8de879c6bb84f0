"""How pages look: as reports do, without a script, and nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fedlearn import __version__
from fedlearn.core.names import harmless
from fedlearn.report.texts import TEMPLATES, up

FOLDER: Final = Path(__file__).parent / "templates"

WIDTH, HEIGHT = 640, 200
"""Of the box in which a curve is drawn."""


@dataclass(frozen=True)
class Look:
    """The templates of one page, in a folder beside those that all have."""

    folder: Path

    def filled(self, template: str, **values: Any) -> str:
        """A page from a template and its values, all of which are escaped."""
        page = _environment(self.folder).get_template(template)
        return page.render(style=Markup(_style()), version=__version__, **values)


def note(title: str, text: str, command: str) -> str:
    """A page that says one thing: why nothing is shown."""
    return Look(FOLDER).filled("note.html.j2", title=title, text=text, command=command)


def style_hash() -> str:
    """Of the style that is in every page, as a policy names it."""
    return base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()


def steps(xs: Sequence[float], ys: Sequence[float]) -> str:
    """The path of a value that goes from 0 to each of `ys` at its x; both are shares of the box."""
    line, height = f"M0 {HEIGHT}", float(HEIGHT)
    for x, y in zip(xs, ys, strict=True):
        line += f"L{WIDTH * x:.1f} {height:.1f}"
        height = HEIGHT * (1 - y)
        line += f"L{WIDTH * x:.1f} {height:.1f}"
    return f"{line}L{WIDTH} {height:.1f}"


def through(xs: Sequence[float], ys: Sequence[float | None]) -> str:
    """The path through points, broken where there is none; both are shares of the box."""
    line, pen = "", "M"
    for x, y in zip(xs, ys, strict=True):
        if y is None:
            pen = "M"
            continue
        line += f"{pen}{WIDTH * x:.1f} {HEIGHT * (1 - y):.1f}"
        # A point by itself has a length, so that something is drawn.
        line += "h0.1" if pen == "M" else ""
        pen = "L"
    return line


def down(value: float) -> str:
    """Three decimals, never more than `value`."""
    return f"{math.floor(value * 1000) / 1000:.3f}"


def _plain(value: object) -> object:
    """What is filled in draws nothing but itself, whoever has written it; our own markup stays."""
    return harmless(value) if type(value) is str else value


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


@cache
def _style() -> str:
    """That of the report, and what pages have besides: buttons and forms."""
    parts = (TEMPLATES / "style.css.j2", FOLDER / "page.css.j2")
    return "".join(path.read_text(encoding="utf-8") for path in parts)


@cache
def _environment(folder: Path) -> Environment:
    made = Environment(
        loader=FileSystemLoader([folder, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )
    made.filters |= {"up": up, "down": down, "minute": _minute}
    made.tests["infinite"] = math.isinf
    return made
