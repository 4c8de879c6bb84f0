"""The groups of a run whose options are a family: which there are, and their values for Hydra."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from pydantic_core import to_jsonable_python

from fedlearn.algorithms import ALGORITHMS
from fedlearn.core import registry, yaml_file
from fedlearn.core.errors import ConfigError
from fedlearn.core.registry import Family
from fedlearn.data import PARTITIONS, SCENARIOS
from fedlearn.mechanisms import MECHANISMS
from fedlearn.models import MODELS
from fedlearn.robust import ROBUST
from fedlearn.stages import STAGES
from fedlearn.tasks import TASKS

FAMILIES: Final[Mapping[str, Family[Any]]] = {
    family.group: family
    for family in (TASKS, SCENARIOS, PARTITIONS, MODELS, ALGORITHMS, MECHANISMS, STAGES, ROBUST)
}
"""Every family, by its key in a run's config."""


def load_chosen(text: str) -> dict[str, tuple[str, ...]]:
    """Import the packages whose options a config (JSON) chooses; what is wrong, by group."""
    found: dict[str, tuple[str, ...]] = {}
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):  # said by who checks the text
        return found
    for key, node in (tree if isinstance(tree, dict) else {}).items():
        family = FAMILIES.get(_ELSEWHERE.get(str(key), str(key)))
        kind = node.get("kind") if isinstance(node, dict) else None
        if family is not None and isinstance(kind, str):
            try:
                family.find(kind)
            except ConfigError as error:
                found[key] = error.problems
    return found


_ELSEWHERE: Final[Mapping[str, str]] = {"learned": "task"}
"""Groups under another key: `task` in an exported model's file is the form of its records."""


def loaded() -> tuple[Hashable, ...]:
    """Which options of packages are known by now; what was derived from types holds as long."""
    return tuple(family.loaded for family in FAMILIES.values())


def kinds(group: str) -> tuple[str, ...]:
    """What can be chosen in a family; nothing where there is none of this name."""
    return FAMILIES[group].kinds if group in FAMILIES else ()


def with_value(group: str, value: str) -> Iterator[str]:
    """The words that choose an option of the house one of whose settings may have this value."""
    family = FAMILIES.get(group)
    for option in family.own if family else ():
        for name, hint in get_type_hints(option).items():
            if name != "kind" and get_origin(hint) is Literal and value in get_args(hint):
                yield f"{group}={registry.kind_of(option)} {group}.{name}={value}"


def brought(words: Sequence[str]) -> tuple[str, ...]:
    """The strategy that a model brings, as a word, where words choose the model and none."""
    chosen = dict(word.partition("=")[::2] for word in words)
    option = MODELS.known.get(chosen.get("model", ""))
    if option is None or not option.strategy or "strategy" in chosen:
        return ()
    return (f"strategy={option.strategy}",)


def values_of(group: str, option: str) -> dict[str, Any] | None:
    """What `group=option` sets where a package brings the option; None where none does.

    They are in `OPTION.yaml` beside the module of its class, or else the defaults of its fields.

    Raises:
        ConfigError: the package, or its file, cannot be read.
    """
    family = FAMILIES.get(group)
    found = family.find(option) if family else None
    if found is None:
        return None
    path = registry.yaml_beside(found)
    if path is not None:
        return yaml_file.read(path)
    tree: dict[str, Any] = to_jsonable_python(registry.defaults_of(found))
    return tree
