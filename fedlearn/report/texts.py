"""Sentences from templates: one block a subject, no English in Python, in any language there is.

A text template is plain text in blocks (its name ends in `.md`: Flower's bundles of an app take
no other form of text). Its sentences are in English and marked (`{% trans %}`, `_()`); the
language that it is filled in with has the others (`fedlearn.core.language`) and writes the
numbers. What stands in no mark is the same in every language. Within a block, blank lines part
paragraphs, a tag on a line of its own ends one, and any other break of a line is a space. A
paragraph is a sentence or a few; in a block of rows its first line is the name of a row, and every
line that begins with a bar begins the next cell.

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
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from jinja2.ext import InternationalizationExtension
from markupsafe import Markup

from fedlearn.core.language import ENGLISH, Figure, Locale, Message

TEMPLATES: Final = Path(__file__).parent / "templates"

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
        return self._space.join(self.lines(block))

    def lines(self, block: str) -> tuple[str, ...]:
        """The paragraphs of a block, each in one line."""
        return tuple(self._space.join(lines) for lines in self._paragraphs(block))

    @property
    def _space(self) -> str:
        """What stands between two sentences."""
        language: Locale = self.values.get("language", ENGLISH)
        return language.one(" ")

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
    `NAME` or beside the module of its class. The value `language` is English where there is none.
    """
    found = {"language": ENGLISH, **values}
    environment = _environment("text", found["language"])
    for name in names:
        found[name] = Texts(environment.get_template(f"{name}.md"), found)
    for name, option in options.items():
        found[name] = Texts(_of_kind(name, option, environment), found)
    return found


def render(template: str, *, language: Locale = ENGLISH, **values: Any) -> str:
    """The text of a page in a language: `.md` or `.html` by its name."""
    environment = _environment("html" if ".html" in template else "markdown", language)
    return environment.get_template(template).render(language=language, **values)


def code_block(text: str) -> Markup:
    """Text as an indented block of Markdown, which nothing inside it can end."""
    return Markup("\n".join(f"    {line}" for line in text.splitlines()))


def escaped(value: object) -> object:
    """A value as it may stand in a line of Markdown; blocks of `code_block` stay as they are."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _SPECIAL.sub(r"\\\g<0>", _UNPRINTABLE.sub(" ", value))


def up(value: float, language: Locale = ENGLISH) -> str:
    """Three decimals, never less than `value`."""
    if math.isinf(value):
        return language.one("infinite")
    return language.number(math.ceil(value * 1000) / 1000, ".3f")


def three_digits_up(value: float, language: Locale = ENGLISH) -> str:
    """Three digits, never less than `value`."""
    text = f"{value:.3g}"
    if float(text) < value:
        text = f"{value + 10.0 ** (math.floor(math.log10(value)) - 2):.3g}"
    return language.signs(text)


def bytes_text(count: float, language: Locale = ENGLISH) -> str:
    """A number of bytes that can be read at a glance."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{language.number(count / size, '.3g')} {unit}"
    return f"{count:.0f} B"


def finite(epsilon: float | None, language: Locale = ENGLISH) -> str:
    """An epsilon for people; null is infinite."""
    return language.one("infinity") if epsilon is None else language.number(epsilon, ".2f")


def fmt(value: Any, form: str, language: Locale = ENGLISH) -> str:
    """A number in the form of `format`; a dash where there is none."""
    return "-" if value is None else language.number(value, form)


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


def _of_kind(family: str, option: Any, environment: Environment) -> Template:
    name = f"{family}/{option.kind}.md"
    if (TEMPLATES / name).is_file():
        return environment.get_template(name)
    beside = Path(inspect.getfile(type(option))).with_name(f"{option.kind}.md")
    return environment.from_string(beside.read_text(encoding="utf-8"))


_FINALIZE: Final[Mapping[str, Callable[[object], object]]] = {
    "text": _in_line,
    "markdown": escaped,
    "html": lambda value: value,
}


@cache
def _environment(form: str = "text", language: Locale = ENGLISH) -> Environment:
    finish = _FINALIZE[form]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        extensions=[InternationalizationExtension],
        autoescape=form == "html",
        finalize=lambda value: finish(language.say(value)) if _is_message(value) else finish(value),
        undefined=StrictUndefined,
        trim_blocks=form != "text",
        lstrip_blocks=form != "text",
        keep_trailing_newline=form == "markdown",
    )
    environment.policies["ext.i18n.trimmed"] = True
    environment.newstyle_gettext = True  # type: ignore[attr-defined]
    sentences = _Sentences(language=language, kept=Markup if form == "html" else str)
    environment.globals |= {"gettext": sentences.one, "ngettext": sentences.many}
    written: dict[str, Callable[..., str]] = {
        "fmt": fmt,
        "up": up,
        "three_digits_up": three_digits_up,
        "bytes": bytes_text,
        "finite": finite,
    }
    environment.filters |= {
        name: partial(function, language=language) for name, function in written.items()
    }
    environment.filters |= {
        # As a setting is typed, whatever the language of the page.
        "setting": lambda value: format(value, "g"),
        "quoted": repr,
        "said": language.say,
        "listed": language.listed,
        "first_upper": lambda text: text[:1].upper() + text[1:],
    }
    environment.tests["infinite"] = math.isinf
    return environment


def _is_message(value: object) -> bool:
    return isinstance(value, Message | Figure)


@dataclass(frozen=True)
class _Sentences:
    """What marks in a template call: values are filled in after a sentence was found."""

    language: Locale
    kept: type[str]
    """Text that is no value: in a page it is markup, and values in it are escaped."""

    def one(self, pattern: str, /, **values: Any) -> str:
        """A sentence."""
        return self._filled(self.language.one(pattern), values)

    def many(self, one: str, many: str, num: int, /, **values: Any) -> str:
        """The same by a number."""
        return self._filled(self.language.many(one, many, num), {"num": num, **values})

    def _filled(self, pattern: str, values: Mapping[str, Any]) -> str:
        return self.kept(pattern) % self.language.filled(values)
