"""What is wrong with the words of a command line and can be said at once.

To list all that is wrong with a run takes the classes of all its settings, and the libraries
that those compute with: a second and more. But of a command whose other words are surely right
the list is no longer than what Hydra, the names of files and a few plain types can tell.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from annotated_types import Le

from fedlearn.config.composition import sift, split, value_of
from fedlearn.config.layers import options_of
from fedlearn.core.errors import ConfigError, DataError, refuse
from fedlearn.core.settings import Count, Name, Natural, Positive

if TYPE_CHECKING:
    from pydantic import TypeAdapter

PLAIN: Final[Mapping[str, Any]] = {
    "rounds": Annotated[Count, Le(1_000_000)],
    "evaluate_every": Count,
    "seed": Natural,
    "out": Name,
    "purpose": str,
    "resume": bool,
    "privacy.epsilon": Positive,
    "training.learning_rate": Positive,
}
"""Settings of which any value of a type is right, whatever else a run says. Part of the types of
`RunConfig`, as a test holds."""

CHOICES: Final[Mapping[str, tuple[str, ...]]] = {"privacy": ("none",), "engine": ("local",)}
"""The same of groups: options that go with everything."""

ASKING: Final = frozenset({"medical_imaging"})
"""Experiments that are whole only with words of one's own; all others are by themselves."""

_TABLE: Final = frozenset({"scenario", "scenario.path", "scenario.label", "scenario.site"})
"""What a run on a table has to say, and a run with an experiment may not."""


def refuse_words(words: Sequence[str]) -> None:
    """Refuse words that name nothing, and a table that is not there.

    Says nothing where anything else may be wrong: `compose` then lists all together.

    Raises:
        ConfigError: with every problem that `compose` would name.
        DataError: the table of a run of which nothing else is wrong.
    """
    found = sift(words)
    given = dict(split(word) for word in found.good)
    own = given.keys() & _TABLE
    if own and (own != _TABLE or "experiment" in given):
        return
    if all(_surely_right(key, text) for key, text in given.items()):
        refuse(found.found, ConfigError)
        refuse(_lacking(found.tree) if own else (), DataError)


def refuse_swept(words: Sequence[str]) -> None:
    """The same of a comparison, where words may have several values; `compare.` is its own."""
    plain = [word for word in words if "," not in word and not word.startswith("compare.")]
    swept = [split(word) for word in words if "," in word]
    if all(key in PLAIN and _fits_all(PLAIN[key], text) for key, text in swept) and not (
        {"privacy=none", "privacy.epsilon"} <= {*plain, *dict(swept)}
    ):
        refuse_words(plain)


def _fits_all(kind: Any, text: str) -> bool:
    return all(_fits(kind, one) for one in text.split(","))


def _surely_right(key: str, text: str) -> bool:
    if key == "experiment":
        return text in options_of(key) and text not in ASKING
    if key == "scenario":
        return text == "csv"
    if key in CHOICES:
        return text in CHOICES[key]
    kind = Name if key in _TABLE else PLAIN.get(key)
    return kind is not None and _fits(kind, text)


def _fits(kind: Any, text: str) -> bool:
    from pydantic import ValidationError

    try:
        _adapter(kind).validate_python(value_of(text), strict=True)
    except (ValidationError, ValueError):
        return False
    return True


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


def _lacking(tree: Mapping[str, Any]) -> list[str]:
    """The table that is not there, unless the run's folder may be the first thing to say."""
    path, out = Path.cwd() / tree["scenario"]["path"], Path.cwd() / tree["out"]
    if path.exists() or out.exists() or not _writable(out):
        return []
    return [f"{path}: cannot be read (No such file or directory)"]


def _writable(folder: Path) -> bool:
    """Whether a folder could be made here."""
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    return there.is_dir() and os.access(there, os.W_OK)
