"""A real browser opens the desk, decides by its buttons and by the keyboard, on a phone as well."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from clients.desk.server import DeskServer
from clients.studies.view import look
from tests.clients.desk.made import ask, busy_site, study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to open a desk in"),
]


AS_3_AND_4 = """
import fcntl, os, sys
one, other = (fcntl.fcntl(int(word), fcntl.F_DUPFD, 10) for word in sys.argv[1:3])
os.dup2(one, 3), os.dup2(other, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Where a browser that is asked through its pipe reads and writes."""


class Chromium:
    """A headless browser over its pipe: what is sent is what a person would do."""

    def __init__(self, profile: Path) -> None:
        theirs, self._ours = os.pipe()
        self._from, theirs_too = os.pipe()
        words = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--remote-debugging-pipe"),
            f"--user-data-dir={profile}",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-c", AS_3_AND_4, str(theirs), str(theirs_too), str(CHROMIUM), *words],
            pass_fds=(theirs, theirs_too), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(theirs_too)
        self._number, self._rest, self.events = 0, b"", list[dict[str, Any]]()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = ""
        found = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for one in ("Page.enable", "Log.enable", "Network.enable", "Runtime.enable"):
            self._call(one)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if getattr(self, "_session", ""):
            message["sessionId"] = self._session
        os.write(self._ours, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return cast(dict[str, Any], found["result"])
            self.events.append(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return cast(dict[str, Any], json.loads(message))

    def open(self, url: str) -> None:
        self._loading("Page.navigate", url=url)

    def _loading(self, method: str, **params: Any) -> Any:
        self.events.clear()
        found = self._call(method, **params)
        while not any(one.get("method") == "Page.loadEventFired" for one in self.events):
            self.events.append(self._next())
        return found

    def say(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, script: str) -> None:
        """Click what an expression finds, and wait for the page that follows."""
        self._loading("Runtime.evaluate", expression=f"({script}).click()", userGesture=True)

    def press(self, key: str, code: int, *, loads: bool = False) -> None:
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": ""}
        if key == "Enter":
            about["text"] = "\r"
        call = self._loading if loads else self._call
        call("Input.dispatchKeyEvent", type="keyDown", **about)
        self._call("Input.dispatchKeyEvent", type="keyUp", **about)

    def width(self, pixels: int) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=pixels, height=844, deviceScaleFactor=1, mobile=True,
        )  # fmt: skip

    def complaints(self) -> list[str]:
        """What the browser had to say of the last page, and whom it asked for anything."""
        logged = [one for one in self.events if one.get("method") == "Log.entryAdded"]
        return [one["params"]["entry"]["text"] for one in logged]

    def asked(self) -> list[str]:
        sent = [one for one in self.events if one.get("method") == "Network.requestWillBeSent"]
        return [one["params"]["request"]["url"] for one in sent]

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._ours)
        os.close(self._from)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    found = Chromium(tmp_path_factory.mktemp("profile"))
    try:
        yield found
    finally:
        found.end()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[DeskServer]:
    with DeskServer(busy_site(tmp_path), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def button(terms: str, verb: str) -> str:
    return (
        "[...document.querySelectorAll('form')].find((form) => "
        f"form.elements.terms.value === '{terms}' && form.elements.verb.value === '{verb}')"
        ".elements.verb"
    )


def test_owner__opens_the_link_and_decides_by_buttons(
    chromium: Chromium, desk: DeskServer, tmp_path: Path
) -> None:
    site, guard = desk.desk.site, desk.desk.guard
    terms = study().terms.hex()
    chromium.open(guard.link)
    assert chromium.say("location.pathname") == guard.path
    assert chromium.say("document.cookie") == "", "no script reads it"
    assert chromium.complaints() == []
    assert {one.split("/")[2] for one in chromium.asked()} == {guard.host}
    chromium.click(button(terms, "approve"))
    assert look(site).study(terms).standing == "approved"
    assert f"Study {terms[:16]} is approved." in chromium.say("document.body.innerText")
    chromium.click(button(terms, "withdraw"))
    assert look(site).study(terms).standing == "withdrawn"
    again = chromium.say("document.querySelector('h1').textContent")
    assert again == "Studies on registry 2019-2024"


def test_keyboard__reaches_what_is_to_be_decided(chromium: Chromium, desk: DeskServer) -> None:
    terms = study().terms.hex()
    chromium.open(desk.desk.guard.link)
    for _ in range(60):
        chromium.press("Tab", 9)
        if chromium.say("document.activeElement.value") == "approve":
            break
    assert chromium.say("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    chromium.press("Enter", 13, loads=True)
    assert look(desk.desk.site).study(terms).standing == "approved", "the first on the page"


def test_phone__shows_all_without_scrolling_sideways(chromium: Chromium, desk: DeskServer) -> None:
    ask(desk.desk.site, study("long" * 400))
    chromium.width(390)
    chromium.open(desk.desk.guard.link)
    assert chromium.say("document.documentElement.scrollWidth") == 390
    small = chromium.say(
        "[...document.querySelectorAll('button, summary')]"
        ".filter((one) => one.getBoundingClientRect().height < 24).length"
    )
    assert small == 0, "a finger finds them"
    chromium.width(1280)


def test_page_of_another_site__can_neither_see_nor_decide(
    chromium: Chromium, desk: DeskServer, tmp_path: Path
) -> None:
    """It knows even the path and the token, and has the browser of the owner."""
    guard, terms = desk.desk.guard, study().terms.hex()
    chromium.open(guard.link)
    fields = {"form": guard.form, "terms": terms, "standing": "waiting", "verb": "approve"}
    fields["roster"] = look(desk.desk.site).roster
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    page = tmp_path / "evil.html"
    page.write_text(
        f'<form method="post" action="{guard.origin}{guard.path}decide">{inputs}</form>'
        f'<iframe src="{guard.origin}{guard.path}"></iframe>'
    )
    chromium.open(page.as_uri())
    assert chromium.say("document.querySelector('iframe').contentDocument") is None
    chromium.click("(() => ({click: () => document.querySelector('form').submit()}))()")
    deadline = time.monotonic() + 20
    while "Nothing is shown here" not in chromium.say("document.body.innerText"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert look(desk.desk.site).study(terms).standing == "waiting"
