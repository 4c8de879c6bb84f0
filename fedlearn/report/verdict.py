"""The verdict on a run: a few sentences, the worst first, from its result alone.

Each answers one question, and has a light. `red`: do not use the model, or the promise, before this
is mended. `amber`: know this first. `green`: this is in order. The sentences are templates
(`verdict.md`), a block for every question; here stands which of them are asked, and the light.
What a light rests on are sums that sites release anyway (`Task.uninformed`) and the run's
own figures: nothing more leaves a site for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final, Literal

from fedlearn.core.language import Figure, Message, message
from fedlearn.metrics.intervals import Measured
from fedlearn.metrics.scores import FEWEST
from fedlearn.report.facts import Facts
from fedlearn.report.texts import texts
from fedlearn.tasks import Metric

Light = Literal["red", "amber", "green"]
_ORDER: Final = ("red", "amber", "green")

_MARGIN: Final = 0.02
"""What a baseline must be better than guessing by, for a run to be held against the difference."""
_MOST_OF_IT, _HALF_OF_IT = 0.9, 0.5
"""Shares of that difference."""
_SWING, _LEAST_SWING = 0.25, 0.02
"""A loss that rises again by this share of itself, and by so much, has not settled."""
_LAST: Final = 3
"""The last third of the rounds is looked at..."""
_FEWEST_ROUNDS: Final = 4
"""... if it has as many."""
_FEW: Final = 20
"""Test records of a site below which it is named."""
_WIDE: Final = 0.5
"""An interval that spans this share of the way from guessing to never being wrong says little."""
_LARGE_EPSILON: Final = 10
"""Above it, an epsilon promises little by itself (Ponomareva et al. 2023, section 5.2.1)."""


@dataclass(frozen=True, kw_only=True)
class Remark:
    """One sentence of a verdict and its light."""

    light: Light
    says: str


def verdict(facts: Facts) -> tuple[Remark, ...]:
    """All that there is to say of a run, the worst first."""
    run = Judged(facts)
    found = [(question, light) for question, judge in _QUESTIONS.items() if (light := judge(run))]
    found.sort(key=lambda one: _ORDER.index(one[1]))  # within a light, in the order of questions
    known = texts({**facts.texts, "judged": run, "light": dict(found)}, "verdict")["verdict"]
    return tuple(Remark(light=light, says=known[question]) for question, light in found)


@dataclass(frozen=True)
class Judged:
    """What lights and sentences rest on."""

    facts: Facts

    # --- what was tested ---

    @property
    def found(self) -> Mapping[str, float]:
        """Test metrics over all sites; empty where nothing was tested."""
        return self.facts.result.final.evaluate

    @property
    def untested(self) -> Sequence[str]:
        """The sites that are known to have no test records."""
        return [site for site, size in self.facts.result.data.sites.items() if size.test == 0]

    @property
    def few(self) -> Sequence[str]:
        """The sites that are known to have few."""
        sites = self.facts.result.data.sites.items()
        return [site for site, size in sites if size.test and size.test < _FEW]

    @property
    def few_counted(self) -> Sequence[str]:
        """Those with how many."""
        sites = self.facts.result.data.sites
        return [f"{site} ({sites[site].test})" for site in self.few]

    def interval(self, name: str) -> Measured | None:
        """A metric over all sites with its interval, if the run has ended."""
        fairness = self.facts.result.fairness
        return fairness.all_sites.get(name) if fairness else None

    @property
    def few_chosen_by(self) -> int | None:
        """How many validation records there are, where that is few to choose a round by."""
        found = self.facts.validation_records
        return found if found is not None and 0 < found < FEWEST else None

    @property
    def vague(self) -> bool:
        """Whether the interval of the leading metric leaves open how good the model is."""
        metric = self.facts.task.leading
        one = self.interval(metric.name)
        guess = self.uninformed.get(metric.name, metric.guessing)
        if one is None or one.low is None or one.high is None or guess is None:
            return False
        best = 1.0 if metric.higher_is_better else 0.0
        return one.high - one.low > _WIDE * abs(best - guess)

    # --- what was learned ---

    @property
    def uninformed(self) -> Mapping[str, float]:
        """What guessing gets."""
        return self.facts.result.final.uninformed

    @property
    def weighted(self) -> bool:
        """Whether classes weigh differently: then a share of all records is not the aim."""
        return bool(self.facts.config.training.class_weights)

    @property
    def judging(self) -> Sequence[Metric]:
        """The metrics that say whether anything was learned, the one that leads first."""
        task = self.facts.task
        known = [
            m for m in task.metrics_known if m.name in self.uninformed and m.name in self.found
        ]
        if self.weighted:
            known = [metric for metric in known if metric.name != task.leading.name]
        return [metric for metric in known if metric.name != "loss" or metric == task.leading]

    @property
    def better(self) -> Metric | None:
        """The first metric by which it is better than guessing, whichever records were drawn."""
        return next((metric for metric in self.judging if self._surely_better(metric)), None)

    def _surely_better(self, metric: Metric) -> bool:
        guess, one = self.uninformed[metric.name], self.interval(metric.name)
        ends = [self.found[metric.name]]
        if one is not None and one.low is not None and one.high is not None:
            ends = [one.low, one.high]
        return min(metric.rank(end) for end in ends) > metric.rank(guess)

    @property
    def skill(self) -> tuple[Metric, float] | None:
        """How much of what the baseline is better than guessing by, where the run does worst."""
        baseline = self.facts.result.baseline
        shares = dict[str, tuple[Metric, float]]()
        for metric in self.judging if baseline else ():
            assert baseline is not None  # noqa: S101  (else there is none to go through)
            if metric.name not in baseline.evaluate:
                continue
            guess = metric.rank(self.uninformed[metric.name])
            ahead = metric.rank(baseline.evaluate[metric.name]) - guess
            if ahead >= _MARGIN:
                share = (metric.rank(self.found[metric.name]) - guess) / ahead
                shares[metric.name] = metric, share
        return min(shares.values(), key=lambda one: one[1], default=None)

    # --- how it was learned ---

    @property
    def losses(self) -> Sequence[float | None]:
        """The loss after every round that was tested; None where it was no number."""
        found = [r.evaluate["loss"] for r in self.facts.result.rounds if "loss" in r.evaluate]
        return [None if loss is None or not isfinite(loss) else loss for loss in found]

    @property
    def diverged(self) -> bool:
        """Whether the last loss is no number."""
        return bool(self.losses) and self.losses[-1] is None

    @property
    def last(self) -> Sequence[float]:
        """The losses of the last third of the rounds, if those are enough to say something."""
        known = [loss for loss in self.losses if loss is not None]
        last = known[-max(_FEWEST_ROUNDS, len(known) // _LAST) :]
        return last if len(last) >= _FEWEST_ROUNDS else []

    @property
    def rise(self) -> float:
        """By how much at the most the loss was higher later than before, in those rounds."""
        lowest = [min(self.last[: i + 1]) for i in range(len(self.last))]
        return max((now - low for now, low in zip(self.last, lowest, strict=True)), default=0.0)

    @property
    def excess(self) -> float | None:
        """How far the loss is above that of guessing; None where that cannot be said."""
        known = "loss" in self.found and "loss" in self.uninformed and not self.weighted
        return self.found["loss"] - self.uninformed["loss"] if known else None

    # --- where it was learned ---

    @property
    def one_sided(self) -> Mapping[str, str]:
        """Sites whose test records are all of something, and of what; noise would hide it."""
        if self.facts.setup.private_tests:
            return {}
        per_site = self.facts.result.final.per_site.items()
        found = {site: self.facts.task.one_sided(metrics) for site, metrics in per_site}
        return {site: what for site, what in found.items() if what}

    @property
    def reversed(self) -> Mapping[str, tuple[Metric, float]]:
        """Sites where a model that has learned does surely worse than guessing, and in what."""
        fairness, sizes = self.facts.result.fairness, self.facts.result.data.sites
        if fairness is None or self.better is None:
            return {}
        return {
            site: (metric, one.value)
            for site, measured in fairness.per_site.items()
            for metric in self.facts.task.metrics_known
            if (one := measured.get(metric.name)) and _surely_worse(metric, one)
            if (sizes[site].test or FEWEST) >= _FEW
        }

    @property
    def reversed_found(self) -> Sequence[Message]:
        """In what, and how badly."""
        return [
            message("%(metric)s %(value)s", metric=message(m.title), value=Figure(value, ".3f"))
            for m, value in self.reversed.values()
        ]

    # --- what it cost ---

    @property
    def budget(self) -> float | None:
        """The epsilon that the run may spend; None where its noise is given, or there is none."""
        budget: float | None = getattr(self.facts.config.privacy, "epsilon", None)
        return budget

    @property
    def left(self) -> float:
        """What of the budget is not spent."""
        return max(0.0, (self.budget or 0.0) - (self.facts.result.privacy.epsilon or 0.0))


def _surely_worse(metric: Metric, one: Measured) -> bool:
    """Whether it is below guessing whichever records are drawn; without an interval all agree."""
    if metric.guessing is None:
        return False
    ends = [end for end in (one.low, one.high) if end is not None] or [one.value]
    return max(metric.rank(end) for end in ends) < metric.rank(metric.guessing)


# --- the questions ---------------------------------------------------------------------------


def _ended(run: Judged) -> Light | None:
    status = run.facts.result.status
    return None if status == "finished" else "red" if status == "failed" else "amber"


def _kept_promise(run: Judged) -> Light | None:
    audit = run.facts.result.audit
    if audit is None or not (audit.broken or run.facts.audited):
        return None
    return "red" if audit.broken else "green"


def _honest(run: Judged) -> Light | None:
    return "red" if run.facts.refused or run.facts.named else None


def _everybody(run: Judged) -> Light | None:
    return "amber" if run.facts.result.declined else None


def _tested(run: Judged) -> Light:
    if not run.found:
        return "red"
    records = run.facts.test_records
    small = records is not None and records < FEWEST
    return "amber" if small or run.untested or run.few or run.vague else "green"


def _chosen(run: Judged) -> Light | None:
    found = run.facts.result.validation
    if found is None or not run.found:
        return None
    return "green" if found.best and run.few_chosen_by is None else "amber"


def _learned(run: Judged) -> Light | None:
    one_answer = bool(run.facts.task.warning(run.found))
    if not run.judging:
        return "amber" if one_answer else None
    if run.better is None:
        return "red"
    return "amber" if one_answer or run.better != run.judging[0] else "green"


def _near_baseline(run: Judged) -> Light | None:
    if run.skill is None:
        return None
    share = run.skill[1]
    return "green" if share >= _MOST_OF_IT else "amber" if share >= _HALF_OF_IT else "red"


def _settled(run: Judged) -> Light | None:
    if run.diverged:
        return "red"
    if not run.last or run.facts.setup.private_tests:  # their noise swings by itself
        return None
    swings = run.rise > max(_LEAST_SWING, _SWING * min(run.last))
    return "amber" if swings else "green"


def _probable(run: Judged) -> Light | None:
    if run.excess is None or run.excess <= 0:
        return None
    return "red" if run.better is None else "amber"


def _several_classes(run: Judged) -> Light | None:
    return "amber" if run.one_sided else None


def _right_way_round(run: Judged) -> Light | None:
    return "red" if run.reversed else None


def _delta_fits(run: Judged) -> Light | None:
    if not run.facts.private:
        return None
    published = run.facts.delta_times_units
    return "green" if published <= 0.1 else "amber" if published < 1 else "red"


def _budget_left(run: Judged) -> Light:
    epsilon = run.facts.result.privacy.epsilon
    return "green" if epsilon is not None and epsilon <= _LARGE_EPSILON else "amber"


def _begun(run: Judged) -> Light | None:
    parent, privacy = run.facts.config.parent, run.facts.result.privacy
    if parent is None or not run.facts.private:
        return None
    covered = parent.epsilon is not None and parent.unit == privacy.unit
    return None if covered else "amber"


def _protected(run: Judged) -> Light:
    sealed = run.facts.config.transport.kind != "plain"
    return "green" if sealed and run.facts.setup.sum_only else "amber"


_QUESTIONS: Final[Mapping[str, Callable[[Judged], Light | None]]] = {
    "kept_promise": _kept_promise,
    "ended": _ended,
    "honest": _honest,
    "declined": _everybody,
    "learned": _learned,
    "reversed": _right_way_round,
    "baseline": _near_baseline,
    "settled": _settled,
    "probable": _probable,
    "chosen": _chosen,
    "tested": _tested,
    "one_sided": _several_classes,
    "delta": _delta_fits,
    "budget": _budget_left,
    "begun": _begun,
    "protected": _protected,
}
"""By the block of `verdict.md` that answers each."""
