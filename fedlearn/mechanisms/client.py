"""Client-level privacy with an aggregator that is trusted to see updates and to add the noise.

Clients send updates; the aggregator clips each to a norm, adds them up, adds
Gaussian noise to the sum and divides by a public constant. All clients count
the same: a weight that depends on the data would be a leak, and would scale
the sensitivity.

The clip norm is flat, or follows a quantile of the norms of the updates
(Andrew, Thakkar, McMahan, Ramaswamy 2021, "Differentially Private Learning with
Adaptive Clipping"): the share of clients whose update is within the norm is
released with noise, too, and the two releases are accounted as the one Gaussian
that they are together (theorem 1 there).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedlearn.core.settings import Count, NonNegative, Portion, Positive, Probability, Rate, config
from fedlearn.mechanisms.base import NoiseFrom, Plan, Population, Private, StudyTerms
from fedlearn.mechanisms.evaluation import EvaluationPlan
from fedlearn.mechanisms.norms import (
    clip_own,
    clipped,
    folded,
    length,
    room_to_round,
    smallest_clip_norm,
)
from fedlearn.mechanisms.reach import Reach
from fedlearn.privacy.events import ClientGaussianEvent, Unit
from fedlearn.privacy.noise import NoiseSource
from fedlearn.privacy.rounded import grid_for, rounded_normals
from fedlearn.stages import Form, Round, ServerRound, Stage, Total, Update

Adversary = Literal["knows_cohort", "outsider"]

# Float64 rounding of clipping and summing; the sum in float64 is exact far beyond it.
_SLACK: Final = 1e-9
# What one client adds to the count of those within the norm, or takes away.
_COUNTED: Final = 0.5


@config
class ClientPrivacy(Private):
    """Differential privacy for all that one client holds, by a trusted aggregator.

    Give either `epsilon` (the budget of the whole run) or `noise_multiplier`.
    `clip_norm` bounds the update of a client; with `clipping="adaptive"` it is
    the first bound, which then moves towards the `target_quantile` of the
    norms at `clip_learning_rate`, for `count_share` of the privacy budget.

    `client_sample_rate` is the chance with which a client takes part in a
    round. It saves noise only with `adversary="outsider"`, for somebody who
    never learns who took part; the coordinator always does.
    """

    kind: Literal["client"] = "client"
    epsilon: Positive | None = None
    noise_multiplier: NonNegative | None = None
    delta: Probability = 1e-5
    clip_norm: Positive = 1.0
    clipping: Literal["flat", "adaptive"] = "flat"
    target_quantile: Portion = 0.5
    clip_learning_rate: Positive = 0.2
    count_share: Probability = 0.05
    client_sample_rate: Rate = 1.0
    adversary: Adversary = "knows_cohort"
    on_exhausted: Literal["stop", "drop_site"] = "stop"

    unit: ClassVar[Unit] = "client"
    noise_from: ClassVar[NoiseFrom] = "coordinator"

    @property
    def chooses_sites(self) -> bool:
        """Where not all of them are in every round."""
        return self.client_sample_rate < 1

    def problems(self, *, records: int | None = None) -> list[str]:
        """An outsider knows less only where there is something to know."""
        found = super().problems(records=records)
        if self.adversary == "outsider" and self.client_sample_rate == 1:
            found.append(
                "privacy.adversary=outsider: makes a difference only where clients are sampled. "
                "Set privacy.client_sample_rate below 1, or choose privacy.adversary=knows_cohort"
            )
        return found

    def conflicts(self, terms: StudyTerms) -> list[str]:
        """Secret coins may choose few sites, and nothing else chooses among them."""
        found = list[str]()
        if self.client_sample_rate == 1:
            return found
        if terms.hidden:
            found.append(
                f"secagg={terms.secagg}: secret coins may choose fewer sites than it can hide "
                "among each other. Set privacy.client_sample_rate=1.0"
            )
        if terms.fraction < 1:
            found.append(
                f"strategy.fraction={terms.fraction:g}: privacy.client_sample_rate chooses "
                "the sites already. Set strategy.fraction=1.0"
            )
        return found

    def plan(
        self,
        *,
        sample_rate: float,
        steps_per_round: int,
        rounds: int,
        population: Population | None,
    ) -> ClientPlan:
        """The noise of every round's sum, calibrated over all rounds; training costs nothing."""
        adaptive = AdaptiveClip(
            target_quantile=self.target_quantile,
            learning_rate=self.clip_learning_rate,
            count_share=self.count_share,
        )
        rate = self.client_sample_rate if self.adversary == "outsider" else 1.0
        return ClientPlan(
            clip_norm=self.clip_norm,
            noise_multiplier=self.calibrated(rate, rounds),
            delta=self.delta,
            sample_rate=self.client_sample_rate,
            rounds=rounds,
            adversary=self.adversary,
            adaptive=adaptive if self.clipping == "adaptive" else None,
        )

    def measured(self, noise_multiplier: float | None) -> ClientPrivacy:
        """The same with so much noise, in a round that everybody takes part in."""
        return replace(
            self,
            epsilon=None,
            noise_multiplier=noise_multiplier,
            client_sample_rate=1.0,
            adversary="knows_cohort",
        )


@config
class AdaptiveClip:
    """How the clip norm follows a quantile of the norms of the updates."""

    target_quantile: Portion
    learning_rate: Positive
    count_share: Probability


@config
class ClientPlan(Plan):
    """What the aggregator does in every round, and what it costs; all of it public."""

    kind: ClassVar[str] = "client"
    clip_norm: Positive
    """The norm of the first round; of all rounds if `adaptive` is None."""
    noise_multiplier: NonNegative
    """Of everything that a round releases, taken together."""
    delta: Probability
    sample_rate: Rate
    """Chance with which a client takes part in a round."""
    rounds: Count
    adversary: Adversary
    adaptive: AdaptiveClip | None
    steps_per_round: Literal[1] = 1
    unit: Literal["client"] = "client"
    evaluation: EvaluationPlan | None = None
    screening: EvaluationPlan | None = None

    @property
    def update_noise_multiplier(self) -> float:
        """Noise on a coordinate of the sum, over the clip norm of the round."""
        share = self.adaptive.count_share if self.adaptive else 0.0
        return self.noise_multiplier / math.sqrt(1 - share)

    @property
    def count_noise_stddev(self) -> float:
        """Noise on the count of unclipped updates, of which each client adds -1/2 or 1/2."""
        if self.adaptive is None:
            return 0.0
        return _COUNTED * self.noise_multiplier / math.sqrt(self.adaptive.count_share)

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise on a coordinate of the first round's sum."""
        return self.update_noise_multiplier * self.clip_norm

    @property
    def round_event(self) -> ClientGaussianEvent:
        """What one round costs a client."""
        return ClientGaussianEvent(
            noise_multiplier=self.noise_multiplier, sample_rate=self.sample_rate, steps=1
        )

    @property
    def total_event(self) -> ClientGaussianEvent:
        """What the whole run costs a client."""
        return replace(self.round_event, steps=self.rounds)

    @property
    def cohort_known(self) -> bool:
        """Whether the sampling of clients counts for nothing."""
        return self.adversary == "knows_cohort"

    @property
    def trusts_coordinator(self) -> bool:
        """To clip updates that it sees, and to add the noise."""
        return True

    @property
    def sampling(self) -> str:
        """What of the sampling of clients is counted on."""
        return "none counted" if self.cohort_known else "Poisson over clients, unknown to outsiders"

    def stages(self, terms: StudyTerms) -> tuple[Stage, ...]:
        """A clip on the way, and the noise on the sum."""
        return (Clip(self, terms.resolution),)

    def reach(self, terms: StudyTerms, clip_norm: float | None = None) -> Reach | None:
        """The norm of the round; over rounds a norm that moves has no bound."""
        if terms.step_share is None or (clip_norm is None and self.adaptive):
            return None
        signal = self.clip_norm if clip_norm is None else clip_norm
        return Reach(signal=signal, clips=True, noised=False)

    def noise_in_mean(self, terms: StudyTerms, there: int, sites: int) -> float:
        """On the sum, over the number of sites that are expected: also where nobody came."""
        return self.noise_stddev / (sites * self.sample_rate)

    @property
    def protects_alone(self) -> bool:
        """The coordinator is trusted with all of them."""
        return True

    def round_norm(self, moved: float | None) -> float:
        """The norm of a round: it moves if clipping is adaptive."""
        return self.clip_norm if moved is None else moved

    def takes_norm(self, norm: float) -> bool:
        """The planned one; where clipping is adaptive, any that can be one."""
        if self.adaptive is None:
            return norm == self.clip_norm
        return math.isfinite(norm) and norm > 0

    def cohort(self, sites: Sequence[str], noise: NoiseSource) -> list[str] | None:
        """By secret coins, where clients are sampled: the sampling that is accounted."""
        return poisson_cohort(sites, self.sample_rate, noise) if self.sample_rate < 1 else None

    def quorum(self, wanted: int, invited: int) -> int:
        """Secret coins may invite fewer than the strategy asks for."""
        return min(wanted, invited) if self.sample_rate < 1 else wanted

    def payers(self, sites: Sequence[str], asked: Sequence[str]) -> Sequence[str]:
        """Everybody for every round, chosen or not, where sampling counts over all rounds."""
        return asked if self.cohort_known else sites


@dataclass(frozen=True, kw_only=True)
class Release:
    """What one round gives away."""

    mean: NDArray[np.float32]
    """The noisy sum over the public constant, `float32[d]`."""
    next_clip_norm: float
    event: ClientGaussianEvent


@dataclass
class ClientSum:
    """The running sum of one round; holds no update longer than it takes to add it."""

    plan: ClientPlan
    dimension: int
    clip_norm: float
    """The norm of this round: the plan's, or `next_clip_norm` of the last release."""
    total: NDArray[np.float64] = field(init=False, repr=False)
    centred_count: float = field(init=False, default=0.0, repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise ValueError(f"clip_norm={self.clip_norm}: must be finite and > 0")
        self.total = np.zeros(self.dimension)

    def add(self, update: NDArray[np.floating]) -> None:
        """Clip `update` (`float[d]`) and add it.

        Guarantees: the sum moves by at most `clip_norm`, the count by 1/2,
        whatever `update` holds; an update that is refused moves nothing.

        Raises ValueError for a wrong length or a value that is not finite.
        """
        if update.shape != self.total.shape:
            raise ValueError(f"update of shape {update.shape}, expected {self.total.shape}")
        exact = update.astype(np.float64)
        within = length(exact) <= self.clip_norm
        self.total += clipped(exact, self.clip_norm * (1 - _SLACK))
        self.centred_count += _COUNTED if within else -_COUNTED

    def add_sum(
        self, total: NDArray[np.float64], *, clients: int, within: int, most_clients: int
    ) -> None:
        """Add a sum over `clients` that clipped their updates themselves (`clip_own`).

        `within` of them found their update inside the norm before clipping; there could have
        been `most_clients`, which is public.

        Guarantees: whatever one of them has sent, another moves the sum by at most `clip_norm`
        and the count by 1/2, also where a sum goes round the end of its ring. So neither is
        refused nor cut off here, which would tell without noise on which side of a border it lay.
        """
        most = most_clients * self.clip_norm
        self.total += clipped(folded(total, most), most)
        self.centred_count += float(folded(np.array(within - clients / 2), most_clients / 2))

    def release(self, *, expected_clients: float, noise: NoiseSource) -> Release:
        """The noisy mean and the clip norm of the next round; call once, then start a new sum.

        `expected_clients` is a public constant (clients times sample rate), not
        the number of those that came.

        Raises ValueError if it is not positive.
        """
        if not expected_clients > 0:
            raise ValueError(f"expected_clients={expected_clients}: must be > 0")
        noisy = noised(self.total, self.plan.update_noise_multiplier, self.clip_norm, noise)
        return Release(
            mean=(noisy / expected_clients).astype(np.float32),
            next_clip_norm=self._next_clip_norm(expected_clients, noise),
            event=self.plan.round_event,
        )

    def _next_clip_norm(self, expected_clients: float, noise: NoiseSource) -> float:
        adaptive = self.plan.adaptive
        if adaptive is None:
            return self.clip_norm
        # Halves lie on every grid, so that rounding moves no count.
        multiplier = self.plan.count_noise_stddev / _COUNTED
        count = float(noised(np.array([self.centred_count]), multiplier, _COUNTED, noise)[0])
        # Noise may take the share out of [0, 1]; no more than the truth could, it moves the norm.
        share = min(max(count / expected_clients + 0.5, 0.0), 1.0)
        step = adaptive.learning_rate * (share - adaptive.target_quantile)
        return self.clip_norm * math.exp(-step)


@dataclass(frozen=True)
class Clip(Stage):
    """A bound on the whole update, and noise for that bound on the sum.

    Where updates are summed unseen each site clips its own, with room for rounding to steps
    of `resolution`; without it the coordinator sees them, clips, and lets each count as one.
    """

    plan: ClientPlan
    resolution: float | None

    def check(self, size: int) -> None:
        """Where sites clip, rounding must leave them room."""
        if self.resolution is not None:
            room_to_round(self.plan.clip_norm, size=size, resolution=self.resolution)

    def form(self, form: Form) -> Form:
        """A counter says whether the update was within the norm."""
        return replace(form, counters=form.counters + 1, weighted=False)

    def forward(self, update: Update, at: Round) -> Update:
        """Clipped to the norm of the round; a weight that was asked for does not count.

        An update with a number that is not finite counts as one of zeros: to leave its client
        out would tell that it diverged, and to stop would let one client end the run.

        Raises:
            ConfigError: rounding alone could move the update further than the norm.
        """
        values = update.values
        if not np.isfinite(values).all():
            values = np.zeros_like(values)
        if self.resolution is not None:
            own = clip_own(values, at.clip_norm, resolution=self.resolution)
            return Update(values=own.update, counters=(*update.counters, int(own.within)))
        one = ClientSum(self.plan, len(values), at.clip_norm)
        one.add(values)
        return Update(values=one.total, counters=(*update.counters, int(one.centred_count > 0)))

    def bounded(self, change: NDArray[np.floating], at: Round) -> NDArray[np.floating]:
        """Clipped."""
        return self.forward(Update(values=change), at).values

    def backward(self, total: Total, at: ServerRound) -> Total:
        """The noisy mean over the sites that could have come; the norm moves for the next round."""
        size = len(total.values)
        at.share = self.plan.sample_rate
        sums = ClientSum(self.plan, size, at.clip_norm)
        within = int(total.counters[-1])
        sums.add_sum(total.values, clients=int(total.weight), within=within, most_clients=at.sites)
        expected = at.sites * self.plan.sample_rate
        release = sums.release(expected_clients=expected, noise=at.noise)
        at.clip_norm = max(release.next_clip_norm, self._smallest(size))
        return Total(values=release.mean.astype(np.float64), weight=1, counters=total.counters[:-1])

    def _smallest(self, size: int) -> float:
        """Below it the sites' rounding would leave no room."""
        if self.resolution is None:
            return 0.0
        smallest = smallest_clip_norm(size=size, resolution=self.resolution)
        return min(smallest, self.plan.clip_norm)


def noised(
    total: NDArray[np.float64], noise_multiplier: float, norm: float, noise: NoiseSource
) -> NDArray[np.float64]:
    """A sum that one client moves by at most `norm`, with noise for that: `float64[d]`.

    Rounded to a grid, with a Gaussian that is rounded to the same (`fedlearn.privacy.rounded`):
    nothing is left to read in the gaps of floats. Rounding may bring two sums further apart by a
    step in every coordinate, and the noise is as much larger as that is over the norm.

    Raises ValueError where the noise is so large that no grid holds it.
    """
    if not noise_multiplier:
        return total
    grid = grid_for(noise_multiplier, norm, len(total))
    wider = 2 - grid.inner_norm / norm
    (drawn,) = rounded_normals(noise, [len(total)], grid.stddev * wider, torch.device("cpu"))
    return np.asarray(grid.noisy(torch.from_numpy(total), drawn).numpy())


def poisson_cohort(clients: Sequence[str], rate: float, noise: NoiseSource) -> list[str]:
    """The clients of a round, each by its own secret coin: the sampling that the plan accounts.

    A cohort of fixed size, or one that follows from a public seed, would be
    another mechanism and gain nothing. The result may be empty: then the round
    still releases its noise.
    """
    chosen = noise.bernoulli(len(clients), rate)
    return [client for client, taken in zip(clients, chosen, strict=True) if taken]
