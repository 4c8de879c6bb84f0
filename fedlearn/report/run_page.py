"""What the report of one run shows beside its texts: plots and tables, from its result alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from markupsafe import Markup

from fedlearn.core.language import ENGLISH, Figure, Locale, message
from fedlearn.report import plots
from fedlearn.report.by_class import ByClassTables, by_class_tables
from fedlearn.report.comparison import traffic
from fedlearn.report.curves import CurvesShown, curves_shown
from fedlearn.report.explanations import Explanations, RecordExplained
from fedlearn.report.facts import Facts
from fedlearn.report.fairness import WhomTable, sites_plot, whom
from fedlearn.report.measured import MeasuredPrivacy
from fedlearn.report.own import OwnTable, own_tables
from fedlearn.report.shape_plots import ShapesShown, shapes_shown
from fedlearn.report.shapes import Shapes
from fedlearn.report.texts import bytes_text
from fedlearn.report.verdict import Remark, verdict
from fedlearn.results.result import ResultFile, RoundResult

_COLUMNS: Final = 12
_IN_A_ROUND: Final = "%(all)s, %(each)s in a round"
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
    sites_plot: Markup | None
    calibration_plot: Markup | None
    by_class: ByClassTables | None
    curves: CurvesShown | None
    epsilon_plot: Markup | None
    cost_plot: Markup | None
    measured: MeasuredPrivacy | None
    whom: tuple[WhomTable, ...]
    own: tuple[OwnTable, ...]
    reasons: Reasons | None
    shapes: ShapesShown | None
    traffic: dict[str, int]
    epsilon_note: str
    """What the two epsilons of a site are."""
    cost_rows: tuple[tuple[str, str], ...]


def run_page(
    facts: Facts, explanations: Explanations | None = None, shapes: Shapes | None = None
) -> RunPage:
    """The page of a run."""
    result = facts.result
    return RunPage(
        verdict=verdict(facts),
        shown=tuple(m.name for m in facts.task.summary() if m.name in result.final.evaluate),
        metrics_plot=_metrics_plot(facts),
        sites_plot=sites_plot(facts),
        calibration_plot=_calibration_plot(facts),
        by_class=by_class_tables(facts),
        curves=curves_shown(facts),
        epsilon_plot=_epsilon_plot(facts),
        cost_plot=_cost_plot(facts),
        measured=MeasuredPrivacy(found=result.audit, language=facts.language)
        if result.audit
        else None,
        whom=whom(facts),
        own=own_tables(facts),
        reasons=reasons(explanations, result, facts.language) if explanations else None,
        shapes=shapes_shown(shapes, facts.language) if shapes else None,
        traffic=traffic(result),
        epsilon_note=_epsilon_note(facts),
        cost_rows=tuple(_cost_rows(facts)),
    )


def _epsilon_note(facts: Facts) -> str:
    accountant = facts.result.privacy.accountant
    by = message(
        "The first epsilon is the promise, by %(accountant)s; the second is a cruder computation "
        "of the same, as a check. Both are rounded up.",
        accountant=message(accountant or "-"),
    )
    return str(facts.language.say(by))


def _cost_rows(facts: Facts) -> Iterator[tuple[str, str]]:
    """Rounds, time and traffic, in all and in a round."""
    result, say = facts.result, facts.language.say
    rounds, moved = len(result.rounds) or 1, traffic(result)
    size = partial(bytes_text, language=facts.language)
    a_round = sum(entry.seconds for entry in result.rounds) / rounds
    yield (
        say("rounds"),
        say(
            message("%(done)s of %(planned)s", done=len(result.rounds), planned=facts.config.rounds)
        ),
    )
    in_all, in_each = Figure(result.seconds, ".1f"), Figure(a_round, ".2f")
    yield say("seconds"), say(message(_IN_A_ROUND, all=in_all, each=in_each))
    for name, key in (("from the sites", "up"), ("to the sites", "down")):
        total, each = size(moved[key]), size(moved[key] / rounds)
        yield say(name), say(message(_IN_A_ROUND, all=total, each=each))


def _metrics_plot(facts: Facts) -> Markup | None:
    result, say, number = facts.result, facts.language.say, facts.language.number
    curves = [
        plots.Curve(label=say(metric.title), places=places)
        for metric in facts.task.summary()
        if (places := tuple(_measured(result.rounds, metric.name)))
    ]
    if not curves:
        return None
    last = facts.language.listed(f"{c.label} {number(c.places[-1].mean, '.3f')}" for c in curves)
    known = {"rounds": len(result.rounds), "last": last}
    text = message("Test metrics over %(rounds)s rounds; at the end: %(last)s.", **known)
    label = message("test records of all sites")
    if result.validation is not None:
        text = message("Validation metrics over %(rounds)s rounds; at the end: %(last)s.", **known)
        label = message("validation records of all sites")
    return plots.over_rounds(
        curves, [], label=say(label), alternative=say(text),
        language=facts.language,
    )  # fmt: skip


def _measured(rounds: Sequence[RoundResult], name: str) -> list[plots.Spread]:
    pairs = [(entry.round, entry.evaluate.get(name)) for entry in rounds]
    return [plots.Spread(x=number, values=(v,)) for number, v in pairs if v is not None]


def _calibration_plot(facts: Facts) -> Markup | None:
    if (found := facts.result.calibration) is None:
        return None
    groups, say, number = found.groups, facts.language.say, facts.language.number
    name = facts.language.listed([facts.task.probable])  # a class may be called as a word of ours
    pairs = facts.language.listed(
        (f"{number(g.predicted, '.2f')}, {number(g.observed, '.2f')}" for g in groups), "; "
    )
    text = message("Expected and observed share of %(name)s in groups of test records: %(pairs)s.",
                   name=name, pairs=pairs)  # fmt: skip
    return plots.reliability(
        [plots.Pair(x=g.predicted, y=g.observed, low=g.low, high=g.high) for g in groups],
        expected=say(message("probability of %(name)s, mean of a group", name=name)),
        found=say(message("share of %(name)s among its records", name=name)),
        alternative=say(text),
        language=facts.language,
    )


def _epsilon_plot(facts: Facts) -> Markup | None:
    result, say = facts.result, facts.language.say
    spent = [(e.round, [v for v in e.epsilon.values() if v is not None]) for e in result.rounds]
    places = [plots.Spread(x=number, values=(max(v),)) for number, v in spent if v]
    if not places or result.privacy.epsilon is None:
        return None
    budget = result.config["privacy"].get("epsilon")
    levels = [plots.Level(label=say("budget of the run"), value=budget)] if budget else []
    text = message(
        "Epsilon over %(rounds)s rounds: %(first)s after the first, %(last)s after the last.",
        rounds=len(result.rounds),
        first=Figure(places[0].mean, ".2f"),
        last=Figure(places[-1].mean, ".2f"),
    )
    return plots.over_rounds(
        [plots.Curve(label=say("largest over the sites"), places=tuple(places))],
        levels,
        label=say("epsilon spent so far"),
        alternative=say(text),
        language=facts.language,
    )


def _cost_plot(facts: Facts) -> Markup | None:
    result = facts.result
    if not result.rounds:
        return None
    moved = traffic(result)
    text = message(
        "Seconds and kilobytes of each round: %(seconds)s seconds, %(up)s from the sites, %(down)s "
        "to them in all.",
        seconds=Figure(result.seconds, ".0f"),
        up=bytes_text(moved["up"], facts.language),
        down=bytes_text(moved["down"], facts.language),
    )
    return plots.cost(
        [entry.round for entry in result.rounds],
        [entry.seconds for entry in result.rounds],
        [entry.bytes.get("up", 0) / 1e3 for entry in result.rounds],
        [entry.bytes.get("down", 0) / 1e3 for entry in result.rounds],
        alternative=facts.language.say(text),
        language=facts.language,
    )


# --- explanations ------------------------------------------------------------------------


def reasons(found: Explanations, result: ResultFile, language: Locale = ENGLISH) -> Reasons:
    """The section; without contents where the run has another model by now."""
    stale = found.model_sha256 != result.model.sha256
    records = [] if stale else found.records
    pixels = found.of == "pixels"
    return Reasons(
        found=found,
        stale=stale,
        overall=None if stale else _overall(found, language),
        rows=() if pixels else tuple(_reason(found, one, language) for one in records),
        images=tuple(_image(found, one, language) for one in records) if pixels else (),
    )


def _overall(found: Explanations, language: Locale) -> Markup | None:
    if not found.overall:
        return None
    order = np.argsort(-np.array(found.overall), kind="stable")[:_COLUMNS]
    names = [_name(found, int(i), language) for i in order]
    values = [found.overall[i] for i in order]
    pairs = zip(names, values, strict=True)
    text = language.listed(f"{name} {language.number(value, '.3f')}" for name, value in pairs)
    alternative = message("Mean absolute attribution over %(count)s records: %(text)s.",
                          count=found.count, text=text)  # fmt: skip
    return plots.bars(
        names, values, label=language.one("mean absolute attribution"),
        alternative=language.say(alternative), language=language,
    )  # fmt: skip


def _name(found: Explanations, place: int, language: Locale) -> str:
    if found.names:
        return found.names[place]
    if found.of == "tokens":
        return str(language.say(message("token %(place)s", place=place + 1)))
    return str(language.say(message("column %(place)s", place=place + 1)))


def _reason(found: Explanations, one: RecordExplained, language: Locale) -> Reason:
    order = np.argsort(-np.abs(one.attributions), kind="stable")[:_REASONS]
    parts = [
        message(
            "%(name)s %(part)s (is %(value)s)",
            name=_name(found, int(i), language),
            part=Figure(one.attributions[i], "+.2f"),
            value=Figure(one.values[i], ".3g"),
        )
        for i in order
        if one.attributions[i]
    ]
    return Reason(
        name=language.say(message("record %(record)s", record=one.record + 1)),
        predicted=one.predicted,
        score=language.number(one.score, ".3f"),
        parts=tuple(parts),
    )


def _image(found: Explanations, one: RecordExplained, language: Locale) -> Markup:
    height, width = found.size
    shape, score = (height, width), Figure(one.score, ".3f")
    text = message(
        "Record %(record)s, taken for %(predicted)s with probability %(score)s: the image, and "
        "what spoke for that.",
        record=one.record + 1,
        predicted=one.predicted,
        score=score,
    )
    return plots.image(
        np.array(one.values).reshape(shape), np.array(one.attributions).reshape(shape),
        title=f"{one.predicted}, {language.number(*score)}", alternative=language.say(text),
    )  # fmt: skip
