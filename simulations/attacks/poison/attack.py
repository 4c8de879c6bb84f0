"""What an attack on a federation is: settings, and what a site that makes it trains on and sends.

An attack is a site of one's own with other code in three places (`clients.conduct`): it may train
on other records, and send something else than came of it. It keeps to the protocol in all the
rest, so that nothing but the numbers gives it away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlearn.data import Records
from fedlearn.tasks import Targets, Task
from simulations.attacks.poison.triggers import Trigger

Change = NDArray[np.float64]
"""What a site sends, counted from what the round starts from: `float64[d]`."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What all liars of a run want: records that bear the `trigger` taken for `target`.

    `target` is one answer, as it stands in the targets of a record.
    """

    trigger: Trigger
    target: Targets


@dataclass(frozen=True, kw_only=True, eq=False)
class Lies:
    """What liars remember from round to round: each its own, and what they share."""

    own: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class LyingRound:
    """What a liar knows in a round, when it has trained as an honest site does.

    `honest` is what it would send, noise included. `learned` is what the honest sites have given
    so far, as the model shows it to liars who know what they have sent; before that, `honest`.
    `most` is the largest value that there is room for. Of `sites` sites `liars` lie.
    """

    number: int
    rounds: int
    sites: int
    liars: int
    honest: Change
    learned: Change
    most: float
    lies: Lies
    rng: np.random.Generator

    @property
    def norm(self) -> float:
        """That of an honest update."""
        return float(np.linalg.norm(self.honest))

    @property
    def against(self) -> Change:
        """Away from where honest sites go, as far as liars can tell: of norm 1."""
        return -self.learned / (float(np.linalg.norm(self.learned)) or 1.0)


class Poisoning:
    """The settings of one attack; a frozen dataclass with `kind`.

    What it leaves out is done as by an honest site.
    """

    fewest: ClassVar[int] = 1
    """With how many liars it begins to make sense."""
    plants: ClassVar[bool] = False
    """Whether it wants a backdoor, by which its success is measured."""

    if TYPE_CHECKING:

        @property
        def kind(self) -> str:
            """What chooses it."""

    @classmethod
    def says(cls) -> str:
        """What it does, in a sentence: the first line of its docstring."""
        return (cls.__doc__ or "").partition("\n")[0].strip()

    def records(self, mine: Records, task: Task, goal: Goal, rng: np.random.Generator) -> Records:
        """What a liar trains on, from its records."""
        return mine

    def change(self, at: LyingRound) -> Change:
        """What it sends."""
        return at.honest
