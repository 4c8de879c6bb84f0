"""Whether the sites are there: a line for each in `health.json`, as long as a server looks.

Whether it is there, since when, and as of when that is known. A server that ends says there that
it looks no longer; of one that was killed the time of its last look tells.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fedlearn.core.errors import ProtocolError
from fedlearn.core.files import write_atomically
from fedlearn.core.logs import EVENTS

LOOK_SECONDS: Final = 5.0
"""Between two looks at whether the sites are there."""


@dataclass(frozen=True, kw_only=True)
class SiteHealth:
    """`state` is online, offline, never seen, or not watched; times are ISO, UTC.

    `since` is when that was noticed, `as_of` when somebody looked for the last time.
    """

    site: str
    state: str
    since: str
    as_of: str


def health(
    nodes: Mapping[int, str],
    names: Mapping[int, str],
    before: Sequence[SiteHealth],
    now: datetime,
) -> list[SiteHealth]:
    """The sites by name, as of `now`; who is as before keeps its time.

    `nodes` is what the SuperLink says of each node, `names` the sites that nodes are of.
    """
    known = {one.site: one for one in before}
    stamp = now.isoformat(timespec="seconds")
    found = []
    for node in nodes.keys() & names.keys():
        state = {"registered": "never seen", "online": "online"}.get(nodes[node], "offline")
        site = names[node]
        old = known.get(site)
        since = old.since if old is not None and old.state == state else stamp
        found.append(SiteHealth(site=site, state=state, since=since, as_of=stamp))
    return sorted(found, key=lambda one: one.site)


def stopped(last: Sequence[SiteHealth], now: datetime) -> list[SiteHealth]:
    """What is known of the sites from `now` on, when nobody looks any more."""
    stamp = now.isoformat(timespec="seconds")
    return [replace(one, state="not watched", since=stamp) for one in last]


class Watch:
    """Looks at all sites every few seconds and writes `health.json`; logs what changes."""

    def __init__(
        self, look: Callable[[], Mapping[int, str]], names: Mapping[int, str], path: Path
    ) -> None:
        self._look, self._names, self._path = look, names, path
        self._ended = threading.Event()
        self._last: list[SiteHealth] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._write(stopped(self._last, datetime.now(UTC)))
        except OSError as error:
            _cannot_tell(error)

    def _watch(self) -> None:
        while True:
            try:
                self._update()
            except (ProtocolError, OSError) as error:
                _cannot_tell(error)
            if self._ended.wait(LOOK_SECONDS):
                return

    def _update(self) -> None:
        before = {(one.site, one.state) for one in self._last}
        self._last = health(self._look(), self._names, self._last, datetime.now(UTC))
        for one in self._last:
            if (one.site, one.state) not in before:
                EVENTS.info("site", extra={"fields": asdict(one)})
        self._write(self._last)

    def _write(self, found: Sequence[SiteHealth]) -> None:
        text = json.dumps([asdict(one) for one in found], indent=2)
        write_atomically(self._path, text.encode())


def _cannot_tell(error: Exception) -> None:
    EVENTS.warning("no_health", extra={"fields": {"reason": str(error)}})
