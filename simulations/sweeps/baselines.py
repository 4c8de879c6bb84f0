"""Reference lines of a comparison: the same study without privacy, or without federating.

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

from collections.abc import Iterator, Sequence
from dataclasses import replace

from clients.records import simulated_sites
from fedlearn.config import RunConfig, encode
from fedlearn.report.comparison import Reference
from simulations.sweeps.points import Point, compose_point

_PLAIN = ("secagg=off", "transport=plain", "strategy.min_sites=1")
"""One site has nobody to hide among, nobody to hide from, and nothing to wait for."""

_GROUPS_OF_PLAIN = ("privacy", "secagg", "transport")


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
    kept = _without(point.overrides, *left_out)
    swept = {key: value for key, value in point.swept.items() if f"{key}={value}" in kept}
    return compose_point([*kept, *added], swept, reference=reference)


def _without(overrides: Sequence[str], *groups: str) -> list[str]:
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
