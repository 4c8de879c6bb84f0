"""The studies that a coordinator serves one after another: a file for each, in `state/queue`.

Whoever may write there adds to the queue and takes from it, while a coordinator serves or not; a
lock beside the files keeps two of them from changing one study at once. Nothing of a study's
records or results is here: which words started it, and how it stands.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from fedlearn.config import decode, encode
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import PRIVATE, write_atomically

State = Literal["queued", "running", "finished", "stopped", "aborted", "failed"]
"""`stopped` was running and `aborted` was not when somebody took it off."""

_OVER: Final = frozenset({"finished", "stopped", "aborted", "failed"})


@dataclass(frozen=True, kw_only=True)
class QueuedStudy:
    """One study of the queue; times are ISO, UTC.

    `words` are the overrides of its run, `out` (absolute) is the folder of it, `tries` says how
    often its start or its rounds were given up for an outage; `wish` is what somebody wants of the
    one that is running.
    """

    number: int
    words: tuple[str, ...]
    out: str
    state: State = "queued"
    since: str
    reason: str = ""
    tries: int = 0
    wish: Literal["", "stop"] = ""
    schema: Literal["fedlearn/study/v1"] = "fedlearn/study/v1"


@dataclass(frozen=True)
class Queue:
    """The studies of the coordinator whose programs write into the folder `state`."""

    state: Path

    def studies(self) -> list[QueuedStudy]:
        """All of them, by number.

        Raises:
            DataError: a file of the queue is none, or of another version.
        """
        return [_read(path) for path in sorted(self._folder.glob("[0-9]*.json"))]

    def add(self, words: Sequence[str], out: Path) -> QueuedStudy:
        """Put a study at the end of the queue.

        Raises:
            ConfigError: a study that is not over writes into the same folder.
        """
        with self._locked():
            there = self.studies()
            for one in there:
                if one.out == str(out) and one.state not in _OVER:
                    raise ConfigError(
                        f"out={out}: study {one.number} writes there, and is {one.state}; choose "
                        "another out, or `fedlearn queue stop` that one first"
                    )
            number = max((one.number for one in there), default=0) + 1
            made = QueuedStudy(number=number, words=tuple(words), out=str(out), since=_now())
            self._write(made)
            return made

    def stop(self, number: int) -> QueuedStudy:
        """Take a study off before its start; have one that is running end after its round.

        Raises:
            ConfigError: there is no such study, or it is over.
        """
        with self._locked():
            one = self._study(number)
            if one.state in _OVER:
                raise ConfigError(f"study {number}: is {one.state} already")
            running = one.state == "running"
            changed = replace(one, wish="stop") if running else _in_state(one, "aborted")
            self._write(changed)
            return changed

    def resume(self, number: int) -> QueuedStudy:
        """Put a study that was stopped, aborted or has failed back into the queue, at its place.

        Raises:
            ConfigError: there is no such study, or nothing of it is left to do.
        """
        with self._locked():
            one = self._study(number)
            if one.state not in _OVER or one.state == "finished":
                raise ConfigError(f"study {number}: is {one.state}, there is nothing to resume")
            changed = replace(_in_state(one, "queued"), tries=0)
            self._write(changed)
            return changed

    def begin_next(self) -> QueuedStudy | None:
        """The study that is served next, as running; None where none waits.

        One that was running when its coordinator ended comes first, whoever waits.
        """
        with self._locked():
            waiting = [one for one in self.studies() if one.state in ("running", "queued")]
            waiting.sort(key=lambda one: (one.state != "running", one.tries, one.number))
            if not waiting:
                return None
            begun = replace(_in_state(waiting[0], "running"), wish="")
            self._write(begun)
            return begun

    def end(self, number: int, state: State, reason: str = "", *, tries: int = 0) -> QueuedStudy:
        """Write down how a study that was running stands now."""
        with self._locked():
            one = self._study(number)
            changed = replace(_in_state(one, state, reason), wish="", tries=one.tries + tries)
            self._write(changed)
            return changed

    def wished(self, number: int) -> bool:
        """Whether somebody wants the running study to be stopped."""
        return self._study(number).wish == "stop"

    @property
    def _folder(self) -> Path:
        return self.state / "queue"

    def _study(self, number: int) -> QueuedStudy:
        path = self._path(number)
        if not path.is_file():
            raise ConfigError(f"study {number}: there is none; see `fedlearn queue show`")
        return _read(path)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.json"

    def _write(self, study: QueuedStudy) -> None:
        write_atomically(self._path(study.number), encode(study).encode(), PRIVATE)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)  # the mode is of the last alone
        self._folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, PRIVATE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _in_state(study: QueuedStudy, state: State, reason: str = "") -> QueuedStudy:
    return replace(study, state=state, since=_now(), reason=reason)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read(path: Path) -> QueuedStudy:
    try:
        return decode(QueuedStudy, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise DataError(f"{path}: is no study that this version reads ({error})") from None
