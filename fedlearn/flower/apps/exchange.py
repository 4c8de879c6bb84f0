"""One opened message at a site of a protected app: a step of a sum, or the app's own question."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, TypeVar

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedlearn.config import encode
from fedlearn.core.errors import (
    ConfigError,
    FedlearnError,
    PrivacyError,
    ProtocolError,
)
from fedlearn.crypto.keystream import SecureWords
from fedlearn.crypto.roster import SERVER, Roster
from fedlearn.flower.apps import sealing
from fedlearn.flower.apps.owner import AppOwner, Expense, MaskedSum, spending
from fedlearn.flower.apps.protection import Protection
from fedlearn.flower.apps.sealing import Sealed
from fedlearn.flower.apps.sums import NOTHING, GlobalModel, part_of_reply
from fedlearn.flower.private import AppFunction, with_content
from fedlearn.flower.records import large_bytes
from fedlearn.flower.site import SessionStore, params_of, secret_bytes
from fedlearn.privacy import Event
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.messages import Params
from fedlearn.secagg.policy import ClientPolicy

log = logging.getLogger(__name__)

T = TypeVar("T")

CONTRIBUTION: Final = "contribution"
FORM: Final = "form"
"""The records of an answer to the step that carries a vector."""

SESSION: Final = "fedlearn.session"
"""Where a site keeps the session of its sum."""


@dataclass(frozen=True, eq=False)
class JoinedSite:
    """A site that has taken the roster of a run, with what it was made to protect."""

    protection: Protection
    spends: Event | None
    owner: AppOwner
    context: Context
    roster: Roster
    run_id: bytes
    """As the roster's server has named the run."""


@dataclass
class Exchange:
    """One opened message at one site: a step of a sum, or a question of the app's own."""

    site: JoinedSite
    message: Message
    asked: Sealed
    expense: Expense
    call_next: AppFunction
    paid: bool = False
    refused: list[FedlearnError] = field(default_factory=list)

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
        if not self.site.protection.sums(self._kind):
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
        if self.site.protection.sums(self._kind):
            raise ProtocolError(SERVER, "ask", f"wants a reply to {self._kind} without a mask")
        self._admit()
        if self._is_training and self.site.spends:
            self._pay(self.site.spends)
        content = self._called()
        if self.site.protection.masked and content.array_records:
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
        if self._is_training and self.site.spends:
            self.site.owner.require(self.site.spends, self.expense)
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
        payload = self.site.protection.payload(sites, layout)
        # Before anything is trained or paid for.
        if (params.length, params.layout_hash) != (payload.length, layout.hash()):
            raise ProtocolError(SERVER, "mask", "the model is not of the form that was announced")
        self._kept(session, params, lambda: session.check_mask(request, model.digest))
        if self._is_training and self.site.spends:
            self._pay(self.site.spends)
        part = part_of_reply(self._called(), model, layout, self.site.protection, sites)
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
        return SessionStore(self.site.context, SESSION)

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
            settings=self.site.protection.secagg(len(sites)),
            run_id=self.site.run_id,
            after_round=after_round,
            length=params.length,
            layout_hash=params.layout_hash,
            plan_hash=self.site.protection.plan_hash(len(sites), self._kind),
            min_cohort=self.site.owner.min_cohort,
        )

    # --- The app, and what it may cost ---------------------------------------------

    def _enter(self, params: Params) -> None:
        """What is spent from here on is hidden in a sum of that cohort."""
        masks = self.site.protection.secagg(len(self.site.roster.sites()))
        entered = MaskedSum(cohort=len(params.cohort), masks=masks)
        self.expense = replace(self.expense, sum=entered)

    def _admit(self) -> None:
        self.site.owner.admit(self.expense, masked=self.site.protection.masked)

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


def _bytes(data: bytes) -> RecordDict:
    return sealing.clear("", data)
