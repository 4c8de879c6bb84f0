"""Events as data: they travel exactly, and nothing else gets in."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.core.errors import DataError
from fedlearn.privacy.events import MOST_STEPS, GaussianEvent, from_json, merged, to_json

EVENTS = st.builds(
    GaussianEvent,
    noise_multiplier=st.floats(0, 1e6),
    sample_rate=st.floats(1e-100, 1),
    steps=st.integers(1, MOST_STEPS // 54),
)


@given(EVENTS)
def test_event__survives_json_bit_for_bit(event: GaussianEvent) -> None:
    assert from_json(json.loads(json.dumps(to_json(event)))) == event


@given(st.lists(EVENTS, max_size=6), st.lists(st.integers(1, 9), max_size=6))
def test_merged__keeps_every_step_and_forgets_order(
    events: list[GaussianEvent], repeats: list[int]
) -> None:
    history = [event for event, times in zip(events, repeats, strict=False) for _ in range(times)]
    result = merged(history)
    assert result == merged(history[::-1]) == merged(result)
    for event in history:
        mechanism = (event.noise_multiplier, event.sample_rate)
        total = sum(e.steps for e in history if (e.noise_multiplier, e.sample_rate) == mechanism)
        assert [e.steps for e in result if (e.noise_multiplier, e.sample_rate) == mechanism] == [
            total
        ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("sample_rate", 0.0),
        ("sample_rate", 1.0000001),
        ("sample_rate", math.nan),
        ("steps", 0),
        ("steps", -5),
        ("steps", MOST_STEPS + 1),
    ],
)
def test_event__refuses(field: str, value: float) -> None:
    good = {"noise_multiplier": 1.0, "sample_rate": 0.5, "steps": 3}
    with pytest.raises(ValueError, match=field):
        GaussianEvent(**{**good, field: value})  # type: ignore[arg-type]


def test_merged__refuses_more_steps_than_anybody_could_account_for() -> None:
    whole = GaussianEvent(noise_multiplier=1.0, sample_rate=0.5, steps=MOST_STEPS)
    with pytest.raises(ValueError, match=f"steps={MOST_STEPS + 1}: must be from 1 to"):
        merged([whole, GaussianEvent(noise_multiplier=1.0, sample_rate=0.5, steps=1)])
    with pytest.raises(DataError, match="steps"):
        from_json({**to_json(whole), "steps": 2**40})


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "laplace"},
        {"kind": None},
        {"extra": 1},
        {"steps": 1.5},
        {"steps": True},
        {"steps": "3"},
        {"steps": 0},
        {"sample_rate": "0.5"},
        {"sample_rate": None},
        {"sample_rate": 10**400},
        {"noise_multiplier": False},
        {"noise_multiplier": -1},
    ],
)
def test_from_json__refuses_what_was_not_written_by_to_json(change: dict[str, object]) -> None:
    good = to_json(GaussianEvent(noise_multiplier=1.0, sample_rate=0.5, steps=3))
    with pytest.raises(DataError, match="event"):
        from_json({**good, **change})


@pytest.mark.parametrize("value", [None, [], "gaussian", 3, {}])
def test_from_json__refuses_what_is_no_event(value: object) -> None:
    with pytest.raises(DataError, match="event"):
        from_json(value)


def test_from_json__refuses_a_missing_key() -> None:
    with pytest.raises(DataError, match="exactly the keys"):
        from_json({"kind": "gaussian", "noise_multiplier": 1.0, "steps": 1})
