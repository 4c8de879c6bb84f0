"""From YAML values to one frozen, typed `RunConfig`.

Hydra composes the groups of `configs/` (`fedlearn.config.composition`); `compose` turns the
result into a `RunConfig` once. Every problem is reported in one `ConfigError`, by dotted path.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Le
from pydantic import Discriminator, Field

from fedlearn.algorithms import ALGORITHMS, Algorithm
from fedlearn.auditing import Audit, NoAudit
from fedlearn.config import contradictions
from fedlearn.config.composition import sift
from fedlearn.config.decoding import decode, to_tree
from fedlearn.config.engine import Engine
from fedlearn.config.groups import brought
from fedlearn.config.parent import Parent, parent_of
from fedlearn.config.reported import Reported
from fedlearn.config.study import study_hash, study_text
from fedlearn.config.tracking import NoTracking, Tracking
from fedlearn.core.errors import ConfigError, collected, refuse
from fedlearn.core.settings import Count, Name, Natural, Positive, Probability, config
from fedlearn.crypto.settings import Transport
from fedlearn.data import PARTITIONS, SCENARIOS, Partition, Scenario
from fedlearn.data.persons import persons_in
from fedlearn.figures import NoStatistics, Statistics, TableLayout, asked
from fedlearn.figures import layout_of as layout_of_table
from fedlearn.mechanisms import (
    MECHANISMS,
    Besides,
    Evaluations,
    Population,
    Privacy,
    PrivacyPlan,
    derive,
    statistics_plan,
)
from fedlearn.mechanisms.evaluation import due
from fedlearn.metrics.fairness import Fairness, SiteFairness, groups_of
from fedlearn.metrics.sums import shares_of
from fedlearn.models import MODELS, Model
from fedlearn.robust import ROBUST, NotRobust, Robust, Sizes
from fedlearn.screening import NoScreening, Screening, ScreeningLayout, layout_of
from fedlearn.secagg.settings import SecAgg
from fedlearn.stages import STAGES, NoStage, Stage
from fedlearn.tasks import TASKS, Classification, Task, TaskConfig
from fedlearn.training.settings import Training

KIND = Discriminator("kind")


@config
class RunConfig:
    """Everything that decides what a run does; equal configs and seeds give equal runs."""

    experiment: Name
    scenario: Annotated[Scenario, SCENARIOS]
    partition: Annotated[Partition, PARTITIONS]
    model: Annotated[Model, MODELS]
    training: Training
    strategy: Annotated[Algorithm, ALGORITHMS]
    privacy: Annotated[Privacy, MECHANISMS]
    secagg: Annotated[SecAgg, KIND]
    transport: Annotated[Transport, KIND]
    engine: Annotated[Engine, KIND]
    # Later than the first release: a config that was written before still loads.
    task: Annotated[TaskConfig, TASKS] = field(default_factory=Classification)
    fairness: Annotated[Fairness, KIND] = field(default_factory=SiteFairness)
    audit: Annotated[Audit, KIND] = field(default_factory=NoAudit)
    tracking: Annotated[Tracking, KIND] = field(default_factory=NoTracking)
    stage: Annotated[Stage, STAGES, Field(exclude_if=lambda stage: stage.idle)] = NoStage()
    """What is done to an update besides privacy and masks; not written where it is nothing."""
    robust: Annotated[Robust, ROBUST, Field(exclude_if=lambda rule: rule.idle)] = NotRobust()
    """What sums of updates are refused; not written where none is."""
    screening: Annotated[Screening, KIND, Field(exclude_if=lambda one: one.idle)] = NoScreening()
    """Whether sites compare their tables before training; not written where they do not."""
    statistics: Annotated[Statistics, KIND, Field(exclude_if=lambda one: one.idle)] = NoStatistics()
    """Whether figures of tables are made, and no model; not written where they are not."""
    evaluation_share: Annotated[Probability, Field(exclude_if=lambda share: share == 0.1)] = 0.1
    """What `evaluation=private` gets of the squared signal-to-noise ratio of the budget."""
    spare_rounds: Annotated[Natural, Le(1000), Field(exclude_if=lambda spare: spare == 0)] = 0
    """Rounds that the noise is planned for beside `rounds`: a site that had trained in a round that
    was cut off pays for another one in its place."""
    init: Annotated[str, Field(exclude_if=lambda name: not name)] = ""
    """The model to begin from: the folder of a run or an export, or a file of weights."""
    parent: Annotated[Parent | None, Field(exclude_if=lambda one: one is None)] = None
    """What is known of it: whoever composes a config reads it there, and nobody else does."""
    report: Annotated[Reported, Field(exclude_if=lambda one: one.idle)] = Reported()
    """What `report.html` is in; not written where it is English."""
    purpose: str = ""
    """What the model is meant for, in a sentence; model card and report say it."""
    rounds: Annotated[Count, Le(1_000_000)]
    """Sites go through all of them to see which are evaluated, so there is an end to it."""
    evaluate_every: Count
    """Federated evaluation happens after every so many rounds, and after the last."""
    evaluation: Literal["none", "private", "pooled", "per_site"]
    """`per_site`: every site releases its test metrics; `pooled`: the sum alone is opened;
    `private`: either, with noise that the run's budget pays for; `none`: nothing is tested."""
    reply_timeout: Positive
    """Seconds that the coordinator waits for replies; who is later has dropped out of that step."""
    seed: Natural
    sites: Name | None
    """Simulations only: the folder of site files, `NAME.yaml`; a site without one has no policy."""
    out: Name
    """The folder that the run leaves behind."""
    resume: bool

    @cached_property
    def terms(self) -> bytes:
        """The hash of the terms of the study, to which everything in a run is bound."""
        return study_hash(study_text(to_tree(self)))

    @property
    def most_rounds(self) -> int:
        """The largest number of a round.

        A round that is refused is made again under the next number. Where rounds are paid for
        none is added: the promise is for so many.
        """
        repeats = self.robust.most_refused if self.privacy.unit == "none" else 0
        return self.rounds + repeats

    @property
    def paid_rounds(self) -> int:
        """How many rounds a site can pay for, by the plan of privacy."""
        return self.rounds + self.spare_rounds

    @property
    def validates(self) -> bool:
        """Whether rounds are evaluated on validation records, and the test is read once."""
        return self.scenario.validates and self.evaluation != "none"

    @property
    def personal(self) -> bool:
        """Whether a site ends with a model of its own."""
        return self.strategy.personal or self.training.personal != "none"

    @property
    def compares_own(self) -> bool:
        """Whether sites test both, their own model and the shared one, which is one by itself."""
        return self.strategy.personal and self.evaluation != "none"

    @property
    def remembers(self) -> bool:
        """Whether sites keep a state of their own from round to round."""
        return self.strategy.remembers or self.personal

    @property
    def test_number(self) -> int | None:
        """The number under which the test is asked for once all rounds are made, however many
        these were; None where rounds are tested."""
        return self.most_rounds + 1 if self.validates else None

    @property
    def evaluation_seen(self) -> Literal["none", "private", "pooled", "per_site"]:
        """What of test records, or of all of them for statistics, leaves a site."""
        noised = not self.statistics.idle and self.privacy.unit != "none"
        return "private" if noised and self.evaluation != "none" else self.evaluation

    def evaluates(self, number: int) -> bool:
        """Whether something is evaluated under a number: that of a round, or of the test."""
        if self.test_number is not None and number >= self.test_number:
            return number == self.test_number
        last = min(number, self.rounds)
        return self.evaluation != "none" and due(last, self.rounds, self.evaluate_every)

    @property
    def evaluated(self) -> tuple[int, ...]:
        """The numbers of all evaluations of a run without a round that is made again; figures of
        tables are one."""
        if not self.statistics.idle:
            return (1,)
        test = () if self.test_number is None else (self.test_number,)
        return (*(n for n in range(1, self.rounds + 1) if self.evaluates(n)), *test)


def compose(overrides: Sequence[str]) -> RunConfig:
    """The config that `configs/run.yaml` and Hydra `overrides` describe.

    Raises:
        ConfigError: with every problem, one line each.
    """
    tree, _, found = sift([*overrides, *brought(overrides)])
    try:
        config = load(without_unset(tree))
    except ConfigError as error:
        raise ConfigError([*found, *error.problems]) from None
    refuse(found, ConfigError)
    return begun(config)


def begun(config: RunConfig) -> RunConfig:
    """The config with what is known of the model that its run begins from.

    Only for a config that is one's own: it reads where `init` says.

    Raises:
        ConfigError: there is no such model, or the run would write over it.
    """
    if not config.init:
        return replace(config, parent=None) if config.parent else config
    if Path(config.init).resolve() == Path(config.out).resolve():
        raise ConfigError(
            [f"out={config.out}: is the run that init names, and would be written over"]
        )
    return replace(config, parent=parent_of(config.init, to_tree(config)))


def without_unset(node: Any) -> Any:
    """The tree without the values that a YAML leaves to the user (`???`): they are missing."""
    if isinstance(node, dict):
        return {key: without_unset(child) for key, child in node.items() if child != "???"}
    return node


def load(tree: dict[str, Any]) -> RunConfig:
    """A checked config from plain values.

    Raises:
        ConfigError: with every problem, one line each.
    """
    config = _by_person(decode(RunConfig, json.dumps(tree)))
    found = contradictions.problems(config)
    with collected(found):
        config = replace(config, model=config.model.pinned())
    refuse(found, ConfigError)
    return config


def _by_person(config: RunConfig) -> RunConfig:
    """The person as the unit wherever records would be and the scenario says whose they are.

    Also where `privacy.unit=record` was written: the promise is the stronger one, and whoever
    wants one to records leaves the person out.
    """
    if not persons_in(config.scenario) or config.privacy.unit != "record":
        return config
    return replace(config, privacy=config.privacy.by_person())


def plan_of(
    config: RunConfig, *, sites: int = 0, dimension: int = 0, task: Task | None = None
) -> PrivacyPlan | None:
    """The privacy of the whole run; the noise is calibrated once, over all rounds and spare ones.

    Every party derives it by itself from public constants: none takes it from
    another. Only distributed privacy needs to know how many `sites` have joined
    and the `dimension` of an update, and only private evaluation and screening the `task`.

    Raises:
        ConfigError: the config is contradictory or its epsilon cannot be met.
        ValueError: distributed privacy without sites, private evaluation without a task,
            screening without a table.
    """
    if not config.statistics.idle:
        return _of_statistics(config, sites, task)
    training, population = config.training, None
    if config.privacy.needs_population and sites:
        records = training.sample_rate * training.nominal_records
        sums = sizes_of(config, sites)
        population = Population(
            num_clients=sums.largest,
            dimension=dimension,
            records_per_step=records,
            uneven=sums.largest - sums.smallest,
        )
    steps = training.local_steps * config.strategy.trainings
    rates = training.sample_rate, steps, config.paid_rounds
    besides = Besides(evaluation=_evaluations(config, task), screening=_screened(config, task))
    return _derived(config.privacy, *rates, population, besides)


def sizes_of(config: RunConfig, sites: int) -> Sizes:
    """How many of the `sites` of a run are in one sum of updates.

    Raises:
        ConfigError: they are fewer than the groups of the run take.
    """
    if config.robust.group_size is not None:
        config.robust.check(sites)
    return Sizes(sites=sites, size=config.robust.together(sites))


def _evaluations(config: RunConfig, task: Task | None) -> Evaluations | None:
    """What the plan has to pay for beside training."""
    if config.evaluation != "private" or config.privacy.unit == "none":
        return None
    if task is None:
        raise ValueError("private evaluation is planned for a task")
    layout, groups = task.noised_layout, len(groups_of(config.fairness))
    # A record is in the sums of all records, in those of one group, and in those of its site's own
    # model.
    times = 1 + (groups > 0) + config.compares_own
    return Evaluations(
        rounds=config.rounds,
        every=config.evaluate_every,
        validated=config.validates,
        share=config.evaluation_share,
        weights=tuple(share / times for share in shares_of(layout)) * times,
        dimension=sum(spec.size for spec in layout) * (1 + groups + config.compares_own),
        hidden=config.secagg.hides and not config.secagg.two_servers,
    )


def screened_layout(config: RunConfig, task: Task) -> ScreeningLayout | None:
    """The sums that sites compare their tables by; None where they do not."""
    return None if config.screening.idle else layout_of(task.form, config.scenario.scales())


def statistics_layout(config: RunConfig, task: Task) -> TableLayout:
    """The sums that the figures of a run's tables are made of.

    Raises:
        ConfigError: the run makes none, or its records have none.
    """
    settings = asked(config.statistics)
    rows = config.scenario.as_rows()
    named = rows.named_categories if rows else {}
    label = getattr(config.scenario, "label", "") or "label"
    return layout_of_table(task, config.scenario.scales(), settings, named, label)


def first_layout(config: RunConfig, task: Task) -> TableLayout | ScreeningLayout | None:
    """The sums over records that are made before a first round; None where there are none."""
    if not config.statistics.idle:
        return statistics_layout(config, task)
    return screened_layout(config, task)


def _of_statistics(config: RunConfig, sites: int, task: Task | None) -> PrivacyPlan | None:
    """The plan of a run that makes figures of tables."""
    if task is None:
        raise ValueError("statistics are planned for a table")
    layout = statistics_layout(config, task)
    seen_alone = config.statistics.by_site or config.secagg.two_servers or not config.secagg.hides
    return _of_sums(
        config.privacy, layout.weights, layout.size, sites, not seen_alone, layout.guarded
    )


@lru_cache(maxsize=64)
def _of_sums(
    privacy: Privacy,
    weights: tuple[float, ...],
    size: int,
    sites: int,
    hidden: bool,
    guarded: bool,
) -> PrivacyPlan | None:
    return statistics_plan(privacy, weights, size, sites=sites, hidden=hidden, guarded=guarded)


def _screened(config: RunConfig, task: Task | None) -> Evaluations | None:
    """The same, as one evaluation. Every site adds all of its noise: what it finds in its own sums
    once they have that noise is then told by nothing that was not paid for."""
    if config.screening.idle or config.privacy.unit == "none":
        return None
    layout = None if task is None else screened_layout(config, task)
    if layout is None:
        raise ValueError("screening is planned for a table")
    each = len(layout.sizes)
    return Evaluations(
        rounds=1,
        every=1,
        share=config.screening.share,
        weights=(1 / each,) * each,
        dimension=layout.size,
        hidden=False,
    )


@lru_cache(maxsize=64)
def _derived(
    privacy: Privacy,
    sample_rate: float,
    steps: int,
    rounds: int,
    population: Population | None,
    besides: Besides,
) -> PrivacyPlan | None:
    # Calibration takes up to a second, and every message of a site asks for the plan.
    return derive(
        privacy,
        sample_rate=sample_rate,
        steps_per_round=steps,
        rounds=rounds,
        population=population,
        besides=besides,
    )
