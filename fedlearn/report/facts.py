"""The one table of facts behind statement, card, report and checklist.

Facts are computed once, from a config (`fedlearn.report.setup`: who could learn what) or from a
result (`Facts`: what was found). The sentences about them are templates (`fedlearn.report.texts`),
and what is said of a kind of mechanism, masks or transport stands in the template of that
kind, so that nothing here asks for one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any, Final

from jinja2 import UndefinedError

from fedlearn.algorithms import cohort_size
from fedlearn.config import RunConfig, load, sizes_of
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.language import ENGLISH, Figure, Locale, Message, message
from fedlearn.mechanisms import NoPrivacy
from fedlearn.metrics.scores import FEWEST
from fedlearn.privacy.calibration import fitting_delta
from fedlearn.report.measured import measured_texts
from fedlearn.report.setup import Setup
from fedlearn.report.statement import Paragraph, Statement, statement_for, surest
from fedlearn.results.reading import task_of
from fedlearn.results.result import ResultFile, Suspect, sites_of_refused, total_of
from fedlearn.robust import NotRobust, suspects
from fedlearn.robust.chance import Chance, chances
from fedlearn.secagg.graph import Degree, degree_of, part_of
from fedlearn.secagg.proven_messages import UNPROVED
from fedlearn.secagg.settings import SecAggMasked
from fedlearn.tasks import Task

VERSIONS: Final = ("python", "torch", "flwr", "opacus", "cryptography")


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What a result says, ready to be put into words; `hashes` are those of its files."""

    result: ResultFile
    hashes: Mapping[str, str]
    language: Locale = ENGLISH
    """What the texts are in."""

    @cached_property
    def config(self) -> RunConfig:
        """The config of the run, with today's defaults for what it does not say."""
        return load(self.result.config)

    @cached_property
    def setup(self) -> Setup:
        """Who could learn what; noise that anybody can repeat protects nobody."""
        mechanism = self.config.privacy if self.private else NoPrivacy()
        return Setup(config=self.config, mechanism=mechanism)

    @cached_property
    def texts(self) -> dict[str, Any]:
        """Every text about the run."""
        values = {
            "facts": self,
            "language": self.language,
            "result": self.result,
            "privacy": self.result.privacy,
            "hashes": self.hashes,
            "titles": {},
            "fairness": self.result.fairness,
            "measured": measured_texts(self.result.audit, self.language),
            "fewest_scores": FEWEST,
        }
        return self.setup.texts(values, "card", "statement", "checklist", "whom", "own")

    @property
    def title(self) -> str:
        """What the run is called: its purpose, its own file, or its experiment."""
        path = getattr(self.config.scenario, "path", None)
        if not path:
            return self.config.purpose.rstrip(".") or self.config.experiment
        own = PurePath(str(path)).name
        asked = self.config.purpose.rstrip(".") or getattr(self.config.scenario, "label", "") or ""
        return f"{asked} ({own})" if asked else own

    # --- privacy ---

    @cached_property
    def promise(self) -> Statement:
        """The privacy statement; of a run before results kept what it is made of, in English."""
        found, privacy = self.result.privacy.promise, self.result.privacy
        if found is None or self.result.model.input is None:
            lines = privacy.statement.split("\n\n")
            return Statement(
                paragraphs=tuple(Paragraph(name="", title="", lines=(line,)) for line in lines)
            )
        try:
            return statement_for(
                found,
                self.config,
                self.result.model.input,
                epsilon=privacy.epsilon,
                language=self.language,
            )
        except (AttributeError, TypeError, ValueError, UndefinedError) as error:
            raise DataError(f"privacy.promise: not what a run keeps of it: {error}") from None

    @property
    def mechanism_numbers(self) -> Sequence[str]:
        """Noise, clip norm and sampling, each with its name."""
        say, found = self.language.say, self.result.privacy
        named = {
            "noise multiplier": found.noise_multiplier,
            "clip norm": found.clip_norm,
            "sampling": found.sampling,
        }
        known = {name: value for name, value in named.items() if value is not None}
        return [f"{say(name)} {self._shown(value)}" for name, value in known.items()]

    def _shown(self, value: float | str) -> str:
        say = self.language.say
        return str(say(value) if isinstance(value, str) else say(Figure(value, "g")))

    @property
    def private(self) -> bool:
        """Whether any epsilon holds."""
        return self.result.privacy.epsilon is not None

    @property
    def surest(self) -> float:
        """How sure, in percent, a guesser at even odds can be: e^epsilon / (1 + e^epsilon)."""
        epsilon = self.result.privacy.epsilon
        return math.nan if epsilon is None else surest(epsilon)

    @property
    def units(self) -> int:
        """How many are protected."""
        sites = self.result.data.sites
        planned = math.ceil(self.config.training.nominal_records) * len(sites)
        if self.result.privacy.unit == "person":  # how many there are no site has told
            return planned
        if self.result.privacy.unit == "record":
            return self.train_records if self.train_records is not None else planned
        return len(sites)

    @property
    def delta_times_units(self) -> float:
        """Units that delta would allow to be published."""
        return (self.result.privacy.delta or 0.0) * self.units

    @property
    def fitting_delta(self) -> float:
        """One that is far enough below one over their number."""
        return fitting_delta(self.units)

    @property
    def epsilon_rdp(self) -> float | None:
        """By the cruder accountant, the largest over the sites."""
        found = [spent.epsilon_rdp for spent in self.result.privacy.per_site.values()]
        return max((value for value in found if value is not None), default=None)

    @property
    def audited(self) -> bool:
        """Whether an audit has measured anything."""
        return self.result.audit is not None and self.result.audit.canaries > 0

    @property
    def cohort(self) -> int:
        """Sites whose updates are in one sum, at least."""
        sites = cohort_size(self.config.strategy, len(self.result.data.sites))
        return self.config.robust.together(sites)

    @property
    def groups(self) -> bool:
        """Whether a round has several sums."""
        return self.cohort < cohort_size(self.config.strategy, len(self.result.data.sites))

    @property
    def degree(self) -> Degree | None:
        """What the masks of a round withstand; None without masks, or if too few sites are left."""
        return degree_in(self.config, self.cohort)

    @property
    def chances(self) -> Sequence[Chance]:
        """How likely chance puts colluders together, where sums are of groups and hide updates."""
        if not (self.groups and self.config.secagg.hides):
            return ()
        sites, cohort = len(self.result.data.sites), self.cohort
        degree, share = self.degree, getattr(self.config.secagg, "corrupt_fraction", 0.0)
        # With two servers the coordinator may leave out whom it likes, down to the least of a sum.
        withstood = min(cohort - 2, degree.corrupt if degree else self.fewest - 2)
        sizes = sizes_of(self.config, sites)
        return chances(sizes, withstood, part_of(share, sites), self.config.most_rounds)

    @property
    def open_to(self) -> str:
        """What a site that lies could have done, by the rule that the run was held to."""
        if len(self.result.data.sites) < 2:
            return ""
        rule = self.config.robust
        held = self.result.protection.robust == rule.kind
        return (rule if held else NotRobust()).open_to

    @property
    def fewest(self) -> int:
        """Sites in a sum that is opened."""
        masks = _masks_of(self.config, self.cohort)
        if masks is not None:
            return masks.min_cohort
        return max(self.config.secagg.least, self.config.privacy.fewest(self.cohort))

    # --- data and model ---

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics that were measured anywhere."""
        final = self.result.final
        return tuple(
            dict.fromkeys([*final.evaluate, *(n for m in final.per_site.values() for n in m)])
        )

    @property
    def train_records(self) -> int | None:
        """Over all sites; None where one keeps it to itself."""
        return total_of(size.train for size in self.result.data.sites.values())

    @property
    def test_records(self) -> int | None:
        """Over all sites; None where one keeps it to itself."""
        return total_of(size.test for size in self.result.data.sites.values())

    @property
    def validation_records(self) -> int | None:
        """Over all sites; None where one keeps it to itself."""
        return total_of(size.validation for size in self.result.data.sites.values())

    @property
    def missed(self) -> Mapping[str, int]:
        """Rounds in which a site was invited and is missing, by site."""
        missed = Counter(site for each in self.result.rounds for site in each.clients.dropped)
        return dict(sorted(missed.items()))

    @property
    def missed_counted(self) -> Sequence[Message]:
        """The same in words."""
        return [message("%(site)s in %(count)s", site=s, count=n) for s, n in self.missed.items()]

    @property
    def refused(self) -> Sequence[int]:
        """Rounds whose sum honest sites could not have made."""
        return [each.round for each in self.result.rounds if each.refused is not None]

    @property
    def named(self) -> Sequence[Suspect]:
        """Who was left out from a round on, and why."""
        return [one for each in self.result.rounds for one in each.named]

    @property
    def unused(self) -> int:
        """Sums of groups that were refused where the round went on without them."""
        return sum(len(each.unused) for each in self.result.rounds)

    @property
    def suspects(self) -> Sequence[str]:
        """The sites that were in every sum that was refused, if none is left out for it."""
        return [] if self.named else suspects(sites_of_refused(self.result.rounds))

    @property
    def unproved(self) -> Mapping[str, int]:
        """Sites whose proof did not hold, and in how many rounds."""
        dropped = (each.clients.dropped.items() for each in self.result.rounds)
        failed = Counter(s for sites in dropped for s, reason in sites if reason == UNPROVED)
        return dict(sorted(failed.items()))

    @property
    def dealt(self) -> bool:
        """Whether sites are parts of one set of records."""
        return self.config.partition.deals

    @property
    def bounded(self) -> bool:
        """Whether numbers are cut off at public ranges."""
        scaling = self.result.config["scenario"].get("scaling") or {}
        return scaling.get("kind") == "ranges" and bool(scaling.get("columns"))

    @cached_property
    def task(self) -> Task:
        """What was learned: it has words of its own for that."""
        return task_of(self.result)

    @property
    def expected(self) -> float:
        """Share of the second class by the model's probabilities."""
        return self._weighed((group.count, group.predicted) for group in self._scores)

    @property
    def observed(self) -> float:
        """Share of the second class in fact."""
        return self._weighed((group.count, group.observed) for group in self._scores)

    @property
    def _scores(self) -> Iterable[Any]:
        return self.result.calibration.groups if self.result.calibration else ()

    @staticmethod
    def _weighed(pairs: Iterable[tuple[int, float]]) -> float:
        found = list(pairs)
        return sum(count * share for count, share in found) / sum(count for count, _ in found)

    @property
    def settings(self) -> str:
        """The config as YAML, as it may be shown to everybody."""
        return yaml_file.dump(public_settings(self.result.config))

    versions = VERSIONS


def public_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what only says where things lay on the machine of the run."""

    def cut(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: cut(child) for key, child in node.items()}
        if isinstance(node, list):
            return [cut(child) for child in node]
        if isinstance(node, str) and PurePath(node).is_absolute():
            return PurePath(node).name
        return node

    return {key: cut(value) for key, value in config.items() if key not in ("out", "resume")}


def degree_in(config: RunConfig, cohort: int) -> Degree | None:
    """Who holds shares of the masks of a site in a round of that cohort, and how many may lie.

    None without masks, and where no such round could be summed.
    """
    masks = _masks_of(config, cohort)
    try:
        return None if masks is None else degree_of(masks, cohort)
    except ConfigError:
        return None


def _masks_of(config: RunConfig, cohort: int) -> SecAggMasked | None:
    privacy = config.privacy
    return config.secagg.against(privacy.colluders, privacy.fewest(cohort))
