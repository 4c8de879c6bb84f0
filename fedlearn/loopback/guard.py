"""Who may see a page, and decide there: whoever has opened the link that the command printed.

The page is on loopback, where every program and user of the machine, and every page that a browser
has open, may send requests. What keeps them out:

- a link of 256 random bits that works once, and is exchanged for a cookie that no script reads;
- all pages lie under a path of 128 random bits, to which alone the cookie is sent: cookies know no
  ports, and what else listens on this machine must not get it;
- the `Host` must be the address that was printed, so that no name of somebody's that leads to
  loopback (DNS rebinding) is answered;
- a decision must come from a page of ours (`Origin`), with the token that only our pages hold.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Final

COOKIE: Final = "fedlearn-page"
SESSION_SECONDS: Final = 8 * 3600.0
"""A day's work; then the command is started anew."""

Headers = Mapping[str, Sequence[str]]
"""All values of a header, by its name in small letters."""


@dataclass
class Guard:
    """The secrets of one process that serves a page, at `host`: the address and port."""

    host: str
    clock: float = field(default_factory=time.monotonic)
    path: str = field(default_factory=lambda: f"/{secrets.token_hex(16)}/")
    """Under which all pages are."""
    form: str = field(default_factory=lambda: secrets.token_hex(32))
    """What a form of ours holds."""
    _link: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    _session: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    _used: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def origin(self) -> str:
        """Of our pages."""
        return f"http://{self.host}"

    @property
    def link(self) -> str:
        """What is opened once."""
        return f"{self.origin}/login/{self._link}"

    def logs_in(self, path: str) -> bool:
        """Whether a path is that of the link, which has not been opened before."""
        with self._lock:
            right = _same(path, f"/login/{self._link}") and not self._used
            self._used = self._used or right
            return right

    @property
    def cookie(self) -> str:
        """What whoever has opened the link gets."""
        return (
            f"{COOKIE}={self._session}; Path={self.path}; Max-Age={SESSION_SECONDS:.0f}; "
            "HttpOnly; SameSite=Strict"
        )

    def is_for_us(self, headers: Headers) -> bool:
        """Whether a request was sent to the address that was printed, by that name."""
        return list(headers.get("host", ())) == [self.host]

    def knows(self, headers: Headers) -> bool:
        """Whether a request has the cookie, which is not too old."""
        if time.monotonic() - self.clock > SESSION_SECONDS:
            return False
        return any(_same(one, self._session) for one in _cookies(headers))

    def comes_from_us(self, headers: Headers, token: str) -> bool:
        """Whether a decision was sent by a form on a page of ours."""
        sites = headers.get("sec-fetch-site", ("same-origin",))
        return (
            list(headers.get("origin", ())) == [self.origin]
            and all(one == "same-origin" for one in sites)
            and _same(token, self.form)
        )


def _cookies(headers: Headers) -> list[str]:
    found = []
    for line in headers.get("cookie", ()):
        try:
            jar = SimpleCookie(line)
        except CookieError:
            continue
        found += [one.value for name, one in jar.items() if name == COOKIE]
    return found


def _same(one: str, other: str) -> bool:
    """Compared in a time that says nothing of where they differ."""
    return secrets.compare_digest(one.encode("utf-8", "replace"), other.encode())
