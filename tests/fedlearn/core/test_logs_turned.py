"""Logs do not grow without end, and an event that was written is in one of their files."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from fedlearn.core import logs
from fedlearn.core.logs import EVENTS, logged_json, turned


def test_log__is_begun_anew_and_its_events_are_in_the_files_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 2000)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    path = tmp_path / "server.jsonl"
    try:
        with logged_json(path, role="server"):
            for number in range(40):
                EVENTS.warning("round", extra={"fields": {"round": number}})
    finally:
        root.handlers[:], root.level = handlers, level
    files = [*sorted(tmp_path.glob("server.jsonl.*"), reverse=True), path]
    assert 2 < len(files) <= 1 + logs.LOGS_KEPT
    assert all(file.stat().st_size <= 2000 for file in files)
    kept = [json.loads(line)["round"] for file in files for line in file.read_text().splitlines()]
    assert kept == list(range(40))[-len(kept) :]


def test_log_of_another_process__goes_on_in_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 100)
    path = tmp_path / "gateway.log"
    assert not turned(path)
    with path.open("ab", buffering=0) as other:
        other.write(b"a" * 100)
        assert not turned(path)
        other.write(b"b")
        assert turned(path)
        other.write(b"c")
    assert path.read_bytes() == b"c"
    assert (tmp_path / "gateway.log.1").read_bytes() == b"a" * 100 + b"b"
