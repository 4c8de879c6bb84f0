"""The points of a comparison: what each runs, and the name of its folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from fedlearn.config import RunConfig, compose
from fedlearn.core.errors import ConfigError
from fedlearn.report.comparison import Reference
from simulations.sweeps.product import Combination, product

_UNSAFE: Final = re.compile(r"[^\w.,=+-]+")
_LONGEST_NAME: Final = 120

ALONE: Final = "point"
"""The name of the point of a sweep that sweeps nothing."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a comparison."""

    name: str
    """Its folder inside that of the comparison."""
    overrides: tuple[str, ...]
    """What `fedlearn simulate` takes to repeat it (with `out=`)."""
    swept: Mapping[str, str]
    reference: Reference | None
    """Which reference line it belongs to, if any."""
    site: str | None
    """The one site that trains, where it trains by itself."""
    config: RunConfig


def points_of(overrides: Sequence[str]) -> list[Point]:
    """All points of the product of `overrides`, composed and checked.

    Raises:
        ConfigError: with every problem of every point, each once.
    """
    combinations = product(overrides)
    if any("out" in combination.swept for combination in combinations):
        raise ConfigError(["out: a comparison has one folder, and makes one in it per point"])
    # Every value once comes first: a wrong one would be wrong in all its combinations.
    _refuse_problems(_every_value_once(combinations))
    return _refuse_problems(combinations)


def _every_value_once(combinations: Sequence[Combination]) -> list[Combination]:
    """The first combination, and those that differ from it in one value."""
    first = combinations[0]
    return [c for c in combinations if len(c.swept.items() - first.swept.items()) <= 1]


def _refuse_problems(combinations: Sequence[Combination]) -> list[Point]:
    points: list[Point] = []
    found: dict[str, None] = {}
    for combination in combinations:
        try:
            points.append(compose_point(combination.overrides, combination.swept))
        except ConfigError as error:
            found |= dict.fromkeys(error.problems)
    if found:
        raise ConfigError(list(found))
    return points


def compose_point(
    overrides: Sequence[str], swept: Mapping[str, str], *, reference: Reference | None = None
) -> Point:
    """The point that `overrides` describe; its name says what was swept."""
    config = replace(_composed(tuple(overrides)), resume=False)
    kept = [text for text in overrides if text.partition("=")[0] not in ("out", "resume")]
    return Point(
        name=_name(swept, reference),
        overrides=tuple(kept),
        swept=dict(swept),
        reference=reference,
        site=None,
        config=config,
    )


@cache
def _composed(overrides: tuple[str, ...]) -> RunConfig:
    return compose(overrides)


def _name(swept: Mapping[str, str], reference: Reference | None) -> str:
    parts = [reference.replace("_", "-")] if reference else []
    # Sorted, so that a command with its words in another order finds its points again.
    parts += sorted(f"{key.lstrip('+')}={value}" for key, value in swept.items())
    text = ",".join(parts) or ALONE
    safe = _UNSAFE.sub("_", text)
    if safe == text and len(safe) <= _LONGEST_NAME:
        return safe
    # Two values may look the same once they are made safe: a digest keeps them apart.
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{safe[: _LONGEST_NAME - 9]}-{digest}"
