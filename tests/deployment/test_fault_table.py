"""Faults of deployments that were seen on separate machines, each with its tests; and of those that
had none with real processes, one federation that has them all.

Its server is certified by RSA, by its organisation's own authority. Of its sites two are well; one
has its columns in another order and in words of its own, one has a column too many and says so in
its file, one has it and does not; one is an hour late, one has a full disk, and one sits behind a
slow line that tears connections.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from clients.ledger.report import verify
from tests.fedlearn.crypto.test_organisation import made, organisation
from tests.sources import ROOT

from .line import Line
from .processes import PATIENCE, Stage, staged, wait_for
from .test_outages import HOUR, OPTIONS, Fill, small_disk, write_records
from .world import World, make_world

FAULTS: Final = {
    "a data file that has changed, told without its hash": (
        "tests/deployment/test_fault_table.py:test_records__that_have_grown_are_no_fault",
    ),
    "a link that is down, a gateway or a SuperLink that is killed": (
        "tests/deployment/test_waits.py:test_outages__end_no_run_and_cost_what_was_lost",
        "tests/deployment/test_waits.py:"
        "test_outage__that_lasts_ends_the_run_with_4_and_the_same_command_goes_on",
    ),
    "a slow line, also one that tears connections": (
        "tests/server/superlink/test_slow_line.py:test_slow_line__carries_an_update_once",
        "tests/deployment/test_fault_table.py:test_table__costs_the_sites_that_are_at_fault_alone",
    ),
    "a site that fails at hello": (
        "tests/deployment/test_fault_table.py:test_table__costs_the_sites_that_are_at_fault_alone",
        "tests/deployment/test_outages.py:"
        "test_outages__cost_the_rounds_in_which_they_happen_and_no_more",
    ),
    "a full disk, also while coming online": (
        "tests/deployment/test_outages.py:"
        "test_outages__cost_the_rounds_in_which_they_happen_and_no_more",
        "tests/deployment/test_fault_table.py:test_table__costs_the_sites_that_are_at_fault_alone",
    ),
    "columns in another order, and in other words": (
        "tests/deployment/test_fault_table.py:test_table__costs_the_sites_that_are_at_fault_alone",
    ),
    "a column too many": (
        "tests/deployment/test_fault_table.py:"
        "test_column_too_many__is_told_at_its_site_and_by_no_name_elsewhere",
    ),
    "what a run is doing": (
        "tests/deployment/test_waits.py:test_outages__end_no_run_and_cost_what_was_lost",
    ),
    "a kill inside a private round": (
        "tests/deployment/test_faults.py:"
        "test_faults__a_coordinator_may_die_between_rounds_and_in_one",
        "tests/deployment/test_faults.py:test_faults__a_site_may_die_at_every_step_of_a_round",
    ),
    "an organisation's own authority, with RSA": (
        "tests/deployment/test_fault_table.py:test_table__costs_the_sites_that_are_at_fault_alone",
    ),
    "a clock that is an hour wrong": (
        "tests/deployment/test_outages.py:"
        "test_outages__cost_the_rounds_in_which_they_happen_and_no_more",
        "tests/deployment/test_fault_table.py:test_clock__that_is_late_is_named_at_both_ends",
    ),
    "a copied folder that is started twice": (
        "tests/deployment/test_waits.py:"
        "test_outage__that_lasts_ends_the_run_with_4_and_the_same_command_goes_on",
    ),
}
"""Every fault, and the tests with real processes that show what comes of it."""

WELL = ("a", "b")
WRITTEN_OTHERWISE = ("extra", "order")
TAKING_PART = (*WELL, *WRITTEN_OTHERWISE, "full", "slow")
SITES = (*TAKING_PART, "behind", "unlike")
DATA = "{kind: csv, path: records.csv, label: ill}"
EXTRA = "kreatinin"
RATE, LATE, TORN = 200_000.0, 0.03, 150_000
RUN = (*OPTIONS, "rounds=3", "reply_timeout=60.0")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk, preloads a clock"),
]


def test_faults__have_tests_of_these_names() -> None:
    for fault, tests in FAULTS.items():
        for one in tests:
            path, _, name = one.partition(":")
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert name in names, fault


@dataclass(frozen=True)
class Ended:
    """A federation after its first run: the processes, the result, and the slow line."""

    stage: Stage
    found: dict[str, Any]
    line: Line

    def coordinators(self) -> Iterator[tuple[Path, bytes]]:
        """All that the coordinator has on its disk but what sites have sent it on purpose."""
        for path in self.stage.world.coordinator.rglob("*"):
            if path.is_file():
                yield path, path.read_bytes()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("faults"), SITES, wait=30.0)
    folder = world.root / "board"
    tls, authority = organisation(folder, made("rsa-2048"), made("rsa-3072"), "localhost")
    shutil.move(tls, world.coordinator / "keys" / "server.tls")
    for number, name in enumerate(world.sites):
        own = world.root / name
        shutil.copy(authority, own / "ca.crt")
        write_records(own / "records.csv", number)
        path = world.site_file(name)
        text = path.read_text().replace("{kind: heart}", DATA).replace("127.0.0.1", "localhost")
        path.write_text(text)
    write_otherwise(world)
    return world


def write_otherwise(world: World) -> None:
    """The tables of three sites are not those of the others."""
    for name in ("extra", "unlike"):
        rows = read(world, name)
        write(world, name, [{**row, EXTRA: "1.0"} for row in rows])
    rows = read(world, "order")
    coded = {"0": "nein", "1": "ja"}
    write(world, "order", [
        {"krank": coded[row["ill"]], "w": row["w"], "u": row["u"], "v": row["v"]} for row in rows
    ])  # fmt: skip
    own = ", rename: {krank: ill}, map: {ill: {nein: '0', ja: '1'}}}"
    for name, more in (("extra", f", drop: [{EXTRA}]}}"), ("order", own)):
        path = world.site_file(name)
        path.write_text(path.read_text().replace(DATA, DATA[:-1] + more))


def read(world: World, name: str) -> list[dict[str, str]]:
    with (world.root / name / "records.csv").open() as file:
        return list(csv.DictReader(file))


def write(world: World, name: str, rows: list[dict[str, str]]) -> None:
    with (world.root / name / "records.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What to put into the environment of a process whose clock is to be an hour late."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to put a clock wrong")
    library = tmp_path_factory.mktemp("late") / "clock.so"
    source = Path(__file__).parent / "clock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(-HOUR)}


@pytest.fixture(scope="module")
def ended(world: World, late: dict[str, str]) -> Iterator[Ended]:
    line = Line(world.port, RATE, LATE, TORN)
    path = world.site_file("slow")
    path.write_text(path.read_text().replace(f":{world.port}", f":{line.port}"))
    with small_disk(world.root / "full" / "state") as fill, staged(world, None, RUN) as stage:
        yield Ended(stage, first_run(stage, fill, late), line)
    line.close()


def first_run(stage: Stage, fill: Fill, late: dict[str, str]) -> dict[str, Any]:
    fill()
    for name in TAKING_PART:
        stage.site(name)
    stage.site("unlike")
    stage.faulty_site("behind", **late)
    server = stage.server("out=runs/first")
    wait_for(
        "its full disk to be said",
        lambda: "cannot be written to" in stage.log("full"),
        unless=server,
    )
    (stage.world.root / "full" / "state" / "full").unlink()
    assert server.wait(PATIENCE) == 0, stage.said_by_coordinator()
    return result(stage, "first")


def result(stage: Stage, name: str) -> dict[str, Any]:
    path = stage.world.coordinator / "runs" / name / "result.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_table__costs_the_sites_that_are_at_fault_alone(ended: Ended) -> None:
    found = ended.found
    assert found["status"] == "finished"
    assert sorted(found["data"]["sites"]) == sorted(TAKING_PART)
    assert [one["clients"]["dropped"] for one in found["rounds"]] == [{}] * 3
    (aside,) = found["declined"]
    assert aside.startswith("site unlike: its records cannot be used"), "by name"
    assert ended.line.dropped > 0, "and the line has torn connections"
    said = (ended.stage.world.coordinator / "server.log").read_text()
    for never in ("secagg=off", "a bug in fedlearn", "Traceback"):
        assert never not in said
    assert ended.stage.lives("full") == 1, "it waited, and came online"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_column_too_many__is_told_at_its_site_and_by_no_name_elsewhere(ended: Ended) -> None:
    said = ended.stage.log("unlike")
    assert EXTRA in said
    assert "data.drop" in said
    assert "scenario.drop" not in said
    assert not [path for path, content in ended.coordinators() if EXTRA.encode() in content]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_clock__that_is_late_is_named_at_both_ends(ended: Ended) -> None:
    assert ended.stage.sites["behind"].wait(PATIENCE) == 4
    assert re.search(r"clock is 3[56]\d\d seconds behind", ended.stage.log("behind"))
    lines = (ended.stage.world.coordinator / "state" / "server.jsonl").read_text().splitlines()
    clocks = [one for line in lines if (one := json.loads(line))["event"] == "clock"]
    assert {one["site"] for one in clocks} == {"behind"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_records__that_have_grown_are_no_fault(ended: Ended) -> None:
    """The next run goes on with them; the ledger has one entry more, and no fresh budget."""
    stage, world = ended.stage, ended.stage.world
    before = verify(world.ledger("a"))
    rows = read(world, "a")
    write(world, "a", [*rows, *rows[:20]])
    server = stage.server("out=runs/second")
    assert server.wait(PATIENCE) == 0, stage.said_by_coordinator()
    assert "a" in result(stage, "second")["data"]["sites"]
    after = verify(world.ledger("a"))
    assert after.reserved > before.reserved
    lines = world.ledger("a").read_text().splitlines()
    entries = [json.loads(line)["entry"] for line in lines]
    hashes = [one["sha256"].encode() for one in entries if one["kind"] == "records"]
    assert len({*hashes}) == 2, "as they were, and as they are"
    assert set(before.by_run) < set(after.by_run), "what was spent stays spent"
    content = (world.root / "a" / "records.csv").read_bytes()
    secret = (*hashes, hashlib.sha256(content).hexdigest().encode(), b"records.csv")
    for path, held in ended.coordinators():
        assert not [one for one in secret if one in held], path
