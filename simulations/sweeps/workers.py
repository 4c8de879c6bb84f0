"""Runs side by side: one process per run, as many at a time as the cores can carry.

On Linux a process is a fork of one in which everything is imported and the
records are loaded, so start-up is paid once. Forking copies no secrets worth
the name: noise, keys and samples are drawn from the operating system at every
draw, never from a state that two processes would share.

A run that fails, or whose process dies, costs the others nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Final, Literal

from flwr.clientapp import ClientApp

from clients.app import app as honest
from fedlearn.config import RunConfig, decode
from fedlearn.core.errors import FedlearnError, StoppedError
from fedlearn.report.page import write_report
from fedlearn.results.result import ResultFile, RoundResult
from fedlearn.training.device import take_turn
from server.federation import Federation
from server.stop import Stop, stop_on_interrupt
from simulations.engines.forks import forking
from simulations.run import simulate

POLL_SECONDS: Final = 0.5
LAST_SECONDS: Final = 20.0
"""How long a run that was told to stop at once may take to write what it has."""

Start = Literal["fork", "spawn", "here"]
"""How processes start; `here`: there are none, and this one does the work."""


def honest_sites() -> ClientApp:
    """The program that answers for all sites of a run, unless it is an attack."""
    return honest


@dataclass(frozen=True, kw_only=True)
class RunJob:
    """A run; `config` is JSON, so that it can travel to a process that shares nothing.

    `client` makes the program of its sites, in the process of the run.
    """

    name: str
    config: str
    only: str | None
    client: Callable[[], ClientApp] = honest_sites


@dataclass(frozen=True, kw_only=True)
class RoundDone:
    """A round of a run is on disk."""

    name: str
    round: int


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run is over; `exit_code` and `reason` as the command line would give them."""

    name: str
    exit_code: int
    reason: str | None = None
    cpu_seconds: float = 0.0
    """What it took of the cores, by all threads of its process."""


Event = RoundDone | Ended


def run_jobs(
    jobs: Sequence[RunJob],
    *,
    workers: int,
    start: Start,
    stop: Stop,
    tell: Callable[[Event | None], None],
) -> None:
    """Run all `jobs`, at most `workers` at a time; the main thread must call it.

    `tell` hears of every event, and of nothing (None) about twice a second.
    Once `stop` is set no run is started, and those that go on end after their
    round.

    Raises:
        KeyboardInterrupt: stopped at once; what was done is on disk.
    """
    if start == "here":
        _run_here(jobs, stop, tell)
        return
    waiting, staff = deque(jobs), _Workers(start)
    try:
        while staff.running or (waiting and not stop.after_round.is_set()):
            while waiting and len(staff.running) < workers and not stop.after_round.is_set():
                staff.start(waiting.popleft())
            if stop.after_round.is_set():
                staff.interrupt_once()
            for event in staff.events():
                tell(event)
            tell(None)
    except BaseException:
        staff.end()
        raise


def _run_here(jobs: Sequence[RunJob], stop: Stop, tell: Callable[[Event | None], None]) -> None:
    for job in jobs:
        if stop.after_round.is_set():
            return
        tell(_run(job, decode(RunConfig, job.config), tell, stop))


class _Workers:
    """The processes that run now."""

    def __init__(self, start: Start) -> None:
        self.kind = ForkProcess if start == "fork" else SpawnProcess
        self.running: dict[Connection, tuple[RunJob, BaseProcess]] = {}
        self.interrupted = False
        self._started = 0

    def start(self, job: RunJob) -> None:
        """Start a process for `job`."""
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = self.kind(target=_work, args=(job, theirs, self._started), daemon=True)
        self._started += 1
        with forking(), _alone():
            process.start()
        theirs.close()
        self.running[ours] = (job, process)

    def events(self) -> Iterator[Event]:
        """What has happened, after waiting a little for something to happen."""
        for ready in wait(list(self.running), POLL_SECONDS):
            assert isinstance(ready, Connection)  # noqa: S101  (`wait` returns what it was given)
            job, process = self.running[ready]
            try:
                event: Event = ready.recv()
            except EOFError:
                process.join()
                code = process.exitcode or 0
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                event = Ended(name=job.name, exit_code=1, reason=f"its process died ({how})")
            if isinstance(event, Ended):
                process.join()
                ready.close()
                del self.running[ready]
            yield event

    def interrupt_once(self) -> None:
        """Tell every run to end after its round."""
        if not self.interrupted:
            self._interrupt()
        self.interrupted = True

    def end(self) -> None:
        """Tell every run to end now; wait until all have."""
        if not self.interrupted:
            self._interrupt()
        self._interrupt()
        for _, process in self.running.values():
            process.join(LAST_SECONDS)
            process.terminate()
            process.join()

    def _interrupt(self) -> None:
        for _, process in self.running.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT)


@contextmanager
def _alone() -> Iterator[None]:
    """While a process is started: it does not run the caller's script again.

    A spawned one does, to find what it is sent; all that we send is ours. Nobody who calls
    us from a script has to write `if __name__ == "__main__"`.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


# --- in the new process ---------------------------------------------------------------


def _work(job: RunJob, connection: Connection, number: int) -> None:
    take_turn(number)
    # A group of its own: Ctrl-C in the terminal reaches the parent alone, who passes it on.
    os.setpgrp()
    _silence()
    config, stop = decode(RunConfig, job.config), Stop()
    with stop_on_interrupt(stop, lambda message: None):
        try:
            # One that came while this process started is raised here.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            ended = _run(job, config, connection.send, stop)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        except KeyboardInterrupt:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            ended = Ended(name=job.name, exit_code=StoppedError.exit_code, reason="stopped")
        connection.send(ended)


def _run(job: RunJob, config: RunConfig, tell: Callable[[Event], None], stop: Stop) -> Ended:
    began = time.process_time()
    ended = _outcome(job, config, tell, stop)
    return replace(ended, cpu_seconds=time.process_time() - began)


def _outcome(job: RunJob, config: RunConfig, tell: Callable[[Event], None], stop: Stop) -> Ended:
    try:
        simulate(config, _Sender(job.name, tell), stop, only=job.only, client=job.client())
    except FedlearnError as error:
        return Ended(name=job.name, exit_code=error.exit_code, reason=str(error))
    except Exception as error:  # noqa: BLE001  (a bug in one run must not end the others)
        log = Path(f"{config.out}.traceback.log")
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        reason = f"a bug in fedlearn: {type(error).__name__}: {error}; traceback in {log}"
        return Ended(name=job.name, exit_code=1, reason=reason)
    return Ended(name=job.name, exit_code=0)


def _silence() -> None:
    """Nothing that a library prints may tear the display of the parent."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)


@dataclass(frozen=True)
class _Sender:
    """A listener that tells who waits, and writes the run's report at its end."""

    name: str
    tell: Callable[[Event], None]

    def started(self, federation: Federation, first_round: int) -> None:
        """Say where the run begins."""
        self.tell(RoundDone(name=self.name, round=first_round - 1))

    def round_finished(self, entry: RoundResult) -> None:
        """Say how far it is."""
        self.tell(RoundDone(name=self.name, round=entry.round))

    def finished(self, result: ResultFile) -> None:
        """Write the report."""
        write_report(Path(str(result.config["out"])))
