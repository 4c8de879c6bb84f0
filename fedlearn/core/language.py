"""Languages of what people read: sentences by the English one, numbers as each writes them.

A language is one file, `languages/CODE.po`, in the format of GNU gettext: an English sentence
(`msgid`), its translation (`msgstr`), forms for numbers by `Plural-Forms`. Its header also says how
numbers are written. English is in the sentences themselves and needs no file. A sentence that a
file lacks stays English: it is still true.

Sentences have values by name, `%(name)s`. Code that makes one for people away from any report
(a task, a rule) gives a `message`, which is English text and can be said again in a language.
"""

from __future__ import annotations

import gettext
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from fedlearn.core.errors import ConfigError

FOLDER: Final = Path(__file__).parent / "languages"

_LINE: Final = re.compile(r'(?:(msgid_plural|msgid|msgstr(?:\[\d+\])?)\s+)?"(.*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_NUMBER: Final = re.compile(r"[.,%]")


class Figure(NamedTuple):
    """A number in a message, and the form it is written in."""

    value: float
    form: str

    def __str__(self) -> str:
        return format(self.value, self.form)


class Message(str):
    """A sentence in English that knows its pattern and values, so that a language can say it."""

    pattern: str
    values: Mapping[str, object]


def message(pattern: str, **values: object) -> Message:
    """`pattern % values` as a message (the pattern alone where there are none).

    A value may be a message or a `Figure` as well; any other is the same in every language.
    """
    made = Message(pattern % values if values else pattern)
    made.pattern, made.values = pattern, values
    return made


@dataclass(frozen=True, kw_only=True, eq=False)
class Locale:
    """How one language says sentences and writes numbers."""

    code: str = "en"
    """BCP 47, as in `<html lang>`."""
    name: str = "English"
    """In the language itself."""
    decimal: str = "."
    group: str = ","
    percent: str = "%"
    """What follows the number, with the space before it."""
    plural: Callable[[int], int] = lambda count: int(count != 1)
    """Which of its forms a language takes for a number."""
    messages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """English sentence -> its forms."""

    def one(self, text: str) -> str:
        """A pattern, or a whole sentence, in the language."""
        return self.messages.get(text, (text,))[0]

    def many(self, one: str, many: str, count: int) -> str:
        """The pattern for `count` things."""
        forms = self.messages.get(one)
        if forms is None:
            return one if count == 1 else many
        return forms[min(self.plural(count), len(forms) - 1)]

    def say(self, value: Any) -> Any:
        """A message, or a sentence without values, in the language; anything else as it is."""
        if isinstance(value, Message):
            pattern = self.one(value.pattern)
            return pattern % self.filled(value.values) if value.values else pattern
        if isinstance(value, Figure):
            return self.number(value.value, value.form)
        return self.one(value) if isinstance(value, str) else value

    def filled(self, values: Mapping[str, object]) -> dict[str, Any]:
        """Values as they stand in a sentence: names that people chose are no sentences."""
        return {k: self.say(v) if isinstance(v, Message | Figure) else v for k, v in values.items()}

    def number(self, value: Any, form: str) -> str:
        """`format(value, form)` with the signs of the language."""
        return self.signs(format(value, form))

    def signs(self, written: str) -> str:
        """A number that was written in English."""
        signs = {".": self.decimal, ",": self.group, "%": self.percent}
        return _NUMBER.sub(lambda found: signs[found[0]], written)

    def listed(self, parts: Iterable[Any], between: str = ", ") -> str:
        """Several things in a row."""
        shown = self.filled({str(number): part for number, part in enumerate(parts)})
        return self.one(between).join(map(str, shown.values()))


ENGLISH: Final = Locale()


def codes() -> tuple[str, ...]:
    """The languages there are."""
    return ("en", *sorted(path.stem for path in FOLDER.glob("*.po")))


@cache
def language(code: str) -> Locale:
    """The language of this code.

    Raises:
        KeyError: there is none.
    """
    if code not in codes():
        raise KeyError(code)
    if code == "en":
        return ENGLISH
    return read((FOLDER / f"{code}.po").read_text(encoding="utf-8"))


def language_of(code: str) -> Locale:
    """The language of a code that a person has typed.

    Raises:
        ConfigError: there is none, and which there are.
    """
    try:
        return language(code)
    except KeyError:
        known = ", ".join(codes())
        raise ConfigError(f"language={code}: no such language; there are {known}") from None


def read(text: str) -> Locale:
    """A language from the text of its file.

    Raises:
        ValueError: it is none.
    """
    messages = dict(_entries(text))
    try:
        header = dict(line.split(": ", 1) for line in messages.pop("")[0].splitlines())
        plural = gettext.c2py(header["Plural-Forms"].split("plural=")[1].rstrip(";"))
        return Locale(
            code=header["Language"],
            name=header["X-Name"],
            decimal=header["X-Decimal"],
            group=header["X-Group"],
            percent=header["X-Percent"].strip('"'),
            plural=plural,
            messages=messages,
        )
    except (KeyError, IndexError) as error:
        raise ValueError(f"not a catalogue: its header lacks {error}") from None


def _entries(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every sentence and its forms; one without a translation is left out."""
    for part in re.split(r"\n\s*\n", text):
        found = dict[str, str]()
        name = ""
        for line in part.splitlines():
            if (match := _LINE.fullmatch(line.strip())) is None:
                continue  # a comment
            name = match[1] or name
            found[name] = found.get(name, "") + _ESCAPED.sub(_unescaped, match[2])
        forms = tuple(form for key, form in found.items() if key.startswith("msgstr"))
        if forms and all(forms):
            yield found.get("msgid", ""), forms


def _unescaped(found: re.Match[str]) -> str:
    return {"n": "\n", "t": "\t"}.get(found[1], found[1])
