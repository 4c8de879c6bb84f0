"""What the report of several runs shows, from their results alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from server.model_card import MEANINGS, Fact
from server.privacy_statement import rounded_up
from server.report import plots
from server.report.comparison import traffic
from server.report.run_page import SHOWN, bytes_text, metric_name
from server.report.runs import Difference, Missing, Run, differences
from server.report.threats import Defence, Threat, threats

REFERENCES: Final = {
    "non_private": "federated, no privacy",
    "local_only": "each site by itself, no privacy",
    "centralised": "all records in one place, no privacy",
}

_NOT_A_CURVE: Final = ("seed", "privacy.epsilon", "privacy.noise_multiplier")
"""Settings that move a run along its curve instead of to another one."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the table that can be sorted: what is shown, and what it is sorted by."""

    shown: str
    key: str

    @classmethod
    def number(cls, value: float | None, form: str = ".3f") -> Cell:
        """A number; without one, a dash that sorts first."""
        if value is None:
            return cls(shown="-", key="")
        return cls(shown=f"{value:{form}}", key=repr(value))

    @classmethod
    def text(cls, value: str) -> Cell:
        """A text."""
        return cls(shown=value, key=value)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that differ in nothing but their seed."""

    label: str
    curve: str
    epsilon: float | None
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class FairnessRow:
    """How a group of runs does at every site; means over the runs."""

    label: str
    epsilon: str
    sites: tuple[str, ...]
    worst: str
    gap: str


@dataclass(frozen=True, kw_only=True)
class ThreatTable:
    """The threat table of the runs that share a defence."""

    name: str
    runs: int
    rows: tuple[Threat, ...]


@dataclass(frozen=True, kw_only=True)
class SweepPage:
    """The contents of `report.html` of several runs, in the order of the page."""

    title: str
    what: str
    warnings: tuple[str, ...]
    missing: tuple[Missing, ...]
    curves: tuple[Markup, ...]
    curves_note: str
    levels: tuple[Fact, ...]
    sites: tuple[str, ...]
    fairness: tuple[FairnessRow, ...]
    fairness_plot: Markup | None
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    differences: tuple[Difference, ...]
    threats: tuple[ThreatTable, ...]
    statements: tuple[Fact, ...]
    meanings: tuple[str, ...]
    provenance: tuple[Fact, ...]


def sweep_page(
    name: str, runs: Sequence[Run], missing: Sequence[Missing], hashes: tuple[Fact, ...]
) -> SweepPage:
    """The page of `runs`; `name` is that of their folder."""
    points = [run for run in runs if run.reference is None]
    groups = grouped(points)
    shared = _shared_metrics(runs)
    levels = reference_levels(runs, points)
    sites = _sites(points)
    return SweepPage(
        title=_title(points, name),
        what=_what(runs, points, groups),
        warnings=_warnings(points),
        missing=tuple(missing),
        curves=tuple(_curve(groups, levels, metric) for metric in SHOWN if metric in shared),
        curves_note=_curves_note(groups),
        levels=_level_table(levels, shared),
        sites=sites,
        fairness=tuple(_fairness(group, sites) for group in groups) if sites else (),
        fairness_plot=_fairness_plot(groups, sites),
        columns=_columns(points, shared),
        rows=tuple(_row(run, points, shared) for run in runs),
        differences=differences(points),
        threats=_threats(runs),
        statements=_statements(points),
        meanings=tuple(f"{metric_name(n)}: {MEANINGS[n]}." for n in SHOWN if n in shared),
        provenance=(*_provenance(runs), *hashes),
    )


# --- groups and curves ------------------------------------------------------------


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs by what they differ in apart from the seed, along each curve by epsilon."""
    varied = [difference.key for difference in differences(runs) if difference.key != "seed"]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        settings = run.settings
        groups.setdefault(tuple(settings.get(key, "") for key in varied), []).append(run)
    made = [_group(varied, values, members) for values, members in groups.items()]
    order = list(dict.fromkeys(group.curve for group in made))
    return sorted(made, key=lambda g: (order.index(g.curve), g.epsilon is None, g.epsilon or 0.0))


def _group(varied: Sequence[str], values: Sequence[str], runs: Sequence[Run]) -> Group:
    pairs = [(key, value) for key, value in zip(varied, values, strict=True) if value]
    spent = [run.result.privacy.epsilon for run in runs]
    known = [value for value in spent if value is not None]
    label = ", ".join(f"{_short(key, varied)} {value}" for key, value in pairs[:4])
    curve = ", ".join(
        f"{_short(key, varied)} {value}" for key, value in pairs[:4] if key not in _NOT_A_CURVE
    )
    return Group(
        label=label or "all runs",
        curve=curve,
        epsilon=max(known) if len(known) == len(spent) else None,
        runs=tuple(runs),
    )


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a dotted key, where that is not taken for another."""
    last = key.rpartition(".")[2]
    if last == "kind":
        return key.rpartition(".")[0]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def reference_levels(runs: Sequence[Run], points: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Label -> metric -> mean: of the reference lines, and of points without privacy."""
    found: dict[str, dict[str, float]] = {}
    for reference, label in REFERENCES.items():
        members = [run for run in runs if run.reference == reference]
        if members:
            found[label] = _pooled(members)
    for group in grouped(points):
        if group.epsilon is None:
            found[group.label] = _pooled(group.runs)
    return found


def _pooled(runs: Sequence[Run]) -> dict[str, float]:
    """Every metric over the test records of all runs: a site alone counts by its records."""
    weights = [sum(s.test for s in run.result.data.sites.values()) for run in runs]
    names = dict.fromkeys(name for run in runs for name in run.result.final.evaluate)
    pooled = {}
    for name in names:
        pairs = [
            (weight, run.result.final.evaluate[name])
            for weight, run in zip(weights, runs, strict=True)
            if name in run.result.final.evaluate
        ]
        total = sum(weight for weight, _ in pairs)
        pooled[name] = sum(weight * value for weight, value in pairs) / total if total else 0.0
    return pooled


def _curve(groups: Sequence[Group], levels: dict[str, dict[str, float]], metric: str) -> Markup:
    drawn = list(_curves(groups, metric))
    lines = [
        plots.Level(label=label, value=found[metric])
        for label, found in levels.items()
        if metric in found
    ]
    said = [
        f"{f'{curve.label}, ' if curve.label else ''}epsilon {place.x:.3g}: {place.mean:.3f}"
        for curve in drawn
        for place in curve.places
    ]
    said += [f"{line.label}: {line.value:.3f}" for line in lines]
    name = metric_name(metric)
    text = f"Test {name} against epsilon spent; means over seeds. {'; '.join(said)}."
    return plots.trade_off(drawn, lines, metric=f"test {name}", alternative=text)


def _curves(groups: Sequence[Group], metric: str) -> Iterator[plots.Curve]:
    for label in dict.fromkeys(group.curve for group in groups):
        places = [
            plots.Spread(x=group.epsilon, values=values)
            for group in groups
            if group.curve == label and group.epsilon is not None
            if (values := _values(group, metric))
        ]
        if places:
            yield plots.Curve(label=label or "with privacy", places=tuple(places))


def _values(group: Group, metric: str) -> tuple[float, ...]:
    found = [run.result.final.evaluate.get(metric) for run in group.runs]
    return tuple(value for value in found if value is not None)


def _curves_note(groups: Sequence[Group]) -> str:
    most = max((len(group.runs) for group in groups), default=1)
    if most == 1:
        return "One run for each point: how much seeds change is not known."
    return (
        f"Lines join means; bands reach from the lowest to the highest of up to {most} runs that "
        "differ in their seed alone, and every run is a dash."
    )


def _level_table(levels: dict[str, dict[str, float]], shared: Sequence[str]) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            name=label,
            value=", ".join(
                f"{metric_name(name)} {found[name]:.3f}" for name in shared if name in found
            ),
        )
        for label, found in levels.items()
    )


# --- fairness ---------------------------------------------------------------------


def _sites(runs: Sequence[Run]) -> tuple[str, ...]:
    """The sites that every run has tested; none if runs share no sites."""
    tested = [{s for s, found in run.result.final.per_site.items() if found} for run in runs]
    return tuple(sorted(set.intersection(*tested))) if tested else ()


def _at_site(group: Group, site: str) -> float:
    values = [run.result.final.per_site[site]["accuracy"] for run in group.runs]
    return sum(values) / len(values)


def _fairness(group: Group, sites: Sequence[str]) -> FairnessRow:
    means = {site: _at_site(group, site) for site in sites}
    worst = min(means, key=means.__getitem__)
    return FairnessRow(
        label=group.label,
        epsilon="none" if group.epsilon is None else rounded_up(group.epsilon),
        sites=tuple(f"{means[site]:.3f}" for site in sites),
        worst=worst,
        gap=f"{max(means.values()) - means[worst]:.3f}",
    )


def _fairness_plot(groups: Sequence[Group], sites: Sequence[str]) -> Markup | None:
    private = [group for group in groups if group.epsilon is not None]
    if not private or not 1 < len(sites) <= 8:
        return None
    first = [group for group in private if group.curve == private[0].curve]
    curves = [
        plots.Curve(
            label=site,
            places=tuple(
                plots.Spread(
                    x=group.epsilon or 0.0,
                    values=(_at_site(group, site),),
                )
                for group in first
            ),
        )
        for site in sites
    ]
    said = "; ".join(
        f"{curve.label} from {curve.places[0].mean:.3f} to {curve.places[-1].mean:.3f}"
        for curve in curves
    )
    text = f"Test accuracy of each site, from the smallest epsilon to the largest: {said}."
    return plots.trade_off(curves, [], metric="test accuracy", alternative=text)


# --- tables and texts -----------------------------------------------------------------


def _shared_metrics(runs: Sequence[Run]) -> tuple[str, ...]:
    """The metrics that every run has: what differs in kind is not compared."""
    found = [set(run.result.final.evaluate) for run in runs if run.result.final.evaluate]
    shared = set.intersection(*found) if found else set()
    return tuple(name for name in SHOWN if name in shared)


def _columns(points: Sequence[Run], shared: Sequence[str]) -> tuple[str, ...]:
    keys = [difference.key for difference in differences(points)][:_MOST_KEYS]
    names = [metric_name(name) for name in shared]
    return ("run", *(_short(key, keys) for key in keys), "epsilon spent", *names, "worst site",
            "its accuracy", "seconds", "sent", "status")  # fmt: skip


_MOST_KEYS: Final = 4


def _row(run: Run, points: Sequence[Run], shared: Sequence[str]) -> tuple[Cell, ...]:
    result, settings = run.result, run.settings
    final, moved = result.final, sum(traffic(result).values())
    worst = final.worst_site
    keys = [difference.key for difference in differences(points)][:_MOST_KEYS]
    lowest = final.per_site[worst]["accuracy"] if worst in final.per_site else None
    return (
        Cell.text(run.name),
        *(Cell.text(settings.get(key, "-")) for key in keys),
        Cell.number(result.privacy.epsilon),
        *(Cell.number(final.evaluate.get(name)) for name in shared),
        Cell.text(worst or "-"),
        Cell.number(lowest),
        Cell.number(result.seconds, ".1f"),
        Cell(shown=bytes_text(moved), key=str(moved)),
        Cell.text(result.status),
    )


def _title(points: Sequence[Run], name: str) -> str:
    experiments = dict.fromkeys(str(run.result.config["experiment"]) for run in points)
    return ", ".join(experiments) or name


def _what(runs: Sequence[Run], points: Sequence[Run], groups: Sequence[Group]) -> str:
    parts = [f"{len(points)} runs of {len(groups)} settings"]
    if len(runs) > len(points):
        parts.append(f"{len(runs) - len(points)} reference runs")
    seconds = sum(run.result.seconds for run in runs)
    return f"{' and '.join(parts)}; {seconds:.0f} seconds of work in all."


def _warnings(points: Sequence[Run]) -> tuple[str, ...]:
    """What makes runs hard to compare, before anybody reads a curve."""
    found = []
    experiments = dict.fromkeys(str(run.result.config["experiment"]) for run in points)
    if len(experiments) > 1:
        found.append(
            f"These are runs of different experiments ({', '.join(experiments)}). Compared is "
            "what they share; what differs is listed below."
        )
    data = dict.fromkeys((run.result.data.name, run.result.data.sha256) for run in points)
    if len(data) > 1:
        names = ", ".join(dict.fromkeys(name for name, _ in data))
        found.append(
            f"The runs did not learn from the same data ({names}; {len(data)} hashes): a "
            "difference in a metric may come from the data alone."
        )
    units = dict.fromkeys(r.result.privacy.unit for r in points if r.result.privacy.epsilon)
    if len(units) > 1:
        found.append(
            f"Epsilons are for different units ({', '.join(units)}): they are not on one scale."
        )
    deltas = dict.fromkeys(r.result.privacy.delta for r in points if r.result.privacy.delta)
    if len(deltas) > 1:
        shown = ", ".join(f"{delta:g}" for delta in deltas)
        found.append(f"Epsilons are stated at different deltas ({shown}).")
    return tuple(found)


def _threats(runs: Sequence[Run]) -> tuple[ThreatTable, ...]:
    counted: dict[Defence, int] = {}
    for run in runs:
        if run.reference is None:
            defence = Defence.of(run.result)
            counted[defence] = counted.get(defence, 0) + 1
    return tuple(
        ThreatTable(name=defence.name, runs=count, rows=threats(defence))
        for defence, count in counted.items()
    )


def _statements(points: Sequence[Run]) -> tuple[Fact, ...]:
    """Every statement once, named by the first group of runs that makes it."""
    found: dict[str, str] = {}
    for group in grouped(points):
        for run in group.runs:
            found.setdefault(run.result.privacy.statement, group.label)
    return tuple(Fact(name=label, value=text) for text, label in found.items())


def _provenance(runs: Sequence[Run]) -> tuple[Fact, ...]:
    def each(values: Iterator[str]) -> str:
        return "; ".join(dict.fromkeys(values))

    names = ("python", "torch", "flwr", "opacus", "cryptography")
    environments = [run.result.environment for run in runs]
    return (
        Fact(name="started", value=min((r.result.started_at for r in runs), default="-")),
        Fact(
            name="versions",
            value=each(", ".join(f"{n} {getattr(e, n)}" for n in names) for e in environments),
        ),
        Fact(name="device", value=each(f"{e.device}, {e.threads} threads" for e in environments)),
        Fact(name="SHA-256 of the data", value=each(r.result.data.sha256 for r in runs)),
    )
