"""The Flower ClientApp: what a site answers to the coordinator.

A site's no is an answer like any other: whatever it refuses (its config, its
budget, its data) travels back as a `Refusal` with the reason. When the app itself
fails, only the kind of error travels: the text of an exception that nobody wrote
for a reader outside may hold records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients import protection
from clients.site import Site, open_site
from fedlearn import flower
from fedlearn.agreement import counters_of
from fedlearn.errors import FedlearnError
from fedlearn.metrics import evaluation_sums
from fedlearn.privacy import Event, PrivacyPlan
from fedlearn.rng import Streams
from fedlearn.rounds import EvaluateReply, Hello, Refusal, TrainReply, TrainRequest
from fedlearn.training.local import diverged, predict, train
from fedlearn.vector import Vector, load_vector, to_vector, vector_digest

log = logging.getLogger(__name__)

app = ClientApp(mods=[protection.sealing])

Answer = Callable[[Message, Context, Site], RecordDict]


def _answer(message: Message, context: Context, answer: Answer) -> Message:
    site = str(context.node_config.get("site", context.node_config.get("partition-id", "?")))
    try:
        opened = open_site(context.node_config, flower.config_of(context))
        site = opened.name
        content = answer(message, context, opened)
    except FedlearnError as error:
        log.warning("refused: %s", error)
        content = flower.refusal_reply(
            Refusal(site=site, exit_code=error.exit_code, reason=str(error))
        )
    except Exception as error:  # Flower would send its text to the server
        log.exception("the app failed on %s", message.metadata.message_type)
        reason = f"its app failed ({type(error).__name__})"
        content = flower.refusal_reply(Refusal(site=site, exit_code=1, reason=reason))
    return Message(content, reply_to=message)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who this site is and what its records look like."""
    return _answer(message, context, _hello)


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Take part in a run: its roster, and the set-up of the channel."""
    return _answer(message, context, protection.join)


@app.query("secagg_advertise")
def advertise(message: Message, context: Context) -> Message:
    """Secure aggregation, step 1: fresh signed keys."""
    return _answer(message, context, protection.secagg_step)


@app.query("secagg_share")
def share(message: Message, context: Context) -> Message:
    """Secure aggregation, step 2: shares of this site's secrets."""
    return _answer(message, context, protection.secagg_step)


@app.query("secagg_agree")
def agree(message: Message, context: Context) -> Message:
    """Secure aggregation, step 4: one signature on one list of survivors."""
    return _answer(message, context, protection.secagg_step)


@app.query("secagg_unmask")
def unmask(message: Message, context: Context) -> Message:
    """Secure aggregation, step 5: one share per neighbour."""
    return _answer(message, context, protection.secagg_step)


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Local training on the global model of a round."""
    return _answer(message, context, _train)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Test sums for the global model of a round."""
    return _answer(message, context, _evaluate)


def _hello(message: Message, context: Context, site: Site) -> RecordDict:
    return flower.hello_reply(
        Hello(
            site=site.name,
            task=site.task,
            data_sha256=site.data_sha256,
            train_records=len(site.data.train),
            test_records=len(site.data.test),
            real_noise=site.noise(0).is_private,
            public_key=protection.identity_of(context).public.hex() if site.needs_identity else "",
        )
    )


def _commit(site: Site, message: Message) -> None:
    """What this run reserved before has left: the server would not come back otherwise."""
    if site.plan is None or not site.ledger_path.exists():
        return
    run_id = flower.read_run_id(message)
    with site.ledger(site.plan) as ledger:
        for reservation in ledger.pending(run_id):
            ledger.commit(reservation, now=site.now())


def _train(message: Message, context: Context, site: Site) -> RecordDict:
    request = flower.read_train_request(message)
    summing = protection.Summing.of(site, context, "train", request.round)
    if summing and (stored := summing.answered(message)):
        # Nothing is trained, or paid for, twice.
        return flower.summed_reply(site.name, stored, _spent_so_far(site, request.run_id))
    load_vector(site.model, request.model)
    weight = _train_plainly(site, request) if site.plan is None else 1
    spent = () if site.plan is None else _train_privately(site, request, site.plan)
    vector = to_vector(site.model)
    if diverged(vector):
        raise FedlearnError(
            f"training diverged at {site.name} in round {request.round}: the model holds numbers "
            "that are not finite; lower "
            f"training.learning_rate={site.config.training.learning_rate}"
        )
    if summing is None:
        reply = TrainReply(site=site.name, model=vector, weight=float(weight), spent=spent)
        return flower.train_reply(reply)
    change = protection.Contribution(vector - request.model, weight, [])
    return summing.reply(message, change, model_hash(request.model), spent)


def _spent_so_far(site: Site, run_id: str) -> tuple[Event, ...]:
    if site.plan is None:
        return ()
    with site.ledger(site.plan) as ledger:
        return ledger.spent_by(run_id)


def model_hash(vector: Vector) -> bytes:
    """SHA-256 of the global model that really arrived."""
    return bytes.fromhex(vector_digest(vector))


def _train_plainly(site: Site, request: TrainRequest) -> int:
    """Train without privacy; the weight of the reply is the number of records."""
    train(
        site.model,
        *site.train_tensors,
        site.config.training,
        proximal_mu=request.proximal_mu,
        rng=Streams(site.config.seed).get("batches", site.name, request.round),
    )
    return len(site.data.train)


def _train_privately(site: Site, request: TrainRequest, plan: PrivacyPlan) -> tuple[Event, ...]:
    """Pay for the round in the ledger, then train; what this run has spent here so far."""
    from fedlearn.training.private import train_private  # Opacus takes a second to import

    with site.ledger(plan) as ledger:
        ledger.reserve(
            plan.round_event,
            run_id=request.run_id,
            round_number=request.round,
            purpose=f"training {site.config.experiment}",
            now=site.now(),
        )
        spent = ledger.spent_by(request.run_id)
    train_private(
        site.model,
        *site.train_tensors,
        site.config.training,
        plan,
        proximal_mu=request.proximal_mu,
        noise=site.noise(request.round),
    )
    return spent


def _evaluate(message: Message, context: Context, site: Site) -> RecordDict:
    _commit(site, message)
    request = flower.read_train_request(message)
    summing = protection.Summing.of(site, context, "evaluate", request.round)
    if summing and (stored := summing.answered(message)):
        return flower.summed_reply(site.name, stored, ())
    load_vector(site.model, request.model)
    features, labels = site.test_tensors
    probabilities = predict(site.model, features, site.config.training.max_batch)
    sums = evaluation_sums(probabilities, labels.numpy())
    if summing is None:
        return flower.evaluate_reply(EvaluateReply(site=site.name, sums=sums))
    nothing = np.zeros(0, np.float32)
    mine = protection.Contribution(nothing, 1, counters_of(sums))
    return summing.reply(message, mine, model_hash(request.model), ())
