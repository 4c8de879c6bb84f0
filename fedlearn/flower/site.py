"""What a site keeps between two messages of a run, in Flower's `Context.state`: secret, its own.

For sites of our runs (`clients`) and for those of apps that are not ours (`.apps`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from flwr.app import ConfigRecord, Context

from fedlearn.core.errors import ProtocolError, UnauthenticatedError
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.roster import SERVER, Roster
from fedlearn.flower.records import config_record
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.messages import Params
from fedlearn.secagg.policy import ClientPolicy

T = TypeVar("T")


def secret_bytes(value: object) -> bytes:
    """The bytes of a record of our own state; UnauthenticatedError if they are none."""
    if not isinstance(value, bytes):
        raise UnauthenticatedError
    return value


def fresh_identity(context: Context, name: str) -> Identity:
    """An identity that is made for the run, and never on disk; kept under `name`."""
    stored = config_record(context.state, name)
    if stored is None:
        stored = ConfigRecord({"private": Identity.new().to_bytes()})
        context.state[name] = stored
    return Identity.from_bytes(secret_bytes(stored["private"]))


@lru_cache(maxsize=8)
def roster_of(text: str) -> Roster:
    """Parsed and verified once, not with every message."""
    return Roster.from_json(text)


def params_of(request: bytes) -> Params:
    """The parameters of a sum that a request proposes.

    Raises:
        ProtocolError: they are not well-formed.
    """
    try:
        return Params.decode(request)
    except ValueError as error:
        raise ProtocolError(SERVER, "params", str(error)) from None


@dataclass(frozen=True)
class SessionStore:
    """The one session of a masked sum that a site has, under `name`.

    Guarantees: it is stored before an answer of it leaves, so that a restart cannot answer a step
    twice; and where there is no answer as well: a closed session stays closed.
    """

    context: Context
    name: str

    @property
    def stored(self) -> ConfigRecord | None:
        """The session, and what was kept beside it."""
        return config_record(self.context.state, self.name)

    def load(self, identity: Identity, policy: ClientPolicy) -> ClientSession:
        """The session, held to `policy`; a new one where there is none yet."""
        record = self.stored
        if record is None:
            return ClientSession(identity, policy)
        return ClientSession.from_bytes(secret_bytes(record["session"]), identity, policy)

    def keep(self, session: ClientSession, beside: Mapping[str, int | bytes]) -> None:
        """Store a session, in the place of the one before."""
        record = ConfigRecord({**beside, "session": session.to_bytes()})
        self.context.state[self.name] = record

    def kept(
        self, session: ClientSession, beside: Mapping[str, int | bytes], work: Callable[[], T]
    ) -> T:
        """What `work` answers with a session, which is then stored."""
        try:
            return work()
        finally:
            self.keep(session, beside)
