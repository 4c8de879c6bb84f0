"""What an audit has found, in a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedlearn.audit.findings import SEATS, Attack, Bound, Estimator, Findings

NAMES: dict[Estimator, str] = {
    "one_run": "one run",
    "f_dp": "f-DP",
    "clopper_pearson": "Clopper-Pearson",
    "gaussian": "Gaussian",
}


def show_findings(found: Findings, console: Console) -> None:
    """Bounds beside their ceilings, attacks beside theirs, and the verdict."""
    if found.views:
        console.print(_bounds(found))
    if found.attacks:
        console.print(_attacks(found.attacks))
    for note in found.notes:
        console.print(escape(note), soft_wrap=True)
    console.print(f"[bold]{escape(verdict_line(found))}[/]", soft_wrap=True)


def verdict_line(found: Findings) -> str:
    """Promised against measured, in a sentence."""
    promised = "nothing" if found.promised is None else f"epsilon {found.promised:.2f}"
    measured = (
        f"; measured on {SEATS[found.seat]}: at least {number(found.lower_bound)} of at most "
        f"{number(found.ceiling)} that {found.canaries} canaries could show"
        if found.canaries
        else ""
    )
    p = "" if found.p_value is None else f" (p = {found.p_value:.2g})"
    return f"Promised: {promised}{measured}. Verdict: {found.verdict}{p}."


def number(epsilon: float | None) -> str:
    """An epsilon for people; null is infinite."""
    return "infinity" if epsilon is None else f"{epsilon:.2f}"


def _bounds(found: Findings) -> Table:
    title = (
        f"epsilon at delta {found.delta:g}, at least, with confidence {1 - found.alpha:.0%}; "
        f"in brackets what {found.canaries} canaries could show at most"
    )
    table = Table(box=box.SIMPLE_HEAD, title=title, title_style="")
    shown = list(dict.fromkeys(b.estimator for view in found.views for b in view.bounds))
    table.add_column("an attacker who sees")
    table.add_column("AUC", justify="right")
    for estimator in shown:
        table.add_column(NAMES[estimator], justify="right")
    for view in found.views:
        cells = [_cell(view.bound(estimator)) for estimator in shown]
        auc = "-" if view.auc is None else f"{view.auc:.3f}"
        table.add_row(SEATS[view.seat], auc, *cells)
    return table


def _cell(bound: Bound | None) -> str:
    if bound is None:
        return "-"
    if bound.estimator == "gaussian":
        return f"{number(bound.lower_bound)} (likely {number(bound.estimate)})"
    return f"{number(bound.lower_bound)} ({number(bound.ceiling)})"


def _attacks(attacks: list[Attack]) -> Table:
    first = attacks[0]
    title = (
        f"was a record trained on? {first.members} that were, {first.others} that were not; "
        "in brackets the most that the promise allows"
    )
    table = Table(box=box.SIMPLE_HEAD, title=title, title_style="")
    for column in ("attack", "AUC", "found at 1% false alarms", "at .1%"):
        table.add_column(column, justify="left" if column == "attack" else "right")
    for one in attacks:
        table.add_row(
            one.name,
            f"{one.auc:.3f}{_limit(one.auc_ceiling, '.3f')}",
            f"{one.tpr_1:.1%}{_limit(one.tpr_1_ceiling, '.1%')}",
            f"{one.tpr_01:.1%}{_limit(one.tpr_01_ceiling, '.1%')}",
        )
    return table


def _limit(ceiling: float | None, form: str) -> str:
    return "" if ceiling is None else f" ({ceiling:{form}})"
