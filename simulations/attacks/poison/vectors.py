"""Attacks by what a site sends, whatever its records are."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np

from fedlearn.core.settings import Count, Positive, Rate, config
from simulations.attacks.poison.attack import Change, LyingRound, Poisoning


@config
class Negated(Poisoning):
    """Its own update negated, as long as an honest one."""

    kind: Literal["negated"] = "negated"

    def change(self, at: LyingRound) -> Change:
        """The other way."""
        return -at.honest


@config
class SignFlip(Poisoning):
    """The other sign of every value, `times` as large as they are on the average."""

    kind: Literal["sign_flip"] = "sign_flip"
    times: Positive = 50.0

    def change(self, at: LyingRound) -> Change:
        """Values of one size."""
        size = self.times * at.norm / math.sqrt(max(1, at.honest.size))
        return -np.sign(at.honest) * min(size, at.most)


@config
class Scaled(Poisoning):
    """Away from where honest sites go, as far as all of them together could move the model."""

    kind: Literal["scaled"] = "scaled"
    times: Positive | None = None
    """Over the norm of an honest update; None: as many as there are sites for each liar."""

    def change(self, at: LyingRound) -> Change:
        """A step back that is as long as all steps forward, shared among the liars."""
        times = at.sites / at.liars if self.times is None else self.times
        return at.against * (times * at.norm)


@config
class OutOfRange(Poisoning):
    """One message with the largest values that there is room for, late in the run."""

    kind: Literal["out_of_range"] = "out_of_range"
    when: Rate = 0.95
    """The round, as a part of all."""

    def change(self, at: LyingRound) -> Change:
        """Honest in all rounds but one."""
        if at.number != math.ceil(self.when * at.rounds):
            return at.honest
        return np.where(at.honest > 0, -at.most, at.most)


@config
class NoiseInstead(Poisoning):
    """Noise in the place of an update, as long as the updates of all sites."""

    kind: Literal["noise"] = "noise"
    times: Positive | None = None
    """Over the norm of an honest update; None: as many as there are sites for each liar."""

    def change(self, at: LyingRound) -> Change:
        """Of every direction."""
        times = at.sites / at.liars if self.times is None else self.times
        drawn = at.rng.standard_normal(at.honest.size)
        return drawn * (times * at.norm / (float(np.linalg.norm(drawn)) or 1.0))


@config
class FreeRider(Poisoning):
    """Nothing: it gets the model and gives no change."""

    kind: Literal["free_rider"] = "free_rider"

    def change(self, at: LyingRound) -> Change:
        """Zeros."""
        return np.zeros_like(at.honest)


@config
class Stale(Poisoning):
    """The update of its first round, in every round."""

    kind: Literal["stale"] = "stale"

    def change(self, at: LyingRound) -> Change:
        """What was honest once."""
        first: Change = at.lies.own.setdefault("first", at.honest)
        return first


@config
class Colluding(Poisoning):
    """Several sites send one and the same vector, away from where honest sites go.

    What looks at distances between updates takes those for right that have near neighbours
    (El Mhamdi, Guerraoui and Rouault 2018, section 3).
    """

    kind: Literal["colluding"] = "colluding"
    fewest: ClassVar[int] = 2

    def change(self, at: LyingRound) -> Change:
        """That of the first of them in a round."""
        key = f"round {at.number}"
        if key not in at.lies.shared:
            at.lies.shared.clear()
            at.lies.shared[key] = at.against * (at.sites / at.liars * at.norm)
        agreed: Change = at.lies.shared[key]
        return agreed


@config
class LittleIsEnough(Poisoning):
    """Off the mean of honest updates by so few deviations that it could be one of them.

    Mean and deviation are those of its own updates so far, one value by one.

    Source: Baruch, Baruch and Goldberg 2019, "A little is enough: circumventing defenses for
    distributed learning", algorithm 3; the deviations are those of their experiments.
    """

    kind: Literal["little"] = "little"
    deviations: Positive = 1.5
    window: Count = 5
    """The latest rounds that it goes by."""

    def change(self, at: LyingRound) -> Change:
        """Honest until there is a deviation to speak of."""
        seen: list[Change] = at.lies.own.setdefault("seen", [])
        seen[:] = [*seen[1 - self.window :], at.honest] if self.window > 1 else [at.honest]
        if len(seen) < 2:
            return at.honest
        mean, spread = np.mean(seen, axis=0), np.std(seen, axis=0)
        return np.asarray(mean - self.deviations * spread * np.sign(mean))
