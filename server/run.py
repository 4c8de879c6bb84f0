"""One run from its config to its folder: whatever happens, what was done is on disk and true."""

from __future__ import annotations

import datetime
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from flwr.serverapp import Grid

from fedlearn.config import RunConfig
from fedlearn.core.errors import (
    FedlearnError,
    PrivacyError,
    ProtocolError,
    StoppedError,
    UnauthenticatedError,
)
from fedlearn.flower import private
from fedlearn.results.folder import Checkpoint, RunFolder
from fedlearn.results.result import ResultFile, RoundResult
from server.admission import SIMULATED, Admission
from server.average import RunningMean
from server.enrol import enrol, join, plan_for
from server.federation import Federation, Progress
from server.reporter import Clock, Reporter
from server.stop import Stop
from server.tracking import check_tracking, tracked


class Listener(Protocol):
    """Who is told how a run goes on, for example a progress display."""

    def started(self, federation: Federation, first_round: int) -> None:
        """All sites are enrolled; rounds follow."""

    def round_finished(self, entry: RoundResult) -> None:
        """A round is done and on disk."""

    def finished(self, result: ResultFile) -> None:
        """All rounds are done and on disk."""


class Silent:
    """A listener that shows nothing."""

    def started(self, federation: Federation, first_round: int) -> None:
        """Nothing."""

    def round_finished(self, entry: RoundResult) -> None:
        """Nothing."""

    def finished(self, result: ResultFile) -> None:
        """Nothing."""


def run(
    grid: Grid,
    config: RunConfig,
    listener: Listener,
    stop: Stop,
    admission: Admission = SIMULATED,
) -> ResultFile:
    """Train as `config` says over `grid`; the final contents of `result.json`.

    Raises:
        FedlearnError: the run could not start or not finish; what was trained
            before that is kept, with the reason in `result.json`.
        StoppedError: the user stopped the run; what was trained is kept.
    """
    folder = RunFolder(Path(config.out))
    folder.check(config)
    check_tracking(config)
    config.strategy.prepare()
    enrolment = enrol(grid, config, stop.now.is_set, admission)
    plan = plan_for(config, enrolment)
    saved = folder.read_checkpoint() or Checkpoint.fresh(
        run_id=secrets.token_hex(16),
        started_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=enrolment.initial,
    )
    summing = join(enrolment, config, plan, bytes.fromhex(saved.run_id), admission.identity)
    progress = Progress(
        list(saved.rounds), saved.model, dict(saved.spent), clip_norm=saved.clip_norm,
        mean=_mean(config, saved), algorithm=saved.strategy,
        counted=dict(saved.counted),
    )  # fmt: skip
    federation = Federation(config, plan, enrolment, progress, saved.run_id, summing)
    with tracked(config, saved.run_id, listener) as reported:
        # Nothing is written until everything that can be refused has been asked.
        folder.create(config)
        if not saved.rounds:
            # Before a round is paid for: whoever goes on after the first one was cut off goes on
            # with this run, whose promise the sites' ledgers hold.
            folder.write_checkpoint(saved)
        folder.trim_metrics(len(saved.rounds))
        with logged(folder.path / "run.log"):
            return _train(folder, federation, saved, reported, stop)


@contextmanager
def telling_what_is_kept(config: RunConfig, way: str) -> Iterator[None]:
    """Where the protocol could not finish, add to the error from where `way` goes on."""
    try:
        yield
    except (ProtocolError, UnauthenticatedError) as error:
        folder = RunFolder(Path(config.out))
        if folder.holds_run():
            saved = folder.read_checkpoint()
            kept = len(saved.rounds) if saved else 0
            error.add_note(f"{kept} of {config.rounds} rounds are kept; {way} goes on from there")
        raise


def _mean(config: RunConfig, saved: Checkpoint) -> RunningMean | None:
    """The running mean of the models as a run left it; a new one before its first round."""
    decay, count = config.training.average, len(saved.rounds)
    if not decay:
        return None
    total = np.zeros(saved.model.size) if saved.mean is None else saved.mean
    return RunningMean(decay, total, count)


def _train(
    folder: RunFolder, federation: Federation, saved: Checkpoint, listener: Listener, stop: Stop
) -> ResultFile:
    config = federation.config
    report = Reporter(folder, federation, saved, Clock(saved.seconds, time.monotonic()))
    listener.started(federation, first_round=len(saved.rounds) + 1)
    try:
        for number in range(len(saved.rounds) + 1, config.rounds + 1):
            with stop.ending_first():
                entry = federation.run_round(number)
                report.after_round(entry)
                listener.round_finished(entry)
            if stop.after_round.is_set() and number < config.rounds:
                raise StoppedError(f"stopped after round {number}; resume=true continues")
    except (KeyboardInterrupt, StoppedError):
        report.end("interrupted", "stopped by the user; resume=true continues")
        raise
    except PrivacyError as error:
        report.end("stopped_budget", str(error))
        raise
    except FedlearnError as error:
        report.end("failed", str(error))
        raise
    result = report.end("finished")
    listener.finished(result)
    return result


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Send our log and Flower's to `path` while the run lasts."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("fedlearn", "server", "clients", "simulations")]
    levels = [logger.level for logger in loggers]
    undo = private.redirect_log(handler)
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = True
        undo()
        handler.close()
