"""What may be the name of a site, of another participant, or of a federation: one rule for all.

A name becomes a file's, a line on a terminal, a row of a signed list that people compare, and
a key that programs look up. So two names that look the same must be the same, and none may be
more than a name:

- letters of one script (those of Chinese, Japanese and Korean count as one, and Latin ones may
  stand among them), decimal digits of one kind, and inside `. _ - ' , & + ( )` and single spaces;
- in the normal form NFKC, of at most 64 characters; a letter or digit first, and one or `)` last;
- no word that means somebody else (`server`), no name of a device, no suffix of a key file;
- no name in Cyrillic, Greek or Armenian letters all of which look Latin.

`lookalikes` finds names of one list that a reader may take for each other.

Source: Unicode Technical Standard 39 (confusables, restriction levels) and Annex 31
(recommended scripts), of which this is a part that needs no tables.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

MOST: Final = 64
"""Characters of a name."""
_LONGEST_TEXT: Final = 2000
_MOST_BYTES: Final = 200  # of 255 that a file name has, so that a suffix fits as well

_EAST_ASIAN: Final = frozenset(
    {"BOPOMOFO", "CJK", "HANGUL", "HIRAGANA", "IDEOGRAPHIC", "KATAKANA", "KATAKANA-HIRAGANA"}
)
_SCRIPTS: Final = frozenset(
    {
        *("ARABIC", "ARMENIAN", "BENGALI", "CYRILLIC", "DEVANAGARI", "ETHIOPIC", "GEORGIAN"),
        *("GREEK", "GUJARATI", "GURMUKHI", "HEBREW", "KANNADA", "KHMER", "LAO", "LATIN"),
        *("MALAYALAM", "MYANMAR", "ORIYA", "SINHALA", "TAMIL", "TELUGU", "THAANA", "THAI"),
        *("TIBETAN", *_EAST_ASIAN),
    }
)
_LATIN: Final = frozenset("ßæœøđłþðħŋıəÆŒØĐŁÞÐĦŊƏ")
"""Latin letters of living orthographies that are no ASCII letter with marks."""

_MARKS: Final = "._-' ,&+()"
"""Signs of names as people write them: `St. Mary's, Ward 3 (East)`."""
_RESERVED: Final = frozenset(
    {"server", "coordinator", "helper", "authority", "superlink", "gateway", "everybody"}
)
_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", *(f"{p}{n}" for p in ("com", "lpt") for n in range(1, 10))}
)
_SUFFIXES: Final = (".pub", ".tls", ".pin", ".key", ".crt")
"""What key files are called by."""

_LOOKS_LATIN: Final = dict(
    zip(
        "аеорсухіјѕһԁԛԝАВЕКМНОРСТУХІЈЅԚԜΑΒΕΖΗΙΚΜΝΟΡΤΥΧονоսօհցզ",
        "aeopcyxijshdqwABEKMHOPCTYXIJSQWABEZHIKMNOPTYXovouohgq",
        strict=True,
    )
)
"""Letters of other scripts that are drawn as Latin ones."""


def name_problem(name: str) -> str | None:
    """Why a text cannot be the name of a participant or a federation; None if it can."""
    return _name_problem(name)


def site_name_problem(name: str) -> str | None:
    """Why a text cannot be the name of a site: also a word that stands for somebody else."""
    if name.casefold() in _RESERVED:
        return f"name {shown(name)}: means somebody else here; choose another"
    return _name_problem(name)


def checked_site_name(name: str) -> str:
    """The name itself; ValueError for what cannot be one."""
    if problem := site_name_problem(name):
        raise ValueError(problem)
    return name


def shown(name: str) -> str:
    """A text of anybody's as it may be printed: in ASCII, without control characters, and short."""
    text = ascii(name)
    return text if len(text) <= MOST else f"{text[: MOST - 4]}...'"


def printable(text: str) -> str:
    """What somebody else says went wrong, as it may be shown: it draws nothing, and is short."""
    return harmless(text[:_LONGEST_TEXT])


def harmless(text: str) -> str:
    """A text of any length that a terminal shows and does not obey: ends of lines alone stay of
    what is no sign."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in text)


def lookalikes(names: Iterable[str]) -> list[str]:
    """Pairs of different names that look alike, each as a sentence."""
    found, first = list[str](), dict[tuple[str, str], str]()
    for name in names:
        for key in (("case", name.casefold()), ("look", _skeleton(name))):
            other = first.setdefault(key, name)
            if other != name:
                found.append(f"names {shown(other)} and {shown(name)} look alike")
                break
    return found


@lru_cache(maxsize=16384)
def _name_problem(name: str) -> str | None:
    reason = next(_reasons(name), None)
    return None if reason is None else f"name {shown(name)}: {reason}"


def _reasons(name: str) -> Iterator[str]:
    if not name or len(name) > MOST:
        yield f"must have 1 to {MOST} characters"
        return
    if wrong := [sign for sign in name if not (_is_letter(sign) or _is_plain(sign))]:
        yield f"{wrong[0]!a} is not allowed: letters, digits, ._-',&+() and inner spaces are"
        return
    if unicodedata.normalize("NFKC", name) != name or len(name.encode()) > _MOST_BYTES:
        yield f"must be in Unicode's form NFKC and have at most {_MOST_BYTES} bytes"
    if (
        name[0] in _MARKS
        or name[-1] in _MARKS.rstrip(")")
        or unicodedata.category(name[0])[0] == "M"
    ):
        yield "must begin and end with a letter or a digit"
    if ".." in name or "  " in name:
        yield "has two dots or spaces in a row"
    if _mixed(name):
        yield "mixes scripts, or kinds of digits, that can be taken for each other"
    if _all_look_latin(name):
        yield "has letters of another script that all look Latin"
    if name.casefold().endswith(_SUFFIXES) or name.casefold().partition(".")[0] in _DEVICES:
        yield "is that of a key file or a device"


def _is_plain(sign: str) -> bool:
    return sign in _MARKS or unicodedata.category(sign) == "Nd"


def _is_letter(sign: str) -> bool:
    """A letter or combining mark of a script in use."""
    if unicodedata.category(sign) in ("Mn", "Mc"):
        return True
    if unicodedata.category(sign)[0] != "L":
        return False
    script = _script(sign)
    return _is_latin(sign) if script == "LATIN" else script in _SCRIPTS


def _is_latin(sign: str) -> bool:
    return sign in _LATIN or unicodedata.normalize("NFD", sign)[0].isascii()


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]


def _mixed(name: str) -> bool:
    scripts = {_script(sign) for sign in name if unicodedata.category(sign)[0] == "L"}
    zeros = {ord(s) - unicodedata.decimal(s) for s in name if unicodedata.category(s) == "Nd"}
    together = scripts - {"LATIN"} <= _EAST_ASIAN
    return len(zeros) > 1 or (len(scripts) > 1 and not together) or _piled(name)


def _piled(name: str) -> bool:
    """Marks upon marks, which cover the neighbours."""
    is_mark = ["M" if unicodedata.category(sign)[0] == "M" else "-" for sign in name]
    return "MMMM" in "".join(is_mark)


def _all_look_latin(name: str) -> bool:
    letters = [sign for sign in name if unicodedata.category(sign)[0] == "L"]
    return bool(letters) and all(sign in _LOOKS_LATIN for sign in letters)


def _skeleton(name: str) -> str:
    """What is left of a name for a hasty reader."""
    text = "".join(_LOOKS_LATIN.get(sign, sign) for sign in name)
    folded = text.translate({ord("I"): "l", ord("1"): "l", ord("0"): "o"}).casefold()
    return folded.replace("rn", "m").replace("vv", "w").replace("ı", "i")
