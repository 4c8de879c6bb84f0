"""What an audit has found, as plain data: the `audit` of `result.json`.

Names are fixed by the contract with those who script against it; keys may be
added but never renamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from fedlearn.core.errors import PromiseBrokenError

Estimator = Literal["one_run", "f_dp", "clopper_pearson", "gaussian"]

VerdictText = Literal["consistent with the promise", "PROMISE BROKEN", "no promise was made"]

BROKEN: Final = "PROMISE BROKEN"

NOT_JUDGED: Final = "not judged: the run carried no canaries"

Seat = Literal["update", "sum", "model"]

SEATS: Final[dict[Seat, str]] = {
    "update": "one site's update, before any mask",
    "sum": "the sum over sites that secure aggregation opens",
    "model": "the final model",
}
"""Where an attacker may sit, in words."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A lower bound on epsilon at confidence `1 - alpha`.

    `ceiling` is what the same estimator would have said had every guess been
    right: a run may be worse than that and the audit would not know. It is
    null for the Gaussian estimator, which has none. Zero is no evidence of a
    leak, not evidence of privacy.
    """

    estimator: Estimator
    lower_bound: float | None
    """Null for infinite."""
    ceiling: float | None
    estimate: float | None
    """The likeliest epsilon, where the estimator has one; null for infinite."""
    assumes: str


@dataclass(frozen=True, kw_only=True)
class View:
    """What an attacker learns about the canaries on one seat; `auc` of guessing in against out."""

    seat: Seat
    auc: float | None
    bounds: list[Bound]

    def bound(self, estimator: Estimator) -> Bound | None:
        """The bound of one estimator, if it applies."""
        return next((bound for bound in self.bounds if bound.estimator == estimator), None)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Telling training from test records by the final model.

    `auc` is the area under the curve of true over false alarms; `tpr_1` and
    `tpr_01` are the rates of members found at 1 and at .1 percent false alarms.
    The ceilings are the most that the promise allows; null without a promise.
    """

    name: Literal["loss", "rmia", "lira"]
    members: int
    others: int
    auc: float
    tpr_1: float
    tpr_01: float
    auc_ceiling: float | None
    tpr_1_ceiling: float | None
    tpr_01_ceiling: float | None


CheckName = Literal[
    "noise_size",
    "noise_of_layers",
    "noise_of_draws",
    "noise_at_a_distance",
    "noise_of_directions",
    "noise_law",
    "noise_of_records",
    "noise_of_counts",
    "draws",
    "draws_of_records",
    "draws_of_steps",
    "clipped_sum",
    "traces",
    "optimizer",
    "accounting",
    "source",
    "source_draws",
    "noise_of_tests",
    "sums_of_tests",
    "source_of_tests",
    "noise_of_tables",
    "sums_of_tables",
    "source_of_tables",
]

CHECKS: Final[dict[CheckName, str]] = {
    "noise_size": "the noise has the size that was promised, on every layer and in every draw",
    "noise_of_layers": "no two layers have the same noise",
    "noise_of_draws": "no two steps or rounds have the same noise",
    "noise_at_a_distance": "noise does not begin again within an update",
    "noise_of_directions": "every coordinate, and every direction across many, has its noise",
    "noise_law": "the noise is normal",
    "noise_of_records": "the noise has nothing to do with the records",
    "noise_of_counts": "the count of updates within the norm has its noise",
    "draws": "a record takes part once at most in a step",
    "draws_of_records": "every record takes part as often as was planned",
    "draws_of_steps": "records take part by coins of their own, fresh in every step",
    "clipped_sum": "the sum is that of clipped gradients, by another computation of it",
    "traces": "records leave nothing but their clipped sum, bit for bit",
    "optimizer": "the optimiser has nothing but the noisy sums",
    "accounting": "epsilon is no less than another accountant gives for what is done",
    "source": "noise and coins come from the operating system",
    "source_draws": "noise and coins have nothing to do with one another",
    "noise_of_tests": "every test sum of every round has noise of its own, as was paid for",
    "sums_of_tests": "under the noise are the sums of single test records, each within its bound",
    "source_of_tests": "the noise on test sums comes from the operating system",
    "noise_of_tables": "sums that tables are compared by have noise of their own, as was paid for",
    "sums_of_tables": "under it are the places of single records, each within its bound",
    "source_of_tables": "the noise on these sums comes from the operating system",
}
"""What is looked at in whole updates, as it should be."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Whether one of `CHECKS` holds; `where` it does not.

    `p_value` is the chance of something as strange if all is as promised, for all tests of the
    check together; null where chance plays no part.
    """

    name: CheckName
    holds: bool
    p_value: float | None
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The first bound in a line (of one seat and one estimator), and everything else below it."""

    kind: Literal["slots", "mislabelled", "membership"]
    seat: Seat
    estimator: Estimator | Literal["none"]
    canaries: int
    alpha: float
    lower_bound: float | None
    """Null for infinite."""
    ceiling: float | None
    verdict: VerdictText | Literal["not judged: the run carried no canaries"]
    p_value: float | None
    """The chance of guessing this well if the promise holds."""
    promised: float | None
    delta: float
    views: list[View] = field(default_factory=list)
    attacks: list[Attack] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    """Of whole updates; empty where nothing is promised to a record, and in results of before."""

    @property
    def broken(self) -> bool:
        """Whether the run gives away more than it promises."""
        return self.verdict == BROKEN

    def checked(self, checks: Sequence[Check]) -> Findings:
        """The same with `checks`; one that does not hold breaks the promise."""
        broken = self.broken or not all(check.holds for check in checks)
        return replace(self, checks=list(checks), verdict=BROKEN if broken else self.verdict)


def refuse_broken(found: Mapping[str, Findings | None]) -> None:
    """Let nobody take a broken promise for a finished run; `found` is by the name of the run.

    Raises:
        PromiseBrokenError: with every run whose audit says so.
    """
    broken = [name for name, one in found.items() if one is not None and one.broken]
    if broken:
        raise PromiseBrokenError(
            "\n".join(
                f"{BROKEN}: {name} gives away more than its epsilon; its report has the numbers"
                for name in broken
            )
        )
