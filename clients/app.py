"""The Flower ClientApp: what a site answers to the coordinator.

A site's no is an answer like any other: whatever it refuses (its config, its
budget, its data) travels back as a `Refusal` with the reason, and nothing of
the site's records with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.site import Site, open_site
from fedlearn import flower
from fedlearn.errors import FedlearnError
from fedlearn.metrics import evaluation_sums
from fedlearn.privacy import Event, PrivacyPlan
from fedlearn.rng import Streams
from fedlearn.rounds import EvaluateReply, Hello, Refusal, TrainReply, TrainRequest
from fedlearn.training.local import diverged, predict, train
from fedlearn.vector import load_vector, to_vector

log = logging.getLogger(__name__)

app = ClientApp()

Answer = Callable[[Message, Site], RecordDict]


def _answer(message: Message, context: Context, answer: Answer) -> Message:
    site = str(context.node_config.get("site", context.node_config.get("partition-id", "?")))
    try:
        opened = open_site(context.node_config, flower.config_of(context))
        site = opened.name
        content = answer(message, opened)
    except FedlearnError as error:
        log.warning("refused: %s", error)
        content = flower.refusal_reply(
            Refusal(site=site, exit_code=error.exit_code, reason=str(error))
        )
    return Message(content, reply_to=message)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who this site is and what its records look like."""
    return _answer(message, context, _hello)


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Local training on the global model of a round."""
    return _answer(message, context, _train)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Test sums for the global model of a round."""
    return _answer(message, context, _evaluate)


def _hello(message: Message, site: Site) -> RecordDict:
    del message
    return flower.hello_reply(
        Hello(
            site=site.name,
            task=site.task,
            data_sha256=site.data_sha256,
            train_records=len(site.data.train),
            test_records=len(site.data.test),
            real_noise=site.noise(0).is_private,
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


def _train(message: Message, site: Site) -> RecordDict:
    request = flower.read_train_request(message)
    load_vector(site.model, request.model)
    weight = _train_plainly(site, request) if site.plan is None else 1.0
    spent = () if site.plan is None else _train_privately(site, request, site.plan)
    vector = to_vector(site.model)
    if diverged(vector):
        raise FedlearnError(
            f"training diverged at {site.name} in round {request.round}: the model holds numbers "
            "that are not finite; lower "
            f"training.learning_rate={site.config.training.learning_rate}"
        )
    return flower.train_reply(TrainReply(site=site.name, model=vector, weight=weight, spent=spent))


def _train_plainly(site: Site, request: TrainRequest) -> float:
    """Train without privacy; the weight of the reply is the number of records."""
    train(
        site.model,
        *site.train_tensors,
        site.config.training,
        proximal_mu=request.proximal_mu,
        rng=Streams(site.config.seed).get("batches", site.name, request.round),
    )
    return float(len(site.data.train))


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


def _evaluate(message: Message, site: Site) -> RecordDict:
    _commit(site, message)
    request = flower.read_train_request(message)
    load_vector(site.model, request.model)
    features, labels = site.test_tensors
    probabilities = predict(site.model, features, site.config.training.max_batch)
    sums = evaluation_sums(probabilities, labels.numpy())
    return flower.evaluate_reply(EvaluateReply(site=site.name, sums=sums))
