"""What the report of one run shows, from its result alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from fedlearn.core import yaml_file
from fedlearn.report import plots
from fedlearn.report.calibration import second_class
from fedlearn.report.checklist import MAP, Asked, Check, checklist
from fedlearn.report.comparison import traffic
from fedlearn.report.explained import Reasons, reasons
from fedlearn.report.explanations import Explanations
from fedlearn.report.measured import MeasuredPrivacy, measured
from fedlearn.report.model_card import Fact, ModelCard, model_card, public_settings
from fedlearn.report.privacy_statement import PrivacyStatement, privacy_statement, rounded_up
from fedlearn.report.run_fairness import Whom, whom
from fedlearn.report.threats import Defence, Threat, limits, threats
from fedlearn.results.result import Result, RoundResult

SHOWN: Final = ("accuracy", "macro_f1", "auc")
NAMES: Final = {"macro_f1": "macro F1", "auc": "AUC"}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A number that should be seen first."""

    value: str
    name: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """The contents of `report.html` of a run, in the order of the page."""

    title: str
    tiles: tuple[Tile, ...]
    card: ModelCard
    statement: PrivacyStatement
    metrics_plot: Markup | None
    calibration_plot: Markup | None
    epsilon_plot: Markup | None
    measured: MeasuredPrivacy | None
    whom: Whom | None
    reasons: Reasons | None
    cost_plot: Markup | None
    costs: tuple[Fact, ...]
    defence: str
    threats: tuple[Threat, ...]
    limits: tuple[str, ...]
    checks: tuple[Check, ...]
    asked: tuple[Asked, ...]
    settings: str


def run_page(
    result: Result, hashes: tuple[Fact, ...], explanations: Explanations | None = None
) -> RunPage:
    """The page of a run; `hashes` are those of the files that it was made from."""
    defence = Defence.of(result)
    return RunPage(
        title=str(result.config["experiment"]),
        tiles=_tiles(result),
        card=model_card(result, hashes),
        statement=privacy_statement(result),
        metrics_plot=_metrics_plot(result),
        calibration_plot=_calibration_plot(result),
        epsilon_plot=_epsilon_plot(result),
        measured=measured(result.audit),
        whom=whom(result),
        reasons=reasons(explanations, result) if explanations else None,
        cost_plot=_cost_plot(result),
        costs=_costs(result),
        defence=defence.name,
        threats=threats(defence),
        limits=limits(result),
        checks=checklist(result),
        asked=MAP,
        settings=yaml_file.dump(public_settings(result.config)),
    )


def metric_name(name: str) -> str:
    """A metric as people write it."""
    return NAMES.get(name, name.replace("_", " "))


def bytes_text(count: float) -> str:
    """A number of bytes that can be read at a glance."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def _tiles(result: Result) -> tuple[Tile, ...]:
    final, privacy = result.final, result.privacy
    tiles = [
        Tile(value=f"{final.evaluate[name]:.3f}", name=metric_name(name), note="all sites together")
        for name in SHOWN
        if name in final.evaluate
    ]
    if final.worst_site is not None and final.worst_site in final.per_site:
        lowest = final.per_site[final.worst_site]["accuracy"]
        tiles.append(
            Tile(value=f"{lowest:.3f}", name="accuracy, worst site", note=final.worst_site)
        )
    if privacy.epsilon is None:
        tiles.append(Tile(value="none", name="differential privacy"))
    else:
        note = f"delta {privacy.delta:g}, per {privacy.unit}"
        tiles.append(Tile(value=rounded_up(privacy.epsilon), name="epsilon spent", note=note))
    moved = sum(traffic(result).values())
    return (
        *tiles,
        Tile(value=bytes_text(moved), name="sent", note=f"{result.seconds:.0f} seconds"),
    )


def _costs(result: Result) -> tuple[Fact, ...]:
    moved, rounds = traffic(result), max(1, len(result.rounds))
    spent = sum(entry.seconds for entry in result.rounds)
    return (
        Fact(name="rounds", value=f"{len(result.rounds)} of {result.config['rounds']}"),
        Fact(name="seconds", value=f"{result.seconds:.1f}, {spent / rounds:.2f} in a round"),
        Fact(name="from the sites", value=_way(moved["up"], rounds)),
        Fact(name="to the sites", value=_way(moved["down"], rounds)),
    )


def _way(total: int, rounds: int) -> str:
    return f"{bytes_text(total)}, {bytes_text(total / rounds)} in a round"


# --- plots ------------------------------------------------------------------------


def _metrics_plot(result: Result) -> Markup | None:
    curves = [
        plots.Curve(label=metric_name(name), places=places)
        for name in SHOWN
        if (places := tuple(_measured(result.rounds, name)))
    ]
    if not curves:
        return None
    last = ", ".join(f"{c.label} {c.places[-1].mean:.3f}" for c in curves)
    return plots.over_rounds(
        curves, [], label="test records of all sites",
        alternative=f"Test metrics over {len(result.rounds)} rounds; at the end: {last}.",
    )  # fmt: skip


def _measured(rounds: Sequence[RoundResult], name: str) -> list[plots.Spread]:
    pairs = [(entry.round, entry.evaluate.get(name)) for entry in rounds]
    return [plots.Spread(x=number, values=(v,)) for number, v in pairs if v is not None]


def _calibration_plot(result: Result) -> Markup | None:
    if result.calibration is None:
        return None
    groups, name = result.calibration.groups, second_class(result)
    pairs = "; ".join(f"{group.predicted:.2f} and {group.observed:.2f}" for group in groups)
    return plots.reliability(
        [plots.Pair(x=g.predicted, y=g.observed, low=g.low, high=g.high) for g in groups],
        expected=f"probability of {name}, mean of a group",
        found=f"share of {name} among its records",
        alternative=f"Expected and observed share of {name} in groups of test records: {pairs}.",
    )


def _epsilon_plot(result: Result) -> Markup | None:
    spent = [(e.round, [v for v in e.epsilon.values() if v is not None]) for e in result.rounds]
    places = [plots.Spread(x=number, values=(max(v),)) for number, v in spent if v]
    if not places or result.privacy.epsilon is None:
        return None
    budget = result.config["privacy"].get("epsilon")
    levels = [plots.Level(label="budget of the run", value=budget)] if budget else []
    return plots.over_rounds(
        [plots.Curve(label="largest over the sites", places=tuple(places))],
        levels,
        label="epsilon spent so far",
        alternative=f"Epsilon over {len(result.rounds)} rounds: "
        f"{places[0].mean:.2f} after the first, {places[-1].mean:.2f} after the last.",
    )


def _cost_plot(result: Result) -> Markup | None:
    if not result.rounds:
        return None
    moved = traffic(result)
    return plots.cost(
        [entry.round for entry in result.rounds],
        [entry.seconds for entry in result.rounds],
        [entry.bytes.get("up", 0) / 1e3 for entry in result.rounds],
        [entry.bytes.get("down", 0) / 1e3 for entry in result.rounds],
        alternative=f"Seconds and kilobytes of each round: {result.seconds:.0f} seconds, "
        f"{bytes_text(moved['up'])} from the sites, {bytes_text(moved['down'])} to them in all.",
    )
