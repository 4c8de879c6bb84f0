"""What the runs of an audit come to: what every model is worth to the sites that are honest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from clients.owner import owner_of
from clients.records import simulated_sites, simulated_task
from clients.site import Site, open_site
from fedlearn import __version__
from fedlearn.config import RunConfig
from fedlearn.core.errors import DataError
from fedlearn.core.vector import Vector
from fedlearn.report.comparison import traffic
from fedlearn.report.export import read_model
from fedlearn.report.poison import HONEST, Poison, PoisoningFacts, PoisonRow, RuleFacts
from fedlearn.results.folder import RunFolder
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile, sites_of_refused
from fedlearn.robust import suspects
from fedlearn.tasks import Metric
from fedlearn.training.local import grade
from simulations.attacks.poison.attack import Poisoning
from simulations.attacks.poison.study import Case, PoisonStudy, goal_of
from simulations.attacks.trials import HowItEnded, outcome


@dataclass(frozen=True, eq=False)
class HonestRecords:
    """The sites of the runs with one seed, on whose test records models are tried."""

    config: RunConfig
    metric: Metric
    """What models are compared by."""

    @cached_property
    def sites(self) -> dict[str, Site]:
        """All of them, with their records."""
        names = simulated_sites(self.config)
        return {name: open_site(owner_of(self.config, name), self.config) for name in names}

    @cached_property
    def marked(self) -> dict[str, Site]:
        """The same with the mark of the backdoor on every test record that it is to change."""
        return {name: self._marked(site) for name, site in self.sites.items()}

    def _marked(self, site: Site) -> Site:
        goal, test = goal_of(self.config), site.data.test
        others = np.flatnonzero((test.labels != goal.target).reshape(len(test), -1).any(1))
        records = test.of(others)
        records = replace(records, features=goal.trigger.on(records.features))
        return replace(site, data=replace(site.data, test=records))

    def value(self, model: Vector, honest: Sequence[str]) -> float:
        """The metric on the test records of some sites together.

        Raises:
            DataError: they have none.
        """
        sums = None
        for site in (self.sites[name] for name in honest):
            site.load(model)
            features, targets = site.test_tensors[0], site.data.test.labels
            graded = grade(site.model, site.task, features, targets, site.training.max_batch)
            mine = site.task.sums(graded, targets)
            sums = mine if sums is None else sums + mine
        found = {} if sums is None else simulated_task(self.config).metrics(sums)
        if self.metric.name not in found:
            raise DataError(f"the sites {', '.join(honest)} have no records to test a model on")
        return found[self.metric.name]

    def success(self, model: Vector, honest: Sequence[str]) -> float:
        """The share of marked records whose wrong answer the model finds likelier."""
        taken, count = 0, 0
        for site in (self.marked[name] for name in honest):
            site.load(model)
            records, size = site.data.test, site.training.max_batch
            wanted = np.repeat(goal_of(self.config).target[None], len(records), axis=0)
            marked, own = (
                site.task.likelihood(
                    grade(site.model, site.task, site.test_tensors[0], targets, size), targets
                )
                for targets in (wanted, records.labels)
            )
            likelier = marked > own
            taken, count = taken + int(likelier.sum()), count + len(records)
        return taken / max(1, count)


@dataclass(frozen=True, eq=False)
class Ran:
    """A run that has ended, and its last model; that it began with if no round came of it."""

    case: Case
    outcome: HowItEnded
    result: ResultFile
    model: Vector

    @classmethod
    def of(cls, case: Case) -> Ran | None:
        """What a run has left; None where it has not ended, or not begun."""
        ended, folder = outcome(case), Path(case.config.out)
        saved = RunFolder(folder).read_checkpoint()
        if ended is None or saved is None:
            return None
        if not (folder / "result.json").is_file():
            return None
        result = read_result(folder)
        model = read_model(folder, result) if result.rounds else saved.model
        return cls(case, ended, result, model)

    @property
    def refused(self) -> list[list[str]]:
        """The sites of every sum that was refused."""
        return sites_of_refused(self.result.rounds)

    @property
    def suspects(self) -> set[str]:
        """The sites that the run suspects at its end: those that it names, if it names any."""
        named = {one.site for entry in self.result.rounds for one in entry.named}
        return named or set(suspects(self.refused))


def found_in(study: PoisonStudy, command: str) -> Poison:
    """What the runs that have ended come to.

    Raises:
        DataError: what they have left cannot be read.
    """
    ran = {case.name: one for case in study.cases if (one := Ran.of(case)) is not None}
    config, sites = study.config, list(simulated_sites(study.config))
    seeds = sorted({case.config.seed for case in study.cases})
    benches = {seed: HonestRecords(replace(config, seed=seed), study.metric) for seed in seeds}
    rules = list(dict.fromkeys(case.rule for case in study.cases))
    rows = [
        row
        for rule in rules
        for attack in (HONEST, *(one.kind for one in study.attacks))
        if (row := _row(study, ran, benches, rule, attack)) is not None
    ]
    return Poison(
        version=__version__,
        experiment=config.experiment,
        command=command,
        sites=sites,
        seeds=seeds,
        rounds=config.rounds,
        privacy=config.privacy.kind,
        epsilon=next((one.result.privacy.epsilon for one in ran.values()), None),
        metric=study.metric.name,
        trigger=goal_of(config).trigger.where,
        attacks=[_facts(one) for one in study.attacks],
        rules=[*(_cost(rule, ran) for rule in rules), *(_none(study, r) for r in study.left_out)],
        rows=rows,
    )


def _facts(attack: Poisoning) -> PoisoningFacts:
    return PoisoningFacts(kind=attack.kind, says=attack.says(), plants=attack.plants)


def _cost(rule: str, ran: Mapping[str, Ran]) -> RuleFacts:
    """What a run of honest sites takes."""
    mine = [one for one in ran.values() if one.case.rule == rule and one.case.attack is None]
    moved = [sum(traffic(one.result).values()) for one in mine]
    return RuleFacts(
        kind=rule,
        secagg=next((one.case.config.secagg.kind for one in mine), ""),
        cpu_seconds=fmean(one.outcome.cpu_seconds for one in mine) if mine else None,
        bytes=fmean(moved) if mine else None,
    )


def _none(study: PoisonStudy, rule: str) -> RuleFacts:
    why = study.left_out[rule]
    return RuleFacts(kind=rule, secagg="", cpu_seconds=None, bytes=None, left_out=why)


def _row(
    study: PoisonStudy,
    ran: Mapping[str, Ran],
    benches: Mapping[int, HonestRecords],
    rule: str,
    attack: str,
) -> PoisonRow | None:
    """One attack against one rule, over the seeds in which it and the honest run have ended."""
    pairs = [
        (ran[case.name], honest)
        for case in study.cases
        if (case.rule, case.called) == (rule, attack) and case.name in ran
        if (honest := ran.get(replace(case, attack=None).name)) is not None
    ]
    if not pairs:
        return None
    liars = pairs[0][0].case.liars
    others = [site for site in pairs[0][0].result.data.sites if site not in liars]
    tried = [(benches[one.case.config.seed], one, honest) for one, honest in pairs]
    values = [bench.value(one.model, others) for bench, one, _ in tried]
    before = [bench.value(honest.model, others) for bench, _, honest in tried]
    rank = study.metric.rank
    lost = [rank(was) - rank(now) for was, now in zip(before, values, strict=True)]
    plants = any(one.kind == attack and one.plants for one in study.attacks)
    return PoisonRow(
        rule=rule,
        attack=attack,
        liars=list(liars),
        runs=len(pairs),
        value=fmean(values),
        spread=stdev(values) if len(values) > 1 else 0.0,
        lost=fmean(lost),
        backdoor=fmean(b.success(one.model, others) for b, one, _ in tried) if plants else None,
        backdoor_before=fmean(b.success(h.model, others) for b, _, h in tried) if plants else None,
        refused=fmean(len(one.refused) for one, _ in pairs),
        named=fmean(len(one.suspects & {*liars}) for one, _ in pairs),
        false_alarms=fmean(len(one.suspects - {*liars}) for one, _ in pairs),
        ended=sum(one.outcome.exit_code != 0 for one, _ in pairs),
    )
