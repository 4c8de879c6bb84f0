"""Promised against measured: the tables of an audit, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from fedlearn.auditing.findings import CHECKS, SEATS, Attack, Bound, Check, Estimator, Findings
from fedlearn.core.language import ENGLISH, Locale, Message, message
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
    language: Locale = ENGLISH

    @property
    def texts(self) -> Texts:
        """The sentences: `verdict`, `about` the bounds, `attacks`."""
        return measured_texts(self.found, self.language)

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
            (
                SEATS[view.seat],
                _rate(view.auc, self.language),
                *(_bound(view.bound(e), self.language) for e in self._shown),
            )
            for view in self.found.views
        )

    @property
    def checks(self) -> tuple[Row, ...]:
        """What was looked at in whole updates, its chance, and whether it is as promised."""
        return tuple(
            (CHECKS[check.name], _chance(check.p_value, self.language), _outcome(check))
            for check in self.found.checks
        )

    @property
    def attacks(self) -> tuple[Row, ...]:
        """How well attacks tell training from test records, and the most that is allowed."""
        return tuple(_attack(attack, self.language) for attack in self.found.attacks)

    @property
    def _shown(self) -> tuple[Estimator, ...]:
        return tuple(dict.fromkeys(b.estimator for view in self.found.views for b in view.bounds))


def measured_texts(found: Findings | None, language: Locale = ENGLISH) -> Texts:
    """The sentences about an audit, where there was one."""
    values: dict[str, Any] = {
        "audit": found,
        "seats": SEATS,
        "estimators": ESTIMATORS,
        "language": language,
    }
    text: Texts = texts(values, "measured")["measured"]
    return text


def measured_cell(found: Findings | None, language: Locale = ENGLISH) -> str:
    """The first bound and its ceiling in a few characters."""
    if found is None or not found.canaries:
        return "-"
    bound, ceiling = finite(found.lower_bound, language), finite(found.ceiling, language)
    return str(language.say(message("%(bound)s of %(ceiling)s", bound=bound, ceiling=ceiling)))


def _bound(bound: Bound | None, language: Locale) -> str | Message:
    if bound is None:
        return "-"
    lowest = finite(bound.lower_bound, language)
    if bound.estimator == "gaussian":
        likely = finite(bound.estimate, language)
        return message("%(lowest)s, likely %(likely)s (no ceiling)", lowest=lowest, likely=likely)
    return f"{lowest} ({finite(bound.ceiling, language)})"


def _chance(value: float | None, language: Locale) -> str:
    return "-" if value is None else language.number(value, ".2g")


def _outcome(check: Check) -> Message:
    return (
        message("holds") if check.holds else message("DOES NOT HOLD: %(where)s", where=check.where)
    )


def _rate(value: float | None, language: Locale) -> str:
    return "-" if value is None else language.number(value, ".3f")


def _attack(attack: Attack, language: Locale) -> Row:
    limited = partial(_limited, language=language)
    return (
        ATTACKS[attack.name],
        limited(attack.auc, attack.auc_ceiling, ".3f"),
        limited(attack.tpr_1, attack.tpr_1_ceiling, ".1%"),
        limited(attack.tpr_01, attack.tpr_01_ceiling, ".1%"),
    )


def _limited(value: float, ceiling: float | None, form: str, language: Locale) -> str:
    shown = language.number(value, form)
    return shown if ceiling is None else f"{shown} ({language.number(ceiling, form)})"
