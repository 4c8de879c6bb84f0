"""The site's end of a protected Flower app: a mod around the functions of its ClientApp.

The app gets the message that the server's strategy made, and gives the reply that it always
gave. What the mod lets out of it is sealed, and of a training a part of a sum under masks.

What must survive between two messages lives in Flower's `Context.state`: it is secret, and
stays at the site.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedlearn import __version__
from fedlearn.config import decode
from fedlearn.core.code import code_digest
from fedlearn.core.errors import (
    FedlearnError,
    ProtocolError,
    UnauthenticatedError,
)
from fedlearn.crypto.handshake import NO_TERMS, Link, accept_offer
from fedlearn.crypto.roster import SERVER, Roster
from fedlearn.crypto.sealed import Channel
from fedlearn.flower.apps import sealing
from fedlearn.flower.apps.exchange import SESSION, Exchange, JoinedSite
from fedlearn.flower.apps.owner import AppOwner, Expense, owner_of
from fedlearn.flower.apps.protection import STANDARD, Protection
from fedlearn.flower.apps.sealing import Sealed
from fedlearn.flower.messages import refusal_reply
from fedlearn.flower.private import AppFunction, error_reply
from fedlearn.flower.records import config_record
from fedlearn.flower.site import roster_of, secret_bytes
from fedlearn.privacy import Event
from fedlearn.rounds import Invitation, Refusal

log = logging.getLogger(__name__)


_RUN: Final = "fedlearn.run"

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
        self.context.state.pop(SESSION, None)
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
        run_id, roster = secret_bytes(self._run["run-id"]), roster_of(str(self._run["roster"]))
        expense = Expense(run_id=run_id.hex(), number=asked.round, purpose=self.mod.purpose)
        protection, spends = self.mod.protection, self.mod.spends
        site = JoinedSite(protection, spends, self.owner, self.context, roster, run_id)
        exchange = Exchange(site, message, asked, expense, call_next)
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


def _refusal(error: FedlearnError) -> RecordDict:
    return refusal_reply(Refusal(site="", exit_code=error.exit_code, reason=str(error)))
