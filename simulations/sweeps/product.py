"""The product of swept values: `seed=0,1 strategy=fedavg,fedyogi` is four lists of overrides.

What counts as a sweep is Hydra's own grammar: commas outside quotes and
brackets, `choice(...)` and `range(...)`. What Hydra cannot read is passed on as
it is, so that whoever composes the config says what is wrong with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from fedlearn.config.composition import is_own_name, split
from fedlearn.core.errors import ConfigError


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
    if found:
        raise ConfigError(found)
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
