"""What a round of sums is asked, and what came of it: one sum of each group, by the sites in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Message

from fedlearn.core.errors import FedlearnError
from fedlearn.rounds import Refusal
from fedlearn.secagg.messages import Params
from fedlearn.secagg.whole import AnyPayload
from fedlearn.stages import Total
from server.grid import Replies


@dataclass
class Tally:
    """What became of every site in one protocol run."""

    asked: list[str] = field(default_factory=list)
    """Sites that got the model, and may have trained."""
    contributed: dict[str, Message] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def note(self, replies: Replies) -> None:
        """Keep the refusals and failures of one exchange."""
        self.refusals += replies.refusals
        self.failures |= replies.failures

    def replies(self, survivors: Iterable[str]) -> Replies:
        """The outcome, with the replies of those whose contribution is in the sum."""
        answers = {site: self.contributed[site] for site in survivors}
        return Replies(answers, self.refusals, self.failures)


@dataclass(frozen=True)
class Sum:
    """What was opened: the sum of these sites."""

    sites: tuple[str, ...]
    total: Total


@dataclass(frozen=True)
class Aggregate:
    """What came of a training round: the `sums` of its sites, one of each group, or else `failure`.

    `replies` are those of the sites in a sum; where there is none, of all that had
    contributed: they have trained, and paid for it.
    """

    asked: list[str]
    replies: Replies
    sums: Callable[[], Sequence[Sum]]
    failure: FedlearnError | None


@dataclass(frozen=True)
class AskedSums:
    """What a round asks: messages by site, the parameters of every sum, who is left out of the run.

    `tally` is kept up whatever happens.
    """

    by_site: Mapping[str, Message]
    params: Sequence[Params]
    payload: AnyPayload
    tally: Tally
    without: tuple[str, ...] = ()

    @property
    def place(self) -> dict[str, int]:
        """Which of the sums every site is asked for."""
        return {site: at for at, one in enumerate(self.params) for site in one.cohort}
