"""How a user stops a run: after the round that is going on, or at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType


@dataclass(frozen=True)
class Stop:
    """Two wishes, each set once.

    A round that is cut off was paid for and gave nothing; so the first wish
    lets it end, and only the second cuts it off.
    """

    after_round: threading.Event = field(default_factory=threading.Event)
    now: threading.Event = field(default_factory=threading.Event)


@contextmanager
def stop_on_interrupt(stop: Stop, tell: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, Ctrl-C stops after the round, and a second Ctrl-C at once.

    Only for the main thread: signals arrive nowhere else.
    """

    def interrupted(number: int, frame: FrameType | None) -> None:
        if stop.after_round.is_set():
            stop.now.set()
            raise KeyboardInterrupt
        stop.after_round.set()
        tell("stopping after this round; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
