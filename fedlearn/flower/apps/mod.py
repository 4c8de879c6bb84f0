"""The site's end of a protected Flower app: a mod around the functions of its ClientApp.

The app gets the message that the server's strategy made, and gives the reply that it always
gave. What the mod lets out of it is sealed, and of a training a part of a sum under masks.

What must survive between two messages lives in Flower's `Context.state`: it is secret, and
stays at the site.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedlearn import __version__
from fedlearn.config import decode, encode
from fedlearn.core.code import code_digest
from fedlearn.core.errors import (
    ConfigError,
    FedlearnError,
    PrivacyError,
    ProtocolError,
    UnauthenticatedError,
)
from fedlearn.crypto.handshake import NO_TERMS, Link, accept_offer
from fedlearn.crypto.keystream import SecureWords
from fedlearn.crypto.roster import Roster
from fedlearn.crypto.sealed import Channel
from fedlearn.flower.apps import sealing
from fedlearn.flower.apps.owner import AppOwner, Expense, MaskedSum, owner_of, spending
from fedlearn.flower.apps.protection import STANDARD, Protection
from fedlearn.flower.apps.sealing import Sealed
from fedlearn.flower.apps.sums import NOTHING, SERVER, GlobalModel, part_of_reply
from fedlearn.flower.messages import refusal_reply
from fedlearn.flower.private import AppFunction, error_reply, with_content
from fedlearn.flower.records import config_record, large_bytes
from fedlearn.flower.site import SessionStore, params_of, roster_of, secret_bytes
from fedlearn.privacy import Event
from fedlearn.rounds import Invitation, Refusal
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.messages import Params
from fedlearn.secagg.policy import ClientPolicy

log = logging.getLogger(__name__)

T = TypeVar("T")

CONTRIBUTION: Final = "contribution"
FORM: Final = "form"
"""The records of an answer to the step that carries a vector."""

_RUN: Final = "fedlearn.run"
_SESSION: Final = "fedlearn.session"

_UNPROTECTED: Final = (
    "this site answers protected messages alone: in the ServerApp, give the strategy "
    "fedlearn.flower.secure(grid, strategy) in the place of grid"
)


def protect(
    protection: Protection = STANDARD,
    *,
    site: str | Path | None = None,
    spends: Event | None = None,
    purpose: str = "training a Flower app",
) -> SiteMod:
    """Make the mod that protects what a ClientApp gives away.

    Its counterpart in the ServerApp is `fedlearn.flower.secure`; both must have the same
    `protection`. Put it first among the mods of the app.

    Args:
        protection: the public constants of the sums.
        site: the file of the data's owner: name, ledger and policy, and in a deployment the
            identity and the pinned roster. May hold keys of the node's config in braces
            (`sites/{partition-id}.yaml`). The node's own config goes before it, under
            `site-file`. None: no policy, no ledger, and an identity made for the run.
        spends: what one training costs its records, charged to the ledger before the app
            sees the message. An app that decides by itself calls `fedlearn.flower.spend`.
        purpose: what the ledger says that it was for.

    Returns:
        A mod for `ClientApp(mods=[...])`.

    Guarantees:
        - A train reply leaves as a part of a masked sum, or not at all.
        - What the app raises stays at the site: its kind alone is told.
        - A message is handled once; a copy of it is refused.

    Example:
        >>> from flwr.clientapp import ClientApp
        >>> app = ClientApp(mods=[protect(Protection(clip=4.0))])
    """
    return SiteMod(protection, None if site is None else str(site), spends, purpose)


@dataclass(frozen=True)
class SiteMod:
    """What `protect` makes; a plain value, because Ray sends it from process to process."""

    protection: Protection
    site: str | None
    spends: Event | None
    purpose: str

    def __call__(self, message: Message, context: Context, call_next: AppFunction) -> Message:
        """Answer one message."""
        step = sealing.read_clear(message.content)
        try:
            if not step and "sealed" not in message.content:
                return error_reply(message, _UNPROTECTED)
            site = ProtectedSite(self, context, owner_of(context, self.site))
            if step == sealing.GREET:
                content = sealing.clear(step, site.greeting())
            elif step == sealing.INVITE:
                content = sealing.clear(step, site.accept(message.content))
            else:
                return site.answer_sealed(message, call_next)
        except FedlearnError as error:
            content = _refusal(error)
        return Message(content, reply_to=message)


@dataclass(frozen=True, eq=False)
class ProtectedSite:
    """One site, for one message."""

    mod: SiteMod
    context: Context
    owner: AppOwner

    # --- Before there is a channel ------------------------------------------------

    def greeting(self) -> bytes:
        """Who this site is, what it runs, and to what it has agreed."""
        greeting = sealing.Greeting(
            site=self.owner.name,
            public_key=self.owner.identity.public.hex(),
            version=__version__,
            code=code_digest(),
            protection=self.mod.protection,
        )
        return sealing.greeting_bytes(greeting)

    def accept(self, content: RecordDict) -> bytes:
        """Take the roster of the run, and this site's half of the channel.

        The first invitation of a run is the only one: another could put the keys of somebody
        on the way in the place of the server's.

        Raises:
            ConfigError: the roster is not valid.
            ProtocolError: a second invitation, or a roster without this site.
            UnauthenticatedError: the roster's server did not make the offer.
        """
        data = sealing.clear_bytes(content)
        digest, joined = hashlib.sha256(data).digest(), self._stored_run()
        if joined is not None:
            if joined["invitation"] != digest:
                raise ProtocolError(SERVER, "invite", "a second invitation, and not the same one")
            return secret_bytes(joined["accepted"])
        invitation = _invitation(data)
        roster, owner = Roster.from_json(invitation.roster), self.owner
        owner.check_roster(roster)
        if roster.public_of(owner.name) != owner.identity.public:
            raise ProtocolError(SERVER, "invite", f"the roster has another key for {owner.name}")
        run_id, offer = map(_unhexed, (invitation.run_id, invitation.offer))
        link = Link(run_id=run_id, terms=NO_TERMS, client=owner.name, server=SERVER)
        public = roster.public_of(SERVER, "server")
        channel, accepted = accept_offer(owner.identity, link, public, offer)
        self.context.state[_RUN] = ConfigRecord(
            {
                "flower-run": str(self.context.run_id),
                "run-id": link.run_id,
                "roster": invitation.roster,
                "channel": channel.to_bytes(),
                "invitation": digest,
                "accepted": accepted,
            }
        )
        self.context.state.pop(_SESSION, None)
        return accepted

    def _stored_run(self) -> ConfigRecord | None:
        """What was taken from the invitation to this run; Flower keeps state over several."""
        joined = config_record(self.context.state, _RUN)
        return joined if joined and joined["flower-run"] == str(self.context.run_id) else None

    # --- Sealed -------------------------------------------------------------------

    def answer_sealed(self, message: Message, call_next: AppFunction) -> Message:
        """Open a message, answer it, seal the answer.

        What does not open is answered in clear by a refusal that says nothing.

        Guarantees: the app is called at most once for a message, even if it fails.
        """
        kind = message.metadata.message_type
        try:
            joined = self._run
            channel = Channel.from_bytes(secret_bytes(joined["channel"]))
            asked = sealing.unseal(channel, kind, message.content)
        except (ProtocolError, ValueError):
            raise UnauthenticatedError from None
        # Before the app runs: neither a crash nor a copy makes it run twice.
        joined["channel"] = channel.to_bytes()
        content = self._answered(message, asked, call_next)
        answer = sealing.seal(channel, kind, asked.round, asked.step, content)
        joined["channel"] = channel.to_bytes()
        self.context.state[_RUN] = joined  # an app may have replaced its state
        return Message(answer, reply_to=message)

    def _answered(self, message: Message, asked: Sealed, call_next: AppFunction) -> RecordDict:
        run_id = secret_bytes(self._run["run-id"]).hex()
        expense = Expense(run_id=run_id, number=asked.round, purpose=self.mod.purpose)
        exchange = Exchange(self, message, asked, expense, call_next)
        try:
            self.owner.settle(expense.run_id)
            return exchange.answer()
        except FedlearnError as error:
            log.info("refused: %s", error)
            return _refusal(error)
        except Exception as error:  # Flower would send its text to the server
            log.exception("the app failed on %s", message.metadata.message_type)
            reason = f"its app failed ({type(error).__name__})"
            return refusal_reply(Refusal(site="", exit_code=1, reason=reason))

    @property
    def _run(self) -> ConfigRecord:
        joined = self._stored_run()
        if joined is None:
            raise ProtocolError(SERVER, "sealed", "came before the site was invited to the run")
        return joined

    @cached_property
    def roster(self) -> Roster:
        """Who takes part."""
        return roster_of(str(self._run["roster"]))

    @property
    def run_id(self) -> bytes:
        """The run, as the roster's server has named it."""
        return secret_bytes(self._run["run-id"])


@dataclass
class Exchange:
    """One opened message at one site: a step of a sum, or a question of the app's own."""

    site: ProtectedSite
    message: Message
    asked: Sealed
    expense: Expense
    call_next: AppFunction
    paid: bool = False
    refused: list[FedlearnError] = field(default_factory=list)

    @property
    def _protection(self) -> Protection:
        return self.site.mod.protection

    @property
    def _kind(self) -> str:
        return self.message.metadata.message_type

    @property
    def _is_training(self) -> bool:
        return self._kind.partition(".")[0] == "train"

    def answer(self) -> RecordDict:
        """What is sealed and sent back.

        Raises:
            FedlearnError: the site refuses.
        """
        step, request = self.asked.step, self.asked.protocol
        if step == "ask":
            return self._asked()
        if not self._protection.sums(self._kind):
            raise ProtocolError(SERVER, step, f"this site sums no replies of type {self._kind}")
        match step:
            case "advertise":
                return _bytes(self._advertise(request))
            case "mask":
                return self._masked(request)
        session, params = self._session()
        return _bytes(self._kept(session, params, lambda: session.answer(step, request)))

    # --- Without a sum ------------------------------------------------------------

    def _asked(self) -> RecordDict:
        if self._protection.sums(self._kind):
            raise ProtocolError(SERVER, "ask", f"wants a reply to {self._kind} without a mask")
        self._admit()
        if self._is_training and self.site.mod.spends:
            self._pay(self.site.mod.spends)
        content = self._called()
        if self._protection.masked and content.array_records:
            raise ConfigError(
                f"the reply to {self._kind} holds arrays, which only training may send, "
                "under masks: leave them out, or set Protection(masked=False) on both sides"
            )
        return content

    # --- A sum --------------------------------------------------------------------

    def _advertise(self, request: bytes) -> bytes:
        params = params_of(request)
        self._enter(params)
        self._admit()
        if self._is_training and self.site.mod.spends:
            self.site.owner.require(self.site.mod.spends, self.expense)
        # Length and layout are the model's, which is not here yet; `_masked` compares them.
        last = self._last_params.round if self._last_params else -1
        session = ClientSession(self.site.owner.identity, self._policy(params, last))
        answer = session.advertise(request)
        self._store.keep(session, {"params": request})
        return answer

    def _masked(self, request: bytes) -> RecordDict:
        session, params = self._session()
        stored = session.answered(request)
        if stored is not None or session.step != "mask":
            raise ProtocolError(SERVER, "mask", f"expected was {session.step!r}")
        self._enter(params)
        model = GlobalModel.of(self.asked.content)
        layout = model.layout if self._is_training else NOTHING
        sites = len(self.site.roster.sites())
        payload = self._protection.payload(sites, layout)
        # Before anything is trained or paid for.
        if (params.length, params.layout_hash) != (payload.length, layout.hash()):
            raise ProtocolError(SERVER, "mask", "the model is not of the form that was announced")
        self._kept(session, params, lambda: session.check_mask(request, model.digest))
        if self._is_training and self.site.mod.spends:
            self._pay(self.site.mod.spends)
        part = part_of_reply(self._called(), model, layout, self._protection, sites)
        # Rounding must be unbiased, not secret: from what is public, so that runs repeat.
        name = f"{self.site.owner.name}\n{params.round}".encode()
        words = SecureWords(hashlib.sha256(b"rounding" + model.digest + name).digest())
        vector = payload.encode(part.values, part.weight, part.counters, words)
        masked = self._kept(session, params, lambda: session.mask(request, vector, model.digest))
        return RecordDict(
            {
                CONTRIBUTION: large_bytes(CONTRIBUTION, masked),
                FORM: ConfigRecord({"json": encode(part.form)}),
            }
        )

    @cached_property
    def _store(self) -> SessionStore:
        return SessionStore(self.site.context, _SESSION)

    def _kept(self, session: ClientSession, params: Params, work: Callable[[], T]) -> T:
        return self._store.kept(session, {"params": params.encode()}, work)

    def _session(self) -> tuple[ClientSession, Params]:
        params = self._last_params
        if params is None:
            raise ProtocolError(SERVER, self.asked.step, "out of order: nothing was advertised")
        policy = self._policy(params, params.round - 1)
        return self._store.load(self.site.owner.identity, policy), params

    @property
    def _last_params(self) -> Params | None:
        """Of the last sum that this site was asked for."""
        stored = self._store.stored
        return None if stored is None else params_of(secret_bytes(stored["params"]))

    def _policy(self, params: Params, after_round: int) -> ClientPolicy:
        sites = self.site.roster.sites()
        return ClientPolicy(
            name=self.site.owner.name,
            sites=sites,
            settings=self._protection.secagg(len(sites)),
            run_id=self.site.run_id,
            after_round=after_round,
            length=params.length,
            layout_hash=params.layout_hash,
            plan_hash=self._protection.plan_hash(len(sites), self._kind),
            min_cohort=self.site.owner.min_cohort,
        )

    # --- The app, and what it may cost ---------------------------------------------

    def _enter(self, params: Params) -> None:
        """What is spent from here on is hidden in a sum of that cohort."""
        masks = self._protection.secagg(len(self.site.roster.sites()))
        entered = MaskedSum(cohort=len(params.cohort), masks=masks)
        self.expense = replace(self.expense, sum=entered)

    def _admit(self) -> None:
        self.site.owner.admit(self.expense, masked=self._protection.masked)

    def _pay(self, event: Event) -> None:
        """Charge the ledger; a refusal holds, whatever the app makes of it."""
        try:
            self.site.owner.reserve(event, self.expense)
        except FedlearnError as error:
            self.refused.append(error)
            raise
        self.paid = True

    def _called(self) -> RecordDict:
        """What the app answers to its own message.

        Raises:
            PrivacyError: the app was refused a budget, or has spent none where it must.
            FedlearnError: the app has failed; its own words, which may be of records, are logged.
        """
        token = spending.set(self._pay)
        try:
            reply = self.call_next(
                with_content(self.message, self.asked.content), self.site.context
            )
        except FedlearnError as error:
            if not self.refused:
                log.exception("the app failed on %s", self._kind)
                raise FedlearnError(f"its app failed ({type(error).__name__})") from None
            raise self.refused[0] from None
        finally:
            spending.reset(token)
        if self.refused:
            raise self.refused[0]
        if self._is_training and self.site.owner.demands_privacy and not self.paid:
            raise PrivacyError(
                f"site {self.site.owner.name}: its policy demands privacy, and the app has spent "
                "nothing: declare what it does with protect(spends=...) or fedlearn.flower.spend"
            )
        if reply.has_error():
            raise ProtocolError("", self.asked.step, "its app replied with an error")
        return reply.content


def _invitation(data: bytes) -> Invitation:
    try:
        return decode(Invitation, data.decode())
    except UnicodeDecodeError as error:
        raise ProtocolError(SERVER, "invite", str(error)) from None


def _unhexed(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ProtocolError(SERVER, "invite", str(error)) from None


def _bytes(data: bytes) -> RecordDict:
    return sealing.clear("", data)


def _refusal(error: FedlearnError) -> RecordDict:
    return refusal_reply(Refusal(site="", exit_code=error.exit_code, reason=str(error)))
