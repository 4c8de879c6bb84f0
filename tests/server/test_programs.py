"""A program beside the coordinator is started anew where it ends, and its events are passed on."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from fedlearn.core.errors import ProtocolError
from fedlearn.core.logs import EVENTS
from server import programs
from server.programs import Program, kept


class Mortal(Program):
    """Lives until a test ends it; the first starts after that fail as often as it is told."""

    def __init__(self, state: Path, failures: int = 0) -> None:
        super().__init__("gateway", [], state)
        self.code: int | None = None
        self.failures, self.starts, self.alive = failures, 0, threading.Event()

    @property
    def ended(self) -> int | None:
        return self.code

    def start(self, ready: object = None) -> None:
        self.starts += 1
        if self.starts <= self.failures:
            raise OSError(28, "No space left on device")
        self.code = None
        self.alive.set()

    def end(self) -> None:
        self.alive.clear()


@pytest.mark.parametrize("failures", [0, 2])
def test_program__that_ends_is_started_anew_until_it_lives(
    failures: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(programs, "_LOOK_SECONDS", 0.002)
    caplog.set_level(logging.INFO, EVENTS.name)
    program = Mortal(tmp_path, failures)
    with kept(program):
        program.code = -9
        assert program.alive.wait(30)
    assert program.starts == failures + 1
    found = [(one.getMessage(), one.fields) for one in caplog.records if one.name == EVENTS.name]  # type: ignore[attr-defined]
    assert found == [("restarted", {"program": "gateway", "ended_with": -9})] * (failures + 1)


@pytest.mark.parametrize(("kills", "starts"), [(0, 1), (2, 3), (9, 3)])
def test_program__that_is_killed_while_it_starts_is_started_anew_a_few_times(
    tmp_path: Path, kills: int, starts: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One that ends by itself would do so again."""
    caplog.set_level(logging.INFO, EVENTS.name)
    program, met = Program("no-such-program", [], tmp_path), set[int]()

    def ready() -> bool:
        assert program._process is not None
        met.add(program._process.pid)
        if len(met) <= kills:
            program._process.kill()
            program._process.wait()
        return 0 < kills < len(met)

    if kills == 2:
        program.start(ready)
    else:
        with pytest.raises(ProtocolError, match="the no-such-program did not start"):
            program.start(ready)
    program.end()
    assert len(met) == starts
    assert kills or program.ended == 1, "it ends as it says, and is not aborted"
    said = [one.getMessage() for one in caplog.records if one.name == EVENTS.name]
    assert said == ["restarted"] * (starts - 1)


def test_events__of_a_program_are_read_once_and_whole(tmp_path: Path) -> None:
    program, log = Program("gateway", [], tmp_path), tmp_path / "gateway.log"
    log.write_text('INFO: a line\n{"event": "clock", "site": "a", "seconds_ahead": 3600}\n{"even')
    assert list(program.events()) == [{"event": "clock", "site": "a", "seconds_ahead": 3600}]
    assert list(program.events()) == []
    with log.open("a") as more:
        more.write('t": "clock", "site": "b"}\n{"event" torn\n')
    assert list(program.events()) == [{"event": "clock", "site": "b"}]


def test_events__of_a_log_that_was_taken_away_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_LOOK_SECONDS", 0.002)
    program = Mortal(tmp_path)
    assert not (tmp_path / "gateway.log").exists()
    with kept(program):
        program.code = 1
        assert program.alive.wait(30)
