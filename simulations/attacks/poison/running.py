"""The runs of an audit by lying sites: side by side, each kept as soon as it has ended.

The folder is the state: the same command again keeps what has ended, and makes the rest. A run
that was cut off begins anew, since liars remember what they have seen.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlearn.config import decode, encode, to_tree
from fedlearn.core.errors import ConfigError, StoppedError
from fedlearn.core.files import write_atomically
from fedlearn.core.registry import kind_of
from fedlearn.results.folder import RunFolder
from server.stop import Stop
from simulations.attacks.poison.study import Case, PoisonStudy
from simulations.engines.warm import nothing_collected, warm_up
from simulations.run import rehearse
from simulations.sweeps.compare import staff
from simulations.sweeps.workers import Ended, Event, RunJob, honest_sites, run_jobs


@dataclass(frozen=True, kw_only=True)
class HowItEnded:
    """How a run has ended; `essence` is what it was, in JSON."""

    essence: str
    exit_code: int
    reason: str | None
    cpu_seconds: float


def essence(case: Case) -> str:
    """All that a run depends on, but for where it is."""
    attack = None if case.attack is None else [kind_of(type(case.attack)), to_tree(case.attack)]
    tree = RunFolder.essence(to_tree(case.config))
    return json.dumps([tree, attack, sorted(case.liars)], sort_keys=True)


def outcome_file(case: Case) -> Path:
    """Where the outcome of a run is kept: beside its folder."""
    return Path(f"{case.config.out}.json")


def outcome(case: Case) -> HowItEnded | None:
    """How a run has ended; None if it has not."""
    try:
        return decode(HowItEnded, outcome_file(case).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def todo(study: PoisonStudy) -> list[Case]:
    """The runs that are still to be made.

    Raises:
        ConfigError: the folder holds others under their names.
    """
    found, missing = list[str](), list[Case]()
    for case in study.cases:
        before = outcome(case)
        if before is None:
            missing.append(case)
        elif before.essence != essence(case):
            found.append(
                f"{study.folder}: holds {case.name} of another study; choose another folder (out=)"
            )
    if found:
        raise ConfigError(found)
    return missing


def check(cases: Sequence[Case]) -> None:
    """Let all that cannot be run be refused now, and load what every run needs.

    Raises:
        FedlearnError: what `simulate` would raise before its first round.
    """
    seen = set[str]()
    with nothing_collected():
        import fedlearn.report.plots  # noqa: F401  (matplotlib)

        for case in cases:
            warm_up(case.config)
    for case in cases:
        if case.rule not in seen:
            rehearse(case.config)
            seen.add(case.rule)


def run_all(
    study: PoisonStudy,
    cases: Sequence[Case],
    workers: int | None,
    stop: Stop,
    tell: Callable[[Event | None], None],
) -> None:
    """Make the runs.

    Raises:
        StoppedError: the user stopped it; what has ended is kept.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    by_name = {case.name: case for case in cases}
    for case in cases:
        # What was cut off has spent nothing of anybody: its ledgers are its own.
        shutil.rmtree(case.config.out, ignore_errors=True)

    def heard(event: Event | None) -> None:
        if isinstance(event, Ended) and event.exit_code != StoppedError.exit_code:
            _keep(by_name[event.name], event)
        tell(event)

    count, start = staff(workers, [case.config for case in cases])
    with stop.ending_first():
        run_jobs([_job(case) for case in cases],
                 workers=count, start=start, stop=stop, tell=heard)  # fmt: skip
    if any(outcome(case) is None for case in study.cases):
        raise StoppedError("stopped; the same command does the rest")


def _job(case: Case) -> RunJob:
    plot = case.plot()
    return RunJob(
        name=case.name, config=encode(case.config), only=None, client=plot or honest_sites
    )


def _keep(case: Case, event: Ended) -> None:
    kept = HowItEnded(
        essence=essence(case),
        exit_code=event.exit_code,
        reason=event.reason,
        cpu_seconds=event.cpu_seconds,
    )
    write_atomically(outcome_file(case), encode(kept).encode())
