"""What a mechanism that ran costs, as data: the currency of plan, accountant and ledger.

An event says what was done to the data, not what it amounts to: its epsilon is
computed where it is asked for, together with everything else that was spent.
Events are stored as JSON and never as names of code to import.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, assert_never, get_args

from fedlearn.core.errors import DataError
from fedlearn.privacy.discrete import SMALLEST_STDDEV, Law

Unit = Literal["record", "person", "client"]
"""Whose data is protected, from the least to the most: a record, all records of a person at a
site, all records of a site."""

WITHIN_SITES: Final[frozenset[str]] = frozenset({"record", "person"})
"""Units of which a site has many: each is clipped, and drawn into a step, by itself."""

MOST_STEPS: Final = 1 << 28
"""Of one mechanism over the life of a ledger; to account for these takes up to ten seconds and
a gigabyte, and both grow without end beyond them."""


@dataclass(frozen=True, kw_only=True)
class GaussianEvent:
    """`steps` noisy sums over Poisson samples of the records.

    In each step every record takes part independently with chance
    `sample_rate` (1: all records, always), adds a vector of norm at most C to
    the sum, and the sum is released with noise N(0, (noise_multiplier * C)^2)
    in every coordinate. The unit is one record, the relation is "add or remove
    it". A noise multiplier of zero stands for a release in clear.

    Raises ValueError if a value is outside its range.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    kind: Literal["gaussian"] = "gaussian"

    def __post_init__(self) -> None:
        _check_common(self.noise_multiplier, self.sample_rate, self.steps)


@dataclass(frozen=True, kw_only=True)
class PersonGaussianEvent:
    """`steps` noisy sums over Poisson samples of the persons of a site.

    As `GaussianEvent`, with the person as the unit: in each step every person takes part
    independently with chance `sample_rate`, and all records of a person together add a vector of
    norm at most C. The relation is "add or remove all records of one person".

    Raises ValueError if a value is outside its range.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    kind: Literal["person_gaussian"] = "person_gaussian"

    def __post_init__(self) -> None:
        _check_common(self.noise_multiplier, self.sample_rate, self.steps)


@dataclass(frozen=True, kw_only=True)
class ClientGaussianEvent:
    """`steps` noisy sums of clipped client updates, made by an aggregator that is trusted.

    In each step every client takes part by an independent secret coin of
    chance `sample_rate`, adds a vector of norm at most C, and the sum is
    released with noise N(0, (noise_multiplier * C)^2) in every coordinate. The
    unit is all that one client holds, the relation "add or remove it". The
    sample rate helps only against those who cannot tell who took part.

    Raises ValueError if a value is outside its range.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    kind: Literal["client_gaussian"] = "client_gaussian"

    def __post_init__(self) -> None:
        _check_common(self.noise_multiplier, self.sample_rate, self.steps)


@dataclass(frozen=True, kw_only=True)
class DiscreteSumEvent:
    """`steps` modular sums of integer vectors, each summand with its own share of integer noise.

    Two neighbouring data sets move the sum by an integer vector of norm at most
    `l2_sensitivity`, except with chance `rounding_failure` per step, for
    rounding coins that do not depend on the data. `shares` independent draws of
    `law` with `share_stddev` are added to each of `dimension` coordinates;
    shares that dropped out or that the adversary knows are not counted.

    The unit is one record, or all records of one person (added or removed, sampled with chance
    `sample_rate` per step), or one client (its data replaced by none, its noise share staying).

    Raises ValueError if a value is outside its range.
    """

    law: Law
    unit: Unit
    l2_sensitivity: float
    share_stddev: int
    shares: int
    dimension: int
    rounding_failure: float
    sample_rate: float
    steps: int
    kind: Literal["discrete_sum"] = "discrete_sum"

    def __post_init__(self) -> None:
        if self.law not in get_args(Law) or self.unit not in get_args(Unit):
            raise ValueError(f"law={self.law!r}, unit={self.unit!r}: unknown")
        if self.share_stddev < SMALLEST_STDDEV:
            raise ValueError(f"share_stddev={self.share_stddev}: must be >= {SMALLEST_STDDEV}")
        for name in ("shares", "dimension", "share_stddev"):
            _check_whole(name, getattr(self, name))
        if not 1 / _LARGEST <= self.l2_sensitivity <= _LARGEST:
            raise ValueError(f"l2_sensitivity={self.l2_sensitivity}: must be a number > 0")
        if not 0 <= self.rounding_failure < 1:
            raise ValueError(f"rounding_failure={self.rounding_failure}: must be in [0, 1)")
        _check_common(self.noise_multiplier, self.sample_rate, self.steps)

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the whole noise on a coordinate of the integer sum."""
        return math.sqrt(self.shares) * self.share_stddev

    @property
    def noise_multiplier(self) -> float:
        """The whole noise over the sensitivity."""
        return self.noise_stddev / self.l2_sensitivity


def _check_common(noise_multiplier: float, sample_rate: float, steps: int) -> None:
    if not 0 <= noise_multiplier <= _LARGEST:
        raise ValueError(f"noise_multiplier={noise_multiplier}: must be finite and >= 0")
    if not _SMALLEST_RATE <= sample_rate <= 1:
        raise ValueError(f"sample_rate={sample_rate}: must be in (0, 1], at least {_SMALLEST_RATE}")
    _check_whole("steps", steps, MOST_STEPS)


def _check_whole(name: str, value: int, most: int = 2**53) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{name}={value}: must be from 1 to {most}")


_LARGEST: Final = 1e150
_SMALLEST_RATE: Final = 1e-100
"""Beyond these an accountant's floats overflow, and no mechanism means it."""


Event = GaussianEvent | PersonGaussianEvent | ClientGaussianEvent | DiscreteSumEvent
"""Everything that can be spent; a new mechanism adds a kind here."""


def unit_of(event: Event) -> Unit:
    """Whom an event's epsilon is about."""
    match event:
        case GaussianEvent():
            return "record"
        case PersonGaussianEvent():
            return "person"
        case ClientGaussianEvent():
            return "client"
        case DiscreteSumEvent():
            return event.unit
        case _:
            assert_never(event)


_KINDS: Final[dict[str, type[Any]]] = {
    "gaussian": GaussianEvent,
    "person_gaussian": PersonGaussianEvent,
    "client_gaussian": ClientGaussianEvent,
    "discrete_sum": DiscreteSumEvent,
}


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same history with equal mechanisms put together, in a canonical order.

    Composition does not depend on the order of non-adaptive parameters, so
    histories that cost the same have the same merged form.

    Raises ValueError for more than `MOST_STEPS` of one mechanism.
    """
    steps: dict[Event, int] = {}
    for event in events:
        one = replace(event, steps=1)
        steps[one] = steps.get(one, 0) + event.steps
    return tuple(
        sorted((replace(one, steps=count) for one, count in steps.items()), key=_sorting_key)
    )


def _sorting_key(event: Event) -> tuple[object, ...]:
    return (event.kind, *(getattr(event, field.name) for field in fields(event)))


def to_json(event: Event) -> dict[str, str | float | int]:
    """The JSON object of an event; `from_json` gives back an equal event, floats bit for bit."""
    return {field.name: getattr(event, field.name) for field in fields(event)}


def from_json(value: object) -> Event:
    """The event of a JSON object.

    Raises DataError for anything that `to_json` would not have written:
    unknown kind, missing or extra key, wrong type, value out of range.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"event: expected an object, found {type(value).__name__}")
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise DataError(f"event.kind={kind!r}: must be one of {', '.join(map(repr, _KINDS))}")
    types = {field.name: str(field.type) for field in fields(_KINDS[kind])}
    if set(value) != set(types):
        raise DataError(f"event: needs exactly the keys {sorted(types)}, found {sorted(value)}")
    try:
        event: Event = _KINDS[kind](**{name: _read(value[name], types[name]) for name in types})
    except (ValueError, OverflowError) as error:
        raise DataError(f"event: {error}") from error
    return event


def _read(value: object, wanted: str) -> object:
    """`value` as the field type `wanted` (a source text, as in the classes above)."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is neither a number nor a name")
    match wanted:
        case "float":
            if not isinstance(value, (int, float)):
                raise ValueError(f"{value!r} is not a number")
            return float(value)
        case "int":
            if not isinstance(value, int):
                raise ValueError(f"{value!r} is not an integer")
            return value
    # All other fields are names of one of a few things.
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a name")
    return value
