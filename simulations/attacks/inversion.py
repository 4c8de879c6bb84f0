"""`fedlearn audit demo=inversion`: what every seat reconstructs of an image from updates.

Small federations are run for it, one for every way to protect updates, and
watched (`simulations.attacks.adversary`): round 1 is as always, in round 2 everybody
keeps to the protocol, in round 3 the coordinator plants weights. What is seen
is then attacked (`simulations.attacks.inversion_attacks`), and every attack is judged
by an oracle that knows the original: shown is the nearest of all that it
found, which is more than an attacker could choose by itself.

What this does not show: that an image which cannot be reconstructed is safe.
Noise that hides an image may promise next to nothing; the audit by canaries is
the strict test.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn import __version__
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector
from fedlearn.crypto.sealed import HEADER_BYTES
from fedlearn.report.inversion import SEATS, Inversion, Likeness, Protected, Seat, SeatView, to_text
from fedlearn.results.result import ResultFile
from server.run import logged
from simulations.attacks.adversary import Watched, WatchedRound
from simulations.attacks.images import ImageSet, choose, load_images, write_table
from simulations.attacks.inversion_attacks import Candidates, FirstLayer, harvest, invert, planted
from simulations.attacks.inversion_ways import Settings, Way, way_of, ways
from simulations.attacks.similarity import place, psnr, ssim

RECOVERED_AT: Final = 30.0
"""Decibels: the error of a value is then about 3 percent of the range."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """The images, who holds which, and what everybody may know."""

    settings: Settings
    images: ImageSet
    chosen: NDArray[np.int64]
    """Of image number i the holder is site number `i % sites`."""
    public: NDArray[np.int64]
    question: Vector

    @property
    def sites(self) -> tuple[str, ...]:
        """Their names; the first holds the image that is looked for."""
        return tuple(f"site-{i:02}" for i in range(self.settings.sites))

    @cached_property
    def original(self) -> NDArray[np.float32]:
        """The image that is looked for: `[height, width, channels]`."""
        return np.asarray(self.images.values[self.chosen[0]])

    @cached_property
    def average(self) -> NDArray[np.float32]:
        """What could be shown without any update: the mean of the images that no site holds."""
        return np.asarray(self.images.values[self.public].mean(0))

    def own(self, site: str) -> NDArray[np.int64]:
        """The images that a site holds."""
        return self.chosen[self.sites.index(site) :: self.settings.sites]


def make_scene(settings: Settings) -> Scene:
    """Choose the images.

    Raises:
        DataError, ConfigError: the images cannot be read, or are too few.
    """
    images, streams = load_images(settings.images), Streams(settings.seed)
    count = settings.sites * settings.records
    chosen = choose(images, count, streams.get("inversion", "pictures"))
    public = np.setdiff1d(np.arange(len(images.labels)), chosen)
    width = images.records.shape[1]
    question = streams.get("inversion", "question").standard_normal(width) / np.sqrt(width)
    return Scene(
        settings=settings,
        images=images,
        chosen=chosen,
        public=public,
        question=question.astype(np.float32),
    )


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


# --- one seat ---------------------------------------------------------------------


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
