"""The runs of an attack on a study: side by side, each kept as soon as it has ended.

The folder is the state: the same command again keeps what has ended, and makes the rest. A run
that was cut off begins anew, since who attacks remembers what was seen.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients import joining
from clients.app import app as honest
from clients.app import trained
from clients.conduct import Conduct
from fedlearn.config import RunConfig, decode, encode, to_tree
from fedlearn.core.errors import ConfigError, StoppedError
from fedlearn.core.files import write_atomically
from fedlearn.results.folder import RunFolder
from server.stop import Stop
from simulations.engines.warm import nothing_collected, warm_up
from simulations.run import rehearse
from simulations.sweeps.compare import staff
from simulations.sweeps.workers import Ended, Event, RunJob, run_jobs


class Trial(Protocol):
    """One run."""

    @property
    def name(self) -> str:
        """That of its folder."""

    @property
    def config(self) -> RunConfig:
        """What is run."""

    @property
    def besides(self) -> list[Any]:
        """What it depends on besides, as it is written in JSON."""

    @property
    def client(self) -> Callable[[], ClientApp]:
        """What makes the program that answers for its sites."""


class OtherConduct(ClientApp):
    """The app of all sites of a run, some of which train in another way.

    `numbers` are the places of these among the sites. Their conduct may remember what it has
    seen from round to round, so one process must answer for all of them.
    """

    def __init__(self, numbers: Sequence[int], conduct: Conduct) -> None:
        super().__init__(mods=[joining.sealing])
        self.numbers = tuple(numbers)

        @self.train()
        def train(message: Message, context: Context) -> Message:
            return trained(message, context, conduct)

    def __call__(self, message: Message, context: Context) -> Message:
        """The reply of the site that `context` is of."""
        other = int(str(context.node_config["partition-id"])) in self.numbers
        if other and message.metadata.message_type == "train":
            return super().__call__(message, context)
        return honest(message, context)


@dataclass(frozen=True, kw_only=True)
class HowItEnded:
    """How a run has ended; `essence` is what it was, in JSON."""

    essence: str
    exit_code: int
    reason: str | None
    cpu_seconds: float


def essence(trial: Trial) -> str:
    """All that a run depends on, but for where it is."""
    tree = RunFolder.essence(to_tree(trial.config))
    return json.dumps([tree, *trial.besides], sort_keys=True)


def outcome_file(trial: Trial) -> Path:
    """Where the outcome of a run is kept: beside its folder."""
    return Path(f"{trial.config.out}.json")


def outcome(trial: Trial) -> HowItEnded | None:
    """How a run has ended; None if it has not."""
    try:
        return decode(HowItEnded, outcome_file(trial).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def todo(trials: Sequence[Trial]) -> list[Trial]:
    """The runs that are still to be made.

    Raises:
        ConfigError: the folder holds others under their names.
    """
    found, missing = list[str](), list[Trial]()
    for trial in trials:
        before = outcome(trial)
        if before is None:
            missing.append(trial)
        elif before.essence != essence(trial):
            found.append(
                f"{Path(trial.config.out).parent}: holds {trial.name} of another study; choose "
                "another folder (out=)"
            )
    if found:
        raise ConfigError(found)
    return missing


def check(trials: Sequence[Trial]) -> None:
    """Let all that cannot be run be refused now, and load what every run needs.

    Raises:
        FedlearnError: what `simulate` would raise before its first round.
    """
    seen = set[str]()
    with nothing_collected():
        import fedlearn.report.plots  # noqa: F401  (matplotlib)

        for trial in trials:
            warm_up(trial.config)
    for trial in trials:
        alike = encode(replace(trial.config, out="-", seed=0))
        if alike not in seen:
            rehearse(trial.config)
            seen.add(alike)


def run_all(
    trials: Sequence[Trial],
    workers: int | None,
    stop: Stop,
    tell: Callable[[Event | None], None],
) -> None:
    """Make the runs.

    Raises:
        StoppedError: the user stopped it; what has ended is kept.
    """
    by_name = {trial.name: trial for trial in trials}
    for trial in trials:
        Path(trial.config.out).parent.mkdir(parents=True, exist_ok=True)
        # What was cut off has spent nothing of anybody: its ledgers are its own.
        shutil.rmtree(trial.config.out, ignore_errors=True)

    def heard(event: Event | None) -> None:
        if isinstance(event, Ended) and event.exit_code != StoppedError.exit_code:
            _keep(by_name[event.name], event)
        tell(event)

    count, start = staff(workers, [trial.config for trial in trials])
    with stop.ending_first():
        run_jobs([_job(trial) for trial in trials],
                 workers=count, start=start, stop=stop, tell=heard)  # fmt: skip
    if any(outcome(trial) is None for trial in trials):
        raise StoppedError("stopped; the same command does the rest")


def _job(trial: Trial) -> RunJob:
    return RunJob(name=trial.name, config=encode(trial.config), only=None, client=trial.client)


def _keep(trial: Trial, event: Ended) -> None:
    kept = HowItEnded(
        essence=essence(trial),
        exit_code=event.exit_code,
        reason=event.reason,
        cpu_seconds=event.cpu_seconds,
    )
    write_atomically(outcome_file(trial), encode(kept).encode())
