"""The Flower ClientApp: what a site answers to the coordinator.

A site's no is an answer like any other: whatever it refuses (its config, its
budget, its data) travels back as a `Refusal` with the reason. When the app itself
fails, only the kind of error travels: the text of an exception that nobody wrote
for a reader outside may hold records.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from clients import joining, work
from clients.owner import admit, deployed_owner, owner_of
from clients.secagg import client_of, secagg_step
from clients.site import Site, name_of, open_site
from clients.supernode.deployed import commitment, deployed_site
from fedlearn import __version__, flower
from fedlearn.agreement import route_of, sent_whole
from fedlearn.core.code import code_digest
from fedlearn.core.errors import FedlearnError, ProtocolError
from fedlearn.core.vector import vector_digest
from fedlearn.data.tables.schema import reported
from fedlearn.metrics.fairness import GroupFairness, group_sums, shown
from fedlearn.metrics.sums import Sums
from fedlearn.rounds import EvaluateReply, Hello, Refusal, TrainReply, TrainRequest
from fedlearn.stages import Update
from fedlearn.training.device import within_memory
from fedlearn.training.local import grade

log = logging.getLogger(__name__)

app = ClientApp(mods=[joining.sealing])

Answer = Callable[[Message, Context, Site], RecordDict]


def _answer(message: Message, context: Context, answer: Answer) -> Message:
    site = str(context.node_config.get("partition-id", "?"))
    try:
        config = flower.config_of(context)
        own = deployed_site(context)
        site = own.name if own else name_of(context.node_config, config)
        owner = deployed_owner(own) if own else owner_of(config, site)
        note = flower.read_note(message)
        admit(
            owner,
            config,
            run_id=note.run_id if note else "",
            cohort=note.cohort if note else None,
            now=datetime.now(UTC),
        )
        with within_memory(f"site {site}"):
            content = answer(message, context, open_site(owner, config))
    except FedlearnError as error:
        log.info("refused: %s", error)
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
    return _answer(message, context, joining.join)


@app.query("afford")
def afford(message: Message, context: Context) -> Message:
    """Whether this site takes part in a round and can pay for it; spends nothing."""
    return _answer(message, context, _afford)


@app.query("secagg_advertise")
@app.query("secagg_share")
@app.query("secagg_agree")
@app.query("secagg_unmask")
def secagg(message: Message, context: Context) -> Message:
    """Secure aggregation, the steps without a vector: fresh signed keys, shares of this site's
    secrets, one signature on one list of survivors, and one share per neighbour."""
    return _answer(message, context, secagg_step)


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Local training on the global model of a round."""
    return _answer(message, context, _train)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Test sums for the global model of a round."""
    return _answer(message, context, _evaluate)


def _hello(message: Message, context: Context, site: Site) -> RecordDict:
    if site.config.privacy.unit != "none" and site.owner.ledger.exists():
        site.ledger().close()  # a ledger that is altered, or another's, ends it here
    return flower.hello_reply(
        Hello(
            site=site.name,
            task=site.task.form,
            data_sha256=_reported_hash(context, site),
            train_records=len(site.data.train),
            test_records=len(site.data.test),
            real_noise=site.noise(0).is_private,
            public_key=joining.identity_of(context).public.hex() if site.needs_identity else "",
            version=__version__,
            code=code_digest(),
            schema=reported(site.data.schema, private=site.config.privacy.unit != "none"),
            device=site.device.type,
        )
    )


def _reported_hash(context: Context, site: Site) -> str:
    """SHA-256 of the records in a simulation; a deployed site only commits itself to it."""
    if site.owner.deployed is None:
        return site.data_sha256
    return commitment(joining.identity_of(context), site.data_sha256)


def _afford(message: Message, context: Context, site: Site) -> RecordDict:
    note, plan = flower.read_note(message), joining.plan_of(site, context)
    if note is None:
        raise ProtocolError(joining.SERVER, "afford", "the message does not say which round")
    if plan is not None:
        work.could_pay(site, plan, note)
    return RecordDict()


def _train(message: Message, context: Context, site: Site) -> RecordDict:
    request = flower.read_train_request(message)
    plan = joining.plan_of(site, context)
    summing = client_of(site, context, "train", request.round)
    if summing and (stored := summing.answered(message)):
        # Nothing is trained, or paid for, twice.
        return flower.summed_reply(site.name, stored, work.spent_so_far(site, request.run_id))
    here, route = work.SiteRound(site, request), route_of(site.config, plan)
    here.check()
    site.load(request.model)
    spent = work.pay(site, plan, request)
    update = route.forward(here)
    here.keep(route, summing.limit(message) if summing else math.inf)
    if summing is None:
        model, weight = update.values, float(update.weight)
        reply = TrainReply(site=site.name, model=model, weight=weight, spent=spent)
        return flower.train_reply(reply)
    return summing.reply(message, update, sent_hash(request), spent)


def sent_hash(request: TrainRequest) -> bytes:
    """SHA-256 of the global model that really arrived, and of what came with it."""
    return bytes.fromhex(vector_digest(sent_whole(request.model, request.besides)))


def _evaluate(message: Message, context: Context, site: Site) -> RecordDict:
    request = flower.read_train_request(message)
    work.commit(site, request.run_id)
    summing = client_of(site, context, "evaluate", request.round)
    if summing and (stored := summing.answered(message)):
        return flower.summed_reply(site.name, stored, ())
    site.load(request.model)
    features, targets = site.test_tensors[0], site.data.test.labels
    graded = grade(site.model, site.task, features, targets, site.training.max_batch)
    sums, groups = site.task.sums(graded, targets), _group_sums(site, graded)
    if summing is None:
        return flower.evaluate_reply(_released(site, sums, groups))
    # Of a sum over sites every group is counted: how many it has is known after it is opened.
    counters = tuple(count for one in (sums, *groups.values()) for count in one.counters())
    mine = Update(values=np.zeros(0, np.float32), counters=counters)
    return summing.reply(message, mine, sent_hash(request), ())


def _group_sums(site: Site, graded: NDArray[np.float64]) -> dict[str, Sums]:
    """The test sums of the groups of people that the run tells apart, if any."""
    fairness, targets = site.config.fairness, site.data.test.labels
    if not isinstance(fairness, GroupFairness):
        return {}
    attribute = site.data.test_attributes[fairness.column]
    return group_sums(fairness, attribute, lambda who: site.task.sums(graded[who], targets[who]))


def _released(site: Site, sums: Sums, groups: dict[str, Sums]) -> EvaluateReply:
    """What leaves the site in clear: groups that are too small stay here."""
    fairness = site.config.fairness
    if not isinstance(fairness, GroupFairness):
        return EvaluateReply(site=site.name, sums=sums)
    seen, hidden = shown(groups, fairness.smallest)
    return EvaluateReply(site=site.name, sums=sums, groups=seen, withheld=hidden)
