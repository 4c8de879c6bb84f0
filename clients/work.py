"""What a site does with its records in a round, by the kind of privacy that was promised.

Every kind pays for the round in the site's ledger before it looks at a record.
The mechanism and the event that is paid for come from one plan, so that neither
can be another's.
"""

from __future__ import annotations

from typing import Any, TypeVar, assert_never

import numpy as np
from numpy.typing import NDArray

from clients.canaries import note_change, training_set
from clients.ledger.ledger import Budget, Ledger
from clients.ledger.state import Cost
from clients.site import Site
from fedlearn.agreement import rotation_context
from fedlearn.algorithms import LocalRound
from fedlearn.core.errors import FedlearnError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, to_vector
from fedlearn.mechanisms import ClientPlan, DistributedPlan, PrivacyPlan, RecordPlan
from fedlearn.mechanisms.client import clip_own
from fedlearn.mechanisms.encoding import integers
from fedlearn.models.slots import trained_values
from fedlearn.privacy import Event
from fedlearn.privacy.accounting import epsilon
from fedlearn.rounds import RoundNote, TrainRequest
from fedlearn.secagg.settings import SecAggOff
from fedlearn.training.local import diverged, train

V = TypeVar("V", bound=NDArray[np.floating[Any]])


# --- what it costs ----------------------------------------------------------------


def promised(plan: PrivacyPlan) -> Budget:
    """What a run may cost a site that takes part in all rounds, whoever knows of it."""
    total = epsilon([plan.total_event], plan.delta, unit=plan.unit)
    return Budget(epsilon=total, delta=plan.delta, unit=plan.unit)


def could_pay(site: Site, plan: PrivacyPlan, note: RoundNote) -> None:
    """Ask the ledger whether the site can pay for a round; spends nothing.

    What this run has reserved before is committed: its replies have left, or the
    coordinator would not be at the next round.

    Raises:
        PrivacyError: it cannot; the refusal is in the ledger.
        DataError: the ledger is not intact, or not that of these records.
    """
    cost = Cost(
        event=plan.round_event,
        run_id=note.run_id,
        round_number=note.round,
        purpose=_purpose(site),
    )
    with site.ledger() as ledger:
        _commit_all(site, ledger, note.run_id)
        ledger.require(cost, now=site.now(), of_run=promised(plan))


def pay(site: Site, plan: PrivacyPlan | None, request: TrainRequest) -> tuple[Event, ...]:
    """Reserve what the round costs; what this run has spent here so far, the round included."""
    if plan is None:
        return ()
    with site.ledger() as ledger:
        ledger.reserve(
            plan.round_event,
            run_id=request.run_id,
            round_number=request.round,
            purpose=_purpose(site),
            now=site.now(),
            of_run=promised(plan),
        )
        return ledger.spent_by(request.run_id)


def spent_so_far(site: Site, run_id: str) -> tuple[Event, ...]:
    """What a run has spent here."""
    if site.config.privacy.kind == "none":
        return ()
    with site.ledger() as ledger:
        return ledger.spent_by(run_id)


def commit(site: Site, run_id: str) -> None:
    """Note that the replies of this run have left, or the coordinator would not come back."""
    if site.config.privacy.kind != "none" and site.owner.ledger.exists():
        with site.ledger() as ledger:
            _commit_all(site, ledger, run_id)


def _commit_all(site: Site, ledger: Ledger, run_id: str) -> None:
    for reservation in ledger.pending(run_id):
        ledger.commit(reservation, now=site.now())


def _purpose(site: Site) -> str:
    return f"training {site.config.experiment}"


# --- what is done -----------------------------------------------------------------


def trained(site: Site, plan: PrivacyPlan | None, request: TrainRequest) -> Vector:
    """The site's model after the round, `float32[d]`; its global model is loaded already.

    Raises:
        FedlearnError: a number of it is not finite.
    """
    mine = training_set(site, request.run_id)
    correct = site.config.strategy.correction(site.model, _here(site, request))
    match plan:
        case None | ClientPlan():
            train(
                site.model,
                mine.features,
                mine.labels,
                site.training,
                correct=correct,
                rng=Streams(site.config.seed).get("batches", site.name, request.round),
                weights=site.class_weights,
                canaries=mine.slots,
            )
        case RecordPlan():
            from fedlearn.training.private import train_private  # Opacus takes a second

            train_private(
                site.model,
                mine.features,
                mine.labels,
                site.training,
                plan,
                correct=correct,
                noise=site.noise(request.round),
                weights=site.class_weights,
                canaries=mine.slots,
            )
        case DistributedPlan():
            raise RuntimeError("under distributed privacy no single model leaves a site")
        case _:
            assert_never(plan)
    model = _finite(site, request, to_vector(site.model))
    note_change(site, request, model)
    return model


def _here(site: Site, request: TrainRequest) -> LocalRound:
    """What the algorithm may know of a round at this site."""
    return LocalRound(
        start=request.model,
        received=request.besides,
        own={},
        trained=trained_values(site.model),
        steps=site.training.local_steps,
        learning_rate=site.training.learning_rate,
    )


def clipped_change(site: Site, request: TrainRequest, change: Vector) -> tuple[Vector, list[int]]:
    """A change for a sum that the coordinator cannot look into: clipped here; was it within?"""
    if isinstance(site.config.secagg, SecAggOff):
        raise RuntimeError("where updates are seen the coordinator clips them")
    own = clip_own(change, request.clip_norm, resolution=site.config.secagg.resolution)
    return own.update, [int(own.within)]


def noisy_integers(site: Site, plan: DistributedPlan, request: TrainRequest) -> NDArray[np.int64]:
    """The site's part of the sum under distributed privacy, with its share of the noise."""
    noise = site.noise(request.round)
    match plan.unit:
        case "record":
            from fedlearn.training.private import clipped_gradient_sum

            mine = training_set(site, request.run_id)
            update: NDArray[np.floating[Any]] = clipped_gradient_sum(
                site.model,
                mine.features,
                mine.labels,
                site.training,
                plan,
                noise=noise,
                weights=site.class_weights,
                canaries=mine.slots,
            )
        case "client":
            update = trained(site, None, request) - request.model
        case _:
            assert_never(plan.unit)
    return integers(
        plan,
        _finite(site, request, update),
        context=rotation_context(site.config, request.round),
        stream=noise.stream(),
    )


def _finite(site: Site, request: TrainRequest, vector: V) -> V:
    if diverged(vector):
        raise FedlearnError(
            f"training diverged at {site.name} in round {request.round}: the model holds numbers "
            "that are not finite; lower "
            f"training.learning_rate={site.config.training.learning_rate}"
        )
    return vector
