"""What is told of a run, from the state of its federation: `result.json`, model and checkpoint."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace

from fedlearn.config import RunConfig, to_tree
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, vector_digest
from fedlearn.models.slots import trained
from fedlearn.report.facts import beside_the_model, record_of
from fedlearn.results.folder import Checkpoint, RunFolder
from fedlearn.results.result import (
    DataFacts,
    FinalResult,
    ModelFacts,
    PrivacyResult,
    ProtectionResult,
    ResultFile,
    RoundResult,
    SiteSize,
    Status,
    this_environment,
)
from fedlearn.tasks import Task
from server.audit import append_seen
from server.enrol import Enrolment
from server.fairness import fairness_result
from server.federation import Federation, Progress
from server.run_cost import privacy_result

log = logging.getLogger(__name__)


@dataclass
class Clock:
    """Seconds of the run over all its parts."""

    before: float
    since: float

    def seconds(self) -> float:
        """Until now."""
        return self.before + time.monotonic() - self.since


@dataclass
class Reporter:
    """Turns the state of a federation into files."""

    folder: RunFolder
    federation: Federation
    saved: Checkpoint
    clock: Clock
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
                strategy=dict(progress.algorithm),
                counted=dict(progress.counted),
                spent=dict(progress.spent),
                clip_norm=progress.clip_norm,
                mean=progress.mean.total if progress.mean else None,
            )
        )

    def end(self, status: Status, reason: str | None = None) -> ResultFile:
        """Write the last `result.json` of this process."""
        log.info("%s %s", status, reason or "")
        config, progress = self.federation.config, self.federation.progress
        task = self.federation.enrolment.task
        rng = Streams(config.seed).get("bootstrap", "calibration")
        result = replace(
            self._result(status, reason),
            fairness=fairness_result(config, task, progress),
            calibration=task.calibration(progress.tested, rng) if progress.tested else None,
        )
        self.folder.write_result(result)
        return result

    def _result(self, status: Status, reason: str | None) -> ResultFile:
        federation = self.federation
        config, progress = federation.config, federation.progress
        return ResultFile(
            run_id=self.saved.run_id,
            status=status,
            reason=reason,
            started_at=self.saved.started_at,
            seconds=self.clock.seconds(),
            config=to_tree(config),
            data=_data_facts(config, federation.enrolment),
            model=_model_facts(config, federation.enrolment, self.model),
            rounds=list(progress.rounds),
            final=_final(federation.enrolment.task, progress),
            privacy=_privacy(federation),
            declined=list(federation.enrolment.declined),
            protection=ProtectionResult(transport=config.transport.kind, secagg=config.secagg.kind),
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
        input=enrolment.task.input,
    )


def _final(task: Task, progress: Progress) -> FinalResult:
    if progress.tested is None:
        return FinalResult(evaluate={}, per_site={}, worst_site=None)
    per_site = {site: task.metrics(sums) for site, sums in sorted(progress.per_site.items())}
    leading = task.leading
    ranked = {s: leading.rank(m[leading.name]) for s, m in per_site.items() if leading.name in m}
    worst = min(ranked, key=lambda site: ranked[site], default=None)
    evaluate = task.metrics(progress.tested)
    return FinalResult(evaluate=evaluate, per_site=per_site, worst_site=worst)


def _privacy(federation: Federation) -> PrivacyResult:
    """What the run promises; noise that a test can repeat promises nothing."""
    private = all(hello.real_noise for hello in federation.enrolment.hellos.values())
    found = privacy_result(
        federation.plan,
        federation.progress.spent,
        noise_is_private=private and federation.noise(0).is_private,
        sum_only=federation.config.secagg.hides,
        record=record_of(federation.config, federation.enrolment.task.input),
    )
    return replace(found, statement=f"{found.statement} {beside_the_model(federation.config)}")
