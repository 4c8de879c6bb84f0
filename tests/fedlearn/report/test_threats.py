"""The threat table says of every configuration what holds and what does not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from fedlearn.cli import main
from fedlearn.report.threats import Defence, Noise, limits, threats
from fedlearn.results.reading import read_result
from fedlearn.results.result import Protection
from tests.simulations.small import table

KINDS = get_type_hints(Protection)
UNITS = {"none": ("none",), "site": ("record",), "shares": ("record", "client"),
         "coordinator": ("client",)}  # fmt: skip
ALL = [
    Defence(
        protection=Protection(transport=t, secagg=s), noise=noise, unit=unit, colluders=1,
        released_by_site=released,
    )
    for t, s, noise, released in itertools.product(
        get_args(KINDS["transport"]), get_args(KINDS["secagg"]), get_args(Noise), (False, True)
    )
    for unit in UNITS[noise]
]  # fmt: skip
IDS = [f"{d.name}-{d.released_by_site}" for d in ALL]


@pytest.mark.parametrize("defence", ALL, ids=IDS)
def test_threats__leave_no_seat_and_no_cell_empty(defence: Defence) -> None:
    rows = threats(defence)
    assert len({row.seat for row in rows}) == len(rows) == 6
    assert all(row.sees and row.held_by and row.remains for row in rows)


@pytest.mark.parametrize("defence", ALL, ids=IDS)
def test_threats__credit_a_mechanism_only_where_it_is_on(defence: Defence) -> None:
    network, coordinator, spy, colluding, user, _ = threats(defence)
    assert ("AES" in network.held_by) == (defence.protection.transport == "sealed")
    summed = defence.protection.secagg in ("masked", "two_server")
    assert coordinator.sees.startswith("the sum" if summed else "the update of every single site")
    # Secure aggregation alone stops neither trap weights nor a collusion.
    if defence.noise == "none":
        assert "nothing" in spy.held_by
        assert "nothing" in colluding.held_by
    bounded = [
        row for row in (coordinator, spy, colluding, user) if "epsilon bounds" in row.held_by
    ]
    assert bounded == {
        "none": [],
        "site": [coordinator, spy, colluding, user],
        "shares": [coordinator, spy, user] if summed else [user],
        "coordinator": [user],
    }[defence.noise]  # fmt: skip


@pytest.mark.parametrize("defence", ALL, ids=IDS)
def test_threats__promise_for_the_unit_and_not_for_another(defence: Defence) -> None:
    user = threats(defence)[4]
    assert ("about a record" in user.held_by) == (defence.unit == "record")
    assert ("about all that one site holds" in user.held_by) == (defence.unit == "client")


def test_threats__say_whose_test_results_leave_the_sites() -> None:
    for defence in ALL:
        sees = threats(defence)[1].sees
        assert ("each site's test results" in sees) == defence.released_by_site


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "expected", "lines"),
    [
        (["privacy=none", "evaluation=pooled"], ("none", "none", 0, True), 0),
        (["privacy.delta=1e-3"], ("site", "record", 0, True), 0),
        (["privacy=client", "privacy.epsilon=8"], ("coordinator", "client", 0, True), 0),
        (
            ["privacy=distributed", "privacy.delta=1e-3", "secagg=masked", "evaluation=pooled"],
            ("shares", "record", 1, False),
            3,
        ),
        (["privacy=none", "secagg=two_server"], ("none", "none", 0, True), 1),
    ],
)
def test_defence__is_that_of_the_run(
    tmp_path: Path, overrides: list[str], expected: tuple[object, ...], lines: int
) -> None:
    words = [*table(tmp_path, sites=("a", "b", "c")), "rounds=1", *overrides]
    assert main(["simulate", *words, f"out={tmp_path / 'run'}"]) == 0
    result = read_result(tmp_path / "run")
    found = Defence.of(result)
    assert (found.noise, found.unit, found.colluders, found.released_by_site) == expected
    assert len(limits(result)) == lines
    if lines == 3:
        assert "by 2 of the 2 sites" in limits(result)[1]
