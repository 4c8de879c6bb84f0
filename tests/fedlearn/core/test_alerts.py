"""What people should know starts a command of theirs; nothing from outside is a word of it."""

from __future__ import annotations

import http.server
import json
import logging
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.core import alerts
from fedlearn.core.alerts import alert_problems, alerting, command_problems
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


# --- webhooks -------------------------------------------------------------------------------

SECRET = "/services/T0-secret"


@dataclass
class Hook:
    """A receiver: what was sent to it, and what it answers; `held` answers are late."""

    port: int = 0
    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)


@contextmanager
def receiving(hook: Hook, tls: ssl.SSLContext | None = None) -> Iterator[Hook]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.go.wait(20)
            hook.paths.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            hook.bodies.append(json.loads(body))
            self.send_response(hook.status)
            self.send_header("Location", f"http://127.0.0.1:{hook.port}/elsewhere")
            self.end_headers()

        def do_GET(self) -> None:
            hook.paths.append(f"GET {self.path}")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        hook.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield hook
        server.shutdown()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    made.go.set()
    with receiving(made) as found:
        yield found


def address(hook: Hook, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{hook.port}{SECRET}"


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [one for one in caplog.records if one.getMessage() == "alert_failed"]
    return [one.fields["reason"] for one in found]  # type: ignore[attr-defined]


def test_webhook__is_sent_the_three_kinds_and_no_word_that_anybody_has_written(
    hook: Hook, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # loopback goes by no proxy
    with alerting([], address(hook)):
        EVENTS.info("site", extra={"fields": {"site": "north", "state": "offline", "as_of": "x"}})
        EVENTS.info("round", extra={"fields": {"round": 1}})
        fields = {"exit_code": 4, "reason": "/home/u/keys: SECRET", "out": "/home/u/run"}
        EVENTS.error("ended", extra={"fields": fields})
        EVENTS.warning("budget", extra={"fields": {"site": "a", "share": 0.81}})
    assert failures(caplog) == []
    found = {one["alert"]: one for one in hook.bodies}
    times = {one.pop("time") for one in found.values()}
    assert all(datetime.fromisoformat(one).tzinfo == UTC for one in times)
    assert found == {
        "site_down": {"alert": "site_down", "site": "north", "state": "offline"},
        "run_ended": {"alert": "run_ended", "exit_code": 4},
        "budget": {"alert": "budget", "site": "a", "share": 0.81},
    }


def test_webhook__and_a_command_are_told_both(hook: Hook, tmp_path: Path) -> None:
    command, said = page(tmp_path)
    with alerting(command, address(hook)):
        EVENTS.info("finished", extra={"fields": {"rounds": 3}})
    assert [one["alert"] for one in hook.bodies] == ["run_ended"]
    assert json.loads(said.read_text())[0] == ["run_ended"]


def test_webhook__that_does_not_answer_holds_up_nothing_and_is_given_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "HOOK_SECONDS", 0.1)
    with receiving(Hook()) as slow:
        with alerting([], address(slow)):
            before = time.monotonic()
            EVENTS.info("finished", extra={"fields": {}})
            assert time.monotonic() - before < 0.1
        slow.go.set()
    (reason,) = failures(caplog)
    assert reason.startswith("the webhook cannot be reached: ")


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_webhook__that_refuses_is_an_event_and_leads_nowhere_else(
    hook: Hook, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    hook.status = status
    with alerting([], address(hook)):
        EVENTS.info("finished", extra={"fields": {}})
    assert failures(caplog) == [f"the webhook answered {status}"]
    assert hook.paths == [SECRET]


def test_webhook__whose_certificate_nobody_has_signed_is_sent_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from fedlearn.cli import main

    assert main(["keys", "certificate", "127.0.0.1", "--folder", str(tmp_path)]) == 0
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.tls")
    made = Hook()
    made.go.set()
    with receiving(made, tls) as found, alerting([], address(found, "https")):
        EVENTS.info("finished", extra={"fields": {}})
    assert made.bodies == []
    (reason,) = failures(caplog)
    assert "its certificate does not hold" in reason


def test_webhook__is_a_secret_that_no_log_and_no_error_holds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with alerting([], f"http://127.0.0.1:9{SECRET}"):
        EVENTS.info("finished", extra={"fields": {}})
    (reason,) = failures(caplog)
    assert "secret" not in reason + caplog.text
    hosts = ("ftp://x", "http://10.0.0.1", "https://u:p@x", "", "https://x:99999", "https://x y",
             "https://[::1")  # fmt: skip
    for bad in hosts:
        (problem,) = alert_problems([], bad + SECRET)
        assert problem.startswith("webhook: ")
        assert "secret" not in problem
    for good in ("https://hooks.example.org/x", "http://127.0.0.1:8/x", "http://[::1]/x"):
        assert not [*alert_problems([], good), *alert_problems([], None)]


@given(st.text(max_size=30), st.sampled_from(["", "http://", "https://", "http://localhost"]))
def test_webhook__whatever_is_written_is_taken_or_refused_and_never_in_clear(
    text: str, begin: str
) -> None:
    found = list(alert_problems([], begin + text))
    assert all(text not in one for one in found if len(text) > 8)
    if not found:
        opened = (begin + text).split("://", 1)
        assert opened[0].lower() == "https" or opened[1].startswith(
            ("127.0.0.1", "localhost", "[::1]")
        )
