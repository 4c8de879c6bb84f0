"""A coordinator with corrupt sites shows two lists of survivors, or two rolls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest

from fedlearn.agreement import masks_of
from fedlearn.core.errors import ProtocolError
from fedlearn.crypto.shamir import combine
from fedlearn.mechanisms.base import Plan
from fedlearn.secagg import keys
from fedlearn.secagg.client import ClientSession
from fedlearn.secagg.framing import decode, encode
from fedlearn.secagg.graph import neighbours_of
from fedlearn.secagg.messages import (
    Agreement,
    Endorsements,
    Inbox,
    Opening,
    Roll,
    Shares,
    Survivors,
)
from fedlearn.secagg.server import ServerSession
from tests.fedlearn.secagg.federation import MODEL, Federation, federation, identity, run_until

Split = Mapping[str, int]
"""Which of the two lists an honest site is shown."""


@dataclass(frozen=True)
class Ring:
    """A round up to the masked vectors, and what a lying coordinator knows of it."""

    fed: Federation
    clients: dict[str, ClientSession]
    server: ServerSession
    corrupt: frozenset[str]

    @classmethod
    def of(cls, fed: Federation, corrupt: Sequence[str]) -> Ring:
        clients, server = fed.clients(), fed.server()
        run_until(fed, "agree", clients, server)
        return cls(fed, clients, server, frozenset(corrupt))

    @property
    def graph(self) -> dict[str, tuple[str, ...]]:
        return self.server._graph

    @property
    def honest(self) -> list[str]:
        return [name for name in self.fed.names if name not in self.corrupt]

    def weakest(self) -> str:
        """The honest site with the most corrupt neighbours."""
        return max(self.honest, key=lambda name: len(self.corrupt & set(self.graph[name])))

    def splits(self, victim: str) -> list[Split]:
        """Ways to divide the honest ones: at random, and by their place around the victim."""
        ring = self._around(victim)
        halves = {name: place % 2 for place, name in enumerate(ring)}
        sides = {name: int(place >= len(ring) // 2) for place, name in enumerate(ring)}
        return [{**split, victim: 0} for split in (halves, sides)]

    def _around(self, victim: str) -> list[str]:
        """Honest sites by how many neighbours they share with the victim, left and right apart."""
        near = set(self.graph[victim])
        first = next(iter(sorted(near)))
        left = set(self.graph[first])
        return sorted(self.honest, key=lambda name: (name not in left, name not in near, name))

    def shares(self, victim: str, split: Split) -> tuple[list[bytes], list[bytes]]:
        """Shares of the victim's seed and of its mask key, from all who can be made to answer."""
        context, names = self.server.context, self.fed.names
        lists = (Survivors(names=names), Survivors(names=tuple(n for n in names if n != victim)))
        signed: list[dict[str, bytes]] = [{}, {}]
        clients = {name: self._copy(name) for name in split}
        for name, shown in split.items():
            with suppress(ProtocolError):
                reply = clients[name].agree(encode(lists[shown], context))
                signed[shown][name] = decode(Agreement, reply, context).signature
        for name in self.corrupt:
            for shown in (0, 1):
                fields = (context, lists[shown].hash())
                signed[shown][name] = identity(name).sign("secagg/survivors", *fields)
        seeds, masks = self._of_the_corrupt(victim)
        for name, shown in split.items():
            if victim not in self.graph[name]:
                continue
            peers = {
                peer: signed[shown][peer] for peer in self.graph[name] if peer in signed[shown]
            }
            with suppress(ProtocolError):
                request = encode(Endorsements(signatures=peers), context)
                opening = decode(Opening, clients[name].unmask(request), context)
                seeds += [data for peer, data in opening.self_shares.items() if peer == victim]
                masks += [data for peer, data in opening.key_shares.items() if peer == victim]
        return seeds, masks

    def _copy(self, name: str) -> ClientSession:
        """The site before it was shown a list, so that more than one attack can be tried."""
        state = self.clients[name].to_bytes()
        return ClientSession.from_bytes(state, identity(name), self.fed.policy(name))

    def _of_the_corrupt(self, victim: str) -> tuple[list[bytes], list[bytes]]:
        """A corrupt neighbour keeps both shares."""
        pairs = [
            self.clients[name]._state.shares[victim]  # type: ignore[union-attr]
            for name in self.graph[victim]
            if name in self.corrupt
        ]
        return [pair[:33] for pair in pairs], [pair[:1] + pair[33:] for pair in pairs]


def attack(sites: int, fraction: float) -> tuple[Ring, str, list[tuple[list[bytes], list[bytes]]]]:
    """A round of so many sites and so large a `corrupt_fraction`; what every split gave."""
    settings = {"corrupt_fraction": fraction, "dropout_fraction": 0.2}
    fed = federation(sites, length=2, **settings)
    ring = Ring.of(fed, fed.names[3::5])
    victim = ring.weakest()
    return ring, victim, [ring.shares(victim, split) for split in ring.splits(victim)]


def secret(shares: Sequence[bytes], threshold: int) -> bytes:
    """What `threshold` shares give."""
    chosen = shares[:threshold]
    points = np.array([[data[0] for data in chosen]], np.uint8)
    rows = np.frombuffer(b"".join(data[1:] for data in chosen), np.uint8)
    return combine(points, rows.reshape(1, threshold, 32))[0].tobytes()


@pytest.mark.slow
def test_two_survivor_lists__open_no_honest_site_among_100_with_20_corrupt() -> None:
    ring, _, tries = attack(100, 0.2)
    threshold = ring.server.params.threshold
    for seeds, masks in tries:
        assert min(len(seeds), len(masks)) < threshold
    for name in ring.honest:  # by no way to divide them, whoever is the victim
        bad = len(ring.corrupt & set(ring.graph[name]))
        assert len(ring.graph[name]) - bad < 2 * (threshold - bad)


@pytest.mark.slow
def test_two_survivor_lists__open_a_site_where_nobody_was_counted_as_corrupt() -> None:
    """The same attack on rounds whose settings say that nobody lies: it is one that works."""
    for _ in range(8):  # the graph is drawn anew, and now and then no site's neighbours divide well
        ring, victim, tries = attack(66, 0.0)
        seeds, masks = max(tries, key=lambda one: min(len(one[0]), len(one[1])))
        if min(len(seeds), len(masks)) >= ring.server.params.threshold:
            break
    assert_opened(ring, victim, seeds, masks)


def assert_opened(ring: Ring, victim: str, seeds: Sequence[bytes], masks: Sequence[bytes]) -> None:
    """Both masks of the victim are known: those are its own seed and its own key."""
    threshold = ring.server.params.threshold
    public = ring.server._keys[victim].mask_key
    assert keys.public_of(secret(masks, threshold)) == public
    known = keys.commitment(secret(seeds, threshold), ring.server.context, victim)
    assert known == ring.server._commitments[victim]


COLLUDERS = [(5, 3), (6, 2), (9, 4), pytest.param(12, 5, marks=pytest.mark.slow)]
"""Sites, and `privacy.max_colluders`: more than a fifth, which is all that masks counted on."""


@pytest.mark.parametrize(("sites", "colluders"), COLLUDERS)
def test_colluders__open_a_site_where_masks_count_on_fewer_than_the_noise(
    sites: int, colluders: int
) -> None:
    fed = federation(sites, length=2)
    ring = Ring.of(fed, fed.names[-colluders:])
    victim = ring.weakest()
    opened = [ring.shares(victim, split) for split in ring.splits(victim)]
    seeds, masks = max(opened, key=lambda one: min(len(one[0]), len(one[1])))
    assert_opened(ring, victim, seeds, masks)


@pytest.mark.parametrize(("sites", "colluders"), COLLUDERS)
def test_colluders__open_nobody_where_masks_are_sized_by_the_noise(
    sites: int, colluders: int
) -> None:
    plain = federation(sites, length=2)
    fed = replace(plain, settings=masks_of(plain.settings, _Plan(colluders)))
    ring = Ring.of(fed, fed.names[-colluders:])
    victim, threshold = ring.weakest(), ring.server.params.threshold
    others = [name for name in ring.honest if name != victim]
    for lists in product((0, 1), repeat=len(others)):
        split = {**dict(zip(others, lists, strict=True)), victim: 0}
        seeds, masks = ring.shares(victim, split)
        assert min(len(seeds), len(masks)) < threshold


@pytest.mark.parametrize(("sites", "colluders"), COLLUDERS)
def test_coordinator__that_counts_on_fewer_colluders_than_the_noise_is_refused(
    sites: int, colluders: int
) -> None:
    plain = federation(sites)
    sized = replace(plain, settings=masks_of(plain.settings, _Plan(colluders)))
    with pytest.raises(ProtocolError, match="is not this client's rule"):
        sized.client(sized.names[0]).advertise(plain.params().encode())


class _Plan(Plan):
    """Noise that so many sites may know their shares of."""

    def __init__(self, colluders: int) -> None:
        self._colluders = colluders

    @property
    def colluders(self) -> int:
        return self._colluders


def test_two_rolls__give_sites_that_understand_nothing_of_each_other() -> None:
    """Another roll is another graph: a site that was shown one takes no share made for another."""
    fed = federation(70, length=2)
    clients, server = fed.clients(), fed.server()
    requests = run_until(fed, "share", clients, server)
    params, one, *others = server.params, *fed.names
    rolls = decode(Roll, requests[one], params.context())
    shorter = Roll(keys={name: rolls.keys[name] for name in fed.names[:-1]})
    request = encode(shorter, params.context())
    shares = decode(Shares, clients[one].share(request), params.bound_to(request))
    receiver = next(name for name in others if name in shares.sealed)
    clients[receiver].share(requests[receiver])
    full = neighbours_of(fed.names, params.neighbours, keys.graph_seed(requests[receiver]))
    inbox = encode(Inbox(sealed={one: shares.sealed[receiver]}), params.bound_to(request))
    with pytest.raises(ProtocolError, match="another round"):
        clients[receiver].mask(inbox, fed.vector(receiver), MODEL)
    assert full[receiver] != neighbours_of(
        tuple(shorter.keys), params.neighbours, keys.graph_seed(request)
    ).get(receiver)


def test_two_rolls__do_not_mix_even_if_the_frame_is_forged() -> None:
    fed = federation(5)
    clients, server = fed.clients(), fed.server()
    requests = run_until(fed, "share", clients, server)
    params, (one, other, *rest) = server.params, fed.names
    roll = decode(Roll, requests[one], params.context())
    shorter = encode(
        Roll(keys={name: roll.keys[name] for name in fed.names[:-1]}), params.context()
    )
    sealed = {}
    for name in (one, *rest[:-1]):
        reply = clients[name].share(shorter)
        sealed[name] = decode(Shares, reply, params.bound_to(shorter)).sealed[other]
    clients[other].share(requests[other])
    forged = encode(Inbox(sealed=sealed), params.bound_to(requests[other]))
    with pytest.raises(ProtocolError, match="could not be opened"):
        clients[other].mask(forged, fed.vector(other), MODEL)


@pytest.mark.slow
def test_sum__is_refused_when_so_many_are_missing_that_the_rest_may_be_split() -> None:
    fed = federation(66, length=2)
    clients, server = fed.clients(), fed.server()
    run_until(fed, "agree", clients, server)
    one, near = fed.names[0], server._graph[fed.names[0]]
    others = sorted(set(fed.names) - {one}, key=lambda name: name in near)
    room = server.params.neighbours - 1 - 66 // 5
    request = _without(server, others[: room + 1])
    state = clients[one].to_bytes()
    with pytest.raises(ProtocolError, match="may be split"):
        clients[one].agree(request)
    again = ClientSession.from_bytes(state, identity(one), fed.policy(one))
    assert again.agree(_without(server, others[:room]))


def _without(server: ServerSession, missing: Sequence[str]) -> bytes:
    names = tuple(name for name in server.survivors if name not in missing)
    return encode(Survivors(names=names), server.context)
