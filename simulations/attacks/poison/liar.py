"""Sites that lie: real ones, whose conduct in training is that of an attack.

A `Plot` makes the program that answers for all sites of a simulated run, of which some have the
conduct of a `Liar`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from clients.conduct import Conduct
from clients.secagg import as_it_is
from clients.site import Site
from clients.work import SiteRound
from fedlearn.core.ring import RingVector
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector
from fedlearn.crypto.keystream import SecureWords
from fedlearn.data import SiteData
from fedlearn.mechanisms.norms import clipped
from fedlearn.rounds import TrainRequest
from fedlearn.secagg.proven_payload import ProvenPayload
from fedlearn.secagg.whole import AnyPayload, WholePayload
from fedlearn.stages import Difference, Route, Update
from simulations.attacks.poison.attack import Change, Goal, Lies, LyingRound, Poisoning
from simulations.attacks.trials import OtherConduct

_IN_CLEAR: Final = 1e30
"""The largest value of an update in clear: a float32 that can still be squared in float64."""
_NO_CUT: Final = 2.0**39
"""Steps to where a liar cuts its values: as far as the form of a contribution goes."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Who lies in a run, and how; `numbers` are the places of the liars among the sites."""

    attack: Poisoning
    numbers: tuple[int, ...]
    sites: int
    goal: Goal
    seed: int

    def __call__(self) -> ClientApp:
        """The program that answers for all sites of the run."""
        return OtherConduct(self.numbers, Liar(self))


@dataclass(eq=False)
class Liar(Conduct):
    """What the liars of a run do in its rounds."""

    plot: Plot
    shared: dict[str, Any] = field(default_factory=dict)
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: HonestOthers = field(default_factory=lambda: HonestOthers())
    poisoned: dict[str, SiteData] = field(default_factory=dict)

    def begin(self, site: Site, request: TrainRequest) -> SiteRound:
        """A site with the records of the attack."""
        if site.name not in self.poisoned:
            rng, data = self._rng(site.name, 0), site.data
            changed = self.plot.attack.records(data.train, site.task, self.plot.goal, rng)
            self.poisoned[site.name] = replace(data, train=changed)
        return SiteRound(replace(site, data=self.poisoned[site.name]), request)

    def update(self, route: Route, here: SiteRound, payload: AnyPayload | None) -> Update:
        """What the attack sends in the place of an honest update."""
        update = route.forward(here)
        changes = not route.source.gives_model or any(
            isinstance(stage, Difference) for stage in route.at_site
        )
        base = np.zeros(update.values.size) if changes else here.base.astype(np.float64)
        at = self._round(here, update, update.values - base, payload)
        lie = passing(payload, self.plot.attack.change(at))
        self.others.sent(lie)
        return replace(update, values=_as(update.values, base + lie))

    def contribution(self, payload: AnyPayload, mine: Update, vector: RingVector) -> RingVector:
        """Held by no cut."""
        if isinstance(payload, WholePayload) or payload.fixed_point is None:
            return as_it_is(payload, mine, vector)  # whole numbers are not cut
        point = replace(payload.fixed_point, clip=payload.fixed_point.resolution * _NO_CUT)
        return replace(payload, fixed_point=point).contribution(mine, SecureWords(os.urandom(32)))

    def _round(
        self, here: SiteRound, update: Update, change: Change, payload: AnyPayload | None
    ) -> LyingRound:
        name, number = here.site.name, here.request.round
        honest = change.astype(np.float64)
        rotated = update.values.dtype.kind == "i"  # anew in every round: nothing adds up
        learned = None if rotated else self.others.learned(here.base, number, self.plot.sites)
        return LyingRound(
            number=number,
            rounds=here.site.config.rounds,
            sites=self.plot.sites,
            liars=len(self.plot.numbers),
            honest=honest,
            learned=honest if learned is None else learned,
            most=_room(payload, update.weight),
            lies=Lies(own=self.own.setdefault(name, {}), shared=self.shared),
            rng=self._rng(name, number),
        )

    def _rng(self, name: str, number: int) -> np.random.Generator:
        return Streams(self.plot.seed).get("lies", name, number)


@dataclass(eq=False)
class HonestOthers:
    """What the honest sites have given so far, as the model shows it to those who know their own.

    Where the model moves by the mean of all sites that is their sum, weights and rules aside.
    """

    before: Change | None = None
    number: int = 0
    lies: Change | float = 0.0
    """What liars have sent since `before`."""
    total: Change | None = None

    def learned(self, base: Vector, number: int, sites: int) -> Change | None:
        """Their sum up to this round; None as long as the model has not moved."""
        now = base.astype(np.float64)
        if self.before is not None and number != self.number and np.any(now != self.before):
            found = sites * (now - self.before) - self.lies
            self.total = found if self.total is None else self.total + found
        if number != self.number:
            self.before, self.number, self.lies = now, number, 0.0
        return self.total

    def sent(self, lie: Change) -> None:
        """Keep what a liar has sent."""
        self.lies = self.lies + lie


def _room(payload: AnyPayload | None, weight: float) -> float:
    """The largest value that fits into what is sent, with as much room again for the others."""
    if payload is None:
        return _IN_CLEAR
    point = None if isinstance(payload, WholePayload) else payload.fixed_point
    unit = point.resolution if point else 1.0
    return (2.0 ** (payload.lane_bits - 1) - 1) * unit / max(1.0, 2 * weight)


def passing(payload: AnyPayload | None, lie: Change) -> Change:
    """A lie; where its norm must be proved, as much of it as is within the bound.

    A longer one would be left out of the round, and its sender named, for nothing.
    """
    if not isinstance(payload, ProvenPayload):
        return lie
    step = payload.fixed_point.resolution if payload.fixed_point else 1.0
    # What rounding may add to a norm.
    most = payload.bound.norm - math.sqrt(payload.bound.values)
    return clipped(lie, most * step).astype(np.float64)


def _as(like: NDArray[Any], values: NDArray[np.float64]) -> NDArray[Any]:
    """The values in the type that is sent."""
    if like.dtype.kind == "i":
        return np.rint(values).astype(like.dtype)
    return values.astype(like.dtype)


def liars_of(names: Sequence[str], wanted: int | tuple[str, ...], seed: int) -> list[str]:
    """The names of the liars, in the order of the sites; a number of them is drawn."""
    if not isinstance(wanted, int):
        return [name for name in names if name in wanted]
    order = Streams(seed).get("liars").permutation(len(names))
    return [names[i] for i in sorted(order[:wanted])]
