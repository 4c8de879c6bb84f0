"""From what pydantic finds wrong to one line per problem, in the words of the config.

A line is `dotted.path=value: rule`. pydantic puts the member of a union that it
tried into the path; users do not know those names, so they are taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic_core import ErrorDetails

from fedlearn.config.groups import kinds
from fedlearn.config.nested import option_names
from fedlearn.core.settings import described, rule_of, short

TAGGED: Final = frozenset(
    [
        "task",
        "scenario",
        "partition",
        "model",
        "strategy",
        "privacy",
        "secagg",
        "transport",
        "engine",
        "fairness",
        "audit",
        "stage",
        "tracking",
    ]
)
"""The groups of a run that are unions told apart by `kind`."""

_SCALARS = ("literal[", "constrained-")


def lines(details: Sequence[ErrorDetails]) -> list[str]:
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
            known = ", ".join(map(repr, kinds(path)))
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
