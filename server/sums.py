"""What a round of sums is asked, and what came of it: one sum of each group, by the sites in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message

from fedlearn.core.errors import FedlearnError
from fedlearn.flower.grid import Replies, Tally
from fedlearn.secagg.messages import Params
from fedlearn.secagg.whole import AnyPayload
from fedlearn.stages import Total


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
