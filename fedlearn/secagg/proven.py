"""Two servers, and a proof of its norm beside every vector: a longer one is in no sum.

As in `two_server`, with three differences. A contribution holds a proof (`proofs.statement`): the
first server gets its shares, the helper's come from the seed. The first server tells the helper
what it sees of every proof; the helper adds what it sees itself, sums the keystreams of those
clients alone whose proofs hold, and says what it saw, so that the first server comes to the same
list. And a client signs its weight: both servers multiply by it, so that what is proved is the
norm of one record's worth.

The signs of the images are a hash of what both servers hold of the vector; the coefficients a hash
of that and of all shared bits; where proofs are looked at, the first server draws for every round
once more, and no client knows it.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from fedlearn.core.errors import ProtocolError
from fedlearn.core.ring import Ring, RingVector, pack, unpack
from fedlearn.crypto.codec import name_bytes
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.kdf import expand
from fedlearn.crypto.keystream import add_masks
from fedlearn.secagg.framing import decode, encode, kind_of
from fedlearn.secagg.messages import Params
from fedlearn.secagg.proofs import statement
from fedlearn.secagg.proofs.field import ELEMENT_BYTES, Elements, from_bytes, sub, to_bytes
from fedlearn.secagg.proofs.norm import NormBound
from fedlearn.secagg.proofs.statement import TooLongError
from fedlearn.secagg.proven_messages import (
    KEY_BYTES,
    UNPROVED,
    ProvenContribution,
    SignedShare,
    Statements,
    Verdicts,
    hashed,
)
from fedlearn.secagg.two_server import (
    Helper,
    OpenedSum,
    check_vector,
    fewest_of,
    mask_key,
    sealed_seed,
    vector_hash,
)
from fedlearn.secagg.two_server_messages import BLIND_BYTES, SEED_BYTES, UNOPENED

_TRIES: Final = 8


# --- the client --------------------------------------------------------------------


def contribute(
    identity: Identity,
    name: str,
    params: Params,
    vector: RingVector,
    weight: int,
    bound: NormBound,
    helper_key: bytes,
) -> bytes:
    """A client's one message: `vector: word[params.length]`, masked, with the proof of its norm.

    Both servers multiply it by `weight`.

    Raises:
        TooLongError: the vector is longer than it may be.
        ValueError: it does not fit the parameters.
    """
    check_vector(params, vector)
    for _ in range(_TRIES):
        try:
            return _contribution(identity, name, params, vector, weight, bound, helper_key)
        except TooLongError:  # of an honest vector an image was too long: other masks, other signs
            continue
    raise TooLongError("the update is longer than the rule of the run lets it be")


def _contribution(
    identity: Identity,
    name: str,
    params: Params,
    vector: RingVector,
    weight: int,
    bound: NormBound,
    helper_key: bytes,
) -> bytes:
    context = _proved_in(params, bound)
    seed, blind = os.urandom(SEED_BYTES), os.urandom(BLIND_BYTES)
    ring = Ring(bits=params.bits)
    mask = _mask(params, mask_key(seed, context, name))
    masked = ring.reduce(vector + mask)
    packed = pack(masked, ring)
    share = SignedShare(
        weight=weight,
        vector_hash=vector_hash(blind, packed),
        bits_hash=b"",
        sealed=sealed_seed(seed, helper_key, context, name),
    )
    signs = share.signs(context, name)
    first = statement.numbers_of(bound, "first", masked, signs)
    helper = statement.numbers_of(bound, "helper", mask, signs)
    bits = statement.shared_bits(bound, first, helper)
    theirs = statement.helper_share(bound, _share_key(seed, context, name))
    hidden = theirs[: bound.inputs]
    given = sub(bits, hidden)
    share = replace(share, bits_hash=_bits_hash(blind, to_bytes(given)))
    terms = [
        statement.terms_of(bound, "first", first, given, random)
        + statement.terms_of(bound, "helper", helper, hidden, random)
        for random in statement.coefficients(bound, share.coefficients(context, name))
    ]
    proofs = sub(statement.prove(bound, terms, os.urandom(32)), theirs[bound.inputs :])
    proof = to_bytes(np.concatenate([given, proofs]))
    signed = share.signed_by(identity, name, context)
    whole = ProvenContribution(share=signed, blind=blind, packed=packed, proof=memoryview(proof))
    return encode(whole, params.context())


# --- the servers -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Proved(OpenedSum):
    """What was opened, and what the weights of its clients add up to."""

    weight: int


@dataclass
class ProvingServer:
    """Looks at every contribution as it comes, and sums those that the helper finds good as well.

    Masked vectors are kept until then, packed. It opens no sum of fewer than `least` clients, or of
    half of the cohort, whatever the helper says.
    """

    params: Params
    sites: Mapping[str, bytes]
    bound: NormBound
    least: int = 3
    _points: bytes = field(default_factory=lambda: os.urandom(KEY_BYTES), repr=False)
    _shares: dict[str, SignedShare] = field(default_factory=dict, repr=False)
    _packed: dict[str, memoryview] = field(default_factory=dict, repr=False)
    _seen: dict[str, Elements] = field(default_factory=dict, repr=False)
    _closed: bool = False

    def receive(
        self, name: str, message: bytes | memoryview, allowed: Container[int] = (1,)
    ) -> None:
        """Look at one client's contribution, which has one of the weights that are allowed.

        Raises:
            ProtocolError: not in the cohort, a second message, or one that is not what it must be.
            RuntimeError: the helper was asked already.
        """
        if self._closed:
            raise RuntimeError("the sum is closed: the helper was asked")
        if name not in self.params.cohort or name in self._shares:
            raise ProtocolError(name, "contribute", "is not in the cohort, or came before")
        context, ring = _proved_in(self.params, self.bound), Ring(bits=self.params.bits)
        try:
            one = decode(ProvenContribution, message, self.params.context())
            masked = unpack(one.packed, self.params.length, ring)
            shares = from_bytes(one.proof, self.bound.elements)
        except ValueError as error:
            raise ProtocolError(name, "contribute", str(error)) from None
        given = to_bytes(shares[: self.bound.inputs])
        same = (vector_hash(one.blind, one.packed), _bits_hash(one.blind, given))
        signed = one.share.is_signed(self.sites[name], name, context)
        if same != (one.share.vector_hash, one.share.bits_hash) or not signed:
            raise ProtocolError(name, "contribute", "the signature is wrong")
        if one.share.weight not in allowed:
            raise ProtocolError(name, "contribute", "its weight is not that of its records")
        part = statement.numbers_of(self.bound, "first", masked, one.share.signs(context, name))
        keys = _keys(one.share, self._points, context, name)
        self._seen[name] = statement.query(self.bound, "first", part, shares, keys)
        self._shares[name], self._packed[name] = one.share, one.packed

    def request(self) -> bytes:
        """The helper's work; no vector is taken after this."""
        self._closed = True
        table = {name: (share, to_bytes(self._seen[name])) for name, share in self._shares.items()}
        whole = Statements(bound=self.bound, points=self._points, table=table)
        return encode(whole, self.params.context())

    def finish(self, reply: bytes | memoryview) -> Proved:
        """The sum of all vectors whose proofs hold, times their weights: `word[length]`.

        Raises:
            ProtocolError: the helper's reply is malformed.
            RuntimeError: the helper was not asked.
        """
        if not self._closed:
            raise RuntimeError("the helper was not asked yet")
        try:
            verdicts = decode(Verdicts, reply, self.params.context())
            theirs = {n: _seen(self.bound, data) for n, data in verdicts.table.items()}
            if not theirs.keys() <= self._shares.keys():
                raise ValueError("a verdict on somebody who sent nothing")
        except ValueError as error:
            raise ProtocolError("helper", "verdicts", str(error)) from None
        refused = {
            name: reason
            for name in sorted(self._shares)
            if (reason := _reason(self.bound, self._seen[name], theirs.get(name)))
        }
        taken = tuple(name for name in sorted(self._shares) if name not in refused)
        weight = sum(self._shares[name].weight for name in taken)
        needed, asked = fewest_of(self.params, self.least), len(self.params.cohort)
        enough = verdicts.packed and len(taken) >= needed
        total = self._total(taken, verdicts.packed) if enough else None
        counted = {"weight": weight, "needed": needed, "asked": asked}
        return Proved(total=total, taken=taken, refused=refused, **counted)

    def _total(self, taken: Iterable[str], packed: memoryview) -> RingVector:
        """The sum of those that are taken, of whose keystreams the helper has said the sum."""
        length, ring = self.params.length, Ring(bits=self.params.bits)
        try:
            masks = unpack(packed, length, ring)
        except ValueError as error:
            raise ProtocolError("helper", "verdicts", str(error)) from None
        total = ring.zeros(length)
        for name in taken:
            total += _times(unpack(self._packed[name], length, ring), self._shares[name], ring)
        return ring.reduce(total - masks)


class ProvingHelper(Helper):
    """The second server, where contributions are proved. Never sees a vector."""

    def answer(self, params: Params, request: bytes | memoryview) -> bytes:
        """`judge` or `sum_masks`, as the request asks for."""
        proved = kind_of(request) == Statements.KIND
        return self.judge(params, request) if proved else self.sum_masks(params, request)

    def judge(self, params: Params, request: bytes | memoryview) -> bytes:
        """What it sees of every proof, and the sum of keystreams of those whose proofs hold.

        One answer per round.

        Raises:
            ProtocolError: another run, a round again, too few clients, or a share that its
                client did not sign for this round.
        """
        opened = self._opened_round(params)
        try:
            asked = decode(Statements, request, opened)
            theirs = {n: _seen(asked.bound, data) for n, (_, data) in asked.table.items()}
            if (asked.bound.bits, asked.bound.values + asked.bound.counters) != (
                params.bits,
                params.length,
            ):
                raise ValueError("the bound is of another form")
        except ValueError as error:
            raise ProtocolError("server", "verdicts", str(error)) from None
        self._check_count(params, len(asked.table))
        context = _proved_in(params, asked.bound)
        for name, (share, _) in asked.table.items():
            if not share.is_signed(self._public_of(name, params), name, context):
                raise ProtocolError(name, "verdicts", "did not sign its share for this round")
        self._close_round(params)
        return self._judged(params, asked, theirs)

    def _judged(self, params: Params, asked: Statements, theirs: Mapping[str, Elements]) -> bytes:
        ring, bound, context = Ring(bits=params.bits), asked.bound, _proved_in(params, asked.bound)
        total, taken, table = ring.zeros(params.length), 0, dict[str, bytes]()
        for name, (share, _) in asked.table.items():
            seed = self._unsealed(name, share.sealed, context)
            if seed is None:
                continue
            mask = _mask(params, mask_key(seed, context, name))
            part = statement.numbers_of(bound, "helper", mask, share.signs(context, name))
            shares = statement.helper_share(bound, _share_key(seed, context, name))
            keys = _keys(share, asked.points, context, name)
            seen = statement.query(bound, "helper", part, shares, keys)
            table[name] = to_bytes(seen)
            if statement.holds(bound, seen, theirs[name]):
                total += _times(mask, share, ring)
                taken += 1
        packed = (
            pack(ring.reduce(total), ring) if taken >= self._needed(params) else memoryview(b"")
        )
        return encode(Verdicts(table=table, packed=packed), params.context())


def _times(vector: RingVector, share: SignedShare, ring: Ring) -> RingVector:
    """A vector times the weight that its client has signed."""
    weight = vector.dtype.type(share.weight % (1 << ring.bits))
    return np.multiply(vector, weight)


def _proved_in(params: Params, bound: NormBound) -> bytes:
    """What all that a client signs, seals and derives is bound to: the round, and the statement.

    A helper that is told another statement would say numbers of the true one that no random
    element hides; so it finds no signature there, no seed, and other shares.
    """
    return hashed("two-server/statement", params.context(), bound.to_bytes())


def _reason(bound: NormBound, seen: Elements, theirs: Elements | None) -> str:
    """Why a contribution is not in the sum; empty where it is."""
    if theirs is None:
        return UNOPENED
    if not statement.holds(bound, seen, theirs):
        return UNPROVED
    return ""


def _seen(bound: NormBound, data: bytes) -> Elements:
    return from_bytes(data, bound.seen_bytes // ELEMENT_BYTES)


def _mask(params: Params, key: bytes) -> RingVector:
    ring = Ring(bits=params.bits)
    mask = ring.zeros(params.length)
    add_masks(mask, plus=[key])
    return ring.reduce(mask)


def _keys(share: SignedShare, points: bytes, context: bytes, name: str) -> tuple[bytes, bytes]:
    """Of coefficients, and of points."""
    coefficients = share.coefficients(context, name)
    return coefficients, expand(points, "two-server/points", coefficients)


def _share_key(seed: bytes, context: bytes, name: str) -> bytes:
    return expand(seed, "two-server/share", context, name_bytes(name))


def _bits_hash(blind: bytes, given: bytes) -> bytes:
    return hashed("two-server/bits", blind, given)
