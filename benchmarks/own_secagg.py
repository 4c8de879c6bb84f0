"""One round of our secure aggregation, all parties in one process, stopped where it is measured.

What `benchmarks/masking.py` times beside `flwr_secagg.py`.
"""

from __future__ import annotations

import copy
import time

import numpy as np
from flwr_secagg import CLIP
from numpy.typing import NDArray

from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keystream import SecureWords
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.messages import Params
from fedlearn.secagg.payload import Payload
from fedlearn.secagg.policy import ClientPolicy
from fedlearn.secagg.server import ServerSession, plan_round
from fedlearn.secagg.settings import SecAggMasked

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
