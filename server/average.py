"""Sums that grow as their parts come: a round's updates in clear, and the models of all rounds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedlearn.core.errors import ProtocolError
from fedlearn.core.vector import Vector
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.aggregation import AGGREGATION
from fedlearn.flower.records import model_of
from fedlearn.privacy import SystemNoise
from fedlearn.robust import InClear, Robust
from fedlearn.stages import Mean, Route, ServerRound, Total, Trained, Update


@dataclass
class RunningMean:
    """An exponential moving average of models with `decay` in [0, 1), kept in place of the last.

    Noise that is new in every round averages out. The mean is computed from what is
    released already, so it costs no privacy; training goes on from the last model,
    not from the mean.

    `total: float64[d]` is the sum of `(1 - decay) decay^(t - i)` times model i;
    `count` is t.

    Source: Polyak and Juditsky 1992 for the idea; De et al. 2022, "Unlocking
    High-Accuracy Differentially Private Image Classification through Scale",
    section 4, for what it is worth under DP-SGD.
    """

    decay: float
    total: NDArray[np.float64]
    count: int = 0

    def take(self, model: Vector) -> None:
        """Add the model of one more round."""
        self.total = self.decay * self.total + (1 - self.decay) * model
        self.count += 1

    def model(self) -> Vector:
        """The mean, `float32[d]`: weights that add up to 1, the newest model's the largest.

        Raises:
            RuntimeError: there was no model yet.
        """
        if not self.count:
            raise RuntimeError("the mean of no model was asked for")
        return np.asarray(self.total / (1 - self.decay**self.count), np.float32)


@dataclass
class RunningSum:
    """The weighted sum of what comes, in float64; holds no update longer than it takes to add it.

    It is Flower's weighted mean but for rounding: there the weights are divided first, and
    the sum is float32.
    """

    route: Route
    at: ServerRound
    size: int
    """Values of an update."""
    values: NDArray[np.float64] = field(init=False, repr=False)
    weight: float = field(init=False, default=0.0)
    counters: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.values = np.zeros(self.size)
        self.counters = np.zeros(self.route.counters, np.int64)

    def take(self, site: str, reply: Message) -> Message:
        """Add the update of a train reply; returns the reply without it.

        Guarantees: an update that is refused has changed nothing.

        Raises:
            ProtocolError: it has another length, or a number that is not finite.
        """
        content = reply.content
        weight = flower.weight_of(content) if self.route.source.weighted else 1
        try:
            self._add(self.route.arrived(Update(values=model_of(content), weight=weight), self.at))
        except ValueError as error:
            raise ProtocolError(site, "train", str(error)) from None
        return private.without(reply, "arrays")

    def _add(self, update: Update) -> None:
        weighed = np.multiply(update.values, update.weight, dtype=np.float64)
        counters = np.array(update.counters, np.int64)
        if weighed.shape != self.values.shape or counters.shape != self.counters.shape:
            raise ValueError("the update is of another form")
        if not np.isfinite(weighed).all():
            raise ValueError("the update holds NaN or infinite values")
        self.values += weighed
        self.weight += update.weight
        self.counters += counters

    @classmethod
    def of_models(cls, size: int) -> RunningSum:
        """Of models of `size` values, weighed by their records, without privacy."""
        at = ServerRound(np.zeros(size, np.float32), 0.0, b"", SystemNoise(), 0)
        return cls(Route(Trained(weighted=True), (Mean(),)), at, size)

    def result(self) -> Vector:
        """What becomes of the sum, without a strategy: `float32[d]`.

        Raises:
            ProtocolError: there is none.
        """
        return self.route.backward(self.total(), self.at)

    def total(self) -> Total:
        """The sum of all that could be added."""
        return Total(values=self.values, weight=self.weight, counters=self.counters)


@dataclass
class Gathered(RunningSum):
    """All updates of a round, for a rule that chooses among them; it counts every site as one."""

    rule: InClear
    updates: list[NDArray[np.float64]] = field(init=False, default_factory=list, repr=False)

    def _add(self, update: Update) -> None:
        super()._add(update)
        self.updates.append(np.asarray(update.values, np.float64))

    def total(self) -> Total:
        """What the rule has chosen, as a sum of the same weight, so that its mean is that.

        Of fewer updates than the rule needs it is their sum: such a round has no quorum.
        """
        if len(self.updates) < self.rule.fewest:
            return super().total()
        chosen = self.rule.chosen(self.updates, AGGREGATION)
        return Total(values=chosen * self.weight, weight=self.weight, counters=self.counters)


def arriving(rule: Robust, route: Route, at: ServerRound, size: int) -> RunningSum:
    """What takes the updates of a round in clear, of `size` values each."""
    if isinstance(rule, InClear):
        return Gathered(route, at, size, rule)
    return RunningSum(route, at, size)
