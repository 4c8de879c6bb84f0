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

from fedlearn.config import RunConfig, to_tree
from fedlearn.core.errors import (
    FedlearnError,
    PrivacyError,
    ProtocolError,
    StoppedError,
    UnauthenticatedError,
)
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, vector_digest
from fedlearn.flower import private
from fedlearn.models.slots import trained
from fedlearn.report.statement import promise_of, statement_for
from fedlearn.results.folder import Checkpoint, RunFolder
from fedlearn.results.reading import read_result
from fedlearn.results.receipts import FOLDER
from fedlearn.results.result import (
    DataFacts,
    FinalResult,
    ModelFacts,
    OwnResult,
    PrivacyResult,
    ProtectionResult,
    ResultFile,
    RoundResult,
    SiteSize,
    Status,
    ValidationResult,
    this_environment,
)
from fedlearn.results.statistics import write_statistics
from fedlearn.tasks import Task
from server.admission import SIMULATED, Admission
from server.audit import append_seen
from server.average import RunningMean
from server.enrol import Enrolment, enrol, plan_for, secagg_driver
from server.evaluation import by_class_result, curves_result, fairness_result, own_result
from server.federation import Federation, PoisonedError
from server.helper import RemoteHelper
from server.run_cost import privacy_result, screening_result
from server.run_state import Progress
from server.screening import screen
from server.statistics import OpenedTable, figures, gather
from server.stop import Stop
from server.tracking import check_tracking, tracked
from server.validation import Validation

log = logging.getLogger(__name__)


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
    before = folder.read_checkpoint()
    run_id = before.run_id if before else secrets.token_hex(16)
    enrolment = enrol(grid, config, stop.now.is_set, bytes.fromhex(run_id), admission)
    plan = plan_for(config, enrolment)
    saved = before or Checkpoint.fresh(
        run_id=run_id,
        started_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=enrolment.initial,
    )
    summing = secagg_driver(enrolment, config, plan, bytes.fromhex(run_id))
    progress = Progress(
        list(saved.rounds), saved.model, dict(saved.spent), clip_norm=saved.clip_norm,
        mean=_mean(config, saved), algorithm=saved.strategy, screened=saved.screened,
        counted=dict(saved.counted), opened=saved.opened, validation=_validation(config, saved),
    )  # fmt: skip
    federation = Federation(
        config, plan, enrolment, progress, saved.run_id, summing, resumed=before is not None
    )
    if progress.suspicion:
        progress.suspicion.restore(saved)
    with tracked(config, saved.run_id, listener) as reported:
        # Nothing is written until everything that can be refused has been asked.
        folder.create(config)
        if not saved.rounds:
            # Before a round is paid for: whoever goes on after the first one was cut off goes on
            # with this run, whose promise the sites' ledgers hold.
            folder.write_checkpoint(saved)
        folder.trim_metrics(len(saved.rounds))
        with logged(folder.path / "run.log"):
            for sentence in enrolment.declined:
                log.warning("without a site: %s", sentence)
            return _train(folder, federation, saved, reported, stop)


@contextmanager
def telling_what_is_kept(config: RunConfig, way: str) -> Iterator[None]:
    """Where the protocol could not finish, add to the error from where `way` goes on."""
    try:
        yield
    except PoisonedError:
        raise
    except (ProtocolError, UnauthenticatedError) as error:
        folder = RunFolder(Path(config.out))
        if folder.holds_run():
            saved = folder.read_checkpoint()
            kept = len(saved.rounds) if saved else 0
            error.add_note(f"{kept} of {config.rounds} rounds are kept; {way} goes on from there")
        raise


def _mean(config: RunConfig, saved: Checkpoint) -> RunningMean | None:
    """The running mean of the models as a run left it; a new one before its first round."""
    decay, count = config.training.average, sum(not one.refused for one in saved.rounds)
    if not decay:
        return None
    total = np.zeros(saved.model.size) if saved.mean is None else saved.mean
    return RunningMean(decay, total, count)


def _validation(config: RunConfig, saved: Checkpoint) -> Validation | None:
    """The choice among rounds as a run left it; none before its first."""
    training = config.training
    if not config.validates or not saved.rounds:
        return None
    return Validation(training.keep, training.patience, best=saved.best, model=saved.kept)


def _train(
    folder: RunFolder,
    federation: Federation,
    saved: Checkpoint,
    listener: Listener,
    stop: Stop,
) -> ResultFile:
    report, receipts = Reporter(folder, federation, saved), federation.enrolment.receipts
    if receipts and federation.enrolment.signed:
        receipts.keep(folder.path / FOLDER, federation.enrolment.signed)
    listener.started(federation, first_round=len(saved.rounds) + 1)
    try:
        with stop.ending_first():
            screen(federation)
            if not federation.config.statistics.idle:
                report.statistics(gather(federation))
        report.checkpoint()
        while federation.goes_on:
            number = len(federation.progress.rounds) + 1
            with stop.ending_first():
                with report.keeping_what_is_spent():
                    entry = federation.run_round(number)
                report.after_round(entry)
                listener.round_finished(entry)
            if stop.after_round.is_set() and federation.goes_on:
                raise StoppedError(f"stopped after round {number}; resume=true continues")
        if saved.tested or _has_tested(folder, federation.config):
            listener.finished(before := read_result(folder.path))
            return before
        with stop.ending_first(), report.keeping_what_is_spent():
            federation.test()
    except (KeyboardInterrupt, StoppedError):
        report.end("interrupted", "stopped by the user; resume=true continues")
        raise
    except PrivacyError as error:
        report.end("stopped_budget", str(error))
        if receipts:
            receipts.at_end(folder.path / FOLDER)
        raise
    except FedlearnError as error:
        report.end("failed", str(error))
        raise
    result = report.end("finished")
    if federation.progress.test_read:
        report.checkpoint()
    if receipts:
        receipts.at_end(folder.path / FOLDER)
    listener.finished(result)
    return result


def _has_tested(folder: RunFolder, config: RunConfig) -> bool:
    """Whether the test was read, where that is done once: a process that ends before it has noted
    that has written the result, and sites give nothing a second time."""
    path = folder.path / "result.json"
    known = config.test_number is not None and path.exists()
    return known and read_result(folder.path).status == "finished"


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


@dataclass
class Reporter:
    """Turns the state of a federation into files: `result.json`, model and checkpoint."""

    folder: RunFolder
    federation: Federation
    saved: Checkpoint
    began: float = field(default_factory=time.monotonic)
    model: Vector = field(init=False)
    """What the folder holds: a round that trains and then fails to evaluate leaves no model."""

    def __post_init__(self) -> None:
        self.model = self._trained()

    def _seconds(self) -> float:
        """Seconds of the run over all its parts."""
        return self.saved.seconds + time.monotonic() - self.began

    def _trained(self) -> Vector:
        return trained(self.federation.enrolment.layout, self.federation.progress.chosen)

    def after_round(self, entry: RoundResult) -> None:
        """Write everything; the checkpoint last, so that it never runs ahead."""
        log.info("round %d %s", entry.round, entry.evaluate)
        progress = self.federation.progress
        self.folder.append_metrics(entry)
        self.model = self._trained()
        self.folder.write_model(self.model, self.federation.enrolment.trainable)
        noise = self.federation.algorithm.deviation(progress.algorithm)
        if noise is not None:
            enrolment = self.federation.enrolment
            noise = trained(enrolment.layout, noise)
            self.folder.write_deviation(noise, enrolment.trainable)
        if progress.seen:
            append_seen(self.folder.path, progress.seen)
        # True if nothing follows, as after a power cut.
        unfinished = "not finished yet; if nothing is running, resume=true continues"
        self.folder.write_result(self._result("interrupted", unfinished))
        self.checkpoint()

    @contextmanager
    def keeping_what_is_spent(self) -> Iterator[None]:
        """Where a round breaks off, write down what it has cost, and nothing else of it."""
        try:
            yield
        except (FedlearnError, KeyboardInterrupt):
            if last := self.folder.read_checkpoint():
                spent = dict(self.federation.progress.spent)
                self.folder.write_checkpoint(replace(last, seconds=self._seconds(), spent=spent))
            raise

    def checkpoint(self) -> None:
        """Write what resume needs."""
        saved, progress = self.saved, self.federation.progress
        if progress.suspicion:
            saved = progress.suspicion.checkpoint(saved)
        self.folder.write_checkpoint(
            replace(
                saved,
                seconds=self._seconds(),
                rounds=list(progress.rounds),
                model=progress.model,
                strategy=dict(progress.algorithm),
                counted=dict(progress.counted),
                spent=dict(progress.spent),
                clip_norm=progress.clip_norm,
                mean=progress.mean.total if progress.mean else None,
                opened=progress.opened,
                screened=progress.screened,
                tested=progress.test_read or saved.tested,
                best=progress.validation.best if progress.validation else None,
                kept=progress.validation.model if progress.validation else None,
            )
        )

    def statistics(self, opened: OpenedTable) -> None:
        """Write what the sums of tables say."""
        privacy = _privacy(self.federation)
        promise = privacy.promise
        found = figures(
            self.federation,
            opened,
            privacy.statement,
            real_noise=promise is not None and promise.noise_is_private,
        )
        write_statistics(self.folder.path, found)

    def end(self, status: Status, reason: str | None = None) -> ResultFile:
        """Write the last `result.json` of this process."""
        log.info("%s %s", status, reason or "")
        config, progress = self.federation.config, self.federation.progress
        task, result = self.federation.enrolment.task, self._result(status, reason)
        if tested := progress.tested:
            rng = Streams(config.seed).get("bootstrap", "calibration")
            result = replace(
                result,
                fairness=fairness_result(config, task, tested, progress.per_site, progress.groups),
                own=self._own(),
                calibration=task.calibration(tested, rng),
                by_class=by_class_result(config, task, tested, progress.per_site),
                curves=curves_result(config, task, tested, progress.per_site),
            )
        self.folder.write_result(result)
        return result

    def _own(self) -> OwnResult | None:
        """How sites' own models do, and which a site is to take."""
        enrolment, progress = self.federation.enrolment, self.federation.progress
        records = {site: one.train_records for site, one in enrolment.sites.items()}
        numbers = enrolment.trainable.size
        return own_result(self.federation.config, enrolment.task, progress, records, numbers)

    def _result(self, status: Status, reason: str | None) -> ResultFile:
        federation = self.federation
        config, progress = federation.config, federation.progress
        return ResultFile(
            run_id=self.saved.run_id,
            terms=config.terms.hex(),
            status=status,
            reason=reason,
            started_at=self.saved.started_at,
            seconds=self._seconds(),
            config=to_tree(config),
            data=_data_facts(config, federation.enrolment),
            model=_model_facts(config, federation.enrolment, self.model),
            rounds=list(progress.rounds),
            final=_final(federation.enrolment.task, progress),
            validation=_validation_result(federation),
            privacy=_privacy(federation),
            declined=list(federation.enrolment.declined),
            screening=screening_result(federation.plan, progress.screened),
            protection=ProtectionResult(
                transport=config.transport.kind,
                secagg=config.secagg.kind,
                robust=federation.rule,
                false_alarm=federation.false_alarm,
                helper=_helper(federation.enrolment),
            ),
            environment=this_environment(_devices(federation.enrolment), config.engine.threads),
        )


def _helper(enrolment: Enrolment) -> str:
    """The second server of another organisation, where there is one."""
    helper = enrolment.keys.helper
    return helper.name if isinstance(helper, RemoteHelper) else ""


def _devices(enrolment: Enrolment) -> str:
    """The kinds of device that the sites compute on, by their word."""
    return ", ".join(sorted({one.device for one in enrolment.sites.values()}))


def _data_facts(config: RunConfig, enrolment: Enrolment) -> DataFacts:
    sizes = {
        site: SiteSize(
            train=one.train_records, test=one.test_records, validation=one.validation_records
        )
        for site, one in enrolment.sites.items()
    }
    digests = {one.data_sha256 for one in enrolment.sites.values()}
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
        input=enrolment.task.input,
    )


def _validation_result(federation: Federation) -> ValidationResult | None:
    """How the model was chosen, where validation chose it."""
    config, progress = federation.config, federation.progress
    validation = progress.validation
    if validation is None:
        return None
    kept = validation.best.round if validation.best and validation.model is not None else None
    return ValidationResult(
        metric=federation.enrolment.task.leading.name,
        kept=len(progress.rounds) if kept is None else kept,
        best=validation.best,
        stopped_early=validation.enough and progress.done < config.rounds,
        bytes=progress.test_traffic,
    )


def _final(task: Task, progress: Progress) -> FinalResult:
    if progress.tested is None:
        return FinalResult(evaluate={}, per_site={}, worst_site=None)
    per_site = {site: task.metrics(sums) for site, sums in sorted(progress.per_site.items())}
    leading = task.leading
    ranked = {s: leading.rank(m[leading.name]) for s, m in per_site.items() if leading.name in m}
    worst = min(ranked, key=lambda site: ranked[site], default=None)
    return FinalResult(
        evaluate=task.metrics(progress.tested),
        per_site=per_site,
        worst_site=worst,
        uninformed=task.uninformed(progress.tested),
    )


def _privacy(federation: Federation) -> PrivacyResult:
    """What the run promises; noise that a test can repeat promises nothing."""
    private = all(one.real_noise for one in federation.enrolment.sites.values())
    promise = promise_of(
        federation.plan, noise_is_private=private and federation.noise(0).is_private
    )
    # When to stop is decided by what was released: a promise for fewer rounds than were planned
    # would be one that was chosen afterwards.
    whole = federation.config.training.patience > 0
    found = privacy_result(federation.plan, federation.progress.spent, promise, whole=whole)
    shape = federation.enrolment.task.input
    words = statement_for(promise, federation.config, shape, epsilon=found.epsilon)
    return replace(found, statement=words.text)
