"""What a browser sends to an owner's desk, and what its page reads, as parsers."""

from __future__ import annotations

import shutil
import socket
from datetime import timedelta
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

from clients.desk.server import Desk
from clients.studies import asked
from clients.studies.view import look
from fedlearn.loopback.guard import COOKIE, Guard
from fedlearn.loopback.server import PageHandler, PageServer
from tests.attacks.fuzzing import Parser
from tests.clients.desk.made import NOW, ask, busy_site, ledger_of, study

_GUARD = Guard("127.0.0.1:1", path="/pages/", form="f" * 64, _link="link", _session="session")


@cache
def _site(root: Path) -> Path:
    """The file of a site with studies, decisions and a ledger; what stands beside it is a copy."""
    root.mkdir()
    site = busy_site(root)
    shutil.copytree(root, root.with_name("desk-good"))
    return site


@cache
def _server(site: Path) -> PageServer:
    server = PageServer(Desk(site), "127.0.0.1", 0)
    server.guard = _GUARD
    return server


def _beside(folder: Path) -> Path:
    return _site(folder.parent / "desk")


def _answered(site: Path, request: bytes) -> bytes:
    """What the desk says to a request, in this thread: whatever it raises is seen."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(request)
        ours.shutdown(socket.SHUT_WR)
        PageHandler(theirs, ("127.0.0.1", 0), _server(site))
        theirs.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: ours.recv(1 << 16), b""))


def _decision(folder: Path) -> bytes:
    """A form that decides of a study of which another thing was decided meanwhile."""
    view = look(_beside(folder))
    terms = next(one.terms for one in view.studies if one.standing == "paused")
    fields = {"form": _GUARD.form, "terms": terms, "verb": "approve", "roster": view.roster,
              "standing": "waiting"}  # fmt: skip
    body = urlencode(fields)
    head = (
        f"POST {_GUARD.path}decide HTTP/1.1", f"Host: {_GUARD.host}", f"Origin: {_GUARD.origin}",
        f"Cookie: {COOKIE}={_GUARD._session}", "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}", "Connection: close", "", body,
    )  # fmt: skip
    return "\r\n".join(head).encode()


def _page(folder: Path) -> bytes:
    head = (
        f"GET {_GUARD.path} HTTP/1.1", f"Host: {_GUARD.host}", "Connection: close",
        f"Cookie: {COOKIE}={_GUARD._session}", "", "",
    )  # fmt: skip
    return "\r\n".join(head).encode()


def _shown(name: str, pattern: str) -> Parser:
    """The page of a site of whose files one is damaged; every one is answered with a page."""

    def file(folder: Path) -> Path:
        return min(_beside(folder).parent.glob(pattern))

    def good(folder: Path) -> bytes:
        path = file(folder)
        root = _beside(folder).parent
        return (root.with_name("desk-good") / path.relative_to(root)).read_bytes()

    def read(data: bytes, folder: Path) -> None:
        path, whole = file(folder), good(folder)
        try:
            path.write_bytes(data)
            assert b"200 OK" in _answered(_beside(folder), _page(folder))
        finally:
            path.write_bytes(whole)

    return Parser(name, good, read, ())


def _news(data: bytes, folder: Path) -> None:
    """Another study is asked for, beside one whose file is damaged."""
    ledger = folder / "l.jsonl"
    beside = asked.folder_beside(ledger)
    beside.mkdir(exist_ok=True)
    for path in beside.iterdir():
        path.unlink()
    (beside / f"{'0' * 64}.json").write_bytes(data)
    asked.note(ledger, '{"schema":"x"}', NOW + timedelta(days=1), ())
    asked.all_beside(ledger)


def _study(folder: Path) -> bytes:
    (folder / "state").mkdir(exist_ok=True)
    site = folder / "site.yaml"
    terms = ask(site, study())
    return (asked.folder_beside(ledger_of(site)) / f"{terms}.json").read_bytes()


AT_DESK = [
    Parser("desk's form", _decision, lambda d, f: _answered(_beside(f), d), ()),
    Parser("desk's request", _page, lambda d, f: _answered(_beside(f), d), ()),
    _shown("desk over a study", "state/ledger.studies/*.json"),
    _shown("desk over a ledger", "state/ledger.jsonl"),
    _shown("desk over decisions", "state/ledger.decisions.jsonl"),
    _shown("desk over a site's file", "site.yaml"),
    Parser("news of a study", _study, _news, ()),
]
