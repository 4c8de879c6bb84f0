"""One client in one round of secure aggregation.

    step        request          reply            state before -> after
    advertise   Params           Advertisement    Fresh      -> Advertised
    share       Roll             Shares           Advertised -> Shared
    mask        Inbox + model    Masked           Shared     -> Masked
    agree       Survivors        Agreement        Masked     -> Agreed
    unmask      Endorsements     Opening          Agreed     -> Closed

Requests come from a server that may be malicious. Whatever the client's own
policy decides (roster, ring, threshold, smallest cohort) is compared with the
request, never taken from it. Each step is answered once: the same request again
gets the stored bytes, another one is refused. A request that breaks the protocol
closes the session and drops its keys.

Python cannot wipe memory: dropped keys are unreachable, not overwritten.

Sources: Bonawitz et al., CCS 2017, figure 4 (malicious variant); Bell et al.,
CCS 2020, algorithm 2. The model hash in the context stops the model
inconsistency attack of Pasquini et al., CCS 2022.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import TypeVar

from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.core.ring import RingVector
from fedlearn.crypto.codec import Reader, Writer
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keystream import RunRanges
from fedlearn.secagg import steps
from fedlearn.secagg.policy import SERVER, ClientPolicy
from fedlearn.secagg.settings import ring_of
from fedlearn.secagg.states import (
    Advertised,
    Agreed,
    Closed,
    Fresh,
    MaskedState,
    Shared,
    State,
    read_state,
    write_state,
)

S = TypeVar("S", bound=State)
STEP_OF: dict[type[object], str] = {
    Fresh: "advertise",
    Advertised: "share",
    Shared: "mask",
    MaskedState: "agree",
    Agreed: "unmask",
    Closed: "closed",
}


class ClientSession:
    """The client's side of one round; see the table at the top of the module.

    Guarantees, if at most `corrupt_fraction` of the cohort works with the server:
        the server learns nothing about this client's vector but the sum over at
        least `min_cohort` survivors, all of which started from the same model.
    """

    def __init__(self, identity: Identity, policy: ClientPolicy) -> None:
        if policy.sites.get(policy.name) != identity.public:
            raise ConfigError(
                [f"{policy.name}: the roster does not list this identity under that name"]
            )
        self._identity, self._policy = identity, policy
        self._state: State = Fresh()
        self._last_step, self._last_request, self._last_reply = "", b"", b""

    @property
    def step(self) -> str:
        """The step that may come next, or "closed"."""
        return STEP_OF[type(self._state)]

    def __repr__(self) -> str:
        return f"ClientSession({self._policy.name!r}, step={self.step!r}, secret state)"

    def __reduce__(self) -> str:
        raise TypeError("a session is not pickled; use to_bytes and keep the bytes secret")

    def answered(self, request: bytes) -> bytes | None:
        """The stored reply, if this is the last answered request once more, byte for byte.

        Ask before training: a retried `mask` request needs no second training.
        """
        same = self._last_step and hmac.compare_digest(self._last_request, _digest(request))
        return self._last_reply if same else None

    def abort(self) -> None:
        """Gives the round up; all its secrets are dropped and every further step is refused."""
        self._state = Closed()
        self._last_step, self._last_request, self._last_reply = "", b"", b""

    # --- The five steps ---------------------------------------------------------

    def advertise(self, request: bytes) -> bytes:
        """Checks the round's parameters against the policy and sends fresh signed keys.

        Raises:
            ProtocolError: a parameter is not what the policy allows.
        """
        return self._answer(
            Fresh, request, lambda _: steps.advertise(request, self._identity, self._policy)
        )

    def share(self, request: bytes) -> bytes:
        """Checks everybody's signed keys and shares this client's secrets among its neighbours.

        Raises:
            ProtocolError: a signature, a name or the own key is wrong, or too few advertised.
        """
        return self._answer(
            Advertised, request, lambda state: steps.share(state, request, self._policy)
        )

    def mask(
        self,
        request: bytes,
        vector: RingVector,
        model_hash: bytes,
        *,
        parts: int = 1,
        run: RunRanges = map,
    ) -> bytes:
        """Masks a contribution: `vector: word[length]`, reduced to the ring, left unchanged.

        `model_hash` is SHA-256 of the model that really arrived. A retry of an
        answered request returns the stored bytes and does not look at `vector`:
        two different vectors never leave under one mask.

        Raises:
            ProtocolError: the model is not the announced one, or the shares are wrong.
            ValueError: the vector has the wrong length or dtype.
        """
        ring = ring_of(self._policy.settings)
        if vector.shape != (self._policy.length,) or vector.dtype != ring.dtype:
            raise ValueError(
                f"vector is {vector.dtype}{list(vector.shape)}; the round sums "
                f"{ring.dtype}[{self._policy.length}]"
            )
        own = self._policy.name
        return self._answer(
            Shared,
            request,
            lambda state: steps.mask(
                state, request, vector, model_hash, own=own, parts=parts, run=run
            ),
        )

    def agree(self, request: bytes) -> bytes:
        """Signs the one survivor list of the round.

        Raises:
            ProtocolError: the list is too short, lacks this client, or is a second list.
        """
        return self._answer(
            MaskedState,
            request,
            lambda state: steps.agree(state, request, self._identity, self._policy),
        )

    def unmask(self, request: bytes) -> bytes:
        """Releases one share per neighbour, once enough neighbours signed the same list.

        Raises:
            ProtocolError: a signature is wrong or too few signed.
        """
        return self._answer(
            Agreed, request, lambda state: steps.unmask(state, request, self._policy)
        )

    # --- Survival between processes ---------------------------------------------

    def to_bytes(self) -> bytes:
        """The state as bytes. SECRET: holds the round's private keys, or the neighbours' shares.

        Includes the last reply, which after `mask` is as large as the vector.
        """
        writer = Writer().blob(b"fedlearn/secagg/v1/session")
        write_state(writer, self._state)
        writer.blob(self._last_step.encode()).blob(self._last_request).blob(self._last_reply)
        return writer.done()

    @classmethod
    def from_bytes(cls, data: bytes, identity: Identity, policy: ClientPolicy) -> ClientSession:
        """The session that `to_bytes` wrote, with the same identity and policy.

        Raises:
            ValueError: the bytes are not a session.
        """
        reader = Reader(data)
        if reader.blob() != b"fedlearn/secagg/v1/session":
            raise ValueError("not a secure aggregation session")
        session = cls(identity, policy)
        session._state = read_state(reader)
        session._last_step = reader.blob().decode()
        session._last_request, session._last_reply = reader.blob(), reader.blob()
        reader.end()
        return session

    # --- How every step is answered ---------------------------------------------

    def _answer(
        self, kind: type[S], request: bytes, move: Callable[[S], tuple[State, bytes]]
    ) -> bytes:
        """The stored reply to a retry; else what `move` makes of a state of this kind."""
        step, stored, state = STEP_OF[kind], self.answered(request), self._state
        if stored is not None and step == self._last_step:
            return stored
        if not isinstance(state, kind):
            again = "a second, different request" if step == self._last_step else "out of order"
            raise ProtocolError(SERVER, step, f"{again}; this client expects {self.step!r}")
        try:
            self._state, reply = move(state)
        except ProtocolError:
            self.abort()
            raise
        self._last_step, self._last_request, self._last_reply = step, _digest(request), reply
        return reply


def _digest(request: bytes) -> bytes:
    return hashlib.sha256(request).digest()
