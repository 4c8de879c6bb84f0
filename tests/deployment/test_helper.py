"""The second server as a program of another organisation, with sites that prove their norms."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedlearn.cli import main

from .processes import PATIENCE, Stage, staged
from .world import NOTARY, approve, make_world, with_notary

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

PROVED = ("secagg=two_server", "robust=proofs", "privacy=none", "rounds=2", "evaluation=pooled")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, heart_archive: Path) -> Iterator[Stage]:
    world = make_world(tmp_path_factory.mktemp("federation"))
    with_notary(world)
    with staged(world, cold=True) as running:
        for name in world.sites:
            running.site(name)
        folder = world.root / NOTARY
        running._start(["helper", "helper.yaml"], folder, folder / "client.log")
        yield running


def test_check__says_who_it_is_and_that_nothing_is_approved(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    path = stage.world.root / NOTARY / "helper.yaml"
    assert main(["helper", str(path), "--check"]) == 0
    shown = capsys.readouterr().out
    assert "helper: notary, fingerprint" in shown
    assert "approved: 0 studies, cohorts of at least 3" in shown


def test_terms__that_its_owner_has_not_approved_end_the_run_before_a_site_joins(
    stage: Stage,
) -> None:
    server = stage.server(*PROVED, "out=runs/first")
    assert server.wait(PATIENCE) == 4, stage.said_by_coordinator()
    said = stage.said_by_coordinator()
    assert "notary" in said
    assert "has not approved the terms" in said
    asked = json.loads((stage.world.root / NOTARY / "state" / "asked.json").read_text())
    assert asked["config"]["robust"]["kind"] == "proofs"
    assert f"has not approved the terms {asked['terms']}" in said


def test_run__with_a_helper_of_another_organisation_is_proved_and_summed(stage: Stage) -> None:
    terms = stage.said_by_coordinator().split("has not approved the terms ")[1][:64]
    approve(stage.world, terms)
    server = stage.server(*PROVED, "out=runs/first")
    assert server.wait(PATIENCE) == 0, stage.said_by_coordinator()
    run = stage.world.coordinator / "runs" / "first"
    result = json.loads((run / "result.json").read_text())
    assert result["protection"]["helper"] == NOTARY
    assert result["terms"] == terms
    assert [entry["clients"]["replied"] for entry in result["rounds"]] == [4, 4]
    assert "ran at another organisation" in (run / "report.html").read_text()
    health = json.loads((stage.world.coordinator / "state" / "health.json").read_text())
    assert NOTARY in {one["site"] for one in health}
    log = (stage.world.root / NOTARY / "client.log").read_text()
    assert log.count('"message": "query.help"') == 4  # two rounds, each trained and evaluated


def test_run__waits_for_its_helper_and_ends_without_it(stage: Stage) -> None:
    notary = stage.started[len(stage.world.sites)]
    notary.terminate()
    assert notary.wait(60) == 0
    text = stage.world.server_file.read_text()
    stage.world.server_file.write_text(text.replace("wait_seconds: 120.0", "wait_seconds: 8.0"))
    server = stage.server(*PROVED, "out=runs/second")
    assert server.wait(PATIENCE) == 4
    assert "the second server is not connected" in stage.said_by_coordinator()
