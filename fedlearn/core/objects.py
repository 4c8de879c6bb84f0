"""What a program hands over by itself: objects of this process, which a config names by a hash.

Records and models made in Python are not written to disk, so a config can only name them.
Processes that are forked from this one have them as well; no other has.
"""

from __future__ import annotations

from typing import Any, Final

from fedlearn.core.errors import ConfigError

_GIVEN: Final[dict[str, Any]] = {}

LENGTH: Final = 16
"""Hexadecimal digits of a hash that name an object."""


def keep(digest: str, given: Any) -> str:
    """Keep an object for as long as this process lives; the name by which a config finds it."""
    name = digest[:LENGTH]
    _GIVEN[name] = given
    return name


def find(name: str, where: str) -> Any:
    """The object of this name; `where` is the key and value that name it.

    Raises:
        ConfigError: this process has none.
    """
    if name not in _GIVEN:
        raise ConfigError(
            f"{where}: was given from Python and is in no file, so it is gone with the program "
            "that gave it; run that again (`fl.simulate(study, out=..., resume=True)` goes on "
            "with a run)"
        )
    return _GIVEN[name]
