"""A small federation for tests: identities, policies and sessions that a test can steer by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from fedlearn.core.ring import Ring, RingVector
from fedlearn.crypto.identity import Identity
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.memory import Party
from fedlearn.secagg.messages import Params
from fedlearn.secagg.policy import ClientPolicy
from fedlearn.secagg.server import ServerSession, plan_round
from fedlearn.secagg.settings import SecAggMasked, ring_of

RUN_ID = b"run-0123456789ab"
MODEL = b"m" * 32


@cache
def identity(name: str) -> Identity:
    """One identity per name; making them anew in every test would only cost time."""
    return Identity.new()


@dataclass(frozen=True)
class Federation:
    """What is agreed before a round."""

    names: tuple[str, ...]
    settings: SecAggMasked
    length: int = 11

    @property
    def sites(self) -> dict[str, bytes]:
        return {name: identity(name).public for name in self.names}

    @property
    def ring(self) -> Ring:
        return ring_of(self.settings)

    def params(self, round_number: int = 1, cohort: Iterable[str] | None = None) -> Params:
        return plan_round(
            self.settings,
            run_id=RUN_ID,
            round_number=round_number,
            cohort=tuple(cohort or self.names),
            length=self.length,
            layout_hash=b"l" * 32,
            plan_hash=b"p" * 32,
            request_hash=MODEL,
        )

    def policy(self, name: str, after_round: int = 0) -> ClientPolicy:
        return ClientPolicy(
            name=name,
            sites=self.sites,
            settings=self.settings,
            run_id=RUN_ID,
            after_round=after_round,
            length=self.length,
            layout_hash=b"l" * 32,
            plan_hash=b"p" * 32,
        )

    def client(self, name: str) -> ClientSession:
        return ClientSession(identity(name), self.policy(name))

    def clients(self) -> dict[str, ClientSession]:
        return {name: self.client(name) for name in self.names}

    def server(self, params: Params | None = None) -> ServerSession:
        return ServerSession(params or self.params(), self.sites, self.settings.min_cohort)

    def vector(self, name: str) -> RingVector:
        """Random over the whole ring, the same for a name every time."""
        seed = int.from_bytes(name.encode(), "big")
        data = np.random.default_rng(seed).bytes(self.length * self.ring.dtype.itemsize)
        return self.ring.reduce(np.frombuffer(data, self.ring.dtype).copy())

    def parties(self) -> dict[str, Party]:
        return {
            name: Party(identity=identity(name), vector=self.vector(name)) for name in self.names
        }

    def sum_of(self, names: Iterable[str]) -> RingVector:
        """The slow oracle: Python integers."""
        columns = zip(*(self.vector(name).tolist() for name in names), strict=True)
        return np.array([sum(column) % 2**self.ring.bits for column in columns], self.ring.dtype)


def federation(count: int, length: int = 11, **settings: object) -> Federation:
    """`count` sites and the default settings, but for those given."""
    names = tuple(f"site-{index:03d}" for index in range(count))
    return Federation(names, replace(SecAggMasked(), **settings), length)  # type: ignore[arg-type]


def answer(fed: Federation, step: str, client: ClientSession, request: bytes, name: str) -> bytes:
    """What an honest client does in a step."""
    if step == "mask":
        return client.mask(request, fed.vector(name), MODEL)
    reply: bytes = getattr(client, step)(request)
    return reply


def run_until(
    fed: Federation,
    stop: str,
    clients: Mapping[str, ClientSession],
    server: ServerSession,
    absent: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, bytes]:
    """Runs honest steps until `stop` is open; returns the requests of that step."""
    gone: set[str] = set()
    while server.step != stop:
        gone |= set((absent or {}).get(server.step, ()))
        for name, request in server.requests().items():
            if name not in gone:
                server.receive(name, answer(fed, server.step, clients[name], request, name))
        server.close_step()
    return server.requests()
