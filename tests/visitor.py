"""A program that visits a page of this machine, with the headers that a test chooses."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

from fedlearn.loopback.guard import Guard
from fedlearn.loopback.server import Pages, PageServer

FORM = "application/x-www-form-urlencoded"


@dataclass
class Visitor:
    """One that has opened the link, or not yet."""

    server: PageServer
    cookie: str = ""

    @property
    def guard(self) -> Guard:
        return self.server.guard

    def send(
        self, method: str, path: str, body: str = "", **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers and text of an answer; of `headers` an empty one is left out."""
        address, port = self.server.server_address[:2]
        connection = http.client.HTTPConnection(str(address), int(port), timeout=20)
        sent = {"Host": self.guard.host, "Cookie": self.cookie}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value:
                connection.putheader(name, value)
        if method == "POST" and "Content-Length" not in sent:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode())
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read().decode()
        connection.close()
        return found

    def log_in(self) -> None:
        status, headers, _ = self.send("GET", self.guard.link.removeprefix(self.guard.origin))
        assert (status, headers["Location"]) == (303, self.guard.path)
        self.cookie = headers["Set-Cookie"].partition(";")[0]

    def post(self, fields: Mapping[str, str], /, **other: str) -> tuple[int, str]:
        """What a form of the page sends; `other` are fields and headers that say something else."""
        known = {"form": self.guard.form, **fields}
        changed = {k: v for k, v in other.items() if k in known}
        headers = {k: v for k, v in other.items() if k not in known}
        sent = {"Origin": self.guard.origin, "Content_Type": FORM, **headers}
        path = sent.pop("path", f"{self.guard.path}decide")
        status, _, text = self.send("POST", path, urlencode(known | changed), **sent)
        return status, text

    def page(self) -> str:
        """The page as it is now."""
        return self.send("GET", self.guard.path)[2]


@contextmanager
def visited(pages: Pages) -> Iterator[Visitor]:
    """Pages that are served, and a visitor who has opened nothing yet."""
    with PageServer(pages, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield Visitor(server)
        server.shutdown()
        thread.join()
