"""What people should know starts a command of theirs; nothing from outside is a word of it."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from fedlearn.core import alerts
from fedlearn.core.alerts import alerting, command_problems
from fedlearn.core.logs import EVENTS

PAGE = """
import json, sys
from pathlib import Path
Path(sys.argv[1]).open("a").write(json.dumps([sys.argv[2:], json.load(sys.stdin)]) + "\\n")
"""


def page(folder: Path) -> tuple[list[str], Path]:
    """A command that writes down how it was called."""
    (folder / "page.py").write_text(PAGE)
    return [sys.executable, "-S", str(folder / "page.py"), str(folder / "said")], folder / "said"


@pytest.fixture(autouse=True)
def _events(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, EVENTS.name)


def test_alert__starts_the_command_with_its_kind_and_what_it_is_about(tmp_path: Path) -> None:
    command, said = page(tmp_path)
    evil = "north; rm -rf / $(x) \x1b[31m"
    with alerting(command):
        EVENTS.info("site", extra={"fields": {"site": evil, "state": "offline"}})
        EVENTS.info("site", extra={"fields": {"site": "east", "state": "online"}})
        EVENTS.info("round", extra={"fields": {"round": 1}})
        logging.getLogger("flwr").error("%s", "ended")  # in words that somebody has sent
    with alerting(command):
        EVENTS.error("ended", extra={"fields": {"exit_code": 4, "reason": "gone"}})
        EVENTS.warning("budget", extra={"fields": {"site": "a", "share": 0.81}})
    EVENTS.info("finished", extra={"fields": {"rounds": 3}})  # nobody is asked any more
    found = sorted((json.loads(line) for line in said.read_text().splitlines()), key=str)
    assert [words for words, _ in found] == [["budget"], ["run_ended"], ["site_down"]]
    about = {words[0]: one for words, one in found}
    assert about["site_down"]["site"] == evil.replace("\x1b", "?")
    assert about["run_ended"]["exit_code"] == 4
    assert about["budget"]["share"] == 0.81
    assert all(one["alert"] == kind and one["time"] for kind, one in about.items())


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["/nowhere/page"], "could not be carried out"),
        ([sys.executable, "-S", "-c", "raise SystemExit(3)"], "ended with 3"),
        ([sys.executable, "-S", "-c", "import time; time.sleep(60)"], "took too long"),
    ],
)
def test_command__that_fails_is_an_event_and_stops_nothing(
    command: list[str],
    reason: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alerts, "SECONDS", 0.5)
    with alerting(command):
        EVENTS.info("finished", extra={"fields": {}})
    (failed,) = (one for one in caplog.records if one.getMessage() == "alert_failed")
    assert reason in failed.fields["reason"]  # type: ignore[attr-defined]


def test_commands__are_not_started_without_end(caplog: pytest.LogCaptureFixture) -> None:
    command = [sys.executable, "-S", "-c", "import time; time.sleep(1)"]
    with alerting(command):
        for _ in range(30):
            EVENTS.info("finished", extra={"fields": {}})
    failed = [one for one in caplog.records if one.getMessage() == "alert_failed"]
    assert len(failed) >= 20


def test_command__that_is_not_there_is_found_before_anything_starts() -> None:
    assert not list(command_problems([]))
    assert not list(command_problems([sys.executable, "-c", "0"]))
    (found,) = command_problems(["no-such-program-here", "x"])
    assert found.startswith("alerts=no-such-program-here: no program")
