"""Two texts for every error: the whole one at home, and what others may know of it.

An error that was found in records, or that names a path, a limit or a value of the
site's, says more than any mechanism has paid for. Who asks hears of which kind it is and,
where no record had been opened, which settings it is about; nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Final

from clients.owner import Owner
from clients.policy import Policy
from clients.studies.consent import DeclinedError, HeldError
from fedlearn.config import RunConfig
from fedlearn.core.errors import (
    ConfigError,
    DataError,
    FedlearnError,
    PrivacyError,
    ProtocolError,
    UnauthenticatedError,
)

_SETTINGS: Final = frozenset(field.name for field in fields(RunConfig))
_DEMANDS: Final = frozenset(field.name for field in fields(Policy))
_NAME: Final = re.compile(r"(?:^|: )([a-z_]+)\.([a-z_]+)(?=[=:. ])", re.MULTILINE)

_KINDS: Final = (
    (UnauthenticatedError, ""),
    (ProtocolError, "the request is none that the site expects"),
    (PrivacyError, "its owner does not allow it"),
    (DataError, "its records cannot be used for it"),
    (ConfigError, "the study does not fit the site"),
    (FedlearnError, "its app failed"),
)


class WithheldError(DataError):
    """Something went wrong once records had been opened: nobody outside hears what."""


@contextmanager
def of_records(owner: Owner) -> Iterator[None]:
    """While this lasts, a deployed site's records are open: errors may be about them.

    Raises:
        WithheldError: in the place of a refusal for config or data, with its text.
    """
    try:
        yield
    except (ConfigError, DataError) as error:
        if owner.deployed is None:
            raise
        raise WithheldError(str(error)) from error


def outside(error: FedlearnError) -> str:
    """What others may know of an error.

    Guarantees: a text of ours, and names of settings of runs and policies; no value, no path,
    no name of a column, and nothing at all of an error that came once records were open.
    """
    if isinstance(error, HeldError | DeclinedError):
        return error.reason
    kind = next(text for kind, text in _KINDS if isinstance(error, kind))
    if not kind:
        return str(error)
    names = "" if isinstance(error, WithheldError) else ", ".join(_named(str(error)))
    return f"{kind}{f' ({names})' if names else ''}; its owner finds the reason in the site's log"


def _named(text: str) -> list[str]:
    """The settings that a text is about."""
    return list(
        dict.fromkeys(
            f"{group}.{key}"
            for group, key in _NAME.findall(text)
            if group in _SETTINGS or (group == "policy" and key in _DEMANDS)
        )
    )
