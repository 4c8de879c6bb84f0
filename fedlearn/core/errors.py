"""The errors that users and peers meet, and the exit code that each one means.

An error says name, value, rule and way out. Programming mistakes (a method
called out of order) stay `RuntimeError` and `TypeError`; they are not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class FedlearnError(Exception):
    """A failure that the user can act on; `exit_code` is what the command line returns."""

    exit_code = 1


class ListedError(FedlearnError):
    """What carries every problem found; the text has a line for each."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(ListedError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class PrivacyError(FedlearnError):
    """A privacy budget or a site's policy refused; nothing beyond the budget was released."""

    exit_code = 3


class ProtocolError(FedlearnError):
    """A peer broke the protocol, or too few peers are left to finish it.

    `peer` is the name of the peer at fault (empty when there is none), `step`
    the protocol step in which it happened.
    """

    exit_code = 4

    def __init__(self, peer: str, step: str, reason: str) -> None:
        self.peer, self.step, self.reason = peer, step, reason
        super().__init__(f"{step}: {peer + ': ' if peer else ''}{reason}")


class DataError(ListedError):
    """Data could not be read, or does not match its checksum."""

    exit_code = 5


class PromiseBrokenError(FedlearnError):
    """An audit says that a run gives away more than it promises; what it found is written down."""

    exit_code = 6


class ReceiptError(FedlearnError):
    """A ledger is not the one that its site has signed receipts for: set back, or written anew."""

    exit_code = 7


def some(names: Sequence[object], shown: int = 10, between: str = ", ") -> str:
    """A few names in words, and how many more there are: `a, b and 40 more`."""
    more = len(names) - shown
    return between.join(map(str, names[:shown])) + (f" and {more} more" if more > 0 else "")


def counted(count: int, one: str, many: str = "") -> str:
    """A number with what it counts: `1 site`, `2 sites`.

    Args:
        count: how many.
        one: what one is called, with what agrees with it: `site is`.
        many: the same of others, where that is not `one` with an s: `sites are`.

    Example:
        >>> counted(1, "site is", "sites are"), counted(1200, "record")
        ('1 site is', '1,200 records')
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def refuse(problems: Iterable[str], kind: type[ListedError] = DataError) -> None:
    """Raise an error with all problems that there are, if there are any."""
    if found := list(problems):
        raise kind(found)


class StoppedError(FedlearnError):
    """The user stopped the run; what was done is kept. The exit code is 128 + SIGINT."""

    exit_code = 130


class UnauthenticatedError(FedlearnError):
    """Untrusted bytes could not be authenticated; deliberately says nothing about why."""

    exit_code = 4

    def __init__(self) -> None:
        super().__init__("message could not be authenticated")


@contextmanager
def collected(found: list[str], before: str = "") -> Iterator[None]:
    """Add the problems of a ConfigError to `found`, with `before` before each, and go on."""
    try:
        yield
    except ConfigError as error:
        found += [before + problem for problem in error.problems]


@contextmanager
def prefixed(before: object) -> Iterator[None]:
    """Put `before` and a colon before every problem of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError([f"{before}: {problem}" for problem in error.problems]) from None


@contextmanager
def as_options(room: str, names: Iterable[str]) -> Iterator[None]:
    """Let errors name `--NAME VALUE`, which a command takes, for the key `room.NAME=VALUE`."""
    key = re.compile(rf"\b{re.escape(room)}\.({'|'.join(map(re.escape, names))})(?:=([^\s,;)]+))?")

    def here(found: re.Match[str]) -> str:
        name, value = found.groups()
        return f"--{name}" if value is None else f"--{name} {value}"

    try:
        yield
    except ListedError as error:
        raise type(error)([key.sub(here, problem) for problem in error.problems]) from None
