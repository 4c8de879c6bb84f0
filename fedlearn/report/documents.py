"""The texts that go with a model: Markdown from templates, in which no value becomes markup.

Names of sites and experiments are chosen by people and may hold anything; every
value is escaped on its way into a template, so a name with a pipe in it cannot
add a column to a table of epsilons.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_SPECIAL: Final = re.compile(r"[\\`*\[\]<>|~&]|(?<!\w)_|_(?!\w)")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


def render(template: str, **values: object) -> str:
    """The text of a template of this package; its values are frozen dataclasses."""
    return _environment().get_template(template).render(**values)


def code_block(text: str) -> Markup:
    """Text as an indented block, which nothing inside it can end."""
    return Markup("\n".join(f"    {line}" for line in text.splitlines()))


def escaped(value: object) -> object:
    """A value as it may stand in a line of Markdown; blocks of `code_block` stay as they are."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _SPECIAL.sub(r"\\\g<0>", _UNPRINTABLE.sub(" ", value))


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,  # Markdown, not HTML: `finalize` escapes for it
        finalize=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
