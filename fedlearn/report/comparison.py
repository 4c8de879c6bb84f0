"""What a comparison says about itself: the contents of `compare.json` and `compare.csv`.

Plain data, schema `fedlearn/compare/v1`; keys may be added but never renamed.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from fedlearn.auditing.findings import Findings
from fedlearn.core.files import write_atomically
from fedlearn.report.gaps import Gaps
from fedlearn.results.folder import write_json
from fedlearn.results.reading import parse, read_bytes
from fedlearn.results.result import ResultFile, Status

SCHEMA: Final = "fedlearn/compare/v1"
FILE: Final = "compare.json"

Reference = Literal["non_private", "local_only", "centralised"]


@dataclass(frozen=True, kw_only=True)
class PointResult:
    """One run of a comparison; what was not measured (yet) is null."""

    name: str
    """The folder of the run, inside that of the comparison."""
    overrides: list[str]
    """What `fedlearn simulate` takes to repeat the run."""
    values: dict[str, str]
    """The swept keys and their values in this run."""
    reference: Reference | None
    site: str | None
    """The only site that trained, for a reference of the kind `local_only`."""
    status: Status | Literal["planned"]
    reason: str | None
    epsilon: float | None
    """What was spent: the largest over the sites."""
    delta: float | None
    evaluate: dict[str, float]
    worst_site: str | None
    fairness: Gaps = field(default_factory=Gaps)
    """Gaps between sites, and between groups of people, and what privacy adds to them."""
    seconds: float | None
    bytes: dict[str, int] | None
    """Of all rounds: `up` from the sites, `down` to them."""
    audit: Findings | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The whole of `compare.json`."""

    schema: str = SCHEMA
    points: list[PointResult]


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What is known of a point before it runs."""

    name: str
    """Its folder inside that of the comparison."""
    overrides: tuple[str, ...]
    """What `fedlearn simulate` takes to repeat it (with `out=`)."""
    swept: Mapping[str, str]
    reference: Reference | None
    """Which reference line it belongs to, if any."""
    site: str | None
    """The one site that trains, where it trains by itself."""


def point_result(
    plan: SweepPlan, result: ResultFile | None, reason: str | None = None, gaps: Gaps | None = None
) -> PointResult:
    """The entry of a point from its result, where there is one; `reason` is why there is none."""
    status: Status | Literal["planned"] = "failed" if reason else "planned"
    return PointResult(
        name=plan.name,
        overrides=list(plan.overrides),
        values=dict(plan.swept),
        reference=plan.reference,
        site=plan.site,
        status=result.status if result and not reason else status,
        reason=reason or (result.reason if result else None),
        epsilon=result.privacy.epsilon if result else None,
        delta=result.privacy.delta if result else None,
        evaluate=dict(result.final.evaluate) if result else {},
        worst_site=result.final.worst_site if result else None,
        fairness=gaps or Gaps(),
        seconds=result.seconds if result else None,
        bytes=traffic(result) if result else None,
        audit=result.audit if result else None,
    )


def traffic(result: ResultFile) -> dict[str, int]:
    """Bytes of all rounds, up and down."""
    moved = [entry.bytes for entry in result.rounds]
    moved += [result.validation.bytes] if result.validation else []
    return {way: sum(each.get(way, 0) for each in moved) for way in ("up", "down")}


def read_comparison(folder: Path) -> Comparison:
    """The comparison in `folder`.

    Raises:
        DataError: there is none, or not one that this version reads.
    """
    path = folder / FILE
    return parse(Comparison, path, read_bytes(path), schema=SCHEMA, what="a comparison")


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write `compare.json` and `compare.csv`."""
    write_json(folder / FILE, comparison)
    write_atomically(folder / "compare.csv", _table(comparison).encode())


def _audit(found: Findings | None) -> tuple[float | None, float | None, str]:
    return (found.lower_bound, found.ceiling, found.verdict) if found else (None, None, "")


def _table(comparison: Comparison) -> str:
    points = comparison.points
    keys = list(dict.fromkeys(key for point in points for key in point.values))
    metrics = list(dict.fromkeys(name for point in points for name in point.evaluate))
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(
        ["name", "reference", "site", *keys, "status", "epsilon_spent", "delta", *metrics,
         "worst_site", "gap_sites", "gap_sites_added", "gap_groups", "gap_groups_added",
         "seconds", "bytes_up", "bytes_down", "audit_lower_bound", "audit_ceiling",
         "audit_verdict"]
    )  # fmt: skip
    for point in points:
        moved = point.bytes or {}
        writer.writerow(
            [point.name, point.reference, point.site, *(point.values.get(key) for key in keys),
             point.status, point.epsilon, point.delta,
             *(point.evaluate.get(name) for name in metrics), point.worst_site,
             *dataclasses.astuple(point.fairness), point.seconds,
             moved.get("up"), moved.get("down"), *_audit(point.audit)]
        )  # fmt: skip
    return sheet.getvalue()
