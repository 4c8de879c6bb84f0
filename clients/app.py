"""The Flower ClientApp: what a site answers to the coordinator.

A site's no is an answer like any other: whatever it refuses (its config, its
budget, its data) travels back as a `Refusal`. The whole reason is for the site's own
log: what leaves a deployed site names at most settings (`clients.outside`).
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients import evaluation, groups, joining, openings, payment, screening, statistics
from clients.conduct import Conduct
from clients.form import held_form
from clients.ledger.receipts import check_grown, sign
from clients.outside import of_records, outside
from clients.owner import Owner, admit, check_consent, deployed_owner, owner_of
from clients.secagg import client_of, proposed_cohort, secagg_step
from clients.site import Site, name_of, open_site
from clients.studies.consent import BEGINS_ROUND, DeclinedError, HeldError
from clients.supernode.deployed import brings_nothing, commitment, deployed_site, is_deployed
from fedlearn import __version__
from fedlearn.agreement import request_digest, route_of
from fedlearn.config import RunConfig
from fedlearn.core.code import code_digest
from fedlearn.core.errors import FedlearnError, ProtocolError
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.roster import SERVER
from fedlearn.data.tables.schema import reported
from fedlearn.flower import messages as flower
from fedlearn.flower.site import secret_bytes
from fedlearn.mechanisms import UNPROTECTED
from fedlearn.results.receipts import to_json
from fedlearn.rounds import ByOwner, Description, Hello, Refusal, TrainReply, TrainRequest
from fedlearn.stages import Update
from fedlearn.training.device import within_memory

log = logging.getLogger(__name__)

app: ClientApp
# Flower reads this file for a plain assignment.
app = ClientApp(mods=[brings_nothing, joining.sealing])

Answer = Callable[[Message, Context, Site], RecordDict]
Party = Callable[[RunConfig, Owner], RecordDict]
"""What a site answers before it opens its records."""


def _answer(message: Message, context: Context, answer: Answer) -> Message:
    """The answer to a request under the terms that the site has joined."""

    def opened(config: RunConfig, owner: Owner) -> RecordDict:
        joining.check_request(message, context, config, owner)
        _admit(message, config, owner)
        with held_form(owner, config), within_memory(f"site {owner.name}"), of_records(owner):
            content = answer(message, context, open_site(owner, config))
        # What took a while leaves only where the owner has not ended it meanwhile.
        check_consent(owner, config, "", datetime.now(UTC))
        return content

    return _guarded(message, context, opened)


def _admit(message: Message, config: RunConfig, owner: Owner) -> None:
    note = flower.read_note(message)
    # Of a masked sum whoever is in it counts, and not what a note says of them.
    run_id, cohort = (note.run_id, note.cohort) if note else ("", proposed_cohort(message))
    now = datetime.now(UTC)
    admit(owner, config, run_id=run_id, cohort=cohort, now=now)
    # After the policy: nobody is asked for a decision on what it refuses anyhow.
    check_consent(owner, config, message.metadata.message_type, now)


def _guarded(message: Message, context: Context, answer: Party) -> Message:
    site = str(context.node_config.get("partition-id", "?"))
    try:
        if message.metadata.message_type not in flower.KNOWN:
            raise ProtocolError(SERVER, "message", "is of a kind that the protocol has not")
        own = deployed_site(context)
        if own is None:
            config = flower.config_of(context)
            site = name_of(context.node_config, config)
            owner = owner_of(config, site)
        else:
            site = own.name
            # Before the config is read: what it names is imported only if it is the coordinator's.
            joining.check_terms(message, context, own.roster)
            config, owner = flower.config_of(context), deployed_owner(own)
        content = answer(config, owner)
    except FedlearnError as error:
        log.info("refused: %s", error)
        content = flower.refusal_reply(_refusal(site, error, context))
    except Exception as error:  # Flower would send its text to the server
        log.exception("the app failed on %s", message.metadata.message_type)
        own_code = FedlearnError(f"its app failed ({type(error).__name__})")
        content = flower.refusal_reply(_refusal(site, own_code, context))
    return Message(content, reply_to=message)


def _refusal(site: str, error: FedlearnError, context: Context) -> Refusal:
    """The no that travels; of a simulation all is one owner's, and the whole text is told."""
    reason = f"site {site}: {outside(error)}" if is_deployed(context) else str(error)
    by_owner: ByOwner = ""
    if isinstance(error, HeldError | DeclinedError):
        reason, by_owner = f"site {site}: {error.reason}", error.by_owner
    return Refusal(site=site, exit_code=error.exit_code, reason=reason, by_owner=by_owner)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who this site is, where it takes part under the terms of the run; reads no record."""

    def greeted(config: RunConfig, owner: Owner) -> RecordDict:
        _admit(message, config, owner)
        public = joining.identity_of(context).public if joining.needs_key(config, owner) else b""
        return flower.hello_reply(
            Hello(
                site=owner.name,
                public_key=public.hex(),
                version=__version__,
                code=code_digest(),
                commitment=groups.commitment(context, config, owner.name),
            )
        )

    return _guarded(message, context, greeted)


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Take part in a run: its roster, and the set-up of the channel."""

    def joined(config: RunConfig, owner: Owner) -> RecordDict:
        check_consent(owner, config, message.metadata.message_type, datetime.now(UTC))
        with joining.unless_refused(context):
            accepted = joining.join(message, context, config, owner)
            groups.take_commitments(flower.read_invitation(message), context, config, owner)
        return flower.accepted_reply(accepted)

    return _guarded(message, context, joined)


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """What this site's records look like, to those with whom it has joined a run."""
    return _answer(message, context, _describe)


@app.query("open")
def open_share(message: Message, context: Context) -> Message:
    """This site's share of common randomness, under the list that it has joined."""
    return _answer(message, context, _open)


@app.query("draw")
def draw(message: Message, context: Context) -> Message:
    """Take in the shares of all sites, from which groups follow; answers nothing."""
    return _answer(message, context, _draw)


@app.query("afford")
def afford(message: Message, context: Context) -> Message:
    """Whether this site takes part in a round and can pay for it; spends nothing."""
    return _answer(message, context, _afford)


@app.query("screen")
def screen(message: Message, context: Context) -> Message:
    """Where this site's training records stand, with noise that is paid for."""
    return _answer(message, context, _screen)


@app.query("compare")
def compare(message: Message, context: Context) -> Message:
    """Take in where the records of all sites stand; answers nothing."""
    return _answer(message, context, _compare)


@app.query("receipt")
def receipt(message: Message, context: Context) -> Message:
    """This site's signature on its ledger as it is, where that has grown from the last one."""
    return _answer(message, context, _receipt)


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
    return trained(message, context, Conduct())


def trained(message: Message, context: Context, conduct: Conduct) -> Message:
    """The reply of a site of this conduct to a round of training."""
    return _answer(message, context, partial(_train, conduct=conduct))


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Test sums for the global model of a round."""
    return _answer(message, context, _evaluate)


def _describe(message: Message, context: Context, site: Site) -> RecordDict:
    if site.config.privacy.unit != "none" and site.owner.ledger.exists():
        site.ledger().close()  # a ledger that is altered, or another's, ends it here
    counted = site.owner.deployed is None or site.config.privacy.unit == "none"
    return flower.description_reply(
        Description(
            task=site.task.form,
            data_sha256=_reported_hash(context, site),
            train_records=len(site.data.train) if counted else None,
            test_records=len(site.data.test) if counted else None,
            validation_records=len(site.data.validation or ()) if counted else None,
            real_noise=site.noise(0).is_private,
            schema=reported(site.data.schema, private=site.config.privacy.unit != "none"),
            device=site.device.type,
        )
    )


def _open(message: Message, context: Context, site: Site) -> RecordDict:
    return flower.opening_reply(groups.opening(context, site.config, site.owner))


def _draw(message: Message, context: Context, site: Site) -> RecordDict:
    groups.take_seed(message, context, site.config)
    return RecordDict()


def _reported_hash(context: Context, site: Site) -> str:
    """SHA-256 of the records in a simulation; a deployed site only commits itself to it.

    Under privacy it commits itself to the name of the data set: that records have changed
    since another run is more than anybody has paid for.
    """
    if site.owner.deployed is None:
        return site.data_sha256
    identity = joining.identity_of(context)
    if site.config.privacy.unit == "none":
        return commitment(identity, site.data_sha256)
    return _named(site, identity)


def _named(site: Site, identity: Identity) -> str:
    """A site's commitment to what it calls its data."""
    return commitment(identity, hashlib.sha256(site.owner.dataset.encode()).hexdigest())


def _receipt(message: Message, context: Context, site: Site) -> RecordDict:
    identity, known = joining.identity_of(context), flower.read_known(message)
    data, run = _named(site, identity), joining.joined_run(context, "receipt")
    run_id, terms = secret_bytes(run["run-id"]).hex(), site.config.terms.hex()
    with site.ledger() as ledger:
        if known:
            check_grown(ledger, known, key=identity.public, data=data)
        mine = sign(ledger, identity, data=data, run_id=run_id, terms=terms, now=site.now())
    return flower.receipt_content(to_json(mine))


def _afford(message: Message, context: Context, site: Site) -> RecordDict:
    note, plan = flower.read_note(message), joining.plan_of(site, context)
    if note is None:
        raise ProtocolError(SERVER, "afford", "the message does not say which round")
    screening.require(site, context, note.run_id)
    if plan is not None:
        payment.could_pay(site, plan, note)
    return RecordDict()


def _screen(message: Message, context: Context, site: Site) -> RecordDict:
    note, plan = flower.read_note(message), joining.plan_of(site, context)
    if note is None:
        raise ProtocolError(SERVER, "screen", "the message names no run")
    alone = site.config.statistics.by_site
    summing = None if alone else client_of(site, context, "screen", 0)
    asked = request_digest(note, np.zeros(0, np.float32), {})
    if summing and (stored := summing.answered(message, asked)):
        return flower.summed_reply(site.name, stored, ())
    if site.config.statistics.idle:
        spent = screening.begin(site, context, plan, note)
        found = screening.given(site, context, plan, note.run_id)
    else:
        spent = statistics.begin(site, context, plan, note)
        found = statistics.given(site, plan)
    if summing is None:
        return flower.noised_reply(site.name, found, spent)
    mine = Update(values=np.zeros(0, np.float32), counters=tuple(found.tolist()))
    return summing.reply(message, mine, asked, spent)


def _compare(message: Message, context: Context, site: Site) -> RecordDict:
    layout, (opened, sites) = screening.layout_in(site), flower.read_compare(message)
    if opened.shape != (layout.size,):
        raise ProtocolError(SERVER, "compare", "the sums are of another table")
    screening.compare(site, context, joining.plan_of(site, context), opened, sites)
    return RecordDict()


def _train(message: Message, context: Context, site: Site, *, conduct: Conduct) -> RecordDict:
    request = flower.read_train_request(message)
    asked, plan = digest_of(request), joining.plan_of(site, context)
    summing = client_of(site, context, "train", request.round)
    with groups.unless_refused(context):
        if summing:
            summing.take_note(request.note)
        stored = summing.answered(message, asked) if summing else None
    if stored is not None:
        # Nothing is trained, or paid for, twice.
        return flower.summed_reply(site.name, stored, payment.spent_so_far(site, request.run_id))
    screening.require(site, context, request.run_id)
    here, route = conduct.begin(site, request), route_of(site.config, plan)
    if not (plan or UNPROTECTED).takes_norm(request.clip_norm):
        raise ProtocolError(SERVER, "train", "the norm of the round is none of the plan's")
    here.check()
    site.load(request.model)
    spent = payment.pay(site, plan, request.note, "training", plan.round_event) if plan else ()
    evaluation.note_trained(context, request.round)
    update = conduct.update(route, here, summing.payload(message) if summing else None)
    here.keep(route, summing.limit(message) if summing else math.inf)
    if summing is None:
        model, weight = update.values, float(update.weight)
        reply = TrainReply(site=site.name, model=model, weight=weight, spent=spent)
        content = flower.train_reply(reply)
    else:
        update = summing.weighed(update, request.note)
        content = summing.reply(message, update, asked, spent, conduct.contribution)
    openings.forget(site.owner)
    return content


def digest_of(request: TrainRequest) -> bytes:
    """What binds the masks to what really arrived."""
    return request_digest(request.note, request.model, request.besides)


def _evaluate(message: Message, context: Context, site: Site) -> RecordDict:
    request = flower.read_train_request(message)
    payment.commit(site, request.run_id)
    summing, asked = client_of(site, context, "evaluate", request.round), digest_of(request)
    if summing and (stored := summing.answered(message, asked)):
        return flower.summed_reply(site.name, stored, ())
    screening.require(site, context, request.run_id)
    evaluation.check(site, context, request)
    if not evaluation.ends_round(context, request.round):
        # Of a round that the site has not trained in: one that is paused does not begin it so.
        check_consent(site.owner, site.config, BEGINS_ROUND, site.now())
    plan = joining.plan_of(site, context)
    spent = evaluation.begin(site, context, plan, request)
    answers = evaluation.graded(site, request)
    if site.config.evaluation == "private":
        noised = evaluation.noised(site, evaluation.plan_in(plan), request, answers)
        if summing is None:
            return flower.noised_reply(site.name, noised, spent)
        counters = tuple(noised.tolist())
    else:
        exact = evaluation.exact(site, request.round, answers)
        if summing is None:
            return flower.evaluate_reply(exact)
        counters = evaluation.counters_of(site, exact)
    mine = Update(values=np.zeros(0, np.float32), counters=counters)
    return summing.reply(message, mine, asked, spent)
