"""One run from its config to its folder: whatever happens, what was done is on disk and true."""

from __future__ import annotations

import datetime
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from flwr.serverapp import Grid

from fedlearn import flower_private
from fedlearn.calibration import calibration
from fedlearn.config import RunConfig, to_tree
from fedlearn.errors import FedlearnError, PrivacyError, StoppedError
from fedlearn.metrics import metrics
from fedlearn.models.slots import trained
from fedlearn.rng import Streams
from fedlearn.vector import Vector, vector_digest
from server.admission import SIMULATED, Admission
from server.audit import append_seen
from server.average import RunningMean
from server.enrol import Enrolment, enrol, join, plan_for
from server.fairness import fairness_result
from server.federation import Federation, Progress
from server.folder import Checkpoint, RunFolder
from server.released import beside_the_model, record_of
from server.result import (
    DataFacts,
    FinalResult,
    ModelFacts,
    PrivacyResult,
    Protection,
    Result,
    RoundResult,
    SiteSize,
    Status,
    this_environment,
)
from server.spending import privacy_result
from server.stop import Stop
from server.strategies import restore_strategy, strategy_state
from server.tracking import check_tracking, tracked

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told how a run goes on, for example a progress display."""

    def started(self, federation: Federation, first_round: int) -> None:
        """All sites are enrolled; rounds follow."""

    def round_finished(self, entry: RoundResult) -> None:
        """A round is done and on disk."""

    def finished(self, result: Result) -> None:
        """All rounds are done and on disk."""


class Silent:
    """A listener that shows nothing."""

    def started(self, federation: Federation, first_round: int) -> None:
        """Nothing."""

    def round_finished(self, entry: RoundResult) -> None:
        """Nothing."""

    def finished(self, result: Result) -> None:
        """Nothing."""


@dataclass
class _Clock:
    """Seconds of the run over all its parts."""

    before: float
    since: float

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.since


def run(
    grid: Grid,
    config: RunConfig,
    listener: Listener,
    stop: Stop,
    admission: Admission = SIMULATED,
) -> Result:
    """Train as `config` says over `grid`; the final contents of `result.json`.

    Raises:
        FedlearnError: the run could not start or not finish; what was trained
            before that is kept, with the reason in `result.json`.
        StoppedError: the user stopped the run; what was trained is kept.
    """
    folder = RunFolder(Path(config.out))
    folder.check(config)
    check_tracking(config)
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
        mean=_mean(config, saved),
    )  # fmt: skip
    federation = Federation(config, plan, enrolment, progress, saved.run_id, summing)
    restore_strategy(federation.strategy, saved.strategy)
    with tracked(config, saved.run_id, listener) as told:
        # Nothing is written until everything that can be refused has been asked.
        folder.create(config)
        folder.trim_metrics(len(saved.rounds))
        with logged(folder.path / "run.log"):
            return _train(folder, federation, saved, told, stop)


def _mean(config: RunConfig, saved: Checkpoint) -> RunningMean | None:
    """The running mean of the models as a run left it; a new one before its first round."""
    decay, count = config.training.average, len(saved.rounds)
    if not decay:
        return None
    total = np.zeros(saved.model.size) if saved.mean is None else saved.mean
    return RunningMean(decay, total, count)


def _train(
    folder: RunFolder, federation: Federation, saved: Checkpoint, listener: Listener, stop: Stop
) -> Result:
    config = federation.config
    report = _Reporter(folder, federation, saved, _Clock(saved.seconds, time.monotonic()))
    listener.started(federation, first_round=len(saved.rounds) + 1)
    try:
        for number in range(len(saved.rounds) + 1, config.rounds + 1):
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


@dataclass
class _Reporter:
    """Turns the state of a federation into files."""

    folder: RunFolder
    federation: Federation
    saved: Checkpoint
    clock: _Clock
    model: Vector = field(init=False)
    """What the folder holds: a round that trains and then fails to evaluate leaves no model."""

    def __post_init__(self) -> None:
        self.model = self._trained()

    def _trained(self) -> Vector:
        return trained(self.federation.enrolment.layout, self.federation.progress.shown)

    def after_round(self, entry: RoundResult) -> None:
        """Write everything; the checkpoint last, so that it never runs ahead."""
        log.info("round %d %s", entry.round, entry.evaluate)
        progress = self.federation.progress
        self.folder.append_metrics(entry)
        self.model = self._trained()
        self.folder.write_model(self.model, self.federation.enrolment.trainable)
        if progress.seen:
            append_seen(self.folder.path, progress.seen)
        # True if nothing follows, as after a power cut.
        unfinished = "not finished yet; if nothing is running, resume=true continues"
        self.folder.write_result(self._result("interrupted", unfinished))
        self.folder.write_checkpoint(
            replace(
                self.saved,
                seconds=self.clock.seconds(),
                rounds=list(progress.rounds),
                model=progress.model,
                strategy=strategy_state(self.federation.strategy),
                spent=dict(progress.spent),
                clip_norm=progress.clip_norm,
                mean=progress.mean.total if progress.mean else None,
            )
        )

    def end(self, status: Status, reason: str | None = None) -> Result:
        """Write the last `result.json` of this process."""
        log.info("%s %s", status, reason or "")
        config, progress = self.federation.config, self.federation.progress
        rng = Streams(config.seed).get("bootstrap", "calibration")
        result = replace(
            self._result(status, reason),
            fairness=fairness_result(config, progress),
            calibration=calibration(progress.tested, rng) if progress.tested else None,
        )
        self.folder.write_result(result)
        return result

    def _result(self, status: Status, reason: str | None) -> Result:
        federation = self.federation
        config, progress = federation.config, federation.progress
        return Result(
            run_id=self.saved.run_id,
            status=status,
            reason=reason,
            started_at=self.saved.started_at,
            seconds=self.clock.seconds(),
            config=to_tree(config),
            data=_data_facts(config, federation.enrolment),
            model=_model_facts(config, federation.enrolment, self.model),
            rounds=list(progress.rounds),
            final=_final(progress),
            privacy=_privacy(federation),
            declined=list(federation.enrolment.declined),
            protection=Protection(transport=config.transport.kind, secagg=config.secagg.kind),
            environment=this_environment(_devices(federation.enrolment), config.engine.threads),
        )


def _devices(enrolment: Enrolment) -> str:
    """The kinds of device that the sites compute on, by their word."""
    return ", ".join(sorted({hello.device for hello in enrolment.hellos.values()}))


def _data_facts(config: RunConfig, enrolment: Enrolment) -> DataFacts:
    sizes = {
        site: SiteSize(train=hello.train_records, test=hello.test_records)
        for site, hello in enrolment.hellos.items()
    }
    digests = {hello.data_sha256 for hello in enrolment.hellos.values()}
    return DataFacts(
        name=config.scenario.kind,
        sites=sizes,
        sha256="+".join(sorted(digests)),
        classes=list(enrolment.task.classes),
    )


def _model_facts(config: RunConfig, enrolment: Enrolment, model: Vector) -> ModelFacts:
    return ModelFacts(
        name=config.model.kind,
        parameters=enrolment.parameters,
        trainable=enrolment.trainable.size,
        sha256=vector_digest(model),
    )


def _final(progress: Progress) -> FinalResult:
    if progress.tested is None:
        return FinalResult(evaluate={}, per_site={}, worst_site=None)
    per_site = {site: metrics(sums) for site, sums in sorted(progress.per_site.items())}
    tested = [site for site, found in per_site.items() if found]
    worst = min(tested, key=lambda site: per_site[site]["accuracy"], default=None)
    evaluate = metrics(progress.tested)
    return FinalResult(evaluate=evaluate, per_site=per_site, worst_site=worst)


def _privacy(federation: Federation) -> PrivacyResult:
    """What the run promises; noise that a test can repeat promises nothing."""
    private = all(hello.real_noise for hello in federation.enrolment.hellos.values())
    found = privacy_result(
        federation.plan,
        federation.progress.spent,
        noise_is_private=private and federation.noise(0).is_private,
        sum_only=federation.config.secagg.kind in ("masked", "two_server"),
        record=record_of(federation.config, federation.enrolment.task.input),
    )
    return replace(found, statement=f"{found.statement} {beside_the_model(federation.config)}")


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Send our log and Flower's to `path` while the run lasts."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("fedlearn", "server", "clients", "simulations")]
    levels = [logger.level for logger in loggers]
    undo = flower_private.redirect_log(handler)
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
