"""Strict JSON to a frozen dataclass and back; what is wrong, in the words of the config.

A problem is one line, `dotted.path=value: rule`. pydantic puts the member of a union that it
tried into the path; users do not know those names, so they are taken out.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any, Final, TypeVar, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from fedlearn.config import groups
from fedlearn.config.nested import option_names
from fedlearn.core.errors import ConfigError, refuse
from fedlearn.core.settings import across, deferred, described, rule_of, short

_SETTINGS = (
    "secagg",
    "transport",
    "engine",
    "fairness",
    "audit",
    "tracking",
    "screening",
    "statistics",
)
TAGGED: Final = frozenset([*groups.FAMILIES, *_SETTINGS])
"""The groups of a run that are unions told apart by `kind`."""

_SCALARS = ("literal[", "constrained-")

T = TypeVar("T")


@cache
def _root(kind: Hashable, loaded: Hashable) -> type[BaseModel]:
    # Plain dataclasses take their strictness from the model that holds them.
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    namespace = {"__annotations__": {"value": kind}, "model_config": config, "__module__": __name__}
    return type("Root", (BaseModel,), namespace)


def decode(kind: type[T], text: str) -> T:
    """The frozen dataclass of type `kind` that `text` (JSON) holds; strict, nothing is coerced.

    Raises:
        ConfigError: with every problem, one line each.
    """
    broken = groups.load_chosen(text)
    try:
        checked = _root(cast(Hashable, kind), groups.loaded())
        with deferred():
            root = checked.model_validate_json(f'{{"value": {text}}}')
    except ValidationError as error:
        found = [problem for problems in broken.values() for problem in problems]
        others = [e for e in error.errors() if not (e["loc"][1:2] and e["loc"][1] in broken)]
        raise ConfigError([*found, *_lines(others)]) from None
    value: T = root.value  # type: ignore[attr-defined]
    refuse(across(value), ConfigError)
    return value


def encode(value: Any) -> str:
    """Canonical JSON of a frozen dataclass; `decode` gives back an equal value."""
    return json.dumps(to_tree(value), sort_keys=True, separators=(",", ":"))


def to_tree(value: Any) -> Any:
    """Plain dicts, lists and scalars of a frozen dataclass."""
    return _adapter(cast(Hashable, type(value)), groups.loaded()).dump_python(value, mode="json")


@cache
def _adapter(kind: Hashable, loaded: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(type, kind))


# --- problems ---------------------------------------------------------------------------


def _lines(details: Sequence[ErrorDetails]) -> list[str]:
    """One line per problem, without what concerns options that were not meant.

    A union inside a scenario carries no tag (data knows no pydantic), so its
    problems are reported for every option: those of another `kind` are left out.
    """
    other: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in details:
        if detail["type"] == "literal_error" and detail["loc"][-1] == "kind":
            other.setdefault(_parts(detail), []).append(detail)
    dropped = [detail["loc"][:-1] for group in other.values() for detail in group]
    kept = [d for d in details if not any(d["loc"][: len(start)] == start for start in dropped)]
    meant = {_parts(d)[: len(parts) - 1] for d in kept for parts in other}
    unknown = [group for parts, group in other.items() if parts[:-1] not in meant]
    return [*_described(kept), *(_unknown_kind(group) for group in unknown)]


def _described(details: Sequence[ErrorDetails]) -> list[str]:
    """Scalars of several types (`auto` or a number) are one problem with all rules in it."""
    found: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in details:
        found.setdefault(_parts(detail), []).append(detail)
    return [
        line
        for group in found.values()
        for line in (described(group, _parts) if _is_scalar(group[0]) else map(_describe, group))
    ]


def _is_scalar(detail: ErrorDetails) -> bool:
    """Whether the last part of the location is a type that a scalar was tried as."""
    return bool(detail["loc"]) and str(detail["loc"][-1]).startswith(_SCALARS)


def _unknown_kind(details: Sequence[ErrorDetails]) -> str:
    path, value = ".".join(_parts(details[0])), details[0]["input"]
    expected = ", ".join(detail["ctx"]["expected"] for detail in details)
    return f"{path}={short(value)}: must be one of {expected}"


def _describe(detail: ErrorDetails) -> str:
    path, value = _path(detail), detail["input"]
    match detail["type"]:
        case "unexpected_keyword_argument":
            return f"{path}={short(value)}: unknown key"
        case "missing":
            return f"{path}: must be given, as {path}=..."
        case "union_tag_invalid":
            known = ", ".join(map(repr, groups.kinds(path)))
            expected = known or detail["ctx"]["expected_tags"]
            return f"{path}.kind={detail['ctx']['tag']}: must be one of {expected}"
        case "union_tag_not_found":
            return f"{path}.kind: missing, so it is unclear which option is meant"
    return f"{path}={short(value)}: must be {rule_of(detail)}"


def _path(detail: ErrorDetails) -> str:
    return ".".join(_parts(detail)) or "config"


def _parts(detail: ErrorDetails) -> tuple[str, ...]:
    """Dotted path without the wrapper and without the options that unions put into it."""
    parts = [str(part) for part in detail["loc"][1:]]
    if len(parts) > 1 and parts[0] in TAGGED:
        del parts[1]
    if len(parts) > 2 and parts[2] in option_names(parts[:2]):
        del parts[2]
    if _is_scalar(detail):
        del parts[-1]
    return tuple(parts)
