"""A listener that says when most of what a run may cost is spent."""

from __future__ import annotations

from dataclasses import dataclass

from fedlearn.core.alerts import BUDGET_SHARE
from fedlearn.core.logs import EVENTS
from fedlearn.privacy.accounting import epsilon
from fedlearn.results.result import ResultFile, RoundResult
from server.federation import Federation
from server.run import Listener


@dataclass
class SpendingWatch:
    """Around another listener; the event `budget` comes once, with the site that has spent most."""

    listener: Listener
    _promised: float | None = None
    _noted: bool = False

    def started(self, federation: Federation, first_round: int) -> None:
        """What the run may cost is known once it is known who takes part."""
        plan = federation.plan
        if plan is not None:
            self._promised = epsilon(plan.events, plan.delta, unit=plan.unit)
        self.listener.started(federation, first_round)

    def round_finished(self, entry: RoundResult) -> None:
        """Look at what each site has spent."""
        self._look({site: spent for site, spent in entry.epsilon.items() if spent is not None})
        self.listener.round_finished(entry)

    def finished(self, result: ResultFile) -> None:
        """All is spent."""
        self.listener.finished(result)

    def _look(self, spent: dict[str, float]) -> None:
        if self._noted or not self._promised or not spent:
            return
        site = max(spent, key=lambda one: spent[one])
        if spent[site] < BUDGET_SHARE * self._promised:
            return
        self._noted = True
        fields = {"site": site, "epsilon": spent[site], "of": self._promised}
        EVENTS.warning("budget", extra={"fields": fields})
