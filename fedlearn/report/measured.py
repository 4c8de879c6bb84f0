"""Promised against measured: the tables of an audit, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fedlearn.auditing.findings import CHECKS, SEATS, Attack, Bound, Check, Estimator, Findings
from fedlearn.report.texts import Texts, finite, texts

ESTIMATORS: Final[Mapping[Estimator, str]] = {
    "one_run": "one run",
    "f_dp": "f-DP",
    "clopper_pearson": "Clopper-Pearson",
    "gaussian": "Gaussian",
}
ATTACKS: Final = {"loss": "loss", "rmia": "RMIA", "lira": "LiRA"}

Row = tuple[str, ...]
"""A line of a table: a name and its cells."""


@dataclass(frozen=True, kw_only=True)
class MeasuredPrivacy:
    """What an audit has found; tables without rows are left out."""

    found: Findings

    @property
    def texts(self) -> Texts:
        """The sentences: `verdict`, `about` the bounds, `attacks`."""
        return measured_texts(self.found)

    @property
    def broken(self) -> bool:
        """Whether the promise did not hold."""
        return self.found.broken

    @property
    def columns(self) -> Row:
        """The headings of `bounds`, that of the names apart."""
        return ("AUC", *(ESTIMATORS[estimator] for estimator in self._shown))

    @property
    def bounds(self) -> tuple[Row, ...]:
        """What is measured at every seat."""
        return tuple(
            (SEATS[view.seat], _rate(view.auc), *(_bound(view.bound(e)) for e in self._shown))
            for view in self.found.views
        )

    @property
    def checks(self) -> tuple[Row, ...]:
        """What was looked at in whole updates, its chance, and whether it is as promised."""
        return tuple(
            (CHECKS[check.name], _chance(check.p_value), _outcome(check))
            for check in self.found.checks
        )

    @property
    def attacks(self) -> tuple[Row, ...]:
        """How well attacks tell training from test records, and the most that is allowed."""
        return tuple(map(_attack, self.found.attacks))

    @property
    def _shown(self) -> tuple[Estimator, ...]:
        return tuple(dict.fromkeys(b.estimator for view in self.found.views for b in view.bounds))


def measured_texts(found: Findings | None) -> Texts:
    """The sentences about an audit, where there was one."""
    values: dict[str, Any] = {"audit": found, "seats": SEATS, "estimators": ESTIMATORS}
    text: Texts = texts(values, "measured")["measured"]
    return text


def measured_cell(found: Findings | None) -> str:
    """The first bound and its ceiling in a few characters."""
    if found is None or not found.canaries:
        return "-"
    return f"{finite(found.lower_bound)} of {finite(found.ceiling)}"


def _bound(bound: Bound | None) -> str:
    if bound is None:
        return "-"
    if bound.estimator == "gaussian":
        return f"{finite(bound.lower_bound)}, likely {finite(bound.estimate)} (no ceiling)"
    return f"{finite(bound.lower_bound)} ({finite(bound.ceiling)})"


def _chance(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _outcome(check: Check) -> str:
    return "holds" if check.holds else f"DOES NOT HOLD: {check.where}"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _attack(attack: Attack) -> Row:
    return (
        ATTACKS[attack.name],
        _limited(attack.auc, attack.auc_ceiling, ".3f"),
        _limited(attack.tpr_1, attack.tpr_1_ceiling, ".1%"),
        _limited(attack.tpr_01, attack.tpr_01_ceiling, ".1%"),
    )


def _limited(value: float, ceiling: float | None, form: str) -> str:
    return f"{value:{form}}" if ceiling is None else f"{value:{form}} ({ceiling:{form}})"
