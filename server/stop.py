"""How a user stops a run: after the round that is going on, or at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from fedlearn.core.interrupt import Interrupt


@dataclass(frozen=True)
class Stop:
    """Two wishes, each set once.

    A round that is cut off was paid for and gave nothing; so while one is going on
    the first wish lets it end, and only the second cuts it off. At any other time,
    as while records are read, nothing is lost by stopping at once.
    """

    after_round: threading.Event = field(default_factory=threading.Event)
    now: threading.Event = field(default_factory=threading.Event)
    in_round: threading.Event = field(default_factory=threading.Event)
    """Not a wish: whether something is going on that should end first."""

    @contextmanager
    def ending_first(self) -> Iterator[None]:
        """What is done while this lasts is let end."""
        self.in_round.set()
        try:
            yield
        finally:
            self.in_round.clear()


@contextmanager
def stop_on_interrupt(stop: Stop, tell: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, Ctrl-C stops after the round that is going on, and a second one at once.

    Only for the main thread: signals arrive nowhere else.
    """

    def interrupted(number: int, frame: FrameType | None) -> None:
        at_once = stop.after_round.is_set() or not stop.in_round.is_set()
        stop.after_round.set()
        if at_once:
            stop.now.set()
            raise Interrupt
        tell("stopping after this round; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
