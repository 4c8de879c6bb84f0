"""What an audit by lying sites found: the contents of `poison.json`.

Plain data, schema `fedlearn/poison/v1`; keys may be added but never renamed.
`simulations.attacks.poison` measures it; a report shows it where its folder has one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fedlearn.core.errors import counted
from fedlearn.results.folder import write_json
from fedlearn.results.reading import read_beside
from fedlearn.tasks import metric_called

SCHEMA: Final = "fedlearn/poison/v1"
FILE: Final = "poison.json"
HONEST: Final = "honest"
"""What stands for an attack where all sites are honest."""

Level = Literal["held", "hurt", "lost"]
"""How much of an attack is left: within `HELD`, within `HURT`, more."""

HELD: Final = (0.02, 0.1)
HURT: Final = (0.05, 0.3)
"""What is lost of the metric, and by how much more often the mark of a backdoor works."""


@dataclass(frozen=True, kw_only=True)
class PoisoningFacts:
    """One attack: its name, and what it does in a sentence."""

    kind: str
    says: str
    plants: bool


@dataclass(frozen=True, kw_only=True)
class RuleFacts:
    """One rule: under which secure aggregation it ran, or why the study has no room for it.

    `cpu_seconds` and `bytes` are those of a run of honest sites.
    """

    kind: str
    secagg: str
    cpu_seconds: float | None
    bytes: float | None
    left_out: str = ""


@dataclass(frozen=True, kw_only=True)
class PoisonRow:
    """An attack against a rule: means over `runs` runs, one a seed.

    Everything but the sites of `named` is measured on the test records of the sites that are
    honest under this attack.
    """

    rule: str
    attack: str
    liars: list[str]
    runs: int
    value: float
    """The metric of the audit."""
    spread: float
    """Standard deviation between the runs; 0 of one."""
    lost: float
    """How far it is below that of the runs where these sites' fellows are honest too, same rule."""
    backdoor: float | None
    """Of records with the mark whose answer is another: the share for which the model finds the
    attacker's answer likelier than theirs; None where the attack plants no backdoor."""
    backdoor_before: float | None
    """The same of the model that honest sites have made."""
    refused: float
    """Rounds that were refused."""
    named: float
    """Liars among the sites that the run suspects at its end."""
    false_alarms: float
    """Honest sites among them."""
    ended: int
    """Runs that ended before their last round."""

    @property
    def level(self) -> Level:
        """How much of the attack is left, by the worse of the two."""
        opened = (self.backdoor or 0.0) - (self.backdoor_before or 0.0)
        if self.lost <= HELD[0] and opened <= HELD[1]:
            return "held"
        return "hurt" if self.lost <= HURT[0] and opened <= HURT[1] else "lost"


@dataclass(frozen=True, kw_only=True)
class Poison:
    """The whole of `poison.json`."""

    schema: str = SCHEMA
    version: str
    experiment: str
    command: str
    """What was asked for, so that it can be asked for again."""
    sites: list[str]
    seeds: list[int]
    rounds: int
    privacy: str
    epsilon: float | None
    metric: str
    """By its name, what models were tried by."""
    trigger: str
    """What the mark of a backdoor is."""
    attacks: list[PoisoningFacts]
    rules: list[RuleFacts]
    rows: list[PoisonRow]

    def called(self, row: PoisonRow) -> str:
        """The attack of a row, with the number of its liars where most others have another."""
        usual = Counter(len(one.liars) for one in self.rows if one.liars).most_common(1)
        odd = row.liars and len(row.liars) != usual[0][0]
        name = row.attack.replace("_", " ")
        return f"{name} ({counted(len(row.liars), 'site')})" if odd else name

    def row(self, rule: str, attack: str) -> PoisonRow | None:
        """An attack against a rule; None where it was not measured."""
        found = (row for row in self.rows if (row.rule, row.attack) == (rule, attack))
        return next(found, None)

    @property
    def measured(self) -> list[RuleFacts]:
        """The rules that the study has room for."""
        return [rule for rule in self.rules if not rule.left_out]

    @property
    def refused(self) -> list[RuleFacts]:
        """The others."""
        return [rule for rule in self.rules if rule.left_out]


COLUMNS: Final = (
    "value",
    "points lost",
    "backdoor",
    "refused",
    "named",
    "false",
    "ended",
    "CPU s",
    "MB",
)
"""Of the table, behind rule and attack."""


def cells(found: Poison, row: PoisonRow) -> tuple[str, ...]:
    """The cells of `COLUMNS`; empty where there is nothing to say."""
    cost = next((one for one in found.measured if one.kind == row.rule), None)
    honest, several = row.attack == HONEST, row.runs > 1
    seconds = cost.cpu_seconds if honest and cost else None
    moved = cost.bytes if honest and cost else None
    before = "" if row.backdoor_before is None else f" ({row.backdoor_before:.0%})"
    return (
        f"{row.value:.3f}" + (f" ± {row.spread:.3f}" if several else ""),
        "" if honest else f"{round(100 * row.lost, 1) + 0.0:.1f}",
        "" if row.backdoor is None else f"{row.backdoor:.0%}{before}",
        f"{row.refused:.1f}" if row.refused else "",
        f"{row.named:.1f} of {len(row.liars)}" if row.named or (row.refused and not honest) else "",
        f"{row.false_alarms:.1f}" if row.false_alarms else "",
        f"{row.ended} of {row.runs}" if row.ended else "",
        "" if seconds is None else f"{seconds:.1f}",
        "" if moved is None else f"{moved / 1e6:.2f}",
    )


def meaning(found: Poison) -> str:
    """What the table shows, in a sentence or two."""
    metric = metric_called(found.metric).title
    return (
        f"{metric} on the test records of the honest sites, and points of it lost against a run of "
        f"honest sites under the same rule; means over {len(found.seeds)} "
        f"{'run' if len(found.seeds) == 1 else 'runs'} of {found.rounds} rounds. Backdoor: share "
        "of marked records with the wrong answer (before). Refused: rounds. Named: liars among "
        "the suspects; false: honest sites among them. Ended: runs before their last round. CPU "
        "and MB: of an honest run."
    )


def write_poison(folder: Path, found: Poison) -> None:
    """Write `poison.json`."""
    write_json(folder / FILE, found)


def read_poison(folder: Path) -> Poison | None:
    """What an audit has left in `folder`; None where there was none.

    Raises:
        DataError: the file is not one that this version reads.
    """
    return read_beside(Poison, folder / FILE, schema=SCHEMA, what="an audit by lying sites")
