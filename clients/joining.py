"""A site joins a run: its identity, the terms and the roster that it takes, its sealed channel.

What must survive between two messages of a run lives in Flower's
`Context.state`: it is secret, and stays at the site.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict

from clients.owner import Owner
from clients.site import Site
from clients.supernode.deployed import check_pinned, deployed_site
from fedlearn.config import RunConfig, encode
from fedlearn.config.study import (
    are_signed,
    is_helper_signed,
    is_run_signed,
    study_hash,
    study_text,
)
from fedlearn.core.errors import PrivacyError, ProtocolError, UnauthenticatedError, counted
from fedlearn.crypto.handshake import Link, accept_offer
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keyring import load_pinned
from fedlearn.crypto.roster import SERVER, Roster
from fedlearn.crypto.sealed import Channel
from fedlearn.crypto.settings import TransportSealed
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.records import config_record, large_bytes, read_large_bytes
from fedlearn.flower.site import fresh_identity, roster_of, secret_bytes
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.rounds import Invitation, Refusal
from fedlearn.secagg.keys import is_usable

_BEFORE: Final = frozenset({flower.DESCRIBE, flower.RECEIPT, flower.OPEN})
"""What is asked while it is not settled yet who takes part."""
_OF_STATISTICS: Final = _BEFORE | {flower.HELLO, flower.JOIN, flower.DRAW, flower.SCREEN}
"""What a site answers, besides the steps of masks, in a run that trains nothing: its plan has noise
for one release alone."""


# --- who this site is --------------------------------------------------------------


def identity_of(context: Context) -> Identity:
    """The site's long-lived key; in a simulation it is made for the run and never on disk."""
    if site := deployed_site(context):
        return Identity.load(site.keys)
    return fresh_identity(context, "identity")


# --- joining a run ----------------------------------------------------------------


def needs_key(config: RunConfig, owner: Owner) -> bool:
    """Whether a site joins the run under its key: to sign, to know how many they are, or to bind.

    A site on a machine of its own always does: it takes part under the terms that it has joined
    and no others.
    """
    sealed = config.transport.kind == "sealed"
    needed = config.secagg.hides or sealed or config.privacy.needs_population
    needed = needed or config.robust.group_size is not None
    return needed or owner.deployed is not None


def check_terms(message: Message, context: Context, roster: Path) -> None:
    """Refuse a run whose config, as it came, has not been signed by the pinned coordinator.

    The signature comes with `hello`; from then on the terms are those of that message. Text alone
    is looked at: a site composes no config, and reads none before it is known to be the
    coordinator's.

    `roster` is the file of the pinned list.

    Raises:
        UnauthenticatedError: the config is not that of terms which the coordinator has signed.
        ConfigError: the pinned roster is not in order.
    """
    try:
        tree = json.loads(str(context.run_config.get("config", "")))
        terms = study_hash(study_text(tree))
        if message.metadata.message_type == flower.HELLO:
            offer = flower.read_offer(message)
            signature = bytes.fromhex(offer.signature)
            signed = are_signed(load_pinned(roster).coordinator, terms, signature)
            if not signed or offer.terms != terms.hex():
                raise UnauthenticatedError
            context.state["offered"] = ConfigRecord({"terms": terms})
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ProtocolError):
        raise UnauthenticatedError from None
    offered = config_record(context.state, "offered")
    if offered is None or offered["terms"] != terms:
        raise UnauthenticatedError


def check_request(message: Message, context: Context, config: RunConfig, owner: Owner) -> None:
    """Refuse what is not asked under the terms and in the run that this site has joined.

    Raises:
        ProtocolError: the site has not joined, or has joined another run or other terms; or
            the round is none of the run's.
    """
    step, note = message.metadata.message_type, flower.read_note(message)
    if note is not None and note.terms != config.terms.hex():
        raise ProtocolError(SERVER, step, "was asked under other terms than those of the run")
    rounds = range(1) if step == flower.SCREEN else range(1, config.most_rounds + 1)
    tests = step == MessageType.EVALUATE and note is not None and note.round == config.test_number
    if note is not None and note.round not in rounds and not tests:
        raise ProtocolError(SERVER, step, f"round {note.round} is none of rounds={config.rounds}")
    within = step in _OF_STATISTICS or step.startswith(flower.SECAGG)
    if not config.statistics.idle and not within:
        raise ProtocolError(SERVER, step, "the run makes a table of figures, and trains nothing")
    if not needs_key(config, owner):
        return
    joined = joined_run(context, step)
    if joined["terms"] != config.terms:
        raise ProtocolError(SERVER, step, "the site has joined under other terms")
    if note is not None and note.run_id != secret_bytes(joined["run-id"]).hex():
        raise ProtocolError(SERVER, step, "the site has joined another run")
    if note is not None and note.cohort > len(roster_of(str(joined["roster"])).sites()):
        raise ProtocolError(SERVER, step, "a cohort of more sites than are on the roster")
    if step not in _BEFORE:
        joined["begun"] = True


def join(message: Message, context: Context, config: RunConfig, owner: Owner) -> bytes:
    """Take the roster of a run, and set up the channel where one is wanted; reads no record.

    What it returns is the site's half of the set-up, empty where there is no channel.

    In a simulation the roster's authority is trusted on first use; a deployed
    site compares the roster with the one that it has pinned. The first use is the
    only one: a second invitation could put the keys of somebody on the way in the
    place of the coordinator's. What a later one may say is that there are fewer sites,
    before anything of the run has begun.

    Raises:
        ConfigError: the roster is not valid.
        UnauthenticatedError: the offer was not made by the roster's server for this run and
            these terms.
        PrivacyError: so few sites are not what its owner allows.
        ProtocolError: the site has joined, with others; or is not on the roster under its own key.
    """
    invitation = flower.read_invitation(message)
    digest = hashlib.sha256(encode(invitation).encode()).digest()
    joined = config_record(context.state, "joined")
    if joined is not None and joined["invitation"] == digest:
        return secret_bytes(joined["accepted"])
    roster = Roster.from_json(invitation.roster)
    if joined is not None and not _is_of_fewer(joined, roster, invitation):
        raise ProtocolError(SERVER, "join", "a second invitation, and not the same one")
    if owner.deployed:
        check_pinned(owner.deployed.roster, roster)
    if roster.public_of(owner.name) != identity_of(context).public:
        raise ProtocolError(SERVER, "join", f"the roster has another key for {owner.name}")
    try:
        texts = (invitation.run_id, invitation.helper, invitation.signature, invitation.offer)
        run_id, helper, signature, offer = map(bytes.fromhex, texts)
        vouched = bytes.fromhex(invitation.vouched)
    except ValueError:
        raise ProtocolError(SERVER, "join", "the invitation cannot be read") from None
    server = roster.public_of(SERVER, "server")
    if not is_run_signed(server, config.terms, run_id, helper, signature):
        raise UnauthenticatedError
    if config.secagg.two_servers and not is_usable(helper):  # before anything is paid for
        raise ProtocolError(SERVER, "join", "nothing can be sealed for the second server's key")
    _check_company(owner, len(roster.sites()))
    if owner.deployed and config.secagg.two_servers:
        pinned = load_pinned(owner.deployed.roster)
        check_helper(pinned, config.terms, run_id, helper, roster.digest(), vouched)
    link = Link(run_id=run_id, terms=config.terms, client=owner.name, server=SERVER)
    accepted, channel, largest = opened(config, identity_of(context), link, server, offer)
    context.state["joined"] = ConfigRecord(
        {
            "run-id": run_id,
            "terms": config.terms,
            "roster": invitation.roster,
            "helper": helper,
            "channel": channel,
            "max-bytes": largest,
            "invitation": digest,
            "accepted": accepted,
            "begun": False,
        }
    )
    return accepted


@contextmanager
def unless_refused(context: Context) -> Iterator[None]:
    """A list of sites counts only where the whole invitation is accepted; else nothing changes."""
    before = config_record(context.state, "joined")
    try:
        yield
    except Exception:
        if before is not None:
            context.state["joined"] = before
        else:
            context.state.pop("joined", None)
        raise


def _check_company(owner: Owner, sites: int) -> None:
    """Refuse a run in which no round can have as many sites as the owner demands."""
    if owner.policy is not None and sites < owner.policy.min_cohort:
        raise PrivacyError(
            f"site {owner.name}: policy.min_cohort={owner.policy.min_cohort}: the run has "
            f"{counted(sites, 'site')}. Invite more sites"
        )


def _is_of_fewer(joined: ConfigRecord, roster: Roster, invitation: Invitation) -> bool:
    """Whether an invitation is to the run that was joined, without some of its sites.

    Lists of the same authority get shorter and never longer or other, so that an old one is not
    taken again; and none counts once a site was asked for more than what its records look like.
    """
    before = roster_of(str(joined["roster"]))
    same_run = secret_bytes(joined["run-id"]).hex() == invitation.run_id
    same_hands = (roster.authority, roster.public_of(SERVER, "server")) == (
        before.authority,
        before.public_of(SERVER, "server"),
    )
    fewer = roster.sites().items() < before.sites().items()
    return same_run and same_hands and fewer and not joined["begun"]


def check_helper(
    pinned: Roster, terms: bytes, run_id: bytes, helper: bytes, sites: str, vouched: bytes
) -> None:
    """Refuse another second server than the one of the pinned roster, where it has one.

    Raises:
        UnauthenticatedError: that one has not signed this key for this run of these sites.
    """
    known = pinned.helper
    if known and not is_helper_signed(known.public, terms, run_id, helper, sites, vouched):
        raise UnauthenticatedError


def opened(
    config: RunConfig, identity: Identity, link: Link, server: bytes, offer: bytes
) -> tuple[bytes, bytes, int]:
    """The acceptance of a channel, the channel, and its largest message; nothing if none is wanted.

    Raises:
        UnauthenticatedError: the offer was not made by the server for this run and these terms.
    """
    match config.transport:
        case TransportSealed(allow_classical=allow_classical, max_bytes=largest):
            channel, accepted = accept_offer(
                identity, link, server, offer, allow_classical=allow_classical
            )
            return accepted, channel.to_bytes(), largest
    return b"", b"", 0


def plan_of(site: Site, context: Context) -> PrivacyPlan | None:
    """The privacy of the run; distributed privacy depends on how many have joined it."""
    if not site.config.privacy.needs_population:
        return site.plan(0)
    roster = Roster.from_json(str(joined_run(context, "plan")["roster"]))
    return site.plan(len(roster.sites()))


def joined_run(context: Context, step: str) -> ConfigRecord:
    """What this site took from the invitation; ProtocolError before there was one."""
    joined = config_record(context.state, "joined")
    if joined is None:
        raise ProtocolError(SERVER, step, "came before the site was invited to the run")
    return joined


# --- the sealed channel -----------------------------------------------------------


def sealing(message: Message, context: Context, call_next: private.AppFunction) -> Message:
    """A Flower mod: opens what arrives and seals what leaves, where the config says so.

    What does not open is answered with a refusal in clear that says nothing; the
    coordinator believes no refusal that is not sealed.

    Guarantees: the app is called at most once for a sealed message, even if it fails.
    """
    step = message.metadata.message_type
    kind, joined = flower.MESSAGE_KINDS.get(step), config_record(context.state, "joined")
    if step in (flower.HELLO, flower.JOIN) or joined is None or not joined["channel"]:
        return call_next(message, context)  # which takes what comes before a channel, and no more
    try:
        # Flower has more names for one handler (`train.default`): none of them is sealed.
        if kind is None:
            raise UnauthenticatedError
        channel = Channel.from_bytes(secret_bytes(joined["channel"]))
        sealed = read_large_bytes(message.content, "sealed")
        if sealed is None:
            raise UnauthenticatedError
        opened = channel.open(kind, sealed, max_bytes=int(str(joined["max-bytes"])))
        # Before the app runs: neither a crash nor a copy makes it run twice.
        joined["channel"] = channel.to_bytes()
        content = private.content_from_bytes(opened.data)
    except (UnauthenticatedError, ProtocolError, KeyError, TypeError, ValueError):
        error = UnauthenticatedError()
        refusal = Refusal(site="", exit_code=error.exit_code, reason=str(error))
        return Message(flower.refusal_reply(refusal), reply_to=message)
    reply = call_next(private.with_content(message, content), context)
    answer = channel.seal(kind, opened.round, private.content_to_bytes(reply.content))
    joined["channel"] = channel.to_bytes()
    return private.with_content(reply, RecordDict({"sealed": large_bytes("sealed", answer)}))
