"""What config classes are written in: types that carry rules, and `config`, which checks them.

Each name below carries its rule as `annotated_types` metadata. The rules are checked when an
object is made, in Python as from YAML, by the same words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, dataclass_transform

from annotated_types import Ge, Gt, Le, Lt, MinLen

from fedlearn.core.errors import ConfigError

if TYPE_CHECKING:  # pydantic takes a while, and is only asked once something is made
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

Count = Annotated[int, Gt(0)]
"""An integer of at least one."""

Natural = Annotated[int, Ge(0)]
"""An integer of at least zero."""

Positive = Annotated[float, Gt(0)]
"""A number above zero."""

NonNegative = Annotated[float, Ge(0)]
"""A number of at least zero."""

Rate = Annotated[float, Gt(0), Le(1)]
"""A fraction in (0, 1]."""

Portion = Annotated[float, Ge(0), Lt(1)]
"""A fraction in [0, 1)."""

Probability = Annotated[float, Gt(0), Lt(1)]
"""A fraction in (0, 1), such as a delta."""

Name = Annotated[str, MinLen(1)]
"""A text that is not empty."""


class _NumberAsText:
    """In an annotation: a number is taken for the text that it has."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(_text_of, handler(source))


def _text_of(value: object) -> object:
    return repr(value) if type(value) in (int, float) else value


Value = Annotated[str, _NumberAsText()]
"""A text of somebody's table, a name or a value, which may look like a number: `5411`."""

ValueName = Annotated[Value, MinLen(1)]
"""The same, and not empty."""

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(kind: type[T]) -> type[T]:
    """Make `kind` a frozen dataclass by keywords whose objects are checked when they are made.

    Lists become tuples, numbers of NumPy become Python's, and equal objects have equal hashes,
    whatever mappings they hold. A method `contradictions()` of the
    class, if it has one, says what is wrong across fields that are each possible.

    Guarantees: no object exists with a field that breaks its annotation: a value out of
    range, NaN, infinite or of another type raises ConfigError with every problem, one line
    each, by the name of the field. (`deferred` leaves that to whoever decodes a whole config.)

    Example:
        >>> @config
        ... class Noise:
        ...     stddev: Positive
        >>> Noise(stddev=-1.0)
        Traceback (most recent call last):
        fedlearn.core.errors.ConfigError: stddev=-1.0: must be > 0
    """
    kind.__post_init__ = _check  # type: ignore[attr-defined]
    kind.__hash__ = _hash  # type: ignore[assignment]
    return dataclass(frozen=True, kw_only=True)(kind)


_DEFERRED: ContextVar[bool] = ContextVar("deferred", default=False)


@contextmanager
def deferred() -> Iterator[None]:
    """While this lasts nothing is checked: whoever decodes a whole config lists all problems,
    and asks `across` for those that lie between fields."""
    token = _DEFERRED.set(True)
    try:
        yield
    finally:
        _DEFERRED.reset(token)


def _hash(made: Any) -> int:
    return hash((type(made), *(_hashable(getattr(made, field.name)) for field in fields(made))))


def _hashable(value: Any) -> Hashable:
    match value:
        case Mapping():
            return frozenset((key, _hashable(one)) for key, one in value.items())
        case list() | tuple():
            return tuple(map(_hashable, value))
    return value  # type: ignore[no-any-return]


def _check(made: Any) -> None:
    if _DEFERRED.get():
        return
    values = {field.name: _plain(getattr(made, field.name)) for field in fields(made)}
    found = [*_broken(type(made), values)]
    for name, value in values.items():
        object.__setattr__(made, name, value)
    if found := found or [*_across(made)]:
        raise ConfigError(found)


def _plain(value: Any) -> Any:
    """Lists as the tuples that fields hold, and numbers of NumPy as those of Python."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, dict):
        return {_plain(key): _plain(child) for key, child in value.items()}
    is_numpy = type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
    return value.item() if is_numpy else value


def _broken(kind: type, values: dict[str, Any]) -> Iterator[str]:
    """A line for every field that breaks its rule; in `values`, whole numbers become floats."""
    from pydantic import ValidationError

    from fedlearn.core.registry import Family

    loaded = tuple(family.loaded for family in Family.all)
    try:
        values |= _rules(kind, loaded).validate_python(values, strict=True)
    except ValidationError as error:
        yield from described(error.errors(), _place)


def _place(detail: ErrorDetails) -> tuple[str, ...]:
    """Where in an object a value is, without the type of a union that it was tried as."""
    *rest, last = (str(part) for part in detail["loc"])
    tried = last.startswith(("literal[", "constrained-")) or detail["type"].startswith("dataclass")
    return (*rest,) if rest and tried else (*rest, last)


@cache
def _rules(kind: Any, loaded: Hashable) -> TypeAdapter[Any]:
    """What checks the fields of a class, given as a mapping, while these options are `loaded`."""
    from typing import get_type_hints

    from pydantic import ConfigDict, TypeAdapter
    from typing_extensions import TypedDict

    hints = get_type_hints(kind, include_extras=True)
    named = {field.name: hints[field.name] for field in fields(kind)}
    rules = TypedDict(kind.__name__, named)  # type: ignore[misc]
    rules.__pydantic_config__ = ConfigDict(  # type: ignore[attr-defined]
        extra="forbid", strict=True, allow_inf_nan=False
    )
    return TypeAdapter(rules)


def _across(made: Any) -> Iterable[str]:
    contradictions = getattr(made, "contradictions", None)
    return () if contradictions is None else contradictions()


def across(value: Any, path: str = "") -> Iterator[str]:
    """The contradictions of an object and of all that it holds, by dotted path."""
    if is_dataclass(value):
        yield from (f"{path}{line}" for line in _across(value))
        for field in fields(value):
            yield from across(getattr(value, field.name), f"{path}{field.name}.")


# --- from what pydantic finds wrong to lines --------------------------------------------------


def described(
    details: Sequence[ErrorDetails], parts_of: Callable[[ErrorDetails], tuple[str, ...]]
) -> Iterator[str]:
    """One line per problem, `dotted.path=value: must be RULE`; `parts_of` says the path of one.

    Several types that a value was tried as (`auto` or a number) are one problem.
    """
    found: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in details:
        found.setdefault(parts_of(detail), []).append(detail)
    for parts, group in found.items():
        rules = " or ".join(dict.fromkeys(map(rule_of, group)))
        yield f"{'.'.join(parts)}={short(group[0]['input'])}: must be {rules}"


def rule_of(detail: ErrorDetails) -> str:
    """What pydantic asked of a value, in few signs."""
    rule = detail["msg"].removeprefix("Input should be ").replace("greater than", ">")
    rule = rule.replace("less than", "<").replace("> or equal to", ">=")
    if detail["type"] == "string_type" and isinstance(detail["input"], bool | int | float):
        rule += f"; write it in quotes, as in '{short(detail['input'])}'"
    return rule.replace("< or equal to", "<=")


def short(value: object) -> str:
    """A value on part of a line."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
