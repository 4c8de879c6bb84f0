"""The points of a comparison: the product of swept values, what each runs, and its folder's name.

`seed=0,1 strategy=fedavg,fedyogi` is four lists of overrides. What counts as a sweep is
Hydra's own grammar: commas outside quotes and brackets, `choice(...)` and `range(...)`. What
Hydra cannot read is passed on as it is, so that whoever composes the config says what is
wrong with it.

Reference lines are points as well: the same study without privacy, or without federating.
None of the three is private, and the report says so. Where owners of data have a policy
(`sites=FOLDER`) it holds for all three, also for what is learned in one place: one that
asks for privacy refuses them:

- `non_private`: the same federation, `privacy=none`.
- `local_only`: every site trains by itself on its own records, as many steps.
- `centralised`: all records in one place (one site holds them), as many steps; records
  that lie in files of their own are put together as a simulation of them reads them.

They are runs like any other, through the same code and with the same strategy (an
optimiser at the coordinator is part of how a model is trained, with one site too), and
so are measured alike.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from clients.records import simulated_sites
from fedlearn.config import RunConfig, encode
from fedlearn.config.composition import is_own_name, split
from fedlearn.core.errors import ConfigError, refuse
from fedlearn.report.comparison import Reference, SweepPlan
from simulations.derived import composed

_UNSAFE: Final = re.compile(r"[^\w.,=+-]+")
_LONGEST_NAME: Final = 120

ALONE: Final = "point"
"""The name of the point of a sweep that sweeps nothing."""

_PLAIN = ("secagg=off", "transport=plain", "strategy.min_sites=1")
"""One site has nobody to hide among, nobody to hide from, and nothing to wait for."""

_GROUPS_OF_PLAIN = ("privacy", "secagg", "transport")


@dataclass(frozen=True, kw_only=True)
class Point(SweepPlan):
    """One run of a comparison."""

    config: RunConfig


def points_of(overrides: Sequence[str]) -> list[Point]:
    """All points of the product of `overrides`, composed and checked.

    Raises:
        ConfigError: with every problem of every point, each once.
    """
    combinations = product(overrides)
    if any("out" in combination.swept for combination in combinations):
        raise ConfigError("out: a comparison has one folder, and makes one in it per point")
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
    refuse(found, ConfigError)
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
    return composed(overrides).config


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


# --- the product ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One choice of a value for every swept key."""

    overrides: tuple[str, ...]
    """All overrides, in the order in which they were given."""
    swept: dict[str, str]
    """Key -> value, of the keys that have several."""


def product(overrides: Sequence[str]) -> list[Combination]:
    """All combinations, the last key changing fastest; one if nothing is swept.

    Raises:
        ConfigError: a sweep without a list of values, such as `interval(0, 1)`,
            or a key that is given twice.
    """
    choices = [_choices(override) for override in overrides]
    found = [*_given_twice(overrides), *(p for c in choices for p in c.problems)]
    refuse(found, ConfigError)
    combinations = []
    for picked in itertools.product(*(choice.values for choice in choices)):
        texts = [choice.text(value) for choice, value in zip(choices, picked, strict=True)]
        swept = {c.key: v for c, v in zip(choices, picked, strict=True) if len(c.values) > 1}
        combinations.append(Combination(overrides=tuple(texts), swept=swept))
    return combinations


@dataclass(frozen=True, kw_only=True)
class _Choices:
    """The values of one override; without a key it is passed on as it is."""

    key: str
    values: tuple[str, ...]
    problems: tuple[str, ...] = ()

    def text(self, value: str) -> str:
        return f"{self.key}={value}" if self.key else value


def _choices(override: str) -> _Choices:
    own = split(override) if is_own_name(override) else None
    try:
        parsed = OverridesParser.create().parse_override(f"value={own[1]}" if own else override)
        if not parsed.is_sweep_override():
            return _Choices(key="", values=(override,))
        values = tuple(dict.fromkeys(str(value) for value in parsed.sweep_string_iterator()))
    except HydraException:
        if "interval(" in override or "glob(" in override:
            problem = f"{override}: has no list of values; write them out, separated by commas"
            return _Choices(key="", values=(override,), problems=(problem,))
        return _Choices(key="", values=(override,))
    key = own[0] if own else str(parsed.get_key_element())
    if len(values) == 1:
        return _Choices(key="", values=(f"{key}={values[0]}",))
    return _Choices(key=key, values=values)


def _given_twice(overrides: Sequence[str]) -> list[str]:
    keys = [split(override)[0] for override in overrides]
    twice = dict.fromkeys(key for key in keys if keys.count(key) > 1)
    return [f"{key}: given {keys.count(key)} times; write its values as {key}=a,b" for key in twice]


# --- reference lines --------------------------------------------------------------------


def baselines(points: Sequence[Point]) -> list[Point]:
    """The reference runs of `points`, each once however many points share it.

    Raises:
        ConfigError: a reference cannot be composed from the overrides of a point.
        DataError: the sites could not be read.
    """
    found: dict[tuple[str, str | None], Point] = {}
    for point in points:
        for reference in _of(point):
            found.setdefault((_same(reference.config), reference.site), reference)
    return list(found.values())


def _of(point: Point) -> Iterator[Point]:
    yield _reference(point, "non_private", ("privacy",), ["privacy=none"])
    plain = ["privacy=none", *_PLAIN]
    alone = _reference(point, "local_only", _GROUPS_OF_PLAIN, plain)
    for site in simulated_sites(alone.config):
        yield replace(alone, name=f"{alone.name},site={site}", site=site)
    if point.config.partition.reads_site_files:
        pooled = ["partition=files", "partition.pooled=true"]
    else:
        pooled = ["partition=iid", "partition.num_sites=1"]
    left_out = (*_GROUPS_OF_PLAIN, "partition")
    yield _reference(point, "centralised", left_out, [*plain, *pooled])


def _reference(
    point: Point, reference: Reference, left_out: Sequence[str], added: Sequence[str]
) -> Point:
    kept = without(point.overrides, *left_out)
    swept = {key: value for key, value in point.swept.items() if f"{key}={value}" in kept}
    return compose_point([*kept, *added], swept, reference=reference)


def without(overrides: Sequence[str], *groups: str) -> list[str]:
    """The overrides that concern none of `groups`."""
    starts = tuple(f"{group}." for group in groups)
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    return [
        override
        for key, override in zip(keys, overrides, strict=True)
        if key not in groups and not key.startswith(starts)
    ]


def _same(config: RunConfig) -> str:
    return encode(replace(config, out="-", resume=False))
