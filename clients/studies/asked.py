"""The terms of studies that a site was asked for, each in a file that is called by their hash.

So no terms can be shown, or approved of, under the hash of others. They are the coordinator's, and
of nobody's records; a private folder beside the ledger holds them. Those of which something was
decided stay; of the others the ones that were asked for last, so that whoever asks without end
fills no disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from fedlearn.config import RunConfig, decode
from fedlearn.config.study import SCHEMA, study_hash
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import PRIVATE, write_atomically

MOST_UNDECIDED: Final = 64
"""Studies of which nothing was decided; the one that was asked for longest ago goes first."""

MOST_BYTES: Final = 1_000_000
"""Of the terms of one study."""

NEWS: Final = timedelta(hours=1)
"""Between two studies of which the owner is told by a command."""

SHORTEST: Final = 16
"""Digits of a hash by which a study may be called: no coordinator finds two that begin so."""


@dataclass(frozen=True, kw_only=True)
class AskedStudy:
    """A study as it was asked for: the hash of its terms (hex), their text, and since when."""

    terms: str
    text: str
    since: str
    """When it was asked for first: ISO, UTC."""
    last: datetime
    """When it was asked for last."""

    def config(self) -> RunConfig:
        """The terms as a config; what belongs to one machine is made up.

        Raises:
            ConfigError: they are those of another release, and mean something that this one cannot
                say.
        """
        try:
            tree = dict(json.loads(self.text)["config"])
            machine = {"engine": {"kind": "local", "threads": tree.pop("threads")}, "out": "study"}
            whole = {**tree, **machine, "resume": False, "sites": None}
            made = decode(RunConfig, json.dumps(whole))
        except (ConfigError, ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(self._unreadable) from None
        if made.terms.hex() != self.terms:
            raise ConfigError(self._unreadable)
        return made

    @property
    def _unreadable(self) -> str:
        return (
            f"study {self.terms[:SHORTEST]}: its terms are not those of a study of this release; "
            "install the release that it was asked under, or have it asked for again"
        )


def folder_beside(ledger: Path) -> Path:
    """Where the studies are that were asked for of the data of a ledger."""
    return ledger.with_name(f"{ledger.stem}.studies")


def note(ledger: Path, text: str, now: datetime, decided: Collection[str]) -> tuple[str, bool]:
    """Write down that a study was asked for, whose terms `text` is.

    `decided` are the studies that are never forgotten.

    Returns:
        The hash of the terms, and whether that is news: the study was not there, and none was
        asked for first within the last hour, so that who asks without end rings once.

    Raises:
        ConfigError: it is longer than any study.
        OSError: it could not be written.
    """
    content = text.encode()
    if len(content) > MOST_BYTES:
        raise ConfigError(f"its terms have more than {MOST_BYTES} bytes")
    terms, folder = study_hash(text).hex(), folder_beside(ledger)
    path, is_news = folder / f"{terms}.json", False
    if not path.is_file():
        is_news = not any(now - one < NEWS for one in _began(folder))
        ledger.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        since = now.astimezone(UTC).isoformat(timespec="seconds")
        write_atomically(path, json.dumps({"asked": since, "text": text}).encode(), PRIVATE)
        _forget(folder, {*decided, terms})
    os.utime(path, (now.timestamp(), now.timestamp()))
    return terms, is_news


def _began(folder: Path) -> Iterator[datetime]:
    """When each study that is there was asked for first."""
    for path in folder.glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            since = json.loads(path.read_text(encoding="utf-8"))["asked"]
            yield datetime.fromisoformat(since).astimezone(UTC)


def _forget(folder: Path, kept: Collection[str]) -> None:
    """Remove studies of which nothing was decided, beyond as many as are kept."""
    found = [path for path in folder.glob("*.json") if path.stem not in kept]
    for path in sorted(found, key=lambda one: -one.stat().st_mtime)[MOST_UNDECIDED - 1 :]:
        path.unlink(missing_ok=True)


def load(path: Path) -> AskedStudy:
    """The study in a file.

    Raises:
        DataError: the file is none, or holds the terms of another one than it is called by.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        text, since = found["text"], found["asked"]
        last = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{path}: is no study") from None
    if not (isinstance(text, str) and isinstance(since, str)) or not _is_of(path.stem, text):
        raise DataError(f"{path}: its terms are not those of its name")
    return AskedStudy(terms=path.stem, text=text, since=since, last=last)


def _is_of(name: str, text: str) -> bool:
    with suppress(ValueError, RecursionError, AttributeError):
        return study_hash(text).hex() == name and json.loads(text).get("schema") == SCHEMA
    return False


def all_beside(ledger: Path) -> tuple[tuple[AskedStudy, ...], tuple[str, ...]]:
    """The studies that were asked for, the last first; and what is wrong with files beside them."""
    found, wrong = [], []
    for path in folder_beside(ledger).glob("*.json"):
        try:
            found.append(load(path))
        except DataError as error:
            wrong.append(str(error))
    found.sort(key=lambda one: (one.last, one.terms), reverse=True)
    return tuple(found), tuple(sorted(wrong))
