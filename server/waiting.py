"""Whom a run waits for: said at once, when it changes, and every minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from fedlearn.core.errors import ProtocolError, counted, some
from fedlearn.core.logs import EVENTS

EVERY_SECONDS: Final = 60.0
"""How often it is said again."""

SOON_SECONDS: Final = 3.0
"""Who comes within so many has not been waited for."""

Tell = Callable[[str], None]
"""Shows a sentence to whoever has started the run."""


def nobody(sentence: str) -> None:
    """Shows nothing: the log has it."""


@dataclass
class Waiting:
    """For sites, of which `least` suffice once `seconds` are over."""

    least: int
    seconds: float
    tell: Tell = nobody
    began: float = field(default_factory=time.monotonic)
    _shown: tuple[tuple[str, ...], int, int] | None = None

    @property
    def left(self) -> float:
        """Seconds until it ends; below zero afterwards."""
        return self.began + self.seconds - time.monotonic()

    def look(self, there: int, missing: Sequence[str]) -> None:
        """Say that `there` sites are there, and who is missing, unless it was said just now."""
        passed = self.seconds - self.left
        now = tuple(missing), there, int(passed // EVERY_SECONDS)
        if now == self._shown or passed < SOON_SECONDS:
            return
        self._shown, left = now, max(0, round(self.left))
        fields = {"for": list(missing), "there": there, "least": self.least, "seconds_left": left}
        EVENTS.info("waiting", extra={"fields": fields})
        self.tell(
            f"waiting for {_named(missing)}, {counted(left, 'second')} at most: "
            f"{counted(there, 'site is', 'sites are')} there, and "
            f"{self.least} {'suffices' if self.least == 1 else 'suffice'} then"
        )

    def without(self, missing: Sequence[str]) -> None:
        """Say that the run goes on without sites that did not come, and waits for them no more."""
        if missing:
            fields = {"sites": list(missing), "seconds": round(self.seconds)}
            EVENTS.warning("absent", extra={"fields": fields})
            self.tell(
                f"goes on without {_named(missing)}, waited for {self.seconds:g} seconds; who "
                "comes back takes part from the next start on, and is not waited for before"
            )

    def over(self, there: int, missing: Sequence[str]) -> ProtocolError:
        """The end, with too few."""
        return ProtocolError(
            "",
            "hello",
            f"{there} of at least {counted(self.least, 'site')} connected; waited "
            f"{self.seconds:g} seconds "
            f"for {_named(missing)}",
        )


def _named(missing: Sequence[str]) -> str:
    return some(missing) if missing else "sites"
