"""The runs of an audit by lying sites: every attack against every rule, and who lies in which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.clientapp import ClientApp

from clients.records import kept, simulated_sites, simulated_task, texts
from fedlearn.algorithms import cohort_size
from fedlearn.config import RunConfig, compose, load, to_tree
from fedlearn.core.errors import ConfigError, counted
from fedlearn.core.registry import kind_of
from fedlearn.core.rng import Streams
from fedlearn.report.poison import HONEST
from fedlearn.robust import ROBUST, Robust
from fedlearn.secagg.settings import SecAgg, SecAggOff, SecAggTwoServer, sum_of
from fedlearn.tasks import Metric
from simulations.attacks.poison import ATTACKS, Goal, Poisoning
from simulations.attacks.poison.liar import Plot, liars_of
from simulations.attacks.poison.triggers import Trigger
from simulations.attacks.poison.words import Asked, PoisonSettings, names_of, option_of
from simulations.attacks.studies import OWN, study_of
from simulations.sweeps.workers import honest_sites

FOLDER: Final = "poison"
"""Where the runs of an audit of a run are, in the folder of that."""

_ONE_IN: Final = 6
"""Sites for each liar, where nobody has said how many lie."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run: a rule, an attack (None: all sites are honest) and a seed.

    `study` is the config of the study with this seed: of its records all runs are tried, and the
    mark of a backdoor is the same, though a rule may keep some of them to itself.
    """

    rule: str
    attack: Poisoning | None
    liars: tuple[str, ...]
    config: RunConfig
    study: RunConfig

    @property
    def called(self) -> str:
        """The name of the attack."""
        return HONEST if self.attack is None else self.attack.kind

    @property
    def name(self) -> str:
        """That of its folder."""
        return f"{self.rule}-{self.called}-{self.config.seed}"

    @property
    def besides(self) -> list[Any]:
        """The attack, and who makes it."""
        named = self.attack and [kind_of(type(self.attack)), to_tree(self.attack)]
        return [named, sorted(self.liars)]

    @property
    def client(self) -> Callable[[], ClientApp]:
        """What makes the program of its sites, some of which may lie."""
        if self.attack is None:
            return honest_sites
        sites = simulated_sites(self.study)
        return Plot(
            attack=self.attack,
            numbers=tuple(list(sites).index(name) for name in self.liars),
            sites=len(sites),
            goal=goal_of(self.study),
            seed=self.config.seed,
        )


@dataclass(frozen=True, kw_only=True)
class PoisonStudy:
    """All runs, and the rules that the study has no room for, with the reason."""

    folder: Path
    cases: tuple[Case, ...]
    left_out: Mapping[str, str]
    attacks: tuple[Poisoning, ...]
    metric: Metric
    """What models are tried by."""

    @cached_property
    def config(self) -> RunConfig:
        """That of the study, with its first seed."""
        return self.cases[0].study


def plan(asked: Asked) -> PoisonStudy:
    """All runs that are asked for.

    Raises:
        ConfigError: the study cannot be run, or not attacked.
        DataError: its records, or the run that it is of, cannot be read.
    """
    settings, base = asked.settings, _base(asked)
    kinds = ATTACKS.kinds if settings.attacks is None else settings.attacks
    attacks = tuple(_attack(kind, asked.tuned) for kind in kinds)
    metric = _metric(base, settings.metric)
    names = list(simulated_sites(base))
    liars = _liars(base, names, settings)
    configs, left_out = dict[str, RunConfig](), dict[str, str]()
    for rule in settings.rules or ROBUST.kinds:
        try:
            configs[rule] = _with_rule(asked, base, rule, len(liars))
            configs[rule].robust.check(cohort_size(base.strategy, len(names)))
        except ConfigError as error:
            left_out[rule] = "; ".join(error.problems)
            configs.pop(rule, None)
    cases = [
        Case(
            rule=rule,
            attack=attack,
            liars=() if attack is None else _enough(attack, liars, names, base.seed),
            config=replace(config, seed=base.seed + turn),
            study=replace(base, seed=base.seed + turn),
        )
        for turn in range(settings.seeds)
        for rule, config in configs.items()
        for attack in (None, *attacks)
    ]
    if not cases:
        raise ConfigError([f"{OWN}rules: {rule}: {why}" for rule, why in left_out.items()])
    folder = asked.run / FOLDER if asked.run else Path(base.out) / FOLDER
    placed = [
        replace(case, config=replace(case.config, out=str(folder.resolve() / case.name)))
        for case in cases
    ]
    return PoisonStudy(
        folder=folder, cases=tuple(placed), left_out=left_out, attacks=attacks, metric=metric
    )


def _metric(base: RunConfig, name: str | None) -> Metric:
    """What models are tried by.

    Raises:
        ConfigError: the task does not know it.
    """
    task = simulated_task(base)
    if name is None:
        return task.leading
    known = {one.name: one for one in task.metrics_known}
    if name not in known:
        raise ConfigError([f"{OWN}metric: {name} is none of {', '.join(known)}"])
    return known[name]


def _attack(kind: str, tuned: Mapping[str, Any]) -> Poisoning:
    mine = {key.partition(".")[2]: value for key, value in tuned.items()
            if key.startswith(f"{kind}.")}  # fmt: skip
    try:
        return option_of(ATTACKS, kind)(**mine)
    except ConfigError as error:
        raise ConfigError([f"{OWN}{kind}.{problem}" for problem in error.problems]) from None


def _base(asked: Asked) -> RunConfig:
    """The study, whatever rule it names."""
    return study_of(asked.run, [word for word in asked.study if not _is_rule(word)])


def _is_rule(word: str) -> bool:
    return word.lstrip("+~").startswith(("robust=", "robust."))


def _with_rule(asked: Asked, base: RunConfig, kind: str, liars: int) -> RunConfig:
    """The study under a rule, which is given how many sites lie if it asks for that.

    Raises:
        ConfigError: the study has no room for it.
    """
    made = _of_run(base, kind) if asked.run else _of_words(asked.study, kind)
    robust: Any = made.robust
    if "liars" in names_of(type(robust)):
        robust = replace(robust, liars=liars)
    return replace(base, robust=robust, secagg=made.secagg)


def _of_run(base: RunConfig, kind: str) -> RunConfig:
    option = option_of(ROBUST, kind)
    robust = base.robust if base.robust.kind == kind else option()
    return load(to_tree(replace(base, robust=robust, secagg=summed(base.secagg, option))))


def summed(secagg: SecAgg, option: type[Robust]) -> SecAgg:
    """The aggregation that a rule works with: that of the study, if it can."""
    if option.in_clear:
        return SecAggOff()
    if not option().proves or secagg.two_servers:
        return secagg
    before, shared = sum_of(secagg), ("bits", "clip", "resolution", "max_weight", "rounding")
    return SecAggTwoServer(**({name: getattr(before, name) for name in shared} if before else {}))


def _of_words(words: Sequence[str], kind: str) -> RunConfig:
    """By the words of the command, of which those about a rule are for the rules that know them."""
    option = option_of(ROBUST, kind)
    kept = _known(words, "robust", option)
    if option.in_clear:
        kept = [*_known(kept, "secagg", SecAggOff), "secagg=off"]
    elif option().proves:
        kept = [*_known(kept, "secagg", SecAggTwoServer), "secagg=two_server"]
    return compose([*kept, f"robust={kind}"])


def _known(words: Sequence[str], group: str, option: type[Any]) -> list[str]:
    """The words without those of a group of options that this one does not know."""
    known = [f"{group}.{name}" for name in names_of(option)]
    return [
        word
        for word in words
        if not word.lstrip("+~").startswith((f"{group}=", f"{group}."))
        or word.lstrip("+").partition("=")[0] in known
    ]


def _liars(base: RunConfig, names: Sequence[str], settings: PoisonSettings) -> list[str]:
    """Who lies in all attacks that need no more.

    Raises:
        ConfigError: they are no sites of the study, or all of them.
    """
    asked = settings.liars
    wanted = asked if asked is not None else max(1, len(names) // _ONE_IN)
    strange = [] if isinstance(wanted, int) else [one for one in wanted if one not in names]
    count = wanted if isinstance(wanted, int) else len(wanted)
    if strange:
        raise ConfigError([f"{OWN}liars: {one} is none of {', '.join(names)}" for one in strange])
    if not 0 < count < len(names):
        raise ConfigError(
            f"{OWN}liars={count}: of {counted(len(names), 'site')}, one must be honest"
        )
    return liars_of(names, wanted, base.seed)


def _enough(
    attack: Poisoning, liars: Sequence[str], names: Sequence[str], seed: int
) -> tuple[str, ...]:
    """The liars, and as many more as the attack needs at the least."""
    order = liars_of(names, len(names), seed)
    more = [one for one in order if one not in liars][: max(0, attack.fewest - len(liars))]
    return tuple(one for one in names if one in (*liars, *more))


@lru_cache(maxsize=8)
def _goal(choice: str, seed: int) -> Goal:
    pool, sites = kept(choice)
    labels = np.concatenate([site.train.labels for site in sites.values()])
    known = next(site.train.features for site in sites.values() if len(site.train))
    trigger = Trigger.of(pool.task.input, known, Streams(seed).get("lies", "trigger"))
    answers, counts = np.unique(labels, axis=0, return_counts=True)
    return Goal(trigger=trigger, target=answers[int(np.argmin(counts))])


def goal_of(config: RunConfig) -> Goal:
    """The mark of a backdoor, and what it is to bring about: the rarest answer of the records."""
    return _goal(texts(config)[1], config.seed)
