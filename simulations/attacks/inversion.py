"""What every seat of a federation reconstructs of an image from updates.

Small federations are run for it, one for every way to protect updates, and watched: round 1
is as always, in round 2 everybody keeps to the protocol, in round 3 the coordinator plants
weights, sending a model of its choice in the place of the one that the sites have made, which
no site can tell from an honest one. The apps at both ends are the real ones, and so are keys,
masks, noise and bytes; the adversaries add nothing but eyes: one keeps what passes on the
network, one is the coordinator and keeps what it opens.

What is seen is then attacked (`simulations.attacks.reconstruction`), and every attack is
judged by an oracle that knows the original: shown is the nearest of all that it
found, which is more than an attacker could choose by itself.

What this does not show: that an image which cannot be reconstructed is safe.
Noise that hides an image may promise next to nothing; the audit by canaries is
the strict test.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from flwr.app import Context, Message, RecordDict
from numpy.typing import NDArray

from clients.app import app as client
from fedlearn import __version__
from fedlearn.config import RunConfig
from fedlearn.core.vector import Layout, Vector
from fedlearn.crypto.sealed import HEADER_BYTES, Channel
from fedlearn.flower import messages as flower
from fedlearn.flower.records import read_large_bytes, vector_of
from fedlearn.flower.sealing import Sealing
from fedlearn.report.inversion import SEATS, Inversion, Likeness, Protected, Seat, SeatView, to_text
from fedlearn.results.result import ResultFile
from server.enrol import enrol, plan_for, secagg_driver
from server.federation import Federation
from server.run import logged
from server.run_state import Progress
from simulations.attacks.inversion_scene import (
    Scene,
    Settings,
    Way,
    make_scene,
    way_of,
    ways,
    write_table,
)
from simulations.attacks.reconstruction import (
    Candidates,
    FirstLayer,
    harvest,
    invert,
    place,
    planted,
    psnr,
    ssim,
)
from simulations.engines.local import InProcessGrid, make_contexts

RECOVERED_AT: Final = 30.0
"""Decibels: the error of a value is then about 3 percent of the range."""


def demonstrate(settings: Settings, result: ResultFile | None = None) -> Inversion:
    """Run, watch and attack; of the protection of the run `result`, where one is given.

    Raises:
        FedlearnError: the images cannot be had, or the federation could not run.
    """
    started = time.monotonic()
    scene = make_scene(settings)
    planned = ways(settings) if result is None else [way_of(result, settings)]
    height, width, channels = scene.images.values.shape[1:]
    with tempfile.TemporaryDirectory(prefix="fedlearn-inversion-") as folder:
        here = Path(folder)
        scenario = write_table(here / "images.csv", scene.images, scene.chosen, scene.sites)
        with logged(here / "run.log"):
            shown = [attacked(scene, way.within(here / way.name, scenario)) for way in planned]
    return Inversion(
        version=__version__,
        images=scene.images.name,
        line_up=len(scene.images.values),
        height=height,
        width=width,
        channels=channels,
        sites=settings.sites,
        records=settings.records,
        seed=settings.seed,
        recovered_at=RECOVERED_AT,
        original=to_text(scene.original),
        average=_likeness(scene, scene.average),
        ways=shown,
        seconds=time.monotonic() - started,
    )


def attacked(scene: Scene, way: Way) -> Protected:
    """One federation, and what every seat makes of it; its scenario holds the scene's images."""
    watched = Watched.start(way.config, scene.settings.sites, secrets.token_bytes(16))
    watched.next_round()  # the head starts at zero, so the first round tells the body nothing
    honest = watched.next_round()
    known = scene.images.records[scene.public]
    trap = planted(watched.layout, watched.model, scene.question, known)
    lied = watched.next_round(trap)
    plan = watched.federation.plan
    # Of a run what the run promises, over all of its rounds: the few here are not the point.
    epsilon = way.run.privacy.epsilon if way.run else plan.epsilon if plan else None
    return Protected(
        name=way.name,
        transport=way.config.transport.kind,
        secagg=way.config.secagg.kind,
        privacy=way.config.privacy.kind,
        epsilon=epsilon,
        delta=plan.delta if plan else None,
        noise_multiplier=plan.noise_multiplier if plan else None,
        views=[
            _view(scene, watched, seat, lied if seat == "malicious" else honest) for seat in SEATS
        ],
    )


# --- what one seat makes of it ----------------------------------------------------------------


def _view(scene: Scene, watched: Watched, seat: Seat, seen: WatchedRound) -> SeatView:
    """What one seat makes of what it has seen."""
    if seat == "network" and seen.sealed is not None:
        own = {site: _as_pixels(scene, data) for site, data in seen.sealed.items()}
        sees = "the sealed bytes of every reply"
    elif seat == "members" or seen.single is None:
        own = dict.fromkeys(scene.sites, _candidates(watched, seat, seen.common))
        sees = "the change that the round has made: a mean over all sites"
    else:
        changes = seen.single
        own = {site: _candidates(watched, seat, changes[site]) for site in scene.sites}
        sees = "the change of every single site"
    held = [(site, scene.images.values[row]) for site in scene.sites for row in scene.own(site)]
    nearest = [(_nearest(original, own[site])[0], original) for site, original in held]
    return SeatView(
        seat=seat,
        sees=sees,
        best=_likeness(scene, _nearest(scene.original, own[scene.sites[0]])[1]),
        recovered=sum(decibels >= RECOVERED_AT for decibels, _ in nearest),
        alike=sum(decibels > psnr(original, scene.average) for decibels, original in nearest),
    )


def _candidates(watched: Watched, seat: Seat, change: Vector) -> Candidates:
    layer = FirstLayer.of(watched.layout, change)
    return harvest(layer) if seat == "malicious" else invert(layer)


def _as_pixels(scene: Scene, data: bytes) -> Candidates:
    """Sealed bytes, drawn: there is nothing else to be done with them."""
    width = scene.images.records.shape[1]
    drawn = np.frombuffer(data, np.uint8, count=width, offset=HEADER_BYTES)
    return np.asarray(drawn[None] / 255.0)


def _nearest(original: NDArray[np.float32], found: Candidates) -> tuple[float, NDArray[np.float64]]:
    """The candidate that the oracle picks, with its decibels; black if there is none."""
    shape = original.shape
    images = [candidate.reshape(shape) for candidate in found] or [np.zeros(shape)]
    return max(((psnr(original, one), one) for one in images), key=lambda pair: pair[0])


def _likeness(scene: Scene, image: NDArray[np.floating]) -> Likeness:
    return Likeness(
        image=to_text(image),
        psnr=psnr(scene.original, image),
        ssim=ssim(scene.original, image),
        place=place(scene.original, image, scene.images.values),
    )


# --- a real federation, watched from every seat ---------------------------------------------


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
        enrolment = enrol(tap, config, lambda: False, run_id)
        plan = plan_for(config, enrolment)
        summing = secagg_driver(enrolment, config, plan, run_id)
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
        if not isinstance(sealing, Sealing):
            return None
        states = {site: channel.to_bytes() for site, channel in sealing.channels.items()}
        copies = {site: Channel.from_bytes(state) for site, state in states.items()}
        return replace(sealing, channels=copies)


def _sealed(content: RecordDict) -> bytes:
    data = read_large_bytes(content, "sealed")
    if data is None:
        raise RuntimeError("a reply that is not sealed, in a run that seals")
    return data


def _model(content: RecordDict) -> Vector:
    return vector_of(content.array_records["arrays"])
