"""What a mechanism of privacy is to the rest of the house: its settings, its plan, its stages.

A mechanism is one module. Its settings (`Mechanism`) stand in a run's config and say what
is wrong with them; they make a `Plan`, once per run, from public numbers. Clip norm, noise,
events, stages and the statement all come from the plan, so that they cannot disagree:
nothing else in the project writes an epsilon beside a noise multiplier.

A method that a mechanism leaves out does what is safe, or what no privacy does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Count, Natural, Positive, config
from fedlearn.mechanisms.evaluation import EvaluationPlan
from fedlearn.mechanisms.reach import Reach
from fedlearn.privacy.accounting import ACCOUNTANT, SMALLEST_DELTA
from fedlearn.privacy.accounting import epsilon as account
from fedlearn.privacy.calibration import noise_multiplier as calibrate
from fedlearn.privacy.events import MOST_STEPS, WITHIN_SITES, Event, Unit
from fedlearn.privacy.noise import NoiseSource
from fedlearn.stages import Mean, Source, Stage, Trained

Protected = Literal["none", "record", "person", "client"]
"""The unit of protection, or none."""

Sampled = Literal["record", "person"]
"""Units of which a site has many, so that each is drawn into a step by itself."""

NEIGHBOURS: Final[dict[Unit, str]] = {
    "record": "add or remove one record",
    "person": "add or remove all records of one person",
    "client": "add or remove all data of one client",
}
"""Which data sets an epsilon is about, in words."""

NoiseFrom = Literal["none", "site", "shares", "coordinator"]
"""Who adds it: nobody, every site all of it, all sites together, or the coordinator."""


@config
class Population:
    """What a plan for the sites together needs besides the config: public, equal everywhere."""

    num_clients: Count
    """Sites whose updates are in one sum, at most."""
    dimension: Count
    """Length of the update."""
    records_per_step: Positive
    """Records that a site is taken to have in a step: bounds its sum, never read from data."""
    uneven: Natural = 0
    """By how many sites another sum may be smaller, though none has fallen silent."""


@dataclass(frozen=True, kw_only=True)
class StudyTerms:
    """What of a run's config a mechanism may depend on: public, and equal at both ends."""

    secagg: str
    summed: bool
    """Whether updates are summed in a ring; they are then rounded to steps of `resolution`."""
    hidden: bool
    """Whether no one sees a single update."""
    resolution: float | None
    fraction: float
    """Share of the sites that a round invites."""
    sample_rate: float
    nominal_records: float
    local_steps: int
    learning_rate: float
    weight_decay: float
    optimizer: str
    engine: str
    """What clips gradients, `training.dp_engine`."""
    precision: str
    scaling: str | None
    """The kind of scaling that is computed from records, if one is."""
    pooled: bool
    """Whether the records of all sites lie in one place."""
    momentum: float = 0.0
    corrected: bool = False
    """Whether something besides moves a site's steps or changes what they come to: an algorithm, or
    a stage."""
    remembers: bool = False
    """Whether sites keep a state of their own from round to round."""
    step_share: float | None = None
    """What a step's sum of clipped gradients may be, over what its expected records could add up
    to; None where no rule bounds it."""
    change_norm: float | None = None
    """The norm of a change that no mechanism bounds; None where no rule does."""


class Mechanism(ABC):
    """The settings of one kind of privacy, as `config.privacy`; a frozen dataclass with `kind`."""

    noise_from: ClassVar[NoiseFrom] = "none"
    needs_population: ClassVar[bool] = False
    """Whether the plan depends on who has joined; sites then join under their keys."""
    exact: ClassVar[bool] = False
    """Whether noise is drawn on whole numbers and accounted by the law of what is drawn."""

    if TYPE_CHECKING:

        @property
        def kind(self) -> str:
            """What chooses it: `privacy=KIND`."""

        @property
        def unit(self) -> Protected:
            """Whose data is protected."""

        @property
        def delta(self) -> float | None:
            """The delta of the promise; None where there is none."""

    @property
    def colluders(self) -> int:
        """Sites that may tell the coordinator what they know before the promise breaks; where it
        rests on a sum, the masks of that sum must withstand as many."""
        return 0

    def fewest(self, sites: int) -> int:
        """How many of the `sites` of a round its noise counts on in the sum; 0 for any number."""
        return 0

    @property
    def chooses_sites(self) -> bool:
        """Whether its promise counts on secret coins that choose the sites of a round."""
        return False

    @property
    def drops_sites(self) -> bool:
        """Whether a run goes on without a site that cannot pay for a round."""
        return getattr(self, "on_exhausted", "stop") == "drop_site"

    def problems(self, *, records: int | None = None) -> list[str]:
        """What is wrong beyond the range of single fields, `privacy.field=value: why and way out`.

        `records` are those of the smallest site, or its persons, where it is known.
        """
        return []

    def conflicts(self, terms: StudyTerms) -> list[str]:
        """What is wrong together with the rest of the config, besides `ways_around`."""
        return []

    def clips_with(self, engine: str) -> str | None:
        """What clips the gradients of single records, or persons; None where nothing does."""
        return engine if self.within_sites else None

    @property
    def within_sites(self) -> bool:
        """Whether a site has many of what is protected, each clipped by itself."""
        return self.unit in WITHIN_SITES

    def by_person(self) -> Mechanism:
        """The same for persons, where it protects records.

        A mechanism from elsewhere, which has no such unit, stays as it is, and is refused beside
        a scenario that says whose records are.
        """
        return self

    @abstractmethod
    def plan(
        self,
        *,
        sample_rate: float,
        steps_per_round: int,
        rounds: int,
        population: Population | None,
    ) -> Plan | None:
        """What is done in every round and what it costs; None where nothing is promised.

        Raises:
            ConfigError: the epsilon cannot be met.
        """

    def measured(self, noise_multiplier: float | None) -> Mechanism:
        """The same protection of a single update with so much noise, for an attack on it."""
        return self


class Private(Mechanism):
    """Settings that promise an epsilon: either asked for, or what `noise_multiplier` gives."""

    if TYPE_CHECKING:

        @property
        def epsilon(self) -> float | None:
            """The budget of the whole run."""

        @property
        def noise_multiplier(self) -> float | None:
            """The noise over the sensitivity."""

        @property
        def delta(self) -> float:
            """The delta of the promise."""

    def problems(self, *, records: int | None = None) -> list[str]:
        """Neither or both of epsilon and noise; a delta that lets single records be published."""
        counted = records if self.within_sites else None
        return [
            *choice_problems(self.epsilon, self.noise_multiplier),
            *delta_problems(self.delta, counted, self.unit),
        ]

    def calibrated(self, sample_rate: float, steps: int) -> float:
        """The noise multiplier that is asked for, or the least that keeps `steps` within epsilon.

        Raises:
            ConfigError: the epsilon cannot be met, or the steps are more than can be accounted for.
        """
        if steps > MOST_STEPS:
            raise ConfigError(
                [
                    f"rounds: {steps} private steps in all of them are more than the "
                    f"{MOST_STEPS} that can be accounted for; make fewer rounds, or fewer "
                    "training.local_steps"
                ]
            )
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        return calibrate(required(self.epsilon), self.delta, sample_rate, steps)


def ways_around(unit: Protected, terms: StudyTerms) -> list[str]:
    """What of a run goes around the accounting, whatever a mechanism says itself."""
    found = list[str]()
    if unit == "none":
        return found
    if terms.scaling is not None:
        found.append(
            f"scenario.scaling.kind={terms.scaling}: is computed from records outside the "
            "privacy accounting; give public ranges (scenario.scaling.kind=ranges)"
        )
    if terms.pooled:
        found.append(
            "partition.pooled=true: one place has no ledger of the sites to pay from; it is a "
            "reference without privacy. Set partition.pooled=false"
        )
    return found


class Plan:
    """What every party does in every round, and what it costs; all of it public.

    A frozen dataclass, equal at both ends: its fields are part of what they compare by hash.
    """

    if TYPE_CHECKING:

        @property
        def kind(self) -> str:
            """Of the mechanism; reports find its sentences by it."""

        @property
        def unit(self) -> Unit:
            """Whose data is protected."""

        @property
        def clip_norm(self) -> float:
            """What one unit may move a sum by."""

        @property
        def noise_multiplier(self) -> float:
            """All noise of a release over the sensitivity."""

        @property
        def noise_stddev(self) -> float:
            """Standard deviation of the noise on a coordinate of the sum."""

        @property
        def delta(self) -> float:
            """The delta of the promise."""

        @property
        def sample_rate(self) -> float:
            """Chance with which a unit takes part in a step."""

        @property
        def steps_per_round(self) -> int:
            """Noisy sums in a round."""

        @property
        def rounds(self) -> int:
            """Of the whole run."""

        @property
        def round_event(self) -> Event:
            """What training in one round costs a site, at most."""

        @property
        def total_event(self) -> Event:
            """What training costs a site that takes part in all rounds."""

    evaluation: EvaluationPlan | None = None
    """The noise of test figures, where they are private; a plan that can have it has a field."""
    screening: EvaluationPlan | None = None
    """That of the sums that sites compare their tables by: one evaluation of training records."""

    @property
    def besides(self) -> tuple[Event, ...]:
        """What a whole run costs beside training."""
        both = (self.evaluation, self.screening)
        return tuple(event for one in both if one for event in one.events)

    @property
    def events(self) -> tuple[Event, ...]:
        """What the whole run costs a site that takes part in all rounds."""
        return (self.total_event, *self.besides)

    @property
    def accountant(self) -> str:
        """What reports call the method behind `epsilon`."""
        return ACCOUNTANT

    @property
    def cohort_known(self) -> bool:
        """Whether the promise holds against those who know who took part in a round."""
        return True

    @property
    def min_survivors(self) -> int:
        """With fewer sites in the sum nothing may be released."""
        return 0

    @property
    def colluders(self) -> int:
        """As the settings say."""
        return 0

    @property
    def needs_sum(self) -> bool:
        """Whether the promise is nothing where single updates are seen."""
        return False

    @property
    def trusts_coordinator(self) -> bool:
        """Whether it may see updates, and does the stages itself where they come in clear."""
        return False

    @property
    def epsilon(self) -> float:
        """The epsilon of the whole run at `delta`, against those that the promise is for."""
        return account(self.events, self.delta, unit=self.unit, cohort_known=self.cohort_known)

    # --- what is done -------------------------------------------------------------

    def source(self, terms: StudyTerms) -> Source:
        """What is done with the records of a site."""
        return Trained()

    def stages(self, terms: StudyTerms) -> tuple[Stage, ...]:
        """What is done to an update on its way, the last first on the sum."""
        return (Mean(),)

    def reach(self, terms: StudyTerms, clip_norm: float | None = None) -> Reach | None:
        """What an honest update can be where a rule bounds it; None: nobody knows.

        `clip_norm` is that of the round; None stands for all rounds.
        """
        return None

    def noise_in_mean(self, terms: StudyTerms, there: int, sites: int) -> float:
        """Standard deviation of the noise in each value of the mean of `there` models out of
        `sites`, after a round of plain steps of gradient descent; of what sites send as a whole,
        its share."""
        return self.noise_stddev / there if there else 0.0

    @property
    def protects_alone(self) -> bool:
        """Whether the promise holds as well where a single update is seen, or told from sums."""
        return False

    def round_norm(self, moved: float | None) -> float:
        """The norm that a whole update is clipped to; `moved` is where the last round left it."""
        return 0.0

    def takes_norm(self, norm: float) -> bool:
        """Whether a site may be asked to clip a whole update to `norm` in some round."""
        return norm == self.round_norm(None)

    def named_from(self, noise: float, alone: int) -> float:
        """The noisy count from which on a category is named that is not public: none is, unless a
        plan has a chance to spend on it."""
        return math.inf

    # --- who takes part and who pays ------------------------------------------------

    def cohort(self, sites: Sequence[str], noise: NoiseSource) -> list[str] | None:
        """The sites of a round where secret coins choose them; None: the strategy's own choice."""
        return None

    def quorum(self, wanted: int, invited: int) -> int:
        """The fewest sites for a round for which the strategy wants `wanted`."""
        return max(wanted, self.min_survivors)

    def payers(self, sites: Sequence[str], asked: Sequence[str]) -> Sequence[str]:
        """Who is charged for a round: of the run's `sites`, those that were `asked` to train."""
        return asked

    def cost(self, survivors: int) -> Event:
        """What a round cost whose sum holds the updates of `survivors` sites."""
        return self.round_event

    # --- in words -------------------------------------------------------------------

    @property
    def within_sites(self) -> bool:
        """Whether a site has many of what is protected, each clipped by itself."""
        return self.unit in WITHIN_SITES

    @property
    def relation(self) -> str:
        """Which data sets are neighbours."""
        return NEIGHBOURS[self.unit]

    @property
    def sampling(self) -> str:
        """What of the sampling is counted on."""
        return "full batch" if self.sample_rate == 1 else "Poisson, secret"


def choice_problems(target: float | None, noise: float | None) -> list[str]:
    """Of epsilon and noise multiplier exactly one is given."""
    if target is None and noise is None:
        return [
            "privacy.epsilon: give either privacy.epsilon (the noise follows) or "
            "privacy.noise_multiplier (the epsilon follows)"
        ]
    if target is not None and noise == 0:
        return [
            f"privacy.noise_multiplier={noise}: without noise no epsilon holds, and "
            f"privacy.epsilon={target} is asked for. Leave out privacy.noise_multiplier"
        ]
    if target is not None and noise is not None:
        return [
            f"privacy.noise_multiplier={noise}: the noise follows from "
            f"privacy.epsilon={target}. Leave out one of the two"
        ]
    return []


def delta_problems(delta: float, records: int | None, unit: str = "record") -> list[str]:
    """A delta must be above rounding, and below one over the `records` of the smallest site.

    `unit` is what these are.
    """
    if delta < SMALLEST_DELTA:
        return [
            f"privacy.delta={delta}: must be at least {SMALLEST_DELTA}, below it rounding rules"
        ]
    if records is not None and records > 0 and delta > 1 / records:
        return [
            f"privacy.delta={delta}: must be at most 1/{records} = {1 / records:.1e}, one over the "
            f"{unit}s of the smallest site; a larger one would allow some {unit}s to be published"
        ]
    return []


def refuse(problems: Sequence[str]) -> None:
    """One error for all problems, if there are any.

    Raises:
        ConfigError: there are.
    """
    if problems:
        raise ConfigError(problems)


def required(noise_multiplier: Any) -> float:
    """The target of a calibration.

    Raises:
        RuntimeError: neither it nor the noise was given, and nobody refused that.
    """
    if noise_multiplier is None:
        raise RuntimeError("a config without epsilon and noise_multiplier was not refused")
    return float(noise_multiplier)
