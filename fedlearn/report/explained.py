"""What the model of a run goes by: the section that `explanations.json` adds to its report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from markupsafe import Markup

from fedlearn.report import plots
from fedlearn.report.explanations import Explanations, RecordExplained
from fedlearn.results.result import ResultFile

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
