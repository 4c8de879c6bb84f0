"""`health.json` says what is known of the sites, and as of when."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server.superlink import health as module
from server.superlink.endpoint import NodeState
from server.superlink.health import SiteHealth, Watch, health, stopped

NOW = datetime(2026, 5, 4, tzinfo=UTC)


def node(number: int, status: str) -> NodeState:
    return NodeState(node_id=number, status=status)


def test_health__has_a_line_for_every_site_and_keeps_since_when() -> None:
    names = {1: "a", 2: "b", 3: "c"}
    first = health([node(1, "online"), node(2, "registered"), node(3, "online")], names, [], NOW)
    assert [(one.site, one.state) for one in first] == [
        ("a", "online"), ("b", "never seen"), ("c", "online"),
    ]  # fmt: skip
    later = NOW + timedelta(seconds=30)
    second = health(
        [node(1, "online"), node(2, "online"), node(3, "offline"), node(9, "online")],
        names, first, later,
    )  # fmt: skip
    before, stamp = "2026-05-04T00:00:00+00:00", "2026-05-04T00:00:30+00:00"
    assert second == [
        SiteHealth(site="a", state="online", since=before, as_of=stamp),
        SiteHealth(site="b", state="online", since=stamp, as_of=stamp),
        SiteHealth(site="c", state="offline", since=stamp, as_of=stamp),
    ]


def test_health__of_a_stopped_server_claims_nothing() -> None:
    seen = health([node(1, "online")], {1: "a"}, [], NOW)
    (left,) = stopped(seen, NOW + timedelta(seconds=9))
    assert left.state == "not watched"
    assert (left.since, left.as_of) == ("2026-05-04T00:00:09+00:00", seen[0].as_of)


def test_watch__tells_what_it_sees_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    path, looks, online = tmp_path / "health.json", [0], threading.Event()

    def read() -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(path.read_text())
        return found

    def look() -> list[NodeState]:
        looks[0] += 1
        if looks[0] == 3:  # what the second look found is on disk
            assert [one["state"] for one in read()] == ["online"]
            online.set()
        return [node(1, "online" if looks[0] > 1 else "registered")]

    with Watch(look, {1: "a"}, path):
        assert online.wait(60)
    (left,) = read()
    assert left["state"] == "not watched"
    assert left["as_of"] <= left["since"]
