"""What happens to an update on its way: one ordered list, forward at the site, mirrored on the sum.

A `Route` begins with a `Source`, what is done with the records, and goes on through `Stage`s:
a difference, a clip, noise on whole numbers. What leaves the site is summed, by secure
aggregation or in clear; the same list, backwards, turns the sum into the next model.

Several vectors may travel together (`Stack`): an algorithm's own behind the model. Stages
see nothing but the whole, so that all of it is clipped, paid for and masked as one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ProtocolError
from fedlearn.core.settings import config
from fedlearn.privacy.noise import NoiseSource

Vector = NDArray[np.float32]

MODEL: Final = "model"
"""The name of the first vector of every stack."""


# --- what travels -----------------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """Which vectors travel as one, behind one another: the model, then `extras` by name.

    Each has `size` values. Clips and noise are for the norm of the whole: one joint
    sensitivity, whatever an algorithm adds.
    """

    size: int
    extras: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Values of the whole."""
        return self.size * (1 + len(self.extras))

    def join(self, vectors: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The whole from its vectors, each `[size]`.

        Raises:
            KeyError: one is missing.
            ValueError: one has another length.
        """
        parts = [vectors[name] for name in (MODEL, *self.extras)]
        if any(part.shape != (self.size,) for part in parts):
            raise ValueError(f"vectors of {[part.shape for part in parts]}, not of {self.size}")
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def split(self, whole: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Views of the vectors in a whole, `[total]`, by name; the model is under `MODEL`.

        Raises:
            ValueError: it has another length.
        """
        if whole.shape != (self.total,):
            raise ValueError(f"a stack of {whole.shape}, not of {self.total}")
        names = (MODEL, *self.extras)
        return {name: whole[i * self.size :][: self.size] for i, name in enumerate(names)}

    def base(self, model: Vector) -> Vector:
        """What the changes of a round are counted from: the global model, and zeros."""
        zeros = np.zeros(self.size, np.float32)
        whole: Vector = self.join({MODEL: model, **dict.fromkeys(self.extras, zeros)})
        return whole


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """What a site gives to a round: `values: float[d]` or `int64[d]`, a weight, exact counters."""

    values: NDArray[Any]
    weight: float = 1
    counters: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Total:
    """A sum over sites: `values: float64[d]` is the sum of weight * value.

    `weight` is the sum of weights, `counters: int64[m]` the exact sums.
    """

    values: NDArray[np.float64]
    weight: float
    counters: NDArray[np.int64]

    def mean(self) -> NDArray[np.float64]:
        """The weighted mean of the values: `float64[d]`.

        Raises:
            ValueError: all weights were zero.
        """
        if self.weight <= 0:
            raise ValueError("the weights sum to zero; there is no mean")
        return self.values / self.weight


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of what leaves a site; both ends derive it, nobody takes it from the other.

    `bits`: the values are whole numbers that carry their own noise, and this is what one of
    them takes in the sum; None where they are real numbers. `weighted`: sites have weights
    of their own; otherwise each counts as one.
    """

    values: int
    counters: int = 0
    weighted: bool = False
    bits: int | None = None


# --- where a stage runs -----------------------------------------------------------


class Round(Protocol):
    """What a stage may ask in a round, at a site and at the coordinator."""

    @property
    def base(self) -> Vector:
        """What changes are counted from: the global model, and zeros for all else."""

    @property
    def clip_norm(self) -> float:
        """The norm that a whole update is clipped to, where the coordinator moves it."""

    @property
    def public(self) -> bytes:
        """Names the run and the round; the same everywhere."""

    @property
    def noise(self) -> NoiseSource:
        """The secret randomness of this place in this round; one source, drawn from in order."""


class ClippedSteps(Protocol):
    """What private training asks of a plan."""

    @property
    def clip_norm(self) -> float:
        """What one record may add to a sum."""

    @property
    def noise_multiplier(self) -> float:
        """Noise on a coordinate of the sum, over the clip norm."""

    @property
    def sample_rate(self) -> float:
        """Chance with which a record is in a batch."""


class PaidSteps(ClippedSteps, Protocol):
    """What private training of several steps asks of a plan."""

    @property
    def steps_per_round(self) -> int:
        """Steps that a round pays for, and makes."""


class SiteContext(Round, Protocol):
    """What a source may ask of the site that it runs at."""

    @property
    def records(self) -> int:
        """How many records are trained on: a secret wherever there is privacy."""

    def train(self) -> Vector:
        """Train without privacy; the stack after it, `float32[d]`, with the model itself."""

    def train_privately(self, plan: PaidSteps, step_norm: float | None) -> Vector:
        """The same by DP-SGD: every step clips the records' gradients and adds its noise.

        A sum that is longer than `step_norm` is scaled down to it before its noise.
        """

    def clipped_gradient_sum(self, plan: ClippedSteps) -> NDArray[np.float64]:
        """The sum of the clipped gradients of one Poisson batch, without noise: `float64[d]`."""


@dataclass
class ServerRound:
    """A round at the coordinator."""

    base: Vector
    clip_norm: float
    """Of this round; a stage that releases the sum may set that of the next."""
    public: bytes
    noise: NoiseSource
    sites: int
    """Those that have joined the run: a public constant, not the number of those that came."""
    everybody: float = 0.0
    """The weights of all of them, where they have any; else their number."""
    share: float = 1.0
    """Of all sites, that which the mean stands for; a stage that takes the mean may set it."""


class Source(ABC):
    """What is done with the records of a site, first of all."""

    gives_model: bool = True
    """Whether it ends with a model, of which the change can be taken, or with the change."""
    weighted: bool = False

    @abstractmethod
    def produce(self, site: SiteContext) -> Update:
        """What the site gives, before any stage."""

    def backward(self, total: Total, at: ServerRound) -> Total:
        """The next model from what the stages have made of the sum."""
        return total


class Stage:
    """One step on the way of an update; a stage that changes nothing on the way back has one half.

    One that can be chosen, as `stage=KIND`, is a config class (`fedlearn.core.settings.config`)
    with a field `kind`.

    Guarantees asked of a stage of one's own: `forward` depends on the update and on what
    is public, on nothing else of the site. Where privacy clips whole updates it does so after
    it; sums of clipped gradients get their noise after it, so there it must say `contracts`.
    """

    if TYPE_CHECKING:

        @property
        def kind(self) -> str:
            """What chooses it, of one that can be chosen."""

    idle: ClassVar[bool] = False
    """Whether it leaves every update as it is."""
    needs_change: ClassVar[bool] = True
    """Whether it is for the change of a model, and not for a model as well."""
    contracts: ClassVar[bool] = False
    """Whether it brings no two updates further apart: what was bounded before it stays so."""

    def check(self, size: int) -> None:
        """Refuse before the first round an update of `size` values that it could not take.

        Raises:
            ConfigError: with the way out.
        """

    def form(self, form: Form) -> Form:
        """The form of what it gives, from that of what it takes."""
        return form

    def forward(self, update: Update, at: Round) -> Update:
        """At the site; for updates in clear that a trusted coordinator clips, there."""
        return update

    def backward(self, total: Total, at: ServerRound) -> Total:
        """On the sum."""
        return total

    def bounded(self, change: NDArray[Any], at: Round) -> NDArray[Any]:
        """What of a change enters the sum, but for rounding and noise; draws nothing.

        By this moves the state that an algorithm keeps at a site.
        """
        return change


@dataclass(frozen=True)
class Route:
    """The way of an update: `on_arrival` are the stages that a trusted coordinator does itself."""

    source: Source
    at_site: tuple[Stage, ...]
    on_arrival: tuple[Stage, ...] = ()

    def form(self, stack: Stack) -> Form:
        """The form of what leaves a site."""
        start = Form(values=stack.total, weighted=self.source.weighted)
        return reduce(lambda form, stage: stage.form(form), self.at_site, start)

    @property
    def counters(self) -> int:
        """How many counters a sum has."""
        stages = (*self.at_site, *self.on_arrival)
        return reduce(lambda form, stage: stage.form(form), stages, Form(values=1)).counters

    def check(self, stack: Stack) -> None:
        """Refuse before the first round what a stage could not take.

        Raises:
            ConfigError: with the way out.
        """
        for stage in (*self.at_site, *self.on_arrival):
            stage.check(stack.total)

    def forward(self, site: SiteContext) -> Update:
        """What leaves a site, but for masks."""
        return _through(self.at_site, self.source.produce(site), site)

    def bounded(self, change: NDArray[Any], site: Round) -> NDArray[Any]:
        """What of a site's change enters the sum, but for rounding and noise."""
        for stage in (*self.at_site, *self.on_arrival):
            change = stage.bounded(change, site)
        return change

    def arrived(self, update: Update, at: ServerRound) -> Update:
        """What is added up of an update in clear.

        Raises:
            ValueError: it cannot be added.
        """
        return _through(self.on_arrival, update, at)

    def backward(self, total: Total, at: ServerRound) -> Vector:
        """The stack after the round, `float32[d]`: the model itself, and the means of all else.

        Raises:
            ProtocolError: no site has a record to train on.
        """
        for stage in reversed((*self.at_site, *self.on_arrival)):
            total = stage.backward(total, at)
        return np.asarray(self.source.backward(total, at).values, np.float32)


def _through(stages: tuple[Stage, ...], update: Update, at: Round) -> Update:
    for stage in stages:
        update = stage.forward(update, at)
    return update


# --- stages that know nothing of privacy ------------------------------------------


@dataclass(frozen=True)
class Trained(Source):
    """Training without noise; `weighted` by the number of records, or every site alike."""

    weighted: bool = False

    def produce(self, site: SiteContext) -> Update:
        """The site's model."""
        return Update(values=site.train(), weight=site.records if self.weighted else 1)


class Difference(Stage):
    """The change of the model, not the model."""

    def forward(self, update: Update, at: Round) -> Update:
        """Subtract what the round starts from."""
        return replace(update, values=update.values - at.base)

    def backward(self, total: Total, at: ServerRound) -> Total:
        """Add it again."""
        return replace(total, values=at.base.astype(np.float64) + total.values)


class Mean(Stage):
    """The weighted mean over the sites that came."""

    needs_change: ClassVar[bool] = False

    def backward(self, total: Total, at: ServerRound) -> Total:
        """Divide by the sum of weights.

        Raises:
            ProtocolError: it is zero.
        """
        if total.weight <= 0:
            raise ProtocolError("", "train", "no site has a record to train on")
        at.share = total.weight / at.everybody if at.everybody else 1.0
        return replace(total, values=total.mean(), weight=1)


@config
class NoStage(Stage):
    """Nothing is done to an update besides privacy and secure aggregation."""

    kind: Literal["none"] = "none"

    idle: ClassVar[bool] = True
