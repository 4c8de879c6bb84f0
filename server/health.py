"""A line for every site: whether it is there, and since when not."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx

from server.folder import write_atomically
from server.superlink import NodeState

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class SiteHealth:
    """`state` is online, offline, or never seen; `since` when that was noticed (ISO, UTC)."""

    site: str
    state: str
    since: str


def health(
    nodes: Sequence[NodeState],
    names: Mapping[int, str],
    before: Sequence[SiteHealth],
    now: datetime,
) -> list[SiteHealth]:
    """The sites by name; who is as before keeps its time."""
    known = {one.site: one for one in before}
    stamp = now.isoformat(timespec="seconds")
    found = []
    for node in nodes:
        if node.node_id not in names:
            continue
        state = {"registered": "never seen", "online": "online"}.get(node.status, "offline")
        fresh = SiteHealth(site=names[node.node_id], state=state, since=stamp)
        old = known.get(fresh.site)
        found.append(old if old and old.state == state else fresh)
    return sorted(found, key=lambda one: one.site)


class Watch:
    """Looks at all sites every few seconds; writes `health.json` and logs what changes."""

    def __init__(
        self, look: Callable[[], list[NodeState]], names: Mapping[int, str], path: Path
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

    def _watch(self) -> None:
        while True:
            try:
                self._update()
            except (httpx.HTTPError, OSError) as error:
                log.warning("no_health", extra={"fields": {"reason": str(error)}})
            if self._ended.wait(LOOK_SECONDS):
                return

    def _update(self) -> None:
        found = health(self._look(), self._names, self._last, datetime.now(UTC))
        for one in found:
            if one not in self._last:
                log.info("site", extra={"fields": asdict(one)})
        if found != self._last:
            text = json.dumps([asdict(one) for one in found], indent=2)
            write_atomically(self._path, text.encode())
        self._last = found
