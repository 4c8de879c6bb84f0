"""From what the sites sent in a round to the one mean that the algorithm gets.

Who takes the mean, who adds noise, and by which public constant a sum is
divided, is told by the plan of the run. Nothing here counts records.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedlearn import flower
from fedlearn.agreement import rotation_context
from fedlearn.config import RunConfig
from fedlearn.core.errors import ProtocolError
from fedlearn.core.vector import Vector
from fedlearn.flower import private
from fedlearn.mechanisms import ClientPlan, DistributedPlan, PrivacyPlan, RecordPlan
from fedlearn.mechanisms.client import ClientSum, Release
from fedlearn.mechanisms.encoding import real_sum
from fedlearn.privacy import NoiseSource
from fedlearn.secagg.payload import Total


def model_of_sum(
    config: RunConfig, plan: PrivacyPlan | None, number: int, model: Vector, total: Total
) -> Vector:
    """The sites' common model from the sum of their changes: `float32[d]`."""
    match plan:
        case None | RecordPlan():
            step = total.mean()
        case DistributedPlan():
            step = _shared_step(config, plan, number, model, total)
        case ClientPlan():
            raise RuntimeError("a sum under client-level privacy is released by `Trusted`")
        case _:
            assert_never(plan)
    return np.asarray(model.astype(np.float64) + step, np.float32)


def _shared_step(
    config: RunConfig, plan: DistributedPlan, number: int, model: Vector, total: Total
) -> NDArray[np.float64]:
    """The mean change of a site; of gradients, the step of SGD that each site would have made."""
    noisy = real_sum(plan, total.values, context=rotation_context(config, number))
    match plan.unit:
        case "client":
            return noisy / plan.num_clients
        case "record":
            training = config.training
            records = plan.num_clients * training.sample_rate * training.nominal_records
            gradient = noisy / records + training.weight_decay * model
            return -training.learning_rate * gradient
        case _:
            assert_never(plan.unit)


class WeightedMean:
    """The weighted mean of the sites' models, added up one by one, in float64.

    However many sites there are, one sum is held. It is Flower's weighted mean
    but for rounding: there the weights are divided first, and the sum is float32.
    """

    def __init__(self, size: int) -> None:
        self._total, self._weight = np.zeros(size), 0.0

    def take(self, _site: str, reply: Message) -> Message:
        """Add the model of a train reply; returns the reply without it."""
        weight = flower.weight_of(reply.content)
        self._total += np.multiply(flower.model_of(reply.content), weight, dtype=np.float64)
        self._weight += weight
        return private.without(reply, "arrays")

    def result(self) -> Vector:
        """The mean, `float32[d]`.

        Raises:
            ProtocolError: the weights are all zero.
        """
        if self._weight == 0:
            raise ProtocolError("", "train", "no site has a record to train on")
        return np.asarray(self._total / self._weight, np.float32)


class ClippedUpdates:
    """The sum of the sites' clipped updates, added up one by one."""

    def __init__(self, model: Vector, total: ClientSum) -> None:
        self.model, self.total = model, total
        self.problem: ProtocolError | None = None
        """Of the first update that cannot be added."""

    def take(self, site: str, reply: Message) -> Message:
        """Add the update of a train reply; returns the reply without it."""
        try:
            self.total.add(flower.model_of(reply.content) - self.model)
        except ValueError as error:
            self.problem = self.problem or ProtocolError(site, "train", str(error))
        return private.without(reply, "arrays")


class Trusted:
    """The aggregator under `privacy=client`: it adds the noise, and clips where it sees updates.

    `clip_norm` is that of the next round; it moves if clipping is adaptive, and
    never below `smallest`, where the sites' rounding would leave no room.
    """

    def __init__(self, plan: ClientPlan, clip_norm: float | None, *, smallest: float) -> None:
        self.plan = plan
        self.smallest = min(smallest, plan.clip_norm)
        self.clip_norm = plan.clip_norm if clip_norm is None else clip_norm

    def incoming(self, model: Vector) -> ClippedUpdates:
        """An empty sum for the updates of a round that started from `model`."""
        return ClippedUpdates(model, ClientSum(self.plan, model.size, self.clip_norm))

    def of_updates(self, came: ClippedUpdates, sites: int, noise: NoiseSource) -> Vector:
        """The new model from updates in clear; one that cannot be added is as one that never came.

        Raises:
            ProtocolError: an update has another length, or a number that is not finite.
        """
        if came.problem is not None:
            raise came.problem
        return self._released(came.model, came.total, sites, noise)

    def of_sum(self, model: Vector, sent: Total, sites: int, noise: NoiseSource) -> Vector:
        """The new model from the sum of updates that the sites have clipped."""
        total = ClientSum(self.plan, model.size, self.clip_norm)
        total.add_sum(sent.values, clients=sent.weight, within=int(sent.counters[0]))
        return self._released(model, total, sites, noise)

    def _released(self, model: Vector, total: ClientSum, sites: int, noise: NoiseSource) -> Vector:
        expected = sites * self.plan.sample_rate
        release: Release = total.release(expected_clients=expected, noise=noise)
        self.clip_norm = max(release.next_clip_norm, self.smallest)
        return np.asarray(model + release.mean, np.float32)
