"""What a site does with its records in a round.

Every mechanism pays for the round in the site's ledger before it looks at a record
(`clients.payment`). What is done and the event that is paid for come from one plan, so that
neither can be another's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from clients.canaries import TrainingSet, nobody, note_change, training_set
from clients.own_state import OwnState
from clients.site import Site
from fedlearn.agreement import rotation_context, stack_of
from fedlearn.algorithms import Algorithm, Correction, LocalRound, OwnParts, Vectors
from fedlearn.core.errors import FedlearnError, ProtocolError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, layout_of, to_vector
from fedlearn.crypto.roster import SERVER
from fedlearn.models.own_parts import own_values
from fedlearn.models.slots import trained_values
from fedlearn.privacy import NoiseSource
from fedlearn.rounds import TrainRequest
from fedlearn.stages import MODEL, ClippedSteps, PaidSteps, Route, Stack
from fedlearn.training.device import place, within_memory
from fedlearn.training.local import diverged, train
from fedlearn.training.reach import check_reach
from fedlearn.training.settings import Engine

log = logging.getLogger(__name__)

T = TypeVar("T")
V = TypeVar("V", bound=NDArray[np.floating[Any]])


@dataclass(frozen=True)
class _Course:
    """One training of a round: where it starts, and what is added to its gradients.

    The correction is made where `start` is loaded.
    """

    start: Vector
    correction: Callable[[], Correction | None]
    stream: str = "batches"
    """Of the run, from which batches are drawn where they need not be secret."""


@dataclass(frozen=True, eq=False)
class SiteRound:
    """A site in one round, as mechanisms ask it (`fedlearn.stages.SiteContext`).

    Its model has the weights of the request already.
    """

    site: Site
    request: TrainRequest

    @cached_property
    def stack(self) -> Stack:
        """Which vectors travel together."""
        return stack_of(self.site.config, self.request.model.size)

    @cached_property
    def base(self) -> Vector:
        """What changes are counted from."""
        return self.stack.base(self.request.model)

    @cached_property
    def _ends(self) -> dict[str, Vector]:
        """Where the trainings of the round have come to, once they have."""
        return {}

    @property
    def clip_norm(self) -> float:
        """The norm of this round, by the coordinator's word."""
        return self.request.clip_norm

    @property
    def public(self) -> bytes:
        """Names the run and the round."""
        return rotation_context(self.site.config, self.request.round)

    @cached_property
    def noise(self) -> NoiseSource:
        """This round's sampling and noise, drawn from in order."""
        return self.site.noise(self.request.round)

    @property
    def records(self) -> int:
        """How many records are trained on."""
        return len(self.site.data.train)

    @cached_property
    def _mine(self) -> TrainingSet:
        return training_set(self.site, self.request.run_id)

    def check(self) -> None:
        """Refuse what came and what the site keeps, before anything is paid for.

        Raises:
            ProtocolError: the model is not finite, or what came beside it is not what the algorithm
                sends.
            DataError: the site's own state of this run is lost.
            ConfigError: the model, or the loss, would not keep records apart when trained; or a
                part that is to be trained gets no gradient.
        """
        wanted, size = set(self._algorithm.sends), self.request.model.size
        besides = self.request.besides
        sound = all(v.shape == (size,) and np.isfinite(v).all() for v in besides.values())
        if set(besides) != wanted or not sound:
            raise ProtocolError(
                SERVER, "train", f"beside the model came {sorted(besides)}; wanted, of {size} "
                f"numbers each: {sorted(wanted)}",
            )  # fmt: skip
        if diverged(self.request.model):
            raise ProtocolError(SERVER, "train", "the model holds numbers that are not finite")
        _ = self._own
        if self.site.learner.frozen_parameters:
            self._check_reach()
        engine = self.site.config.privacy.clips_with(self.site.training.dp_engine)
        if engine is not None:
            self._try_out(cast(Engine, engine))

    def _try_out(self, engine: Engine) -> None:
        """Try what clips on records that nobody has: once they are paid for, nothing is refused."""
        from fedlearn.training.trials import try_out

        site = self.site
        place(site.model, site.device)
        with within_memory(f"site {site.name}"):
            config = replace(site.training, dp_engine=engine)
            try_out(site.model, site.made_up, config, loss=site.loss, depths=site.depths)

    def _check_reach(self) -> None:
        """Where a part of a model stays as it is, see that training reaches all of the rest."""
        site = self.site
        place(site.model, site.device)
        check_reach(site.model, site.made_up, site.training, loss=site.loss)

    def keep(self, route: Route, limit: float) -> None:
        """Write down the site's own state after the round, before its update leaves.

        It moves by what enters the sum: bounded as `route` says, and to `limit` each.
        """
        if self._state is None:
            return
        if self._parts:
            kept = self._parts.kept(self._ends.get("first", self.own_model))
        else:
            change = np.clip(route.bounded(self._whole - self.base, self), -limit, limit)
            sent = {n: np.asarray(v, np.float32) for n, v in self.stack.split(change).items()}
            here = replace(self._here, own_end=self._ends.get("second"))
            kept = self._algorithm.kept(here, sent)
        self._state.keep(self.request, self._own, kept)

    @property
    def _algorithm(self) -> Algorithm:
        return self.site.config.strategy

    @cached_property
    def _state(self) -> OwnState | None:
        """Where the site's own state is, if it keeps one."""
        return OwnState.of(self.site, self.request) if self.site.config.remembers else None

    @cached_property
    def _own(self) -> Vectors:
        """The state before the round."""
        if self._state is None:
            return {}
        if self.site.owner.deployed:
            self._state.forget_others()
        return self._state.before(self.request.counted)

    @cached_property
    def _parts(self) -> OwnParts | None:
        """What of the model stays here, if only a part of it does."""
        part = self.site.config.training.personal
        return None if part == "none" else OwnParts(own_values(self.site.model, part))

    @cached_property
    def own_model(self) -> Vector:
        """The site's own model before the round, `float32[d]`; the shared one where it has none.

        Of a model of which a part is the site's own: the whole of it.
        """
        here = self._parts or self._algorithm
        return here.own_model(self.request.model, self._own)

    @cached_property
    def _first(self) -> _Course:
        """What leaves the site is trained so."""
        start = self.own_model if self._parts else self._algorithm.begin(self._here)
        return _Course(start, lambda: self._algorithm.correction(self.site.model, self._here))

    @cached_property
    def _second(self) -> _Course:
        """So is a model of its own, where that is another one."""
        algorithm, model = self._algorithm, self.site.model
        correction = lambda: algorithm.own_correction(model, self._here)  # noqa: E731
        return _Course(self.own_model, correction, "own batches")

    def train(self) -> Vector:
        """Without clipping records, from the run's own streams, so that runs repeat.

        Where whole clients are protected, what fails or diverges counts as no change at all.
        """
        if self._silent:
            self._quietly(lambda: self._steps(self._first), self._change_nothing)
            return self._whole
        self._steps(self._first)
        whole = self._whole
        if self._algorithm.trainings > 1:
            self._steps(self._second)
            self._keep_end()
        return whole

    def _steps(self, course: _Course) -> None:
        site, mine = self.site, self._mine
        site.load(course.start)
        train(
            site.model,
            mine.features,
            mine.labels,
            site.training,
            correct=course.correction(),
            rng=Streams(site.config.seed).get(course.stream, site.name, self.request.round),
            loss=site.loss,
            canaries=mine.slots,
        )

    def train_privately(self, plan: PaidSteps, step_norm: float | None) -> Vector:
        """By DP-SGD, in as many steps as the round has paid for, each of `step_norm` at most.

        Where something fails that is not one record's, the reply is the noise of these steps.
        """
        times, steps = self._algorithm.trainings, self.site.training.local_steps
        if plan.steps_per_round != steps * times:
            raise FedlearnError(
                f"training.local_steps={steps}: the plan of privacy pays for "
                f"{plan.steps_per_round} steps a round"
            )
        self._private_steps(self._first, plan, step_norm)
        whole = self._whole
        if times > 1:
            self._private_steps(self._second, plan, step_norm)
            self._keep_end()
        return whole

    def _private_steps(self, course: _Course, plan: PaidSteps, step_norm: float | None) -> None:
        from fedlearn.training.private import train_private  # Opacus takes a second

        site = self.site

        def steps_on(mine: TrainingSet) -> None:
            site.load(course.start)
            train_private(
                site.model,
                mine.features,
                mine.labels,
                site.training,
                plan,
                correct=course.correction(),
                noise=self.noise,
                loss=site.loss,
                canaries=mine.slots,
                step_norm=step_norm,
                people=mine.people,
            )

        self._quietly(lambda: steps_on(self._mine), lambda: steps_on(nobody()))

    def _keep_end(self) -> None:
        """Where a second training has come to; what is not finite is no training."""
        end = to_vector(self.site.model)
        if self._silent and diverged(end):
            log.warning("%s keeps its own model as it was: training diverged", self.site.name)
            end = self.own_model
        self._ends["second"] = self._finite(end)

    def clipped_gradient_sum(self, plan: ClippedSteps) -> NDArray[np.float64]:
        """Of one Poisson batch; the noise is still missing. Zero where that fails."""
        from fedlearn.training.private import clipped_gradient_sum

        site = self.site

        def of_records() -> NDArray[np.float64]:
            mine = self._mine
            total = clipped_gradient_sum(
                site.model,
                mine.features,
                mine.labels,
                site.training,
                plan,
                noise=self.noise,
                loss=site.loss,
                canaries=mine.slots,
                people=mine.people,
            )
            return self._finite(total)

        return self._quietly(of_records, lambda: np.zeros(layout_of(site.model).size))

    @property
    def _silent(self) -> bool:
        """Whether no failure may be told, for it may be one record's, or one client's, doing."""
        return self.site.config.privacy.unit != "none"

    def _quietly(self, run: Callable[[], T], instead: Callable[[], T]) -> T:
        """What `run` gives; where it fails, which only the log of the site says, `instead`."""
        try:
            return run()
        except Exception:
            log.exception("training failed at %s in round %s", self.site.name, self.request.round)
            return instead()

    def _change_nothing(self) -> None:
        """An update of zeros, sent like any other."""
        self.site.load(self.request.model)
        vars(self)["_whole"] = self.base

    @cached_property
    def _here(self) -> LocalRound:
        """What the algorithm may know of a round at this site."""
        training = self.site.training
        return LocalRound(
            start=self.request.model,
            received=self.request.besides,
            own=self._own,
            trained=trained_values(self.site.model),
            steps=training.local_steps,
            learning_rate=training.learning_rate,
        )

    @cached_property
    def _whole(self) -> Vector:
        """What the site gives; asked for once it has trained.

        Under privacy a change that is not finite is none, and only the log of the site says so.
        """
        try:
            whole = self._stacked()
        except DivergedError as error:
            if not self._silent:
                raise
            log.warning("%s; no change is sent", error)
            self.site.load(self.request.model)
            whole = self.base
        note_change(self.site, self.request, self.stack.split(whole)[MODEL])
        return whole

    def _stacked(self) -> Vector:
        end = self._finite(to_vector(self.site.model))
        self._ends["first"] = end
        if self._parts:
            return self._parts.given(self.request.model, end)
        model, extra = (
            self._algorithm.given(self._here, end),
            self._algorithm.extra(self._here, end),
        )
        return self._finite(self.stack.join({MODEL: model, **extra}))

    def _finite(self, vector: V) -> V:
        if diverged(vector):
            raise DivergedError(
                f"training diverged at {self.site.name} in round {self.request.round}: the model "
                "holds numbers that are not finite; lower "
                f"training.learning_rate={self.site.config.training.learning_rate}"
            )
        return vector


class DivergedError(FedlearnError):
    """A trained model, or what goes with it, is not finite."""
