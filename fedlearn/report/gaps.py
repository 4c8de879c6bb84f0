"""How far apart sites and groups of people are, and what privacy adds to that.

What privacy adds is measured against a twin: a run without privacy, with the same
seed, on the same sites, of the same model. Noise and clipping may cost small groups
more than large ones (Bagdasaryan, Poursaeed and Shmatikov 2019).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedlearn.results.folder import RunFolder
from fedlearn.results.reading import leading_by_site
from fedlearn.results.result import ResultFile


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """Gaps, best less worst, and how much larger they are than those of the twin.

    Null where there are not two to compare, or no twin.
    """

    sites: float | None = None
    sites_added: float | None = None
    groups: float | None = None
    groups_added: float | None = None


def settings_of(result: ResultFile) -> dict[str, str]:
    """Dotted key -> value of everything in the config that decides what a run finds."""
    return dict(_flat("", RunFolder.essence(result.config)))


def all_gaps(results: Mapping[str, ResultFile]) -> dict[str, Gaps]:
    """The gaps of every run by its name; twins are looked for among the same runs."""
    settings = {name: settings_of(result) for name, result in results.items()}
    plain = [name for name, result in results.items() if result.privacy.unit == "none"]
    found = {}
    for name, result in results.items():
        alike = [other for other in plain if _is_twin(results, settings, name, other)]
        twin = min(alike, key=lambda o: len(settings[o].items() ^ settings[name].items()),
                   default=None) if name not in plain else None  # fmt: skip
        found[name] = _gaps(result, None if twin is None else results[twin])
    return found


def _is_twin(
    results: Mapping[str, ResultFile], settings: Mapping[str, dict[str, str]], one: str, other: str
) -> bool:
    """Whether seed, data, sites, model and groups agree; what is tuned for privacy may differ."""
    same = ("partition.", "model.", "fairness.")
    return (
        results[one].data == results[other].data
        and results[other].status == "finished"
        and all(
            settings[other].get(key) == value
            for key, value in settings[one].items()
            if key == "seed" or key.startswith(same)
        )
    )


def _gaps(result: ResultFile, twin: ResultFile | None) -> Gaps:
    sites, groups = _between_sites(result), _between_groups(result)
    return Gaps(
        sites=sites,
        sites_added=_added(sites, _between_sites(twin) if twin else None),
        groups=groups,
        groups_added=_added(groups, _between_groups(twin) if twin else None),
    )


def _added(gap: float | None, of_twin: float | None) -> float | None:
    return None if gap is None or of_twin is None else gap - of_twin


def _between_sites(result: ResultFile) -> float | None:
    found = leading_by_site(result).values()
    return max(found) - min(found) if len(found) > 1 else None


def _between_groups(result: ResultFile) -> float | None:
    groups = result.fairness.groups if result.fairness else None
    return groups.gap.value if groups and groups.gap else None


def _flat(prefix: str, node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), child)
    else:
        yield prefix, node if isinstance(node, str) else json.dumps(node)
