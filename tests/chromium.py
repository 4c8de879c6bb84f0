"""A headless Chromium over its pipe, where this machine has one: what a person would do in it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")

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

    def picture(self, path: Path) -> None:
        """The whole page, as PNG."""
        found = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def browsing(profile: Path) -> Iterator[Chromium]:
    """A browser that is ended, whatever happens."""
    found = Chromium(profile)
    try:
        yield found
    finally:
        found.end()
