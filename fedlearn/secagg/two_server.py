"""Additive sharing between two servers: one message per client, and any may vanish.

A client adds one keystream to its vector and sends the result to the first
server, together with the 32-byte seed of the keystream, encrypted for the second
server (the helper). The first server sums the masked vectors; the helper sums
the keystreams of the same clients and returns that one vector; the difference
is the sum. Neither server alone learns more than the sum, however many clients
work with it, as long as the two do not work together.

A client signs what it sends, so that the first server cannot invent the other
clients of a cohort. The helper answers once per run and round, and only for
`min_cohort` clients or more, which are more than half of the cohort.

Either server could leave out whom it likes, until two clients that work with it
know the third's part of a sum of three. So each of them opens no sum without most
of the cohort, which is in all that a client signs (`fewest_of`): whoever of the two,
or of those between them and the clients, leaves out more has no sum.

A client may have sealed what is no seed, and the helper alone can tell. It names
whom it could open, and sums those: which submissions are in the sum is decided
once, and a round whose seeds it has looked at is spent, with a sum or without.
Asked again for the others, it would open two sums that differ by single clients.

It is the shape of DAP (draft-ietf-ppm-dap) without proofs: neither server can
tell whether a vector is within bounds. `fedlearn.secagg.proven` adds them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from fedlearn.core.errors import ProtocolError
from fedlearn.core.ring import Ring, RingVector, pack, unpack
from fedlearn.crypto.codec import name_bytes
from fedlearn.crypto.identity import Identity, verify
from fedlearn.crypto.kdf import expand, key_info
from fedlearn.crypto.keystream import RunRanges, add_masks
from fedlearn.secagg.framing import decode, encode
from fedlearn.secagg.messages import Params
from fedlearn.secagg.two_server_messages import (
    BLIND_BYTES,
    SEED_BYTES,
    UNOPENED,
    MaskedContribution,
    MaskSum,
    Seeds,
    SignedSeed,
)

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def contribute(
    identity: Identity,
    name: str,
    params: Params,
    vector: RingVector,
    helper_key: bytes,
    *,
    parts: int = 1,
    run: RunRanges = map,
) -> bytes:
    """A client's one message: `vector: word[params.length]`, left unchanged, masked and packed.

    `helper_key` is the helper's X25519 public key, which the caller has from the
    helper itself, signed, and not from the first server alone. The caller has
    compared `params` with its own policy and with the model that arrived.

    Raises:
        ValueError: the vector does not fit the parameters.
    """
    check_vector(params, vector)
    context, seed = params.context(), os.urandom(SEED_BYTES)
    masked = vector.copy()
    add_masks(masked, plus=[mask_key(seed, context, name)], parts=parts, run=run)
    packed = pack(Ring(bits=params.bits).reduce(masked), Ring(bits=params.bits))
    blind = os.urandom(BLIND_BYTES)
    digest, sealed = vector_hash(blind, packed), sealed_seed(seed, helper_key, context, name)
    signature = identity.sign("two-server/seed", context, name_bytes(name), digest, sealed)
    signed = SignedSeed(vector_hash=digest, sealed=sealed, signature=signature)
    return encode(MaskedContribution(seed=signed, blind=blind, packed=packed), context)


def check_vector(params: Params, vector: RingVector) -> None:
    """Refuse a vector that is not of a round; `ValueError`."""
    if vector.shape != (params.length,) or vector.dtype != Ring(bits=params.bits).dtype:
        raise ValueError(f"vector is {vector.dtype}{list(vector.shape)}, not of this round")


@dataclass(frozen=True, kw_only=True)
class OpenedSum:
    """The sum, `word[length]`, whose it is, and why others who sent something are not in it.

    `total` is None where they are too few, by this server's own count (`needed`, of the `asked`
    that are the cohort) or by the helper's.
    """

    total: RingVector | None
    taken: tuple[str, ...]
    refused: Mapping[str, str]
    needed: int
    asked: int


def fewest_of(params: Params, least: int) -> int:
    """The fewest clients of a sum: `least`, and more than half of those that were asked for it.

    As with masks, which fewer cannot open. The cohort is what every client has seen and signed.
    """
    return max(least, len(params.cohort) // 2 + 1)


class FirstServer:
    """Sums masked vectors as they arrive, and takes the helper's mask sum away.

    They are kept until then, packed: those that the helper could not open leave the sum again.
    It opens none of fewer than `least` clients, or of half of the cohort, whatever the helper says.
    """

    def __init__(self, params: Params, sites: Mapping[str, bytes], least: int = 3) -> None:
        self.params, self._needed = params, fewest_of(params, least)
        self._sites, self._context = sites, params.context()
        self._ring = Ring(bits=params.bits)
        self._sum = self._ring.zeros(params.length)
        self._seeds: dict[str, SignedSeed] = {}
        self._packed: dict[str, memoryview] = {}
        self._closed = False

    def receive(self, name: str, message: bytes | memoryview) -> None:
        """Adds one client's vector.

        Raises:
            ProtocolError: not in the cohort, a second message, or one that does not verify.
            RuntimeError: the helper was asked already.
        """
        if self._closed:
            raise RuntimeError("the sum is closed: the helper was asked")
        if name not in self.params.cohort or name in self._seeds:
            raise ProtocolError(name, "contribute", "is not in the cohort, or came before")
        try:
            one = decode(MaskedContribution, message, self._context)
            vector = unpack(one.packed, self.params.length, self._ring)
        except ValueError as error:
            raise ProtocolError(name, "contribute", str(error)) from None
        same = vector_hash(one.blind, one.packed) == one.seed.vector_hash
        if not same or not _is_signed(name, one.seed, self._sites[name], self._context):
            raise ProtocolError(name, "contribute", "the signature is wrong")
        self._sum += vector
        self._seeds[name], self._packed[name] = one.seed, one.packed

    def request(self) -> bytes:
        """The helper's work; no vector is taken after this."""
        self._closed = True
        return encode(Seeds(table=self._seeds), self._context)

    def finish(self, reply: bytes | memoryview) -> OpenedSum:
        """The sum of all vectors whose seeds the helper could open.

        Raises:
            ProtocolError: the helper's reply is malformed.
            RuntimeError: the helper was not asked.
        """
        if not self._closed:
            raise RuntimeError("the helper was not asked yet")
        length, ring = self.params.length, self._ring
        try:
            answer = decode(MaskSum, reply, self._context)
            opened = set(answer.opened)
            if not opened <= self._seeds.keys():
                raise ValueError("opened the seed of somebody who sent none")
            masks = unpack(answer.packed, length, ring) if answer.packed else None
        except ValueError as error:
            raise ProtocolError("helper", "mask_sum", str(error)) from None
        refused = {name: UNOPENED for name in sorted(self._seeds) if name not in opened}
        taken = tuple(sorted(opened))
        total = None
        if masks is not None and len(taken) >= self._needed:
            total = ring.reduce(self._sum_without(refused) - masks)
        counted = {"needed": self._needed, "asked": len(self.params.cohort)}
        return OpenedSum(total=total, taken=taken, refused=refused, **counted)

    def _sum_without(self, names: Iterable[str]) -> RingVector:
        total = self._sum.copy()
        for name in names:
            total -= unpack(self._packed[name], self.params.length, self._ring)
        return total


Kept = tuple[bytes, int, frozenset[str]]
"""A helper's private key, the last round that it answered, and the sites of that round's sums."""


class Helper:
    """The second server: expands seeds and sums keystreams. Never sees a vector.

    `sites` and `min_cohort` are its own. It keeps its key, and which round it answered last, for
    the whole run (`secrets`, which are given back as `kept`).
    """

    def __init__(
        self,
        run_id: bytes,
        sites: Mapping[str, bytes],
        *,
        min_cohort: int = 3,
        kept: Kept | None = None,
    ) -> None:
        private = kept[0] if kept else X25519PrivateKey.generate().private_bytes_raw()
        self._private = X25519PrivateKey.from_private_bytes(private)
        self._run_id, self._sites, self.min_cohort = run_id, sites, min_cohort
        self._round = kept[1] if kept else -1
        self._summed = kept[2] if kept else frozenset[str]()
        self.public = self._private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return "Helper(secret key of 32 bytes)"

    def secrets(self) -> Kept:
        """What it keeps, for its own disk alone."""
        return self._private.private_bytes_raw(), self._round, self._summed

    def sum_masks(
        self,
        params: Params,
        request: bytes | memoryview,
        *,
        parts: int = 1,
        run: RunRanges = map,
    ) -> bytes:
        """Whose seeds could be opened, and the sum of their keystreams; one answer per round and
        client.

        Raises:
            ProtocolError: another run, a round again, too few clients, or a seed that
                its client did not sign for this round.
        """
        context = self._opened_round(params)
        try:
            table = decode(Seeds, request, context).table
        except ValueError as error:
            raise ProtocolError("server", "mask_sum", str(error)) from None
        self._check_count(params, len(table))
        for name, one in table.items():
            if not _is_signed(name, one, self._public_of(name, params), context):
                raise ProtocolError(name, "mask_sum", "did not sign its seed for this round")
        self._close_round(params)
        seeds = {name: self._unsealed(name, one.sealed, context) for name, one in table.items()}
        keys = {n: mask_key(seed, context, n) for n, seed in seeds.items() if seed is not None}
        if len(keys) < self._needed(params):
            return encode(MaskSum(opened=tuple(keys), packed=memoryview(b"")), context)
        ring = Ring(bits=params.bits)
        total = ring.zeros(params.length)
        add_masks(total, plus=list(keys.values()), parts=parts, run=run)
        return encode(MaskSum(opened=tuple(keys), packed=pack(ring.reduce(total), ring)), context)

    def _opened_round(self, params: Params) -> bytes:
        """The context of a sum over sites none of which is in one of this round, or a later one."""
        if params.run_id != self._run_id or params.round < self._round:
            raise ProtocolError("server", "mask_sum", "another run, or a round again")
        if self._summed_in(params) & set(params.cohort):
            raise ProtocolError("server", "mask_sum", "another run, or a round again")
        return params.context()

    def _summed_in(self, params: Params) -> frozenset[str]:
        """The sites of this round's sums so far."""
        return self._summed if params.round == self._round else frozenset()

    def _close_round(self, params: Params) -> None:
        """Spend a round, before any seed is looked at: whatever comes of that, it is not asked for
        again."""
        for name in params.cohort:  # by its list it has counted how many a sum needs
            self._public_of(name, params)
        # From here on these are spent: two sets that overlap would tell a single client apart.
        self._summed = self._summed_in(params) | set(params.cohort)
        self._round = params.round

    def _needed(self, params: Params) -> int:
        return fewest_of(params, self.min_cohort)

    def _check_count(self, params: Params, clients: int) -> None:
        if clients < (needed := self._needed(params)):
            raise ProtocolError("server", "mask_sum", f"{clients} clients; needed: {needed}")

    def _public_of(self, name: str, params: Params) -> bytes:
        """The key of a client of the cohort."""
        public = self._sites.get(name)
        if public is None or name not in params.cohort:
            raise ProtocolError(name, "mask_sum", "is not on the roster or not in the cohort")
        return public

    def _unsealed(self, name: str, sealed: bytes, context: bytes) -> bytes | None:
        """The seed of a client; None for what is none."""
        try:
            return _SUITE.decrypt(sealed, self._private, _info(context, name))
        except (InvalidTag, ValueError):
            return None


def vector_hash(blind: bytes, packed: bytes | memoryview) -> bytes:
    """What a client signs of its masked vector, and the helper gets to see."""
    return hashlib.sha256(key_info("two-server/vector", blind) + packed).digest()


def mask_key(seed: bytes, context: bytes, name: str) -> bytes:
    """The key of a client's keystream."""
    return expand(seed, "two-server/mask", context, name_bytes(name))


def sealed_seed(seed: bytes, helper_key: bytes, context: bytes, name: str) -> bytes:
    """A seed that the helper alone can read, for this round and client."""
    public = X25519PublicKey.from_public_bytes(helper_key)
    return _SUITE.encrypt(seed, public, _info(context, name))


def _info(context: bytes, name: str) -> bytes:
    return key_info("two-server/seal", context, name_bytes(name))


def _is_signed(name: str, one: SignedSeed, public: bytes, context: bytes) -> bool:
    fields = (context, name_bytes(name), one.vector_hash, one.sealed)
    return verify(public, one.signature, "two-server/seed", *fields)
