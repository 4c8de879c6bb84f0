"""What a second server answers to the coordinator: who it is, its key for a run, and its sums.

It takes part under terms that its owner has approved and that the pinned coordinator has signed,
among sites of the pinned roster. It never sees a vector, keeps no sum, and answers a round once.
What it does not know is written down for its owner: the terms of a study, to be looked at.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients import joining
from clients.helper import asked, helperfile
from clients.helper.helperfile import HelperFile
from clients.joining import joined_run
from clients.supernode.deployed import check_pinned
from fedlearn import __version__
from fedlearn.config import RunConfig, encode, sizes_of
from fedlearn.config.study import is_run_signed, sign_helper
from fedlearn.core.code import code_digest
from fedlearn.core.errors import ConfigError, FedlearnError, ProtocolError, UnauthenticatedError
from fedlearn.crypto.handshake import Link
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.roster import SERVER, Roster
from fedlearn.flower import messages as flower
from fedlearn.flower.records import config_record, large_bytes, read_large_bytes, read_small_bytes
from fedlearn.flower.site import roster_of, secret_bytes
from fedlearn.rounds import Hello, Refusal
from fedlearn.secagg.messages import Params
from fedlearn.secagg.proven import ProvingHelper
from fedlearn.secagg.two_server import Kept

log = logging.getLogger(__name__)

HELPER_FILE = "helper-file"
"""Where its own file is, in Flower's `node_config`."""

app = ClientApp(mods=[joining.sealing])

Answer = Callable[[HelperFile, RunConfig], RecordDict]


@lru_cache(maxsize=4)
def _loaded(path: str, version: int) -> HelperFile:
    return helperfile.load(Path(path))


def _file(context: Context) -> HelperFile:
    """Read anew only when it was changed, as by its owner who approves a study."""
    path = str(context.node_config[HELPER_FILE])
    return _loaded(path, Path(path).stat().st_mtime_ns)


def _guarded(message: Message, context: Context, answer: Answer) -> Message:
    name = ""
    try:
        file = _file(context)
        name = file.name
        # Before the config is read: what it names is imported only if its owner approved of it.
        joining.check_terms(message, context, file.roster)
        _check_approved(file, context)
        content = answer(file, flower.config_of(context))
    except FedlearnError as error:
        log.info("refused: %s", error)
        reason = f"helper {name}: {error}"
        refusal = Refusal(site=name, exit_code=error.exit_code, reason=reason)
        content = flower.refusal_reply(refusal)
    except Exception as error:  # Flower would send its text to the server
        log.exception("the app failed on %s", message.metadata.message_type)
        reason = f"helper {name}: its app failed ({type(error).__name__})"
        content = flower.refusal_reply(Refusal(site=name, exit_code=4, reason=reason))
    return Message(content, reply_to=message)


def _check_approved(file: HelperFile, context: Context) -> None:
    """Refuse terms that the owner has not approved, and leave them to be looked at."""
    offered = config_record(context.state, "offered")
    terms = secret_bytes(offered["terms"]).hex() if offered else ""
    config = str(context.run_config.get("config", ""))
    if terms in file.approved:
        asked.forget(file.state, terms, config)
        return
    path = asked.keep(file.state, terms, config)
    log.warning("the terms %s are not approved: see %s, then `approved`", terms, path)
    raise ConfigError(f"its owner has not approved the terms {terms}; ask for that and start again")


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who it is, where it takes part under the terms of the run."""

    def greeted(file: HelperFile, config: RunConfig) -> RecordDict:
        public = Identity.load(file.keys).public.hex()
        return flower.hello_reply(
            Hello(site=file.name, public_key=public, version=__version__, code=code_digest())
        )

    return _guarded(message, context, greeted)


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Its key for a run, signed by its identity, and the set-up of the channel."""
    return _guarded(message, context, lambda file, config: _join(message, context, file, config))


def _join(message: Message, context: Context, file: HelperFile, config: RunConfig) -> RecordDict:
    invitation = flower.read_invitation(message)
    digest = hashlib.sha256(encode(invitation).encode()).digest()
    joined = config_record(context.state, "joined")
    if joined is not None and joined["invitation"] == digest:
        return _reply(joined)
    roster = Roster.from_json(invitation.roster)
    if joined is not None and not _is_of_fewer(joined, roster, invitation.run_id):
        raise ProtocolError(SERVER, "join", "a second invitation, and not the same one")
    check_pinned(file.roster, roster)
    try:
        texts = (invitation.run_id, invitation.signature, invitation.offer)
        run_id, signature, offer = map(bytes.fromhex, texts)
    except ValueError:
        raise ProtocolError(SERVER, "join", "the invitation cannot be read") from None
    server = roster.public_of(SERVER, "server")
    if not is_run_signed(server, config.terms, run_id, b"", signature):
        raise UnauthenticatedError
    identity = Identity.load(file.keys)
    link = Link(run_id=run_id, terms=config.terms, client=file.name, server=SERVER)
    accepted, channel, largest = joining.opened(config, identity, link, server, offer)
    helper = ProvingHelper(run_id, roster.sites())
    private, last, _ = helper.secrets()
    kept = ConfigRecord(
        {
            "run-id": run_id,
            "terms": config.terms,
            "roster": invitation.roster,
            "channel": channel,
            "max-bytes": largest,
            "invitation": digest,
            "accepted": accepted,
            "private": private,
            "public": helper.public,
            "vouched": sign_helper(identity, config.terms, run_id, helper.public, roster.digest()),
            "round": last,
            "summed": list[str](),
        }
    )
    context.state["joined"] = kept
    return _reply(kept)


def _is_of_fewer(joined: ConfigRecord, roster: Roster, run_id: str) -> bool:
    """Whether it is the run that was joined, without some of its sites, before any sum."""
    before = roster_of(str(joined["roster"])).sites()
    same_run = secret_bytes(joined["run-id"]).hex() == run_id
    return same_run and roster.sites().items() < before.items() and joined["round"] == -1


def _reply(joined: ConfigRecord) -> RecordDict:
    shown = {name: joined[name] for name in ("accepted", "public", "vouched")}
    return RecordDict({"helper": ConfigRecord(shown)})


@app.query("help")
def help_sum(message: Message, context: Context) -> Message:
    """The sum of keystreams of a round."""
    return _guarded(message, context, lambda file, config: _help(message, context, file, config))


def _help(message: Message, context: Context, file: HelperFile, config: RunConfig) -> RecordDict:
    joined = joined_run(context, "help")
    sites = roster_of(str(joined["roster"])).sites()
    together = sizes_of(config, len(sites)).smallest
    least = max(file.min_cohort, config.secagg.least, config.privacy.fewest(together))
    helper = ProvingHelper(
        secret_bytes(joined["run-id"]), sites, min_cohort=least, kept=_kept(joined)
    )
    params = read_small_bytes(message.content, "params")
    request = read_large_bytes(message.content, "request")
    if params is None or request is None or joined["terms"] != config.terms:
        raise ProtocolError(SERVER, "help", "the message cannot be read")
    try:
        answer = helper.answer(_params(params), request)
    finally:
        _, last, summed = helper.secrets()
        joined["round"], joined["summed"] = last, sorted(summed)
    return RecordDict({"answer": large_bytes("answer", answer)})


def _kept(joined: ConfigRecord) -> Kept:
    summed = joined["summed"]
    names = frozenset(map(str, summed)) if isinstance(summed, list) else frozenset[str]()
    return secret_bytes(joined["private"]), int(str(joined["round"])), names


def _params(data: bytes) -> Params:
    try:
        return Params.decode(data)
    except ValueError as error:
        raise ProtocolError(SERVER, "help", str(error)) from None
