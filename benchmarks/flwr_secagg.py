"""flwr's own SecAgg+ arithmetic, called in the order of its client mod and its workflow.

What `benchmarks/masking.py` compares with. Nothing here is fedlearn's: every
mask, share and key comes from flwr's functions.
"""

from __future__ import annotations

import os
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
