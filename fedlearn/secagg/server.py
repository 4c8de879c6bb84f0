"""The server in one round of secure aggregation: it routes, sums, and opens only the sum.

    step        to each client   from each client   closed when
    advertise   Params           Advertisement      enough keys
    share       Roll             Shares             enough shares
    mask        Inbox            Masked             enough vectors: the survivors
    agree       Survivors        Agreement          enough signatures
    unmask      Endorsements     Opening            enough shares of every secret
    done        -                -                  `total` was taken

The caller sends `requests()`, hands every reply to `receive` as it comes, and
calls `close_step` when it has waited long enough. A reply that breaks the
protocol raises `ProtocolError` with its sender and changes nothing: the sender
counts as dropped. Vectors are added to one running sum as they arrive.

The server is trusted for availability and for the correctness of the sum, not
for privacy: every check that protects a client is the client's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fedlearn.core.errors import ProtocolError
from fedlearn.core.ring import Ring, RingVector, unpack
from fedlearn.crypto.codec import name_bytes, sorted_names
from fedlearn.crypto.keystream import RunRanges, add_masks
from fedlearn.crypto.shamir import combine
from fedlearn.secagg import keys
from fedlearn.secagg.framing import B, decode, encode
from fedlearn.secagg.graph import degree_of, neighbours_of
from fedlearn.secagg.messages import (
    Advertisement,
    Agreement,
    Endorsements,
    Inbox,
    Masked,
    Opening,
    Params,
    Roll,
    RoundKeys,
    Shares,
    Survivors,
)
from fedlearn.secagg.policy import check_agreement, check_keys
from fedlearn.secagg.settings import SecAggMasked, ring_of

Held = list[tuple[int, bytes]]
"""The shares of one secret: (point, value)."""

STEPS = ("advertise", "share", "mask", "agree", "unmask", "done")


def plan_round(
    settings: SecAggMasked,
    *,
    run_id: bytes,
    round_number: int,
    cohort: tuple[str, ...],
    length: int,
    layout_hash: bytes,
    plan_hash: bytes,
    request_hash: bytes,
) -> Params:
    """The parameters of a round, with neighbours and threshold by the rule that clients check.

    Raises:
        ConfigError: the cohort is too small for what the settings are to withstand.
    """
    degree = degree_of(settings, len(cohort))
    return Params(
        run_id=run_id,
        round=round_number,
        cohort=sorted_names(cohort),
        neighbours=degree.neighbours,
        threshold=degree.threshold,
        bits=ring_of(settings).bits,
        length=length,
        layout_hash=layout_hash,
        plan_hash=plan_hash,
        request_hash=request_hash,
    )


class ServerSession:
    """The server's side of one round; see the table at the top of the module.

    `sites` is the roster. `min_cohort` should be that of the clients: with fewer
    survivors they refuse anyway.

    Guarantees: `total` is the exact sum modulo 2^bits of the vectors of
    `survivors`, or nothing is released.
    """

    def __init__(self, params: Params, sites: Mapping[str, bytes], min_cohort: int = 3) -> None:
        self.params = params
        self.step = STEPS[0]
        self.survivors: tuple[str, ...] = ()
        # Nobody answers without `threshold` others that have signed the same list.
        self._sites, self._least = sites, max(min_cohort, params.threshold + 1)
        self._context = params.context()
        self._ring = Ring(bits=params.bits)
        self._replied: set[str] = set()
        self._asked: tuple[str, ...] = params.cohort
        self._requests = dict.fromkeys(params.cohort, params.encode())
        self._keys: dict[str, RoundKeys] = {}
        self._graph: dict[str, tuple[str, ...]] = {}
        self._commitments: dict[str, bytes] = {}
        self._inbox: dict[str, dict[str, bytes]] = {}
        self._signatures: dict[str, bytes] = {}
        self._held: dict[str, Held] = {}
        self._sum: RingVector | None = None

    @property
    def context(self) -> bytes:
        """What replies are bound to: the round's parameters, and its roll once there is one."""
        return self._context

    def __repr__(self) -> str:
        return f"ServerSession(round={self.params.round}, step={self.step!r})"

    def requests(self) -> dict[str, bytes]:
        """The request of this step for every client that has not replied yet."""
        return {name: data for name, data in self._requests.items() if name not in self._replied}

    def receive(self, name: str, reply: bytes | memoryview) -> None:
        """Takes the reply of one client to this step's request.

        Raises:
            ProtocolError: a second reply, a late one, or one that breaks the protocol;
                the round goes on without it.
            RuntimeError: the round is done.
        """
        if self.step == "done":
            raise RuntimeError("the round is done")
        if name not in self._requests:
            raise ProtocolError(name, self.step, "was not asked in this step")
        if name in self._replied:
            raise ProtocolError(name, self.step, "replied twice")
        match self.step:
            case "advertise":
                self._receive_keys(name, self._decode(Advertisement, name, reply).keys)
            case "share":
                self._receive_shares(name, self._decode(Shares, name, reply))
            case "mask":
                self._receive_vector(name, self._decode(Masked, name, reply))
            case "agree":
                self._receive_agreement(name, self._decode(Agreement, name, reply))
            case "unmask":
                self._receive_opening(name, self._decode(Opening, name, reply))
            case _:
                raise RuntimeError(f"nothing is received in step {self.step!r}")
        self._replied.add(name)

    def close_step(self) -> None:
        """Ends the step: who has not replied has dropped out; makes the next requests.

        Raises:
            ProtocolError: too few clients are left; the round is over, nothing is released.
            RuntimeError: the round is done.
        """
        if self.step == "done":
            raise RuntimeError("the round is done")
        if len(self._replied) < self._least:
            self._sum = None
            raise ProtocolError(
                "",
                self.step,
                f"{len(self._replied)} of {len(self._requests)} clients replied; "
                f"needed: {self._least}. No partial sum is released",
            )
        present = sorted_names(self._replied)
        closed, self.step = self.step, STEPS[STEPS.index(self.step) + 1]
        self._replied = set()
        match closed:
            case "advertise":
                self._requests = self._call_roll(present)
            case "share":
                self._requests = self._deliver(present)
            case "mask":
                self.survivors = present
                self._requests = self._announce(Survivors(names=present))
            case "agree":
                self._requests = self._endorse(present)
            case "unmask":
                self._requests = {}
            case _:
                raise RuntimeError(f"step {closed!r} cannot be closed")

    def total(self, *, parts: int = 1, run: RunRanges = map) -> RingVector:
        """Removes the masks and returns the sum of the survivors: `word[length]`. Once.

        Raises:
            ProtocolError: some secret cannot be reopened; nothing is released.
            RuntimeError: the round is not done, or the sum was taken.
        """
        if self.step != "done" or self._sum is None:
            raise RuntimeError(f"no sum to take in step {self.step!r}")
        total, self._sum = self._sum, None
        plus, minus = self._correction()
        add_masks(total, plus, minus, parts=parts, run=run)
        return self._ring.reduce(total)

    # --- One step each ----------------------------------------------------------

    def _decode(self, kind: type[B], name: str, reply: bytes | memoryview) -> B:
        try:
            return decode(kind, reply, self._context)
        except ValueError as error:
            raise ProtocolError(name, self.step, str(error)) from None

    def _announce(self, body: Survivors) -> dict[str, bytes]:
        return dict.fromkeys(body.names, encode(body, self._context))

    def _receive_keys(self, name: str, one: RoundKeys) -> None:
        if not check_keys(self._sites[name], name, one, self._context):
            raise ProtocolError(name, self.step, "the signature on its keys is wrong")
        if not all(map(keys.is_usable, (one.cipher_key, one.mask_key))):
            # Nobody could agree with it on a key: all others would break off.
            raise ProtocolError(name, self.step, "a key is a point of small order")
        known = {key for other in self._keys.values() for key in (other.cipher_key, other.mask_key)}
        if known & {one.cipher_key, one.mask_key} or one.cipher_key == one.mask_key:
            raise ProtocolError(name, self.step, "a key appears twice")
        self._keys[name] = one

    def _call_roll(self, present: tuple[str, ...]) -> dict[str, bytes]:
        roll = encode(Roll(keys={name: self._keys[name] for name in present}), self._context)
        self._graph = neighbours_of(present, self.params.neighbours, keys.graph_seed(roll))
        self._context = self.params.bound_to(roll)
        self._inbox = {name: {} for name in present}
        return dict.fromkeys(present, roll)

    def _receive_shares(self, name: str, shares: Shares) -> None:
        if tuple(shares.sealed) != self._graph[name]:
            raise ProtocolError(name, self.step, "its shares are not for its neighbours")
        self._commitments[name] = shares.commitment
        for receiver, sealed in shares.sealed.items():
            self._inbox[receiver][name] = sealed

    def _deliver(self, present: tuple[str, ...]) -> dict[str, bytes]:
        return {name: encode(Inbox(sealed=self._inbox[name]), self._context) for name in present}

    def _receive_vector(self, name: str, masked: Masked) -> None:
        try:
            vector = unpack(masked.packed, self.params.length, self._ring)
        except ValueError as error:
            raise ProtocolError(name, self.step, str(error)) from None
        if self._sum is None:
            self._sum = vector
        else:
            self._sum += vector

    def _receive_agreement(self, name: str, agreement: Agreement) -> None:
        survivors = Survivors(names=self.survivors)
        public = self._sites[name]
        if not check_agreement(public, agreement.signature, survivors, self._context):
            raise ProtocolError(name, self.step, "did not sign the survivor list")
        self._signatures[name] = agreement.signature

    def _endorse(self, present: tuple[str, ...]) -> dict[str, bytes]:
        """As many signatures as a client asks for; more would only cost bytes."""
        requests = {}
        for name in present:
            signed = [peer for peer in self._graph[name] if peer in self._signatures]
            chosen = {peer: self._signatures[peer] for peer in signed[: self.params.threshold]}
            requests[name] = encode(Endorsements(signatures=chosen), self._context)
        return requests

    def _receive_opening(self, name: str, opening: Opening) -> None:
        senders = self._inbox[name]
        alive = senders.keys() & set(self.survivors)
        if (
            opening.self_shares.keys() != alive
            or opening.key_shares.keys() != senders.keys() - alive
        ):
            raise ProtocolError(name, self.step, "its shares are not those that were asked for")
        opened = {**opening.self_shares, **opening.key_shares}
        for owner, data in opened.items():
            if data[0] != self._graph[owner].index(name) + 1:
                raise ProtocolError(name, self.step, f"its share of {owner} lies at another point")
        for owner, data in opened.items():
            self._held.setdefault(owner, []).append((data[0], data[1:]))

    # --- Removing the masks -----------------------------------------------------

    def _correction(self) -> tuple[list[bytes], list[bytes]]:
        """Keys of the masks to add and to subtract so that the plain sum is left."""
        context, alive = self._context, set(self.survivors)
        secrets = reopen(
            {name: self._held.get(name, []) for name in self._commitments},
            self.params.threshold,
            lambda name, secret: self._is_secret_of(name, secret, name in alive),
        )
        plus: list[bytes] = []
        minus = [keys.self_mask_key(secrets[name], context, name) for name in self.survivors]
        for gone in self._commitments.keys() - alive:
            private = keys.load_private(secrets[gone])
            for peer in set(self._graph[gone]) & alive:
                public = self._keys[peer].mask_key
                key = keys.pair_mask_key(private, public, context, gone, peer)
                # The higher name of a pair had added the mask.
                (minus if name_bytes(peer) > name_bytes(gone) else plus).append(key)
        return plus, minus

    def _is_secret_of(self, name: str, secret: bytes, alive: bool) -> bool:
        if alive:
            return keys.commitment(secret, self._context, name) == self._commitments[name]
        return keys.public_of(secret) == self._keys[name].mask_key


# --- Putting shared secrets together again ------------------------------------


Receive = Callable[[str, bytes], None]
"""(client, reply): takes the reply of a client; ProtocolError where it breaks the protocol."""

Ask = Callable[[str, Mapping[str, bytes], Receive], None]
"""(step, request by client, receive): sends the requests, and hands on what is replied."""


def run_steps(
    sessions: list[ServerSession], ask: Ask
) -> tuple[list[ServerSession], list[ProtocolError]]:
    """Take the sums of a round through all steps: those that can be opened; why others cannot.

    They go through a step together, so that a round with many takes no longer. No client is in
    two of them.

    Raises:
        ProtocolError: none can be opened; why the first cannot.
    """
    lost: list[ProtocolError] = []
    while sessions and sessions[0].step != "done":
        session_of = {client: one for one in sessions for client in one.requests()}
        requests = {c: data for one in sessions for c, data in one.requests().items()}

        def receive(
            client: str, reply: bytes, to: Mapping[str, ServerSession] = session_of
        ) -> None:
            to[client].receive(client, reply)

        ask(sessions[0].step, requests, receive)
        sessions = [one for one in sessions if _closes_step(one, lost)]
    if not sessions:
        raise lost[0]
    return sessions, lost


def _closes_step(session: ServerSession, lost: list[ProtocolError]) -> bool:
    """Whether a sum goes on to its next step; why not is added to `lost`."""
    try:
        session.close_step()
    except ProtocolError as error:
        lost.append(error)
        return False
    return True


def reopen(
    held: Mapping[str, Held], threshold: int, is_right: Callable[[str, bytes], bool]
) -> dict[str, bytes]:
    """The secret of every owner, checked before it is used: shares carry no proof.

    All owners are combined in one vectorised pass; where the result fails its check,
    other choices among the shares at hand are tried, so that one false share does not
    end the round when there are shares to spare.

    Raises:
        ProtocolError: an owner has fewer than `threshold` shares, or no choice of
            them gives a secret that `is_right` accepts.
    """
    for owner, shares in held.items():
        if len(shares) < threshold:
            raise ProtocolError(
                owner,
                "unmask",
                f"{len(shares)} shares of its secret, {threshold} needed; nothing is released",
            )
    secrets = dict(zip(held, _combine([held[owner][:threshold] for owner in held]), strict=True))
    return {
        owner: secret if is_right(owner, secret) else _search(owner, held, threshold, is_right)
        for owner, secret in secrets.items()
    }


def _combine(rows: list[Held]) -> list[bytes]:
    points = np.array([[point for point, _ in row] for row in rows], np.uint8)
    joined = b"".join(value for row in rows for _, value in row)
    values = np.frombuffer(joined, np.uint8).reshape(*points.shape, -1)
    return [secret.tobytes() for secret in combine(points, values)]


def _search(
    owner: str,
    held: Mapping[str, Held],
    threshold: int,
    is_right: Callable[[str, bytes], bool],
) -> bytes:
    """Runs of consecutive shares, around the end: each false share is left out by some run."""
    shares = held[owner]
    runs = [(shares + shares)[start : start + threshold] for start in range(1, len(shares))]
    for secret in _combine(runs) if runs else ():
        if is_right(owner, secret):
            return secret
    raise ProtocolError(owner, "unmask", "its shares do not give its secret; nothing is released")
