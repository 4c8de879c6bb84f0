"""What is wrong with a site's records, in the words of the file in which its owner can mend it.

Readers of records name settings as a study does, `scenario.drop`. At a site most of them are its
owner's (`data: {drop: ...}`), and what a study says of them counts for nothing there: advice that
names the study's would lead to a coordinator who can do nothing about it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Final

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import Scenario

_SETTING: Final = re.compile(r"\bscenario\.([a-z_]+)")


def owned(own: Scenario, of_run: Scenario | None) -> tuple[str, ...]:
    """The settings that a site's file decides, in a run over the records `of_run`.

    Without a run: those that no run can change.
    """
    whole: Any = own
    names = [field.name for field in fields(whole)]
    if of_run is not None and type(of_run) is not type(own):
        return tuple(names)  # the site's file decides alone
    return tuple(name for name in names if name in own.stays_with_site())


def at_site(text: str, settings: Collection[str]) -> str:
    """A sentence in which the owner's `settings` have the name that his file gives them."""
    return _SETTING.sub(lambda one: f"data.{one[1]}" if one[1] in settings else one[0], text)


def all_at_site(texts: Iterable[str], settings: Collection[str]) -> tuple[str, ...]:
    """The same of several."""
    return tuple(at_site(text, settings) for text in texts)


@contextmanager
def in_words_of_site(settings: Collection[str]) -> Iterator[None]:
    """While this lasts, errors name the owner's `settings` as his file does.

    Raises:
        ConfigError, DataError: in the place of those that are raised inside, with their cause.
    """
    try:
        yield
    except (ConfigError, DataError) as error:
        lines = all_at_site(error.problems, settings)
        if lines == error.problems or not settings:
            raise
        raise type(error)(lines) from error.__cause__
