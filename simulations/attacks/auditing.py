"""A run with canaries is measured at its end, before anybody is told of its result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fedlearn.config import RunConfig
from fedlearn.results.folder import RunFolder
from fedlearn.results.result import ResultFile, RoundResult
from server.federation import Federation
from server.run import Listener


def audited(config: RunConfig, listener: Listener) -> Listener:
    """A listener that hears of the finished run with its audit in it."""
    return listener if config.audit.kind == "none" else _Measuring(config, listener)


@dataclass(frozen=True)
class _Measuring:
    config: RunConfig
    listener: Listener

    def started(self, federation: Federation, first_round: int) -> None:
        """Pass it on."""
        self.listener.started(federation, first_round)

    def round_finished(self, entry: RoundResult) -> None:
        """Pass it on."""
        self.listener.round_finished(entry)

    def finished(self, result: ResultFile) -> None:
        """Measure, write it into `result.json`, and pass it on."""
        from simulations.attacks.measure import measure  # SciPy's statistics take a second

        found = measure(self.config, result)
        result = replace(result, audit=found)
        RunFolder(Path(self.config.out)).write_result(result)
        self.listener.finished(result)
