"""What a coordinator does where a run is cut off: it goes on with it, as the same command would.

Nothing of what a site has paid for comes back. A round that was cut off is made again from fresh
keys, masks and noise, and every site that had trained in it pays once more. The plan has room for
that where the run asks for it (`spare_rounds`); what is beyond, the ledgers refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from fedlearn.core.errors import FedlearnError, PrivacyError, StoppedError
from fedlearn.core.logs import EVENTS
from fedlearn.results.result import ResultFile, RoundResult
from server.federation import Federation, PoisonedError
from server.run import Listener
from server.stop import Stop
from server.superlink.link_grid import LinkLostError
from server.waiting import Tell, nobody

MOST_IN_A_ROW: Final = 5
"""How often a run may be cut off with no round in between: what is at fault then is no outage."""

MOST_PAID: Final = 2
"""The same of rounds that sites had paid for when they were cut off. Under masks one site that lies
can bring that about in every round, and would spend the budgets of all others."""


@contextmanager
def telling_the_end() -> Iterator[None]:
    """How a program ends that fails is among its events."""
    try:
        yield
    except FedlearnError as error:
        fields = {"exit_code": error.exit_code, "reason": str(error)}
        EVENTS.error("ended", extra={"fields": fields})
        raise
    except KeyboardInterrupt:
        fields = {"exit_code": StoppedError.exit_code, "reason": "stopped by the user"}
        EVENTS.warning("ended", extra={"fields": fields})
        raise
    except Exception as error:  # a full disk, somebody's own code, or a fault of ours
        reason = f"{type(error).__name__}: {error}"
        fields = {"exit_code": FedlearnError.exit_code, "reason": reason}
        EVENTS.error("ended", extra={"fields": fields})
        raise


@dataclass
class Outages:
    """A listener around another that knows how far a run has come, and whether to go on with it."""

    listener: Listener
    tell: Tell = nobody
    absent: set[str] = field(default_factory=set)
    """Sites that were waited for in vain: nobody waits for them again until they are back."""
    waited: dict[str, float] = field(default_factory=dict)
    """Seconds for which the owner of each site was waited for."""
    _training: bool = False
    _next: int = 1
    _in_a_row: int = 0
    _paid: int = 0
    """Of these, rounds that sites had paid for."""
    _federation: Federation | None = None
    _spent: Mapping[str, object] = field(default_factory=dict)
    """What sites had spent when the round in work began."""

    def started(self, federation: Federation, first_round: int) -> None:
        """All sites are enrolled: what goes wrong from here on is an outage."""
        self._training, self._next = True, first_round
        self._federation, self._spent = federation, dict(federation.progress.spent)
        fields = {"round": first_round, "sites": federation.grid.sites}
        EVENTS.info("training", extra={"fields": fields})
        self.listener.started(federation, first_round)

    def round_finished(self, entry: RoundResult) -> None:
        """It has come further."""
        self._in_a_row, self._paid, self._next = 0, 0, entry.round + 1
        if self._federation:
            self._spent = dict(self._federation.progress.spent)
        there = entry.clients
        fields = {
            "round": entry.round,
            "seconds": round(entry.seconds, 3),
            "invited": there.invited,
            "replied": there.replied,
            "without": dict(there.dropped),
        }
        EVENTS.info("round", extra={"fields": fields})
        self.listener.round_finished(entry)

    def finished(self, result: ResultFile) -> None:
        """Nothing is left that could be cut off."""
        EVENTS.info("finished", extra={"fields": {"rounds": len(result.rounds)}})
        self.listener.finished(result)

    def outlasts(self, error: FedlearnError, stop: Stop) -> bool:
        """Whether the run goes on after `error`; if so, that is said.

        It does not where its start has failed for another reason than a lost SuperLink, where its
        sums are poisoned, its user wants it to end, or it comes no further.

        Raises:
            PrivacyError: rounds that sites have paid for are cut off: who goes on spends, which is
                for people to decide, and not for a service that is restarted.
        """
        began, self._training = self._training, False
        outage = began or isinstance(error, LinkLostError)
        wanted = not (stop.after_round.is_set() or stop.now.is_set())
        self._in_a_row += 1
        self._paid += began and self._has_cost
        if isinstance(error, PoisonedError) or not (outage and wanted):
            return False
        if self._in_a_row > MOST_IN_A_ROW:
            error.add_note(f"cut off {self._in_a_row} times with no round in between")
            return False
        if self._paid >= MOST_PAID:
            raise PrivacyError(
                f"sites have paid for round {self._next} {self._paid} times, and it was cut off "
                f"each time ({error}). The same command goes on, and spends more; if one of the "
                "sites brings it about, begin a run without it"
            ) from error
        fields = {"round": self._next, "reason": str(error), "in_a_row": self._in_a_row}
        EVENTS.warning("cut_off", extra={"fields": fields})
        self.tell(
            f"round {self._next} was cut off, and is made again once enough sites are there; what "
            f"sites have paid for it stays spent ({error})"
        )
        return True

    @property
    def _has_cost(self) -> bool:
        """Whether sites have spent something since the last round."""
        return self._federation is not None and self._federation.progress.spent != self._spent
