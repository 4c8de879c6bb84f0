"""Whether two processes ask under one key: as after a site's folder was copied, and both started.

They take each other's messages, and each has a ledger of its own. A process names itself by a
number that it has drawn at its start. One that is started anew has another number from then on; a
number that comes back after another has spoken is of a process that was there all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from fedlearn.flower.envelope import PROCESS_HEADER

AGAIN_SECONDS: Final = 60.0
"""How often it is said again, and for how long a site is told of it after the last sign."""

_RETURNS: Final = 2
"""So often must a number come back: the last word of a process that ended may be on its way."""

_MOST: Final = 4
"""Numbers of one site that are remembered."""


class Copies:
    """Looks who asks; `tell` is called with the name of a site that asks from two processes."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._spoken: dict[str, list[bytes]] = {}
        """By site the numbers that have spoken, the last one at the end."""
        self._returns: dict[str, int] = {}
        self._noticed: dict[str, datetime] = {}

    def look(self, site: str, headers: Mapping[bytes, bytes], now: datetime) -> bool:
        """Whether two processes have asked lately, of which this request is one's."""
        number = headers.get(PROCESS_HEADER.encode())
        if number is not None and len(number) <= 64:
            spoken = self._spoken.setdefault(site, [])
            if number in spoken[:-1]:
                self._returned(site, now)
            elif number not in spoken:
                self._returns[site] = 0
            if number not in spoken[-1:]:
                spoken[:] = [*(one for one in spoken if one != number), number][-_MOST:]
        noticed = self._noticed.get(site)
        return noticed is not None and (now - noticed).total_seconds() < AGAIN_SECONDS

    def _returned(self, site: str, now: datetime) -> None:
        self._returns[site] = self._returns.get(site, 0) + 1
        if self._returns[site] < _RETURNS:
            return
        last = self._noticed.get(site)
        if last is None or (now - last).total_seconds() >= AGAIN_SECONDS:
            self._noticed[site] = now
            self._returns[site] = 0
            self._tell(site)
