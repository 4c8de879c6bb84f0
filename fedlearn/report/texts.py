"""Sentences from templates: one folder a language, one block a subject, no English in Python.

A text template is plain text in blocks (its name ends in `.md`: Flower's bundles of an app take
no other form of text). Within a block, blank lines part paragraphs, a tag
on a line of its own ends one, and any other break of a line is a space. A paragraph is a
sentence or a few; in a block of rows its first line is the name of a row, and every line
that begins with a bar begins the next cell.

Whoever fills in a template escapes for its format: names of sites and experiments are
chosen by people, and a name with a pipe in it must not add a column to a table of epsilons.
A kind of mechanism from an installed package brings its blocks in `KIND.md` beside the
module of its class.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

TEMPLATES: Final = Path(__file__).parent / "templates"
LANGUAGE: Final = "en"

_SPECIAL: Final = re.compile(r"[\\`*\[\]<>|~&]|(?<!\w)_|_(?!\w)")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
_BETWEEN_PARAGRAPHS: Final = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Texts:
    """The blocks of a text template, filled in with `values`."""

    template: Template
    values: Mapping[str, Any]

    def __getitem__(self, block: str) -> str:
        """All paragraphs of a block in one line; KeyError if there is none of this name."""
        return " ".join(self.lines(block))

    def lines(self, block: str) -> tuple[str, ...]:
        """The paragraphs of a block, each in one line."""
        return tuple(" ".join(lines) for lines in self._paragraphs(block))

    def rows(self, block: str) -> tuple[tuple[str, ...], ...]:
        """The paragraphs of a block as rows: a name and its cells."""
        return tuple(_row(lines) for lines in self._paragraphs(block))

    def raw(self, block: str) -> Markup:
        """A block as it is, to be part of another: rows stay rows."""
        return Markup("\n".join(line for each in self._paragraphs(block) for line in each))

    def _paragraphs(self, block: str) -> list[list[str]]:
        rendered = "".join(
            self.template.blocks[block](self.template.new_context(dict(self.values)))
        )
        parts = _BETWEEN_PARAGRAPHS.split(rendered)
        found = [[line.strip() for line in part.splitlines() if line.strip()] for part in parts]
        return [lines for lines in found if lines]


def texts(values: Mapping[str, Any], *names: str, **options: Any) -> dict[str, Any]:
    """`values`, and the text templates of these names; each can use all of them.

    `options` are objects with a `kind`: their template is that of the kind, in the folder
    `NAME` or beside the module of its class.
    """
    found = dict(values)
    for name in names:
        found[name] = Texts(_environment().get_template(f"{name}.md"), found)
    for name, option in options.items():
        found[name] = Texts(_of_kind(name, option), found)
    return found


def render(template: str, **values: Any) -> str:
    """The text of a page: `.md` or `.html` by its name."""
    environment = _environment("html" if ".html" in template else "markdown")
    return environment.get_template(template).render(**values)


def code_block(text: str) -> Markup:
    """Text as an indented block of Markdown, which nothing inside it can end."""
    return Markup("\n".join(f"    {line}" for line in text.splitlines()))


def escaped(value: object) -> object:
    """A value as it may stand in a line of Markdown; blocks of `code_block` stay as they are."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _SPECIAL.sub(r"\\\g<0>", _UNPRINTABLE.sub(" ", value))


def up(value: float) -> str:
    """Three decimals, never less than `value`."""
    return "infinite" if math.isinf(value) else f"{math.ceil(value * 1000) / 1000:.3f}"


def three_digits_up(value: float) -> str:
    """Three digits, never less than `value`."""
    text = f"{value:.3g}"
    if float(text) >= value:
        return text
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{value + unit:.3g}"


def bytes_text(count: float) -> str:
    """A number of bytes that can be read at a glance."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def finite(epsilon: float | None) -> str:
    """An epsilon for people; null is infinite."""
    return "infinity" if epsilon is None else f"{epsilon:.2f}"


def _in_line(value: object) -> object:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _UNPRINTABLE.sub(" ", value)


def _row(lines: list[str]) -> tuple[str, ...]:
    cells: list[list[str]] = [[]]
    for line in lines:
        if line == "|" or line.startswith("| "):
            cells.append([])
        cells[-1].append(line.removeprefix("|").strip() if len(cells) > 1 else line)
    return tuple(" ".join(cell) for cell in cells)


def _of_kind(family: str, option: Any) -> Template:
    environment, name = _environment(), f"{family}/{option.kind}.md"
    if (TEMPLATES / LANGUAGE / name).is_file():
        return environment.get_template(name)
    beside = Path(inspect.getfile(type(option))).with_name(f"{option.kind}.md")
    return environment.from_string(beside.read_text(encoding="utf-8"))


_FINALIZE: Final[Mapping[str, Callable[[object], object] | None]] = {
    "text": _in_line,
    "markdown": escaped,
    "html": None,
}


@cache
def _environment(form: str = "text") -> Environment:
    environment = Environment(
        loader=FileSystemLoader([TEMPLATES / LANGUAGE, TEMPLATES]),
        autoescape=form == "html",
        finalize=_FINALIZE[form],
        undefined=StrictUndefined,
        trim_blocks=form != "text",
        lstrip_blocks=form != "text",
        keep_trailing_newline=form == "markdown",
    )
    environment.filters |= {
        "fmt": lambda value, form: "-" if value is None else format(value, form),
        "up": up,
        "three_digits_up": three_digits_up,
        "bytes": bytes_text,
        "finite": finite,
        "quoted": repr,
    }
    environment.tests["infinite"] = math.isinf
    return environment
