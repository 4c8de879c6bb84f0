"""What public records alone teach, and a model that never does worse.

A rule that looks at one round holds its change to a direction. Over rounds that is not enough: a
server optimiser remembers, steps are long, and what goes across a direction adds up. So the
coordinator trains a model on the public records alone beside the run, by the same algorithm and
for as many rounds, and holds that of the run to what it comes to.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.algorithms import Algorithm, State
from fedlearn.algorithms.algorithm import RoundMean
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector
from fedlearn.mechanisms.norms import clipped
from server.public import PublicRecords

log = logging.getLogger(__name__)

_PARTS: Final = (0.5, 0.25, 0.125, 0.0625)
"""How much of the way from what public records alone teach to the model of the run is tried."""


@dataclass(eq=False)
class _Course:
    """A model that learns from `seen`, and has not seen `unseen`."""

    seen: PublicRecords
    unseen: PublicRecords
    model: Vector
    state: State = field(default_factory=dict)


@dataclass(eq=False)
class PublicTraining:
    """Training on `records` alone beside the run, from `initial`, by its `algorithm`.

    One model learns from all records. Two learn from a half each, and what these lose on the other
    half says what public records alone are worth to records that they do not hold.

    `clip_norm` is what sites clip gradients of records to, and `most` the norm of a site's change,
    where there are such; so no change is longer here.
    """

    records: PublicRecords
    algorithm: Algorithm
    initial: Vector
    clip_norm: float | None = None
    most: float | None = None
    _number: int = field(init=False, default=0)
    _courses: Sequence[_Course] = field(init=False, default=())

    def change(self, model: Vector, number: int) -> NDArray[np.float64]:
        """What the records alone would change of a model in round `number`, `float64[d]`."""
        return self._changed(self.records, model, number)

    def held(self, model: Vector, number: int) -> Vector:
        """The model of the run after round `number`, moved towards that of the records alone as far
        as it must be.

        Guarantees: on the public records it loses no more than `worth(number)`, whatever `model`
        is; and `model` comes back as it is if it does not either.
        """
        alone, most = self._alone(number), self.worth(number)
        if self.records.loss(model) <= most:
            return model
        for part in _PARTS:
            nearer = np.asarray(alone + part * (model.astype(np.float64) - alone), np.float32)
            if self.records.loss(nearer) <= most:
                log.info("round %d: %g of the way to the public records", number, 1 - part)
                return nearer
        log.info("round %d: what the public records alone teach", number)
        return alone

    def worth(self, number: int) -> float:
        """What a model may lose on the public records after round `number`.

        The mean loss of those that have learned from one half on the other; or what the model that
        has learned from all loses on them, if that is more.
        """
        self._until(number)
        *halves, whole = self._courses
        there = [one for one in halves if len(one.unseen)]
        total = sum(one.unseen.loss(one.model) * len(one.unseen) for one in there)
        return max(total / len(self.records), self.records.loss(whole.model))

    def _alone(self, number: int) -> Vector:
        self._until(number)
        return self._courses[-1].model

    def _until(self, number: int) -> None:
        """Train up to a round; from the start where that is past, as when rounds are taken back."""
        if number < self._number or not self._courses:
            self._number, self._courses = 0, self._begun()
        while self._number < number:
            self._number += 1
            for one in self._courses:
                self._learn(one)

    def _begun(self) -> tuple[_Course, ...]:
        config, count = self.records.config, len(self.records)
        order = Streams(config.seed).get("public", "halves").permutation(count)
        one, other = (self.records.some(np.sort(order[i::2])) for i in range(2))
        none = self.records.some(order[:0])
        parts = ((one, other), (other, one), (self.records, none))
        return tuple(_Course(seen, unseen, self.initial) for seen, unseen in parts)

    def _learn(self, one: _Course) -> None:
        """A round, as the coordinator makes it of what sites send; without records none."""
        if not len(one.seen):
            return
        change = self._changed(one.seen, one.model, self._number)
        found = RoundMean(
            number=self._number,
            before=one.model,
            model=np.asarray(one.model + change, np.float32),
            extra={},
            share=1.0,
        )
        one.model, one.state = self.algorithm.server(found, one.state)

    def _changed(self, seen: PublicRecords, model: Vector, number: int) -> NDArray[np.float64]:
        change = seen.change(model, number, self.clip_norm)
        if not np.isfinite(change).all():
            return np.zeros_like(change)  # training that diverges says nothing
        return change if self.most is None else clipped(change, self.most)
