"""A whole round with all parties in memory: the executable specification of the protocol.

Readers start here. Tests run this loop with clients vanishing at every step, and
Flower runs the same sessions with a network in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedlearn.core.ring import RingVector
from fedlearn.crypto.identity import Identity
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.messages import Params
from fedlearn.secagg.policy import ClientPolicy
from fedlearn.secagg.server import ServerSession
from fedlearn.secagg.settings import SecAggMasked


@dataclass(frozen=True, kw_only=True)
class Dropouts:
    """Who vanishes before replying in each step."""

    advertise: frozenset[str] = frozenset()
    share: frozenset[str] = frozenset()
    mask: frozenset[str] = frozenset()
    agree: frozenset[str] = frozenset()
    unmask: frozenset[str] = frozenset()

    def at(self, step: str) -> frozenset[str]:
        """Who vanishes in that step."""
        found: frozenset[str] = getattr(self, step)
        return found


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The sum of a round and whose vectors are in it."""

    total: RingVector
    survivors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Party:
    """One client of an in-memory round."""

    identity: Identity
    vector: RingVector
    last_round: int = -1


def run_round(
    params: Params,
    settings: SecAggMasked,
    parties: Mapping[str, Party],
    dropouts: Dropouts = Dropouts(),
) -> Outcome:
    """All five steps: what `ServerSession` and `ClientSession` say to each other.

    Raises:
        ProtocolError: too few clients are left, at whichever step.
    """
    sites = {name: party.identity.public for name, party in parties.items()}
    clients = {
        name: ClientSession(party.identity, _policy(name, party, params, settings, sites))
        for name, party in parties.items()
    }
    server = ServerSession(params, sites, settings.min_cohort)
    gone: set[str] = set()
    while server.step != "done":
        gone |= dropouts.at(server.step)
        for name, request in server.requests().items():
            if name not in gone:
                reply = _reply(server.step, clients[name], request, parties[name], params)
                server.receive(name, reply)
        server.close_step()
    return Outcome(total=server.total(), survivors=server.survivors)


def _policy(
    name: str, party: Party, params: Params, settings: SecAggMasked, sites: Mapping[str, bytes]
) -> ClientPolicy:
    return ClientPolicy(
        name=name,
        sites=sites,
        settings=settings,
        run_id=params.run_id,
        after_round=party.last_round,
        length=params.length,
        layout_hash=params.layout_hash,
        plan_hash=params.plan_hash,
    )


def _reply(step: str, client: ClientSession, request: bytes, party: Party, params: Params) -> bytes:
    if step == "mask":
        return client.mask(request, party.vector, params.request_hash)
    return client.answer(step, request)
