"""Owners who have not decided yet whether their site takes part, or have paused it: waited for.

The coordinator hears that a site awaits its owner, and nothing else. It asks these sites again,
less and less often, until they take part or have refused, or the time for this is over; what it
waits for each site is added up over the run, so that nobody holds up the others without end. What
follows then is as with sites that are not there: a run starts without them, or a round is made
without them, where enough are left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fedlearn.core.errors import StoppedError, counted, some
from fedlearn.core.logs import EVENTS
from fedlearn.flower.grid import Replies
from fedlearn.rounds import ByOwner, Refusal
from server.waiting import EVERY_SECONDS, Tell, nobody

SOONEST_SECONDS: Final = 0.5
LATEST_SECONDS: Final = 10.0
"""Between two questions to the same site."""

IN_WORDS: Final[Mapping[ByOwner, str]] = {
    "undecided": "awaiting its owner's approval",
    "paused": "paused by its owner",
}

Ask = Callable[[Sequence[str]], Replies]
"""Asks sites once more."""


@dataclass
class OwnersWait:
    """For owners, `seconds` for each site over a whole run; none where that is zero.

    `waited` is how long each was waited for so far.
    """

    seconds: float = 0.0
    tell: Tell = nobody
    stopping: Callable[[], bool] = lambda: False
    waited: dict[str, float] = field(default_factory=dict)
    _shown: tuple[tuple[str, ...], int] | None = None

    def settled(self, replies: Replies, ask: Ask, number: int = 0) -> Replies:
        """The replies once nobody is waited for any more; `number` is that of the round, if any.

        Raises:
            StoppedError: the user wants the run to end.
        """
        pause, held, began = SOONEST_SECONDS, False, time.monotonic()
        while awaited := self._awaited(replies.refusals):
            held = True
            self._say(awaited, time.monotonic() - began)
            self._sleep(min(pause, min(self._left(site) for site in awaited)), awaited)
            pause = min(LATEST_SECONDS, pause * 1.3)
            replies = _with(replies, ask(list(awaited)), awaited)
        if held:
            late = [one.site for one in replies.refusals if one.awaits_owner]
            self._end(late, number)
        return replies

    def _awaited(self, refusals: Sequence[Refusal]) -> dict[str, str]:
        """Sites whose owners are waited for, with what for."""
        return {
            one.site: IN_WORDS[one.by_owner]
            for one in refusals
            if one.awaits_owner and self._left(one.site) > 0
        }

    def _left(self, site: str) -> float:
        return self.seconds - self.waited.get(site, 0.0)

    def _sleep(self, seconds: float, sites: Mapping[str, str]) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.stopping():
                raise StoppedError("stopped while waiting for the owners of sites")
            time.sleep(min(left, 0.2))
        for site in sites:
            self.waited[site] = self.waited.get(site, 0.0) + seconds

    def _say(self, awaited: Mapping[str, str], passed: float) -> None:
        """At once, when it changes, and every minute."""
        now = tuple(awaited), int(passed // EVERY_SECONDS)
        if now == self._shown:
            return
        self._shown, left = now, round(max(self._left(site) for site in awaited))
        fields = {"for": list(awaited), "why": dict(awaited), "seconds_left": left}
        EVENTS.info("waiting", extra={"fields": fields})
        names = some([f"{site} ({why})" for site, why in awaited.items()])
        self.tell(f"waiting for {names}, {counted(left, 'second')} at most")

    def _end(self, late: Sequence[str], number: int) -> None:
        self._shown = None
        EVENTS.info("decided", extra={"fields": {"round": number, "without": list(late)}})
        if late:
            self.tell(
                f"waits for the owners of {some(late)} no more; who takes part later is in the "
                "next round, or the next start"
            )


def _with(before: Replies, more: Replies, asked: Mapping[str, str]) -> Replies:
    """The replies with the new ones of those that were asked again, by name."""
    kept = [one for one in before.refusals if one.site not in asked]
    return Replies(
        answers=dict(sorted({**before.answers, **more.answers}.items())),
        refusals=sorted([*kept, *more.refusals], key=lambda one: one.site),
        failures=dict(sorted({**before.failures, **more.failures}.items())),
    )
