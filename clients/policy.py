"""The data owner's law: what a site takes part in, whatever the server asks for.

Checked before any data is read. The budget itself is kept by the ledger, which
knows what other runs have spent; here is refused what can be seen beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from clients.ledger.ledger import Budget
from fedlearn.core.errors import counted
from fedlearn.core.settings import Count, Name, Natural, Portion, Positive, Probability, config
from fedlearn.privacy.accounting import SMALLEST_DELTA
from fedlearn.secagg.graph import part_of, withstood
from fedlearn.secagg.settings import SecAggMasked

Transport = Literal["plain", "sealed"]
SecAgg = Literal["off", "ring", "masked", "two_server"]
Unit = Literal["none", "record", "person", "client"]
Evaluation = Literal["none", "private", "pooled", "per_site"]

_EXACT = ("pooled", "per_site")


@config
class Policy:
    """What the owner of a data set demands of every run on it; None demands nothing.

    What is left out is strict: to loosen it takes a word.

    `epsilon_total` at `delta` is for the life of the data, over all runs;
    `min_cohort` how few sites may be in a round, and in a sum that is opened;
    `unit` the unit of privacy ("none": any or none; "client" does not stand for
    "record", because its noise may be added by a server that sees the updates, nor does
    "person", whose promise to a single record is another one);
    `allow_models` the kinds of model that may be trained (None: any);
    `approved_code` the hashes of the fedlearn versions that may touch the data,
    as `fedlearn --version` prints them (None: any). It binds where a site runs
    the code that it has installed; code that a coordinator delivers could lie.
    `min_corrupt_fraction` is how much of the cohort of a masked sum, at least, may work with the
    coordinator without opening this one's update: what the masks of a round withstand must not
    be less. The default is that of runs, so that no coordinator lowers it unasked. Where a round
    has sums over groups, a group is such a cohort, and of it at least one site.
    `min_colluders` is the same for noise that comes in shares: so many may tell theirs.
    `allow_custom` what may touch the data besides fedlearn: functions that make a model
    (`model=custom`) and classes of installed packages, each with the SHA-256 of its source,
    which a refusal names; none unless they are listed.
    `evaluation` are the kinds of evaluation that may read test records (None: any in a
    simulation and where no unit is protected, else `none` and `private`); `max_evaluations`
    how many of them a run may ask for (None: as many as its config implies);
    `min_test_records` how many test records an exact sum has at the least (of fewer it is the sum
    of nobody, and no refusal tells); `group_columns` the
    columns by which test sums may be told apart (None: any in a simulation, else none; one that
    is dropped or identifies people never), and `smallest_group` the test records of a group
    whose exact sum is shown.
    `smallest_class` is how many training records of a class there are at the least where tables are
    compared by exact sums (of fewer they are those of nobody). Where the site's file says whose
    records are, these three count persons.
    `approval` says whether a study that all of this allows is taken part in at once (`none`), or
    once the owner has approved of its terms (`ask`: `fedlearn studies`, `fedlearn desk`). An
    approval allows nothing that this policy, or what is left of the budget, refuses.
    `on_findings` is what follows where screening finds a unit or labels to be wrong: the owner is
    warned, or the site takes no part in the run as well; `known_findings` are the columns, and
    `label`, that the owner has looked at and finds right.
    """

    epsilon_total: Positive | None = None
    delta: Probability = 1e-5
    unit: Unit = "record"
    min_cohort: Count = 3
    require_transport: Transport | None = "sealed"
    require_secagg: SecAgg | None = "masked"
    min_corrupt_fraction: Portion = 0.2
    min_colluders: Natural = 1
    allow_models: tuple[Name, ...] | None = None
    approved_code: tuple[Name, ...] | None = None
    allow_custom: dict[Name, Name] = field(default_factory=dict)
    evaluation: tuple[Evaluation, ...] | None = None
    max_evaluations: Count | None = None
    min_test_records: Count = 10
    group_columns: tuple[Name, ...] | None = None
    smallest_group: Count = 10
    smallest_class: Count = 10
    approval: Literal["none", "ask"] = "none"
    on_findings: Literal["warn", "refuse"] = "warn"
    known_findings: tuple[Name, ...] = ()

    @property
    def budget(self) -> Budget:
        """What the ledger enforces."""
        total = float("inf") if self.epsilon_total is None else self.epsilon_total
        unit = "record" if self.unit == "none" else self.unit
        return Budget(epsilon=total, delta=self.delta, unit=unit)


STRICT: Final = Policy(epsilon_total=1.0)
"""What an owner demands who has written nothing."""


def policy_problems(policy: Policy) -> list[str]:
    """What in a policy promises less than it seems to, with the way out."""
    found = []
    if policy.delta < SMALLEST_DELTA:
        found.append(f"policy.delta={policy.delta}: must be at least {SMALLEST_DELTA}")
    if policy.unit != "none" and policy.epsilon_total is None:
        found.append(
            f"policy.epsilon_total: must be given where policy.unit={policy.unit}: without a "
            "limit a run may add no noise at all. Set it, such as to 8.0, or policy.unit to none"
        )
    if policy.unit == "none" and policy.epsilon_total is not None:
        found.append(
            f"policy.epsilon_total={policy.epsilon_total:g}: limits nothing where "
            "policy.unit=none: a run without privacy costs none. Set "
            "policy.unit to record, or leave it out"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """What a server asks a site to take part in, and the code that would do it there.

    `delta` is None for a run without privacy, `cohort` where a message does not
    say how many sites a round has.
    """

    model: str
    unit: Unit
    delta: float | None
    cohort: int | None
    transport: Transport
    secagg: SecAgg
    code: str
    group: int | None = None
    """The fewest sites in a sum, where a round has several; None where all are in one."""
    opens: int | None = None
    """How few sites a sum is opened of by others than the sites, who do not see who is left in it;
    None where each site sees to that itself, or where updates are not hidden."""
    masks: SecAggMasked | None = None
    """Of a masked sum, sized for those who may know their shares of the noise; None for any
    other."""
    custom: tuple[tuple[str, str], ...] = ()
    """Functions and classes that are no part of fedlearn, such as what makes the model, and the
    SHA-256 of their source on this machine; empty where it is not here."""
    in_shares: bool = False
    """Whether every site adds a share of the noise alone, and how many sites may know theirs."""
    colluders: int = 0
    missing_shares: int = 0
    """By how many sites a sum may be smaller than the noise counts on."""
    deployed: bool = False
    """Whether the site is a machine of its own."""
    evaluation: Evaluation = "none"
    evaluations: int = 0
    """Rounds that are evaluated."""
    group_column: str = ""
    """What test sums are told apart by, if by anything, and the smallest group that is shown."""
    smallest_group: int = 0
    never_groups: tuple[str, ...] = ()
    """Columns of the site's data that nobody is told apart by: dropped, or identifying."""

    @property
    def together(self) -> tuple[int, ...]:
        """How many sites are in the sums of a round, as far as it is known: of a group, of all.

        The size of a group is known from the config alone, before anybody has joined.
        """
        return tuple(size for size in (self.group, self.cohort) if size is not None)


def refusals(policy: Policy, run: RunDescription) -> list[str]:
    """Every demand of the policy that the run does not meet, with the way out; empty: take part."""
    return [
        *_privacy_refusals(policy, run),
        *_company_refusals(policy, run),
        *_model_refusals(policy, run),
        *_custom_refusals(policy, run),
        *_code_refusals(policy, run),
        *_evaluation_refusals(policy, run),
        *_group_refusals(policy, run),
    ]


def _privacy_refusals(policy: Policy, run: RunDescription) -> list[str]:
    if policy.unit not in ("none", run.unit):
        return [
            f"policy.unit={policy.unit}: the run protects the unit {run.unit!r}. "
            f"{_way_to(policy.unit, run.unit)}"
        ]
    if policy.unit != "none" and run.in_shares and run.masks is None:
        # Two servers are one place as long as both run inside the coordinator.
        return [
            f"policy.unit={policy.unit}: the run's noise comes in shares, and secagg={run.secagg} "
            "lets one place see a single one. Choose secagg=masked, or a mechanism by which each "
            "site adds all of its noise"
        ]
    if policy.unit != "none" and run.in_shares and run.missing_shares > 0:
        return [
            f"policy.unit={policy.unit}: the run's noise counts on {run.missing_shares} more sites "
            "than a sum must hold. Raise secagg.min_cohort"
        ]
    if policy.unit != "none" and run.in_shares and _known(run) < policy.min_colluders:
        return [
            f"policy.min_colluders={policy.min_colluders}: the run's noise holds against "
            f"{counted(_known(run), 'site that works', 'sites that work')} with the "
            "coordinator. Raise privacy.max_colluders"
        ]
    if run.delta is not None and run.delta > policy.delta:
        return [
            f"policy.delta={policy.delta:g}: the run claims its epsilon at delta {run.delta:g}. "
            f"Set privacy.delta to {policy.delta:g} or less"
        ]
    return []


def _way_to(wanted: Unit, found: Unit) -> str:
    """How a run comes to protect what a policy asks for."""
    if wanted == "person":
        return "Set scenario.person to the column that says whose records are"
    if found == "person":
        return "Leave out scenario.person; or, where persons are meant, set policy.unit to person"
    return f"Choose privacy={wanted}"


def _company_refusals(policy: Policy, run: RunDescription) -> list[str]:
    found = []
    if run.cohort is not None and run.cohort < policy.min_cohort:
        found.append(
            f"policy.min_cohort={policy.min_cohort}: the round has {counted(run.cohort, 'site')}. "
            "Invite more sites"
        )
    if run.group is not None and run.group < policy.min_cohort:
        found.append(
            f"policy.min_cohort={policy.min_cohort}: the run sums groups of "
            f"{counted(run.group, 'site')}. "
            f"Set robust.size to {policy.min_cohort} or more"
        )
    if run.opens is not None and run.opens < policy.min_cohort:
        found.append(
            f"policy.min_cohort={policy.min_cohort}: the run opens sums of "
            f"{counted(run.opens, 'site')}. "
            f"Raise secagg.min_cohort to {policy.min_cohort}"
        )
    if policy.require_transport is not None and run.transport != policy.require_transport:
        found.append(
            f"policy.require_transport={policy.require_transport}: the run uses "
            f"{run.transport!r}. Choose transport={policy.require_transport}"
        )
    if policy.require_secagg is not None and run.secagg != policy.require_secagg:
        found.append(
            f"policy.require_secagg={policy.require_secagg}: the run uses {run.secagg!r}. "
            f"Choose secagg={policy.require_secagg}"
        )
    return [*found, *_mask_refusals(policy, run)]


def _mask_refusals(policy: Policy, run: RunDescription) -> Iterator[str]:
    """By what the masks of the round really withstand, once it is known who is in it."""
    least, masks = policy.min_corrupt_fraction, run.masks
    if masks is None:
        return
    holds = ""
    if run.cohort is None and masks.corrupt_fraction < least and not masks.corrupt_sites:
        holds = f"counts on {masks.corrupt_fraction:g}"
    for size in run.together:
        wanted, found = part_of(least, size), withstood(masks, size)
        if size == run.group and least > 0:
            wanted = max(1, wanted)
        if found < wanted:
            holds = f"withstands {found} of {counted(size, 'site')}"
    if holds:
        yield (
            f"policy.min_corrupt_fraction={least:g}: the run {holds} that work with the "
            f"coordinator. Set secagg.corrupt_fraction to {least:g} or more"
            + (", raise robust.size, or choose robust=bounded" if run.group else "")
        )


def _known(run: RunDescription) -> int:
    """How many sites may tell their shares: no more than the masks of any sum withstand."""
    if run.masks is None:
        return run.colluders
    return min([run.colluders, *(withstood(run.masks, size) for size in run.together)])


def _model_refusals(policy: Policy, run: RunDescription) -> list[str]:
    if policy.allow_models is None or run.model in policy.allow_models:
        return []
    return [
        f"policy.allow_models={list(policy.allow_models)}: the run trains {run.model!r}. "
        "Choose one of those models, or ask the owner of the data to allow this one"
    ]


def _custom_refusals(policy: Policy, run: RunDescription) -> Iterator[str]:
    for name, found in run.custom:
        if not found:
            yield (
                f"policy.allow_custom: the run uses {name}, which is not on this "
                "machine. Ask for its source, read it, and install it"
            )
        elif policy.allow_custom.get(name) != found:
            known = "of another source" if name in policy.allow_custom else "not listed"
            yield (
                f"policy.allow_custom: the run uses {name}, which is {known}. Read it, and "
                f"if it may see the data, write under policy: 'allow_custom: {{{name!r}: {found}}}'"
            )


def _code_refusals(policy: Policy, run: RunDescription) -> list[str]:
    if policy.approved_code is None or run.code in policy.approved_code:
        return []
    approved = ", ".join(policy.approved_code) or "none"
    return [
        f"policy.approved_code: fedlearn with the code {run.code} is installed here, and approved "
        f"is {approved}. Install an approved version, or approve this one"
    ]


def evaluation_allowed(policy: Policy, run: RunDescription) -> tuple[str, ...]:
    """The kinds of evaluation that the owner allows in such a run."""
    if policy.evaluation is not None:
        return policy.evaluation
    if run.deployed and policy.unit != "none":
        return ("none", "private")
    return ("none", "private", *_EXACT)


def _evaluation_refusals(policy: Policy, run: RunDescription) -> list[str]:
    found, allowed = [], evaluation_allowed(policy, run)
    if run.evaluation not in allowed:
        found.append(
            f"policy.evaluation={list(allowed)}: the run has evaluation={run.evaluation}. Choose "
            f"evaluation={'private' if 'private' in allowed else allowed[0] if allowed else 'none'}"
        )
    most = policy.max_evaluations
    if most is not None and run.evaluations > most:
        found.append(
            f"policy.max_evaluations={most}: the run evaluates {run.evaluations} times. "
            "Raise evaluate_every, or set evaluation=none"
        )
    return found


def _group_refusals(policy: Policy, run: RunDescription) -> list[str]:
    if not run.group_column:
        return []
    allowed, column, found = policy.group_columns, run.group_column, list[str]()
    if allowed is None and run.deployed:
        allowed = ()
    if allowed is not None and (column not in allowed or column in run.never_groups):
        # The same words whether there is such a column, and whatever it is here.
        found.append(
            f"policy.group_columns: test sums may not be told apart by fairness.column={column}. "
            "Set fairness=sites, or ask the owner of the data to allow the column"
        )
    if run.evaluation in _EXACT and run.smallest_group < policy.smallest_group:
        found.append(
            f"policy.smallest_group={policy.smallest_group}: the run shows groups of "
            f"fairness.smallest={run.smallest_group}. Raise it"
        )
    return found
