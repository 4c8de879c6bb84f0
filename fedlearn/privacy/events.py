"""What a mechanism that ran costs, as data: the currency of plan, accountant and ledger.

An event says what was done to the data, not what it amounts to: its epsilon is
computed where it is asked for, together with everything else that was spent.
Events are stored as JSON and never as names of code to import.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, assert_never

from fedlearn.errors import DataError


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
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise ValueError(f"noise_multiplier={self.noise_multiplier}: must be finite and >= 0")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate={self.sample_rate}: must be in (0, 1]")
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be >= 1")


Event = GaussianEvent
"""Everything that can be spent; a new mechanism adds a kind here."""


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same history with equal mechanisms put together, in a canonical order.

    Composition does not depend on the order of non-adaptive parameters, so
    histories that cost the same have the same merged form.
    """
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        match event:
            case GaussianEvent():
                key = (event.noise_multiplier, event.sample_rate)
                steps[key] = steps.get(key, 0) + event.steps
            case _:
                assert_never(event)
    return tuple(
        GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps[noise, rate])
        for noise, rate in sorted(steps)
    )


def to_json(event: Event) -> dict[str, str | float | int]:
    """The JSON object of an event; `from_json` gives back an equal event, floats bit for bit."""
    match event:
        case GaussianEvent():
            return {
                "kind": event.kind,
                "noise_multiplier": event.noise_multiplier,
                "sample_rate": event.sample_rate,
                "steps": event.steps,
            }
        case _:
            assert_never(event)


def from_json(value: object) -> Event:
    """The event of a JSON object.

    Raises DataError for anything that `to_json` would not have written:
    unknown kind, missing or extra key, wrong type, value out of range.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"event: expected an object, found {type(value).__name__}")
    if value.get("kind") != "gaussian":
        raise DataError(f"event.kind={value.get('kind')!r}: must be 'gaussian'")
    names = {"kind", "noise_multiplier", "sample_rate", "steps"}
    if set(value) != names:
        raise DataError(f"event: needs exactly the keys {sorted(names)}, found {sorted(value)}")
    try:
        return GaussianEvent(
            noise_multiplier=_number(value["noise_multiplier"]),
            sample_rate=_number(value["sample_rate"]),
            steps=_integer(value["steps"]),
        )
    except (ValueError, OverflowError) as error:
        raise DataError(f"event: {error}") from error


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not an integer")
    return value
