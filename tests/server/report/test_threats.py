"""The threat table says of every configuration what holds and what does not."""

from __future__ import annotations

import itertools
from typing import get_args, get_type_hints

import pytest

from server.report.threats import Defence, threats
from server.result import Protection

KINDS = get_type_hints(Protection)
ALL = [
    Defence(
        protection=Protection(transport=t, secagg=s), private=private, released_by_site=released
    )
    for t, s, private, released in itertools.product(
        get_args(KINDS["transport"]), get_args(KINDS["secagg"]), (False, True), (False, True)
    )
]


@pytest.mark.parametrize("defence", ALL, ids=lambda d: d.name)
def test_threats__leave_no_seat_and_no_cell_empty(defence: Defence) -> None:
    rows = threats(defence)
    assert len({row.seat for row in rows}) == len(rows) == 6
    assert all(row.sees and row.held_by and row.remains for row in rows)


@pytest.mark.parametrize("defence", ALL, ids=lambda d: d.name)
def test_threats__credit_a_mechanism_only_where_it_is_on(defence: Defence) -> None:
    network, coordinator, spy, colluding, user, _ = threats(defence)
    assert ("AES" in network.held_by) == (defence.protection.transport == "sealed")
    summed = defence.protection.secagg in ("masked", "two_server")
    assert coordinator.sees.startswith("the sum" if summed else "the update of every single site")
    for row in (coordinator, spy, colluding, user):
        assert ("epsilon bounds" in row.held_by) == defence.private
    # Secure aggregation alone stops neither trap weights nor a collusion.
    if not defence.private:
        assert "nothing" in spy.held_by
        assert "nothing" in colluding.held_by


def test_threats__say_whose_test_results_leave_the_sites() -> None:
    for defence in ALL:
        sees = threats(defence)[1].sees
        assert ("each site's test results" in sees) == defence.released_by_site
