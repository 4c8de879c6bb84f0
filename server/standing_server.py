"""`fedlearn server --queue`: a coordinator that stays, and serves one study after another.

Sites stay connected between studies, and may come and go. A roster that has changed counts from
the next study on. No study ends the others: one that fails, by whatever, is written down with its
reason, one that an outage ends (a full disk as well) is tried again after those that wait. What a
study ended would be served first when the coordinator is started anew, and end it again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fedlearn.config import RunConfig
from fedlearn.core.errors import (
    ConfigError,
    FedlearnError,
    ProtocolError,
    StoppedError,
    UnauthenticatedError,
    refuse,
)
from fedlearn.core.logs import EVENTS
from server import serverfile
from server.deployment import (
    Connected,
    carried_on,
    check,
    composed,
    connected,
    deployed,
    finished,
    run_problems,
)
from server.outages import Outages, telling_the_end
from server.queue import Queue, QueuedStudy, State
from server.run import Silent
from server.serverfile import Participants, ServerFile
from server.spending import SpendingWatch
from server.standing import telling_how_it_ended
from server.stop import Stop
from server.waiting import Tell

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 2.0
"""Between two looks at the queue."""

MOST_TRIES: Final = 3
"""How often a study is tried that an outage ends."""


@dataclass(frozen=True)
class StandingServer:
    """A coordinator and its queue; `tell` is shown what happens to studies."""

    file: ServerFile
    queue: Queue
    stop: Stop
    tell: Tell
    _outages: dict[int, Outages] = field(default_factory=dict)
    """Of studies that are not over: how often they were cut off, and who is gone."""

    def serve(self) -> None:
        """Serve studies until the user stops it; a study that is running is then resumed next time.

        Raises:
            ConfigError: the coordinator's own files are not in order.
            StoppedError: the user has stopped it.
        """
        while True:
            parties = serverfile.federation(self.file, datetime.now(UTC))
            with connected(self.file, parties) as there:
                EVENTS.info("serving", extra={"fields": {"sites": len(there.nodes)}})
                while there.link.ready() and self._is_current(parties):
                    self._serve_next(there)
            EVENTS.warning("restarted", extra={"fields": {"program": "superlink"}})

    def _is_current(self, parties: Participants) -> bool:
        """Whether who takes part is still as it was; what cannot be read yet changes nothing."""
        try:
            now = serverfile.federation(self.file, datetime.now(UTC))
        except FedlearnError:
            return True
        return (now.roster, now.certificates) == (parties.roster, parties.certificates)

    def _serve_next(self, there: Connected) -> None:
        study = self.queue.begin_next()
        if study is None:
            if self.stop.after_round.wait(LOOK_SECONDS):
                raise StoppedError("stopped; no study was running")
            return
        self.tell(f"study {study.number} begins: {study.out}")
        with _wishes(self.queue, study, self.stop):
            self._carry_out(there, study)

    def _carry_out(self, there: Connected, study: QueuedStudy) -> None:
        """One study until it is over, or the link is lost: then it is still running."""
        number = study.number
        try:
            with telling_the_end():
                config = config_of(study)
                if not finished(config):
                    check(self.file, config, datetime.now(UTC))
                    if not self._went_through(there, config, number):
                        return
            self._over(number, "finished", "")
        except StoppedError as error:
            if not self.queue.wished(number):
                raise
            self._over(number, "stopped", str(error))
            self.stop.after_round.clear()
            self.stop.now.clear()
        except (ProtocolError, UnauthenticatedError, OSError) as error:
            if study.tries + 1 < MOST_TRIES:
                self.queue.end(number, "queued", str(error), tries=1)
                self.tell(f"study {number} is tried again after those that wait: {error}")
                return
            self._over(number, "failed", str(error))
        except FedlearnError as error:
            self._over(number, "failed", str(error))
        except Exception as error:  # somebody's own code in one study, or a fault of ours
            log.exception("study %d", number)
            self._over(number, "failed", f"{type(error).__name__}: {error}")

    def _went_through(self, there: Connected, config: RunConfig, number: int) -> bool:
        """Whether the run was carried out to its end; not, where the link was lost."""
        fresh = Outages(SpendingWatch(Silent()), self.tell)
        outages = self._outages.setdefault(number, fresh)
        with telling_how_it_ended(config):
            while there.link.ready():
                if carried_on(there, self.file, config, outages, self.stop):
                    return True
        return False

    def _over(self, number: int, state: State, reason: str) -> None:
        self._outages.pop(number, None)
        study = self.queue.end(number, state, reason)
        fields = {"study": number, "state": study.state, "out": study.out, "reason": reason}
        EVENTS.info("study", extra={"fields": fields})
        self.tell(f"study {number} is {study.state}{f': {reason}' if reason else ''}")


def put_into(queue: Queue, words: Sequence[str], folder: Path) -> QueuedStudy:
    """Put the run of these words, whose paths are as seen from `folder`, at the end of a queue.

    Raises:
        ConfigError: with every problem of the run by itself.
    """
    config = deployed(composed(words), folder)
    refuse(run_problems(config), ConfigError)
    return queue.add([word for word in words if not word.startswith("out=")], Path(config.out))


def config_of(study: QueuedStudy) -> RunConfig:
    """The run of a study, going on with what is in its folder.

    Raises:
        ConfigError: with every problem.
    """
    return deployed(composed([*study.words, f"out={study.out}"]), Path.cwd())


@contextmanager
def _wishes(queue: Queue, study: QueuedStudy, stop: Stop) -> Iterator[None]:
    """While this lasts, a study is ended where somebody wishes it: its round first, and at once
    where none is going on."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            try:
                wished = queue.wished(study.number)
            except FedlearnError:
                continue  # the file was taken away: nobody's wish
            if wished:
                stop.after_round.set()
                if _is_idle(stop, over):
                    stop.now.set()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _is_idle(stop: Stop, over: threading.Event) -> bool:
    """Whether no round is going on; between two of them that looks so for an instant."""
    if stop.in_round.is_set() or over.wait(LOOK_SECONDS):
        return False
    return not stop.in_round.is_set()
