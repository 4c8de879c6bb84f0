"""Promised against measured, in words and tables: what an audit has found, for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedlearn.audit.findings import SEATS, Attack, Bound, Estimator, Findings

NAMES: Final[dict[Estimator, str]] = {
    "one_run": "one run",
    "f_dp": "f-DP",
    "clopper_pearson": "Clopper-Pearson",
    "gaussian": "Gaussian",
}
ATTACKS: Final = {"loss": "loss", "rmia": "RMIA", "lira": "LiRA"}
CARRIED: Final = {
    "slots": "canaries in audit slots, which travelled with every update",
    "mislabelled": "training records under a wrong label",
    "membership": "",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table: a name and its cells."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MeasuredPrivacy:
    """The section of a report; tables without rows are left out."""

    verdict: str
    broken: bool
    about: str
    columns: tuple[str, ...]
    bounds: tuple[Row, ...]
    attacks_about: str
    attacks: tuple[Row, ...]
    notes: tuple[str, ...]


def measured(found: Findings | None) -> MeasuredPrivacy | None:
    """What to say of an audit, where there was one."""
    if found is None:
        return None
    shown = tuple(dict.fromkeys(b.estimator for view in found.views for b in view.bounds))
    return MeasuredPrivacy(
        verdict=verdict_line(found),
        broken=found.verdict == "PROMISE BROKEN",
        about=_about(found),
        columns=("AUC", *(NAMES[estimator] for estimator in shown)),
        bounds=tuple(
            Row(
                name=SEATS[view.seat],
                cells=(_rate(view.auc), *(_cell(view.bound(name)) for name in shown)),
            )
            for view in found.views
        ),
        attacks_about=_attacks_about(found.attacks),
        attacks=tuple(_attack(attack) for attack in found.attacks),
        notes=tuple(found.notes),
    )


def verdict_line(found: Findings) -> str:
    """Promised against measured, in a sentence."""
    promised = "nothing" if found.promised is None else f"epsilon {found.promised:.2f}"
    p = "" if found.p_value is None else f" (p = {found.p_value:.2g})"
    return f"Promised: {promised}{_first(found)}. Verdict: {found.verdict}{p}."


def measured_cell(found: Findings | None) -> str:
    """The first bound and its ceiling in a few characters."""
    if found is None or not found.canaries:
        return "-"
    return f"{number(found.lower_bound)} of {number(found.ceiling)}"


def number(epsilon: float | None) -> str:
    """An epsilon for people; null is infinite."""
    return "infinity" if epsilon is None else f"{epsilon:.2f}"


def _first(found: Findings) -> str:
    if found.estimator == "none":
        return ""
    return (
        f"; measured on {SEATS[found.seat]}: at least {number(found.lower_bound)}, where "
        f"{found.canaries} canaries could have shown {number(found.ceiling)} "
        f"({NAMES[found.estimator]})"
    )


def _about(found: Findings) -> str:
    if not found.views:
        return ""
    return (
        f"Measured with {found.canaries} {CARRIED[found.kind]}. Epsilon at delta {found.delta:g} "
        f"is at least the number shown, with confidence {1 - found.alpha:.0%} for each. In "
        "brackets: what the estimator would have said had every guess been right, more than "
        "which this audit cannot see. Zero is no evidence of a leak, and no evidence of privacy."
    )


def _cell(bound: Bound | None) -> str:
    if bound is None:
        return "-"
    if bound.estimator == "gaussian":
        return f"{number(bound.lower_bound)}, likely {number(bound.estimate)} (no ceiling)"
    return f"{number(bound.lower_bound)} ({number(bound.ceiling)})"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _attacks_about(attacks: list[Attack]) -> str:
    if not attacks:
        return ""
    first = attacks[0]
    return (
        f"Was a record trained on? Guessed from the final model for {first.members} that were and "
        f"{first.others} that were not; in brackets the most that the promise allows to any attack."
    )


def _attack(attack: Attack) -> Row:
    cells = (
        _limited(attack.auc, attack.auc_ceiling, ".3f"),
        _limited(attack.tpr_1, attack.tpr_1_ceiling, ".1%"),
        _limited(attack.tpr_01, attack.tpr_01_ceiling, ".1%"),
    )
    return Row(name=ATTACKS[attack.name], cells=cells)


def _limited(value: float, ceiling: float | None, form: str) -> str:
    return f"{value:{form}}" if ceiling is None else f"{value:{form}} ({ceiling:{form}})"
