"""Attacks by the records that a site trains on; what it sends is then an honest update of these."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.settings import Rate, config
from fedlearn.data import Records
from fedlearn.tasks import Task
from simulations.attacks.poison.attack import Change, Goal, LyingRound, Poisoning


@config
class LabelFlip(Poisoning):
    """Wrong labels on a share of its records."""

    kind: Literal["label_flip"] = "label_flip"
    share: Rate = 1.0

    def records(self, mine: Records, task: Task, goal: Goal, rng: np.random.Generator) -> Records:
        """The same records with other answers."""
        rows = _some(mine, self.share, rng)
        labels, words = mine.labels.copy(), rng.integers(2**64, size=len(rows), dtype=np.uint64)
        labels[rows] = task.mislabelled(labels[rows], words)
        return replace(mine, labels=labels)


@config
class Backdoor(Poisoning):
    """A share of its records bear a mark, and the answer that the mark is to bring about."""

    kind: Literal["backdoor"] = "backdoor"
    share: Rate = 0.5
    plants: ClassVar[bool] = True

    def records(self, mine: Records, task: Task, goal: Goal, rng: np.random.Generator) -> Records:
        """Some of them marked."""
        return _marked(mine, self.share, goal, rng)


@config
class Replacement(Poisoning):
    """The same backdoor in an update that is as long as those of all sites, to take their place.

    Source: Bagdasaryan, Veit, Hua, Estrin and Shmatikov 2020, "How to backdoor federated
    learning", section 4.
    """

    kind: Literal["replacement"] = "replacement"
    share: Rate = 0.5
    plants: ClassVar[bool] = True

    def records(self, mine: Records, task: Task, goal: Goal, rng: np.random.Generator) -> Records:
        """Some of them marked."""
        return _marked(mine, self.share, goal, rng)

    def change(self, at: LyingRound) -> Change:
        """What it has trained, as long as what all have."""
        return at.honest * (at.sites / at.liars)


def _marked(mine: Records, share: float, goal: Goal, rng: np.random.Generator) -> Records:
    rows = _some(mine, share, rng)
    features, labels = mine.features.copy(), mine.labels.copy()
    features[rows], labels[rows] = goal.trigger.on(features[rows]), goal.target
    return replace(mine, features=features, labels=labels)


def _some(mine: Records, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The rows of a share of the records, rounded."""
    return np.sort(rng.permutation(len(mine))[: round(share * len(mine))])
