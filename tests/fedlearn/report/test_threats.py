"""The threat table says of every configuration what holds and what does not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from fedlearn.cli import main
from fedlearn.config import RunConfig, compose
from fedlearn.crypto.settings import TransportPlain, TransportSealed
from fedlearn.mechanisms import (
    ClientPrivacy,
    DistributedPrivacy,
    NoPrivacy,
    Privacy,
    RecordPrivacy,
)
from fedlearn.report.facts import Facts
from fedlearn.report.setup import Setup
from fedlearn.results.reading import read_result
from fedlearn.secagg.settings import SecAggMasked, SecAggOff, SecAggRing, SecAggTwoServer
from tests.simulations.small import table

MECHANISMS: tuple[Privacy, ...] = (
    NoPrivacy(),
    RecordPrivacy(epsilon=1),
    ClientPrivacy(epsilon=1),
    DistributedPrivacy(epsilon=1),
    DistributedPrivacy(epsilon=1, unit="client"),
)
SECAGG = (SecAggOff(), SecAggRing(), SecAggMasked(), SecAggTwoServer())
CONFIG: RunConfig = compose(["experiment=medical_heart"])


def setups() -> Iterator[Setup]:
    for mechanism, secagg, transport, evaluation in itertools.product(
        MECHANISMS, SECAGG, (TransportPlain(), TransportSealed()), ("per_site", "pooled")
    ):
        config = replace(CONFIG, evaluation=evaluation, transport=transport, secagg=secagg)
        yield Setup(config=config, mechanism=mechanism)


class Row(NamedTuple):
    seat: str
    sees: str
    held_by: str
    remains: str


def threats(setup: Setup) -> list[Row]:
    return [Row(*row) for row in setup.texts({})["threats"].rows("table")]


ALL = list(setups())
IDS = [f"{s.texts({})['threats']['name']}-{s.config.evaluation}" for s in ALL]


@pytest.mark.parametrize("setup", ALL, ids=IDS)
def test_threats__leave_no_seat_and_no_cell_empty(setup: Setup) -> None:
    rows = threats(setup)
    assert len({row.seat for row in rows}) == len(rows) == 6
    assert all(row.sees and row.held_by and row.remains for row in rows)


@pytest.mark.parametrize("setup", ALL, ids=IDS)
def test_threats__credit_a_mechanism_only_where_it_is_on(setup: Setup) -> None:
    network, coordinator, spy, colluding, user, _ = threats(setup)
    assert ("AES" in network.held_by) == (setup.config.transport.kind == "sealed")
    summed = setup.config.secagg.kind in ("masked", "two_server")
    assert coordinator.sees.startswith("the sum" if summed else "the update of every single site")
    # Secure aggregation alone stops neither trap weights nor a collusion.
    if setup.mechanism.kind == "none":
        assert "nothing" in spy.held_by
        assert "nothing" in colluding.held_by
    bounded = [
        row for row in (coordinator, spy, colluding, user) if "epsilon bounds" in row.held_by
    ]
    assert bounded == {
        "none": [],
        "record": [coordinator, spy, colluding, user],
        # Two servers in one place are one, to whom a share of the noise hides nothing.
        "distributed": [coordinator, spy, user] if setup.config.secagg.kind == "masked" else [user],
        "client": [user],
    }[setup.mechanism.kind]  # fmt: skip


@pytest.mark.parametrize("setup", ALL, ids=IDS)
def test_threats__promise_for_the_unit_and_not_for_another(setup: Setup) -> None:
    user = threats(setup)[4]
    assert ("about a record" in user.held_by) == (setup.mechanism.unit == "record")
    assert ("about all that one site holds" in user.held_by) == (setup.mechanism.unit == "client")


def test_threats__say_whose_test_results_leave_the_sites() -> None:
    for setup in ALL:
        sees = threats(setup)[1].sees
        summed = setup.config.secagg.kind in ("masked", "two_server")
        opened = setup.config.evaluation == "per_site" or not summed
        assert ("each site's test results" in sees) == opened


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "expected", "lines"),
    [
        (["privacy=none", "evaluation=pooled"], ("none", "none", False), 0),
        (["privacy.delta=1e-3"], ("record", "record", False), 0),
        (["privacy=client", "privacy.epsilon=8"], ("client", "client", False), 0),
        (
            ["privacy=distributed", "privacy.delta=1e-3", "secagg=masked", "evaluation=pooled"],
            ("distributed", "record", True),
            4,
        ),
        (["privacy=none", "secagg=two_server"], ("none", "none", False), 2),
    ],
)
def test_setup__is_that_of_the_run(
    tmp_path: Path, overrides: list[str], expected: tuple[object, ...], lines: int
) -> None:
    words = [*table(tmp_path, sites=("a", "b", "c")), "rounds=1", *overrides]
    assert main(["simulate", *words, f"out={tmp_path / 'run'}"]) == 0
    facts = Facts(result=read_result(tmp_path / "run"), hashes={})
    found, limits = facts.setup, facts.texts["secagg"].lines("limits")
    assert (found.mechanism.kind, found.mechanism.unit, found.pooled) == expected
    assert len(limits) == lines
    if lines == 4:
        assert "withstand 1 site that works with the coordinator" in limits[1]
        assert "2 of the 2 sites that hold shares" in limits[2]
        assert limits[3] == "A round finishes only if every site answers."
