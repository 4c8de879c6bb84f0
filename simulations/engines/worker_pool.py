"""Processes that answer messages beside this one: forks of it, so everything is loaded already.

A worker keeps its model and its records between messages. What a site must
remember travels with the message and comes back with the answer, so any worker
can answer for any site, and the answers do not depend on which one did. A
content that many messages share, as a round's model, goes to each worker once.

Forking copies no secrets worth the name: noise, keys and samples are drawn from
the operating system at every draw, never from a state that two processes share.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Final

from flwr.app import Message, RecordDict

from fedlearn.flower.private import with_content
from fedlearn.training.device import take_turn
from simulations.engines.forks import forking

LAST_SECONDS: Final = 2.0
"""How long a worker may take to end by itself."""

Answer = Callable[[Message, RecordDict], tuple[Message, RecordDict]]
"""(message, what the site remembers) to (reply, what it remembers now)."""


@dataclass(frozen=True)
class Job:
    """A message to answer; larger `work` is begun earlier."""

    message: Message
    state: RecordDict
    work: float = 0.0


@dataclass(frozen=True)
class Done:
    """A reply, and what the site remembers from now on; None: as before."""

    reply: Message
    state: RecordDict | None


@dataclass(frozen=True)
class Died:
    """The worker that had the message ended without an answer."""

    reason: str


Outcome = Done | Died


@dataclass(frozen=True)
class _Order:
    """A task on its way to a worker. `content` is None where the worker has it already."""

    envelope: Message
    content: RecordDict | None
    state: RecordDict


class _Worker:
    """One process, this end of its connection, and what it is doing."""

    def __init__(self, answer: Answer, before: Sequence[_Worker]) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        inherited = [worker.connection for worker in before] + [self.connection]
        given = (answer, theirs, inherited, len(before))
        self.process = ForkProcess(target=_work, args=given, daemon=True)
        with forking():
            self.process.start()
        theirs.close()
        self.place: int | None = None
        self._has: RecordDict | None = None

    def give(self, place: int, task: Job, empty: RecordDict) -> None:
        """Send a task; OSError if the worker has died."""
        content = task.message.content
        new = None if content is self._has else content
        # The content is kept here as well, so that its identity cannot be another's.
        self.place, self._has = place, content
        envelope = with_content(task.message, empty)
        self.connection.send(_Order(envelope, new, task.state))

    def take(self) -> Outcome:
        """The outcome that is ready."""
        try:
            done: Outcome = self.connection.recv()
        except (EOFError, OSError):
            done = Died(self.ended())
        self.place = None
        return done

    def ended(self) -> str:
        """How the process died, in words."""
        self.process.join(LAST_SECONDS)
        code = self.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the worker process died ({how})"

    def end(self) -> None:
        """End the process; one that waits for a task ends by itself, another is cut off."""
        if self.place is None:
            with suppress(OSError):
                self.connection.send(None)
            self.process.join(LAST_SECONDS)
        self.connection.close()
        if self.process.is_alive():
            self.process.terminate()
        self.process.join()


class WorkerPool:
    """Workers for `answer`: none until `fork`, and `close` ends them.

    Guarantees: outcomes come in the order of the tasks; a worker that dies costs
    the task that it had, and the others go on.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._workers: list[_Worker] = []
        self.forked = False
        """Whether there have been workers, and they may have died."""

    def __len__(self) -> int:
        """How many workers are alive."""
        return len(self._workers)

    def fork(self, size: int) -> None:
        """Start `size` workers, which know what this process knows now."""
        self.forked = True
        for _ in range(size):
            self._workers.append(_Worker(self._answer, self._workers))

    def outcomes(self, tasks: Sequence[Job]) -> list[Outcome | None]:
        """What became of every task; None for those that nobody was left to do."""
        # The longest first, or the last one to be begun keeps all others waiting.
        order = deque(sorted(range(len(tasks)), key=lambda i: -tasks[i].work))
        found: list[Outcome | None] = [None] * len(tasks)
        while self._workers and (order or any(w.place is not None for w in self._workers)):
            for worker in [w for w in self._workers if w.place is None]:
                if order:
                    place = order.popleft()
                    if not self._given(worker, place, tasks[place]):
                        order.appendleft(place)
            for place, outcome in self._ready():
                found[place] = outcome
        return found

    def _given(self, worker: _Worker, place: int, task: Job) -> bool:
        try:
            worker.give(place, task, RecordDict())
        except OSError:  # it died while it had nothing to do
            self._bury(worker)
            return False
        return True

    def _ready(self) -> Iterator[tuple[int, Outcome]]:
        busy = {w.connection: w for w in self._workers if w.place is not None}
        for connection in wait(list(busy)) if busy else []:
            worker = busy[connection]  # type: ignore[index]
            place = worker.place
            outcome = worker.take()
            if isinstance(outcome, Died):
                self._bury(worker)
            if place is not None:
                yield place, outcome

    def _bury(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.end()

    def close(self) -> None:
        """End all workers; one that is at work is cut off."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()


# --- in the new process ---------------------------------------------------------------


def _work(
    answer: Answer, connection: Connection, inherited: Sequence[Connection], number: int
) -> None:
    take_turn(number)
    # Ctrl-C in a terminal reaches every process; the first one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    for other in inherited:  # or no worker would notice that the first process has gone
        other.close()
    content = RecordDict()
    try:
        while (order := connection.recv()) is not None:
            content = content if order.content is None else order.content
            reply, state = answer(with_content(order.envelope, content), order.state)
            connection.send(Done(reply, state if state or order.state else None))
    except (EOFError, OSError):
        pass
    finally:
        # Not the way of `sys.exit`: what the first process has not yet written is not ours.
        os._exit(0)
