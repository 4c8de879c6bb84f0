"""What the report of one run shows beside its texts: plots and tables, from its result alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from markupsafe import Markup

from fedlearn.report import plots
from fedlearn.report.comparison import traffic
from fedlearn.report.explanations import Explanations, RecordExplained
from fedlearn.report.facts import Facts
from fedlearn.report.fairness import WhomTable, whom
from fedlearn.report.measured import MeasuredPrivacy
from fedlearn.report.texts import bytes_text
from fedlearn.report.verdict import Remark, verdict
from fedlearn.results.result import ResultFile, RoundResult

_COLUMNS: Final = 12
_REASONS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One record: what was predicted, and what spoke most for it and against it."""

    name: str
    predicted: str
    score: str
    parts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """The section of the report."""

    found: Explanations
    stale: bool
    overall: Markup | None
    rows: tuple[Reason, ...]
    images: tuple[Markup, ...]


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """What `report.html` of a run shows and no sentence says."""

    verdict: tuple[Remark, ...]
    shown: tuple[str, ...]
    """The metrics to be seen first."""
    metrics_plot: Markup | None
    calibration_plot: Markup | None
    epsilon_plot: Markup | None
    cost_plot: Markup | None
    measured: MeasuredPrivacy | None
    whom: tuple[WhomTable, ...]
    reasons: Reasons | None
    traffic: dict[str, int]
    seconds_of_rounds: float


def run_page(facts: Facts, explanations: Explanations | None = None) -> RunPage:
    """The page of a run."""
    result = facts.result
    return RunPage(
        verdict=verdict(facts),
        shown=tuple(m.name for m in facts.task.summary() if m.name in result.final.evaluate),
        metrics_plot=_metrics_plot(facts),
        calibration_plot=_calibration_plot(facts),
        epsilon_plot=_epsilon_plot(result),
        cost_plot=_cost_plot(result),
        measured=MeasuredPrivacy(found=result.audit) if result.audit else None,
        whom=whom(facts),
        reasons=reasons(explanations, result) if explanations else None,
        traffic=traffic(result),
        seconds_of_rounds=sum(entry.seconds for entry in result.rounds),
    )


def _metrics_plot(facts: Facts) -> Markup | None:
    result = facts.result
    curves = [
        plots.Curve(label=metric.title, places=places)
        for metric in facts.task.summary()
        if (places := tuple(_measured(result.rounds, metric.name)))
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


def _calibration_plot(facts: Facts) -> Markup | None:
    if (found := facts.result.calibration) is None:
        return None
    groups, name = found.groups, facts.task.probable
    pairs = "; ".join(f"{group.predicted:.2f} and {group.observed:.2f}" for group in groups)
    return plots.reliability(
        [plots.Pair(x=g.predicted, y=g.observed, low=g.low, high=g.high) for g in groups],
        expected=f"probability of {name}, mean of a group",
        found=f"share of {name} among its records",
        alternative=f"Expected and observed share of {name} in groups of test records: {pairs}.",
    )


def _epsilon_plot(result: ResultFile) -> Markup | None:
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


def _cost_plot(result: ResultFile) -> Markup | None:
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


# --- explanations ------------------------------------------------------------------------


def reasons(found: Explanations, result: ResultFile) -> Reasons:
    """The section; without contents where the run has another model by now."""
    stale = found.model_sha256 != result.model.sha256
    records = [] if stale else found.records
    pixels = found.of == "pixels"
    return Reasons(
        found=found,
        stale=stale,
        overall=None if stale else _overall(found),
        rows=() if pixels else tuple(_reason(found, one) for one in records),
        images=tuple(_image(found, one) for one in records) if pixels else (),
    )


def _overall(found: Explanations) -> Markup | None:
    if not found.overall:
        return None
    order = np.argsort(-np.array(found.overall), kind="stable")[:_COLUMNS]
    names = [_name(found, int(i)) for i in order]
    values = [found.overall[i] for i in order]
    text = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, values, strict=True))
    return plots.bars(
        names, values, label="mean absolute attribution",
        alternative=f"Mean absolute attribution over {found.count} records: {text}.",
    )  # fmt: skip


def _name(found: Explanations, place: int) -> str:
    if found.names:
        return found.names[place]
    return f"{'token' if found.of == 'tokens' else 'column'} {place + 1}"


def _reason(found: Explanations, one: RecordExplained) -> Reason:
    order = np.argsort(-np.abs(one.attributions), kind="stable")[:_REASONS]
    parts = [
        f"{_name(found, int(i))} {one.attributions[i]:+.2f} (is {one.values[i]:.3g})"
        for i in order
        if one.attributions[i]
    ]
    return Reason(
        name=f"record {one.record + 1}",
        predicted=one.predicted,
        score=f"{one.score:.3f}",
        parts=tuple(parts),
    )


def _image(found: Explanations, one: RecordExplained) -> Markup:
    height, width = found.size
    shape = height, width
    return plots.image(
        np.array(one.values).reshape(shape), np.array(one.attributions).reshape(shape),
        title=f"{one.predicted}, {one.score:.3f}",
        alternative=f"Record {one.record + 1}, taken for {one.predicted} with probability "
        f"{one.score:.3f}: the image, and what spoke for that.",
    )  # fmt: skip
