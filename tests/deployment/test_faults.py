"""Real processes that die, and what the others, the ledgers and the result make of it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.ledger.report import verify
from fedlearn.privacy.events import GaussianEvent

from .processes import Stage, staged
from .world import HOSPITALS, make_world

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

FAULTY = "hungary"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, heart_archive: Path) -> Iterator[Stage]:
    world = make_world(tmp_path_factory.mktemp("federation"))
    with staged(world, noise=None) as running:
        for name in world.sites:
            if name == FAULTY:
                running.faulty_site(name)
            else:
                running.site(name)
        yield running


def result(stage: Stage, name: str) -> dict[str, Any]:
    path = stage.world.coordinator / "runs" / name / "result.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def paid(stage: Stage, name: str, run_id: str) -> int:
    """How many rounds of a run a site's own ledger has paid for; the ledger is intact."""
    report = verify(stage.world.ledger(name))
    assert not report.torn
    return sum(e.steps for e in report.by_run.get(run_id, ()) if isinstance(e, GaussianEvent))


def steps_known(found: dict[str, Any], name: str) -> int:
    """How many rounds the coordinator counts for a site."""
    return int(found["privacy"]["per_site"][name]["steps"])


def test_faults__a_site_may_die_at_every_step_of_a_round(stage: Stage) -> None:
    """It dies before a step, or once after it, is started anew, and takes part in the next round.

    In rounds 1 to 5 it dies before its contribution has left: the sum is that of the
    others. In 6 and 7 it dies after that, and its contribution is in the sum without it.
    """
    steps = ("query.afford", "query.secagg_advertise", "query.secagg_share", "train")
    later = ("query.secagg_agree", "query.secagg_unmask", "evaluate")
    cues = [*(f"before {step}" for step in steps), "after train"]
    stage.set_cues(stage.world.root / FAULTY, *cues, *(f"before {step}" for step in later))
    server = stage.faulty_server("rounds=9", "out=runs/steps", "reply_timeout=120.0")
    assert stage.tend(server, FAULTY) == 0
    assert stage.cues(stage.world.root / FAULTY) == [], "all of them were followed"
    found = result(stage, "steps")
    assert [one["clients"]["replied"] for one in found["rounds"]] == [3] * 5 + [4] * 4
    away = [number for number in range(9) if found["rounds"][number]["clients"]["dropped"]]
    assert away == [0, 1, 2, 3, 4, 5, 6], "rounds 1 to 7, and nobody else"
    assert {n for one in found["rounds"] for n in one["clients"]["dropped"]} == {FAULTY}
    for name in set(HOSPITALS) - {FAULTY}:
        assert paid(stage, name, found["run_id"]) == steps_known(found, name) == 9
    # It has paid for the round in which it died after it had trained, and for no round in
    # which it died before. The coordinator cannot tell that of the fourth, and counts it.
    assert paid(stage, FAULTY, found["run_id"]) == 5
    assert steps_known(found, FAULTY) == 6


def test_faults__a_coordinator_may_die_between_rounds_and_in_one(stage: Stage) -> None:
    """The same command goes on; in between, what sites have answered is sent to them once more."""
    options = ("rounds=4", "out=runs/server", "reply_timeout=120.0", "privacy.epsilon=2.0")
    cues = ("round 1", "replay train", "send query.secagg_agree")
    stage.set_cues(stage.world.coordinator, *cues)
    codes = [stage.tend(stage.faulty_server(*options), FAULTY) for _ in range(3)]
    # The round that was cut off has been paid for, and the spare one is made in its place.
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0], stage.said_by_coordinator()
    found = result(stage, "server")
    assert found["status"] == "finished"
    assert [one["round"] for one in found["rounds"]] == [1, 2, 3, 4]
    for name in HOSPITALS:
        assert paid(stage, name, found["run_id"]) == steps_known(found, name) == 5
        assert found["privacy"]["per_site"][name]["epsilon"] <= 2.0
    replayed = json.loads((stage.world.coordinator / "replayed.json").read_text())
    assert replayed == ["message could not be authenticated"] * 4
