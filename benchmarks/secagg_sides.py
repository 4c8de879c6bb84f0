"""The two sides of `benchmarks/masking.py`: flwr's SecAgg+ arithmetic, and a round of our own.

Of flwr's side nothing is fedlearn's: every mask, share and key comes from flwr's functions, in
the order of its client mod and its workflow. Of ours all parties are in one process, stopped
where it is measured.
"""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass

import numpy as np
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)
from numpy.typing import NDArray

from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keystream import SecureWords
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.messages import Params
from fedlearn.secagg.payload import Payload
from fedlearn.secagg.policy import ClientPolicy
from fedlearn.secagg.server import ServerSession, plan_round
from fedlearn.secagg.settings import SecAggMasked

CLIP, TARGET_RANGE, MOD_RANGE = 4.0, 1 << 15, 1 << 32


@dataclass
class FlwrClient:
    """The secrets of one flwr client."""

    nid: int
    private: bytes
    public: bytes
    seed: bytes


class Flwr:
    """One round of flwr's SecAgg+ arithmetic, through its own functions."""

    def __init__(self, graph: dict[int, tuple[int, ...]], threshold: int) -> None:
        self.graph, self.threshold = graph, threshold
        self.clients = {nid: self._new(nid) for nid in graph}
        self.total: list[NDArray[np.int64]] = []
        self.plain: list[NDArray[np.int64]] = []

    def _new(self, nid: int) -> FlwrClient:
        private, public = generate_key_pairs()
        return FlwrClient(
            nid, private_key_to_bytes(private), public_key_to_bytes(public), os.urandom(32)
        )

    def mask(self, nid: int, update: NDArray[np.float32]) -> list[NDArray[np.int64]]:
        """`_collect_masked_vectors` after the decryption of shares."""
        vector = quantize(parameters_multiply([update], 1.0), CLIP, TARGET_RANGE)
        vector = factor_combine(1, vector)
        self.unmasked = [part.astype(np.int64) for part in vector]
        shapes = [part.shape for part in vector]
        client = self.clients[nid]
        vector = parameters_addition(vector, pseudo_rand_gen(client.seed, MOD_RANGE, shapes))
        for peer in self.graph[nid]:
            key = generate_shared_key(
                bytes_to_private_key(client.private),
                bytes_to_public_key(self.clients[peer].public),
            )
            pair = pseudo_rand_gen(key, MOD_RANGE, shapes)
            combine = parameters_addition if nid > peer else parameters_subtraction
            vector = combine(vector, pair)
        return parameters_mod(vector, MOD_RANGE)

    def add(self, masked: list[NDArray[np.int64]]) -> None:
        """The server's sum, and the plain one to check it with."""
        self.total = parameters_addition(self.total, masked) if self.total else masked
        plain = self.unmasked
        self.plain = parameters_addition(self.plain, plain) if self.plain else plain

    def shares(self, alive: set[int]) -> dict[int, list[bytes]]:
        """What survivors send to `unmask`: a share of the seed, or of the private key."""
        held = {}
        for nid, client in self.clients.items():
            secret = client.seed if nid in alive else client.private
            holders = len(self.graph[nid]) + 1
            held[nid] = create_shares(secret, self.threshold, holders)[: self.threshold]
        return held

    def unmask(self, held: dict[int, list[bytes]], alive: set[int]) -> list[NDArray[np.int64]]:
        """The loop of `unmask_stage`."""
        vector = self.total
        shapes = [part.shape for part in vector]
        for nid, shares in held.items():
            secret = combine_shares(shares)
            if nid in alive:
                mask = pseudo_rand_gen(secret, MOD_RANGE, shapes)
                vector = parameters_subtraction(vector, mask)
                continue
            for peer in self.graph[nid]:
                if peer not in alive:
                    continue
                key = generate_shared_key(
                    bytes_to_private_key(secret), bytes_to_public_key(self.clients[peer].public)
                )
                mask = pseudo_rand_gen(key, MOD_RANGE, shapes)
                combine = parameters_addition if nid > peer else parameters_subtraction
                vector = combine(vector, mask)
        return parameters_mod(vector, MOD_RANGE)


MODEL = bytes(32)
SETTINGS = SecAggMasked(bits=20, clip=CLIP, resolution=CLIP * 2.0**-12, max_weight=1)


class Ours:
    """One round of our sessions, up to the step that is measured."""

    def __init__(self, count: int, parameters: int) -> None:
        self.settings = SETTINGS
        self.payload = Payload.plan(self.settings, num_clients=count, num_values=parameters)
        self.names = tuple(f"site-{index:03d}" for index in range(count))
        identities = {name: Identity.new() for name in self.names}
        self.sites = {name: one.public for name, one in identities.items()}
        self.params = plan_round(
            self.settings,
            run_id=bytes(16),
            round_number=1,
            cohort=self.names,
            length=self.payload.length,
            layout_hash=bytes(32),
            plan_hash=self.payload.hash(),
            request_hash=MODEL,
        )
        self.clients = {
            name: ClientSession(identities[name], self._policy(name)) for name in self.names
        }
        self.server = ServerSession(self.params, self.sites)
        self.plain = self.payload.ring.zeros(self.payload.length)
        self.words = SecureWords()

    def share_keys(self) -> Ours:
        """The two steps before masking."""
        for step in ("advertise", "share"):
            for name, request in self.server.requests().items():
                self.server.receive(name, getattr(self.clients[name], step)(request))
            self.server.close_step()
        self.requests = self.server.requests()
        return self

    def _policy(self, name: str) -> ClientPolicy:
        params: Params = self.params
        return ClientPolicy(
            name=name,
            sites=self.sites,
            settings=self.settings,
            run_id=params.run_id,
            after_round=0,
            length=params.length,
            layout_hash=params.layout_hash,
            plan_hash=params.plan_hash,
        )

    def mask(self, name: str, update: NDArray[np.float32]) -> tuple[bytes, float]:
        """The masked message, and the CPU seconds of masking without quantisation."""
        vector = self.payload.encode(update, 1, (), self.words)
        self.plain += vector
        start = time.process_time()
        reply = self.clients[name].mask(self.requests[name], vector, MODEL)
        return reply, time.process_time() - start

    def settle(self, alive: tuple[str, ...]) -> float:
        """Agreement and shares; returns the CPU seconds of one client (mean)."""
        spent = 0.0
        self.server.close_step()
        for step in ("agree", "unmask"):
            for name, request in self.server.requests().items():
                start = time.process_time()
                reply = getattr(self.clients[name], step)(request)
                spent += time.process_time() - start
                self.server.receive(name, reply)
            self.server.close_step()
        return spent / len(alive)

    def fresh_server(self) -> ServerSession:
        """The server before unmasking, once more: `total` may be taken once only."""
        again = copy.copy(self.server)
        assert self.server._sum is not None
        again._sum = self.server._sum.copy()
        return again
