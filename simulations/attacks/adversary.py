"""A real federation, watched from every seat: what of a round reaches whom.

The apps at both ends are the real ones, and so are keys, masks, noise and bytes.
The adversaries add nothing but eyes: one keeps what passes on the network, one
is the coordinator and keeps what it opens. The lying coordinator sends a model
of its choice in the place of the one that the sites have made, which no site
can tell from an honest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Context, Message, RecordDict

from clients.app import app as client
from fedlearn import flower
from fedlearn.config import RunConfig
from fedlearn.core.vector import Layout, Vector
from fedlearn.crypto.sealed import Channel
from server.enrol import enrol, join, plan_for
from server.federation import Federation, Progress
from server.sealing import Sealing
from simulations.engines.local import InProcessGrid, make_contexts


class Wiretap(InProcessGrid):
    """A network that keeps the latest reply of every node to `train`, as it passed."""

    def __init__(self, contexts: Mapping[int, Context]) -> None:
        super().__init__(client, contexts)
        self.heard: dict[int, Message] = {}

    def _answer(self, message: Message) -> Message:
        reply = super()._answer(message)
        if message.metadata.message_type == "train" and not reply.has_error():
            self.heard[message.metadata.dst_node_id] = reply
        return reply


@dataclass(frozen=True, kw_only=True, eq=False)
class WatchedRound:
    """What is to be seen of one round."""

    sealed: dict[str, bytes] | None
    """On the network, by site: encrypted replies; None where they travel in clear."""
    single: dict[str, Vector] | None
    """At the coordinator, by site: the change of the model; None where it opens a sum only."""
    common: Vector
    """For all who see the models before and after: the change that the round has made."""


@dataclass(eq=False)
class Watched:
    """A run in memory, round by round, and what its adversaries see."""

    federation: Federation
    tap: Wiretap
    number: int = 0

    @classmethod
    def start(cls, config: RunConfig, sites: int, run_id: bytes) -> Watched:
        """Enrol the sites of `config` and set up their keys.

        Raises:
            FedlearnError: what `simulate` would raise before its first round.
        """
        tap = Wiretap(make_contexts(sites, flower.run_config_of(config)))
        enrolment = enrol(tap, config, lambda: False)
        plan = plan_for(config, enrolment)
        summing = join(enrolment, config, plan, run_id)
        progress = Progress([], enrolment.initial)
        return cls(Federation(config, plan, enrolment, progress, run_id.hex(), summing), tap)

    @property
    def layout(self) -> Layout:
        """The layout of the model."""
        return self.federation.enrolment.layout

    @property
    def model(self) -> Vector:
        """The model as it is now."""
        return self.federation.progress.model

    def next_round(self, instead: Vector | None = None) -> WatchedRound:
        """The next round of the run; with `instead`, the coordinator starts it from that model."""
        if instead is not None:
            self.federation.progress.model = instead
        before, spare = self.model, self._spare_keys()
        self.number += 1
        self.federation.run_round(self.number)
        grid = self.federation.grid
        heard = {site: self.tap.heard[node] for site, node in grid.node_of.items()}
        sealed = None
        if spare:
            spare.round = self.number
            sealed = {site: _sealed(reply.content) for site, reply in heard.items()}
            heard = {site: spare.open(site, "train", reply) for site, reply in heard.items()}
        single = None
        if self.federation.summing is None:
            single = {site: _model(reply.content) - before for site, reply in heard.items()}
        return WatchedRound(sealed=sealed, single=single, common=np.asarray(self.model - before))

    def _spare_keys(self) -> Sealing | None:
        """The coordinator's ends of the channels once more, to keep what the run opens."""
        sealing = self.federation.grid.sealing
        if sealing is None:
            return None
        states = {site: channel.to_bytes() for site, channel in sealing.channels.items()}
        copies = {site: Channel.from_bytes(state) for site, state in states.items()}
        return replace(sealing, channels=copies)


def _sealed(content: RecordDict) -> bytes:
    data = flower.read_large_bytes(content, "sealed")
    if data is None:
        raise RuntimeError("a reply that is not sealed, in a run that seals")
    return data


def _model(content: RecordDict) -> Vector:
    return flower.vector_of(content.array_records["arrays"])
