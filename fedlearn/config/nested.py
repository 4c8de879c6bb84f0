"""Unions inside a group: `scenario.scaling` is one of several options, told apart by `kind`.

An option of a group has a YAML, and whoever chooses the option gets its values. A union
inside a group has none: what stands there belongs to the option that the YAML, or a run's
file, names. Whoever sets another `kind` therefore gets that option with its own defaults,
and what belonged to the other goes. What a user wrote besides stays, and is refused where
it does not fit.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from fedlearn.core.registry import defaults_of

NESTED: Final[Mapping[tuple[str, ...], str]] = {
    ("scenario", "scaling"): "fedlearn.data.tables.scaling:Scaling"
}
"""All of them, by their place in a run's config: where each is, as their modules take a while."""

Path = tuple[str, ...]


def union_at(path: Path) -> Any:
    """The union at `path`."""
    module, _, name = NESTED[path].partition(":")
    return getattr(importlib.import_module(module), name)


def option_names(path: Sequence[str]) -> frozenset[str]:
    """The classes that may stand at `path`; none where there is no union inside a group."""
    found = get_args(union_at(tuple(path))) if tuple(path) in NESTED else ()
    return frozenset(option.__name__ for option in found)


def may_choose(parts: Sequence[str]) -> bool:
    """Whether a value at `parts` may say which option is meant."""
    return tuple(parts) in NESTED or (parts[-1] == "kind" and tuple(parts[:-1]) in NESTED)


def chosen(parts: Sequence[str], value: Any) -> tuple[Path, Any] | None:
    """Where and which `kind` is chosen by setting `parts` to `value`; None where none is."""
    if tuple(parts) in NESTED and isinstance(value, Mapping) and "kind" in value:
        return tuple(parts), value["kind"]
    if may_choose(parts) and tuple(parts) not in NESTED:
        return tuple(parts[:-1]), value
    return None


def instead(path: Path, kind: Any, node: Mapping[str, Any]) -> dict[str, Any] | None:
    """The defaults of the option `kind`; None where `node` is one, or there is no such option.

    What an option leaves to the user is `???`.
    """
    for option in get_args(union_at(path)):
        default = defaults_of(option)
        if default["kind"] == kind != node.get("kind"):
            return default
    return None
