"""The Flower ClientApp: what a site answers to the coordinator.

A site's no is an answer like any other: whatever it refuses (its config, its
budget, its data) travels back as a `Refusal` with the reason, and nothing of
the site's records with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from fedlearn import flower
from fedlearn.errors import FedlearnError
from fedlearn.metrics import evaluation_sums
from fedlearn.rng import Streams
from fedlearn.rounds import EvaluateReply, Hello, Refusal, TrainReply
from fedlearn.training.local import diverged, predict, train
from fedlearn.vector import load_vector, to_vector

# isort: split
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.site import Site, open_site

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


def _train(message: Message, site: Site) -> RecordDict:
    request = flower.read_train_request(message)
    load_vector(site.model, request.model)
    if site.plan is None:
        weight = _train_plainly(site, request.round, request.proximal_mu)
        spent = ()
    else:
        weight = 1.0
        spent = _train_privately(site, message, request.round, request.proximal_mu)
    vector = to_vector(site.model)
    if diverged(vector):
        raise FedlearnError(
            f"training diverged at {site.name} in round {request.round}: the model holds "
            f"numbers that are not finite; lower training.learning_rate="
            f"{site.config.training.learning_rate}"
        )
    reply = TrainReply(site=site.name, model=vector, weight=weight, spent=spent)
    return flower.train_reply(reply)
