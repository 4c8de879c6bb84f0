"""The desk is shown to whoever has opened its link, and decides what a form of its own says."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.desk import pages
from clients.desk.server import Desk
from clients.desk.spending import account_of
from clients.studies import decisions
from clients.studies.view import look
from fedlearn.cli import main
from fedlearn.core.errors import ConfigError
from fedlearn.loopback.guard import SESSION_SECONDS, Guard
from fedlearn.loopback.server import MOST_BYTES, PageServer
from tests.clients.desk.made import NASTY, ask, busy_site, decide, ledger_of, make_site, study
from tests.effort import examples
from tests.visitor import Visitor, visited


class Browser(Visitor):
    """One that decides of studies."""

    def decide(self, site: Path, verb: str, terms: str, /, **other: str) -> tuple[int, str]:
        """What a form of the page sends; `other` are headers that say something else."""
        view = look(site)
        fields = {"terms": terms, "verb": verb, "roster": view.roster}
        fields["standing"] = view.study(terms).standing
        return self.post(fields, **other)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return make_site(tmp_path)


@pytest.fixture
def browser(site: Path) -> Iterator[Browser]:
    with visited(Desk(site)) as visitor:
        yield Browser(visitor.server)


def test_link__is_opened_once_and_no_page_is_shown_without_it(browser: Browser) -> None:
    link = browser.guard.link.removeprefix(browser.guard.origin)
    for path in ("/", browser.guard.path, f"{link}x", "/login/", "/favicon.ico", "/../etc/passwd"):
        assert browser.send("GET", path)[0] == 403
    assert browser.send("HEAD", link)[0] == 403, "what looks ahead opens nothing"
    browser.log_in()
    status, _, text = browser.send("GET", browser.guard.path)
    assert status == 200
    assert "Studies on registry 2019-2024" in text
    assert browser.send("GET", link)[0] == 403
    assert browser.send("GET", "/")[0] == 403, "nor is any other path"
    browser.cookie = browser.cookie[:-1]
    assert browser.send("GET", browser.guard.path)[0] == 403


def test_link__and_cookie_hold_so_much_randomness_and_are_of_this_process(site: Path) -> None:
    one, other = Guard("127.0.0.1:1"), Guard("127.0.0.1:1")
    assert len({one.link, other.link, one.cookie, other.cookie}) == 4
    assert len(one.link.rpartition("/")[2]) >= 43
    assert len(one.path) == 34
    assert re.fullmatch(
        rf"fedlearn-page=[\w-]{{43}}; Path={one.path}; Max-Age=28800; HttpOnly; SameSite=Strict",
        one.cookie,
    )


def test_session__ends_after_a_days_work(browser: Browser) -> None:
    browser.log_in()
    browser.guard.clock -= SESSION_SECONDS + 1
    assert browser.send("GET", browser.guard.path)[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "localhost:80", "127.0.0.1", "127.0.0.1:1", ""])
def test_page__is_not_shown_under_another_name_that_leads_here(browser: Browser, host: str) -> None:
    """DNS rebinding: the browser takes the page for one of the name's."""
    browser.log_in()
    assert browser.send("GET", browser.guard.path, Host=host)[0] == 403


def test_decision__that_a_form_sends_is_made_and_said(browser: Browser, site: Path) -> None:
    terms = ask(site, study())
    browser.log_in()
    assert browser.decide(site, "approve", terms)[0] == 303
    assert look(site).study(terms).standing == "approved"
    page = browser.send("GET", browser.guard.path)[2]
    assert f"Study {terms[:16]} is approved." in page
    assert "is approved." not in browser.send("GET", browser.guard.path)[2]
    for verb, standing in (("pause", "paused"), ("approve", "approved"), ("withdraw", "withdrawn")):
        assert browser.decide(site, verb, terms)[0] == 303
        assert look(site).study(terms).standing == standing
    assert browser.decide(site, "approve", terms)[0] == 303
    assert "Nothing was decided: study" in browser.send("GET", browser.guard.path)[2]


@pytest.mark.parametrize(
    "other",
    [
        {"Origin": ""},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site"},
        {"form": "0" * 64},
        {"form": ""},
        {"Host": "evil.example"},
        {"Cookie": "fedlearn-page=x"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/json"},
        {"Content_Length": "-1"},
        {"Content_Length": "x"},
        {"path": "/decide"},
        {"standing": "approved" + "x" * MOST_BYTES},
    ],
    ids=str,
)
def test_decision__that_no_form_of_the_desk_sends_is_not_made(
    browser: Browser, site: Path, other: dict[str, str]
) -> None:
    terms = ask(site, study())
    browser.log_in()
    assert browser.decide(site, "approve", terms, **other)[0] == 403
    assert not decisions.beside(ledger_of(site)).exists()


@pytest.mark.parametrize(
    "other",
    [
        {"standing": "paused"},
        {"verb": "allow"},
        {"terms": "0" * 64},
        {"terms": "../../x"},
        {"roster": "0" * 64},
    ],
)
def test_decision__of_what_the_page_did_not_show_is_not_made(
    browser: Browser, site: Path, other: dict[str, str]
) -> None:
    terms = ask(site, study())
    browser.log_in()
    assert browser.decide(site, "approve", terms, **other)[0] == 303
    assert "Nothing was decided: " in browser.send("GET", browser.guard.path)[2]
    assert not decisions.beside(ledger_of(site)).exists()


@settings(max_examples=examples(100), deadline=None)
@given(data=st.binary(max_size=200), method=st.sampled_from(["GET", "POST", "PUT", "TRACE", "X"]))
def test_desk__answers_whatever_is_sent_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, method: str
) -> None:
    browser = _lasting(tmp_path_factory)
    with socket.create_connection(browser.server.server_address[:2], timeout=20) as line:
        host = browser.guard.host.encode()
        line.sendall(method.encode() + b" " + data + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        line.shutdown(socket.SHUT_WR)
        while line.recv(65536):
            pass
    assert browser.send("GET", "/")[0] == 403


_LASTING: list[Browser] = []


def _lasting(factory: pytest.TempPathFactory) -> Browser:
    """One desk for all examples: daemon threads end with the process."""
    if not _LASTING:
        server = PageServer(Desk(make_site(factory.mktemp("desk"))), "127.0.0.1", 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _LASTING.append(Browser(server))
    return _LASTING[0]


def test_answers__all_forbid_scripts_frames_and_caches(browser: Browser) -> None:
    browser.log_in()
    for method, path in (("GET", browser.guard.path), ("GET", "/"), ("PUT", "/"), ("POST", "/")):
        _, headers, text = browser.send(method, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script" not in policy
        assert "unsafe" not in policy
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert "Python" not in headers.get("Server", "")
        assert "http" not in text.replace("https://", "http")


def test_page__of_nasty_texts_holds_them_as_text(tmp_path: Path) -> None:
    site = busy_site(tmp_path)
    page = pages.desk(site, "token", "<b>notice</b>")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "training &lt;b&gt;wide" in page
    assert "&lt;b&gt;notice" in page
    assert not {"\u202e", "\x1b"} & set(page)
    assert NASTY[:8] not in page
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    assert " style=" not in body
    assert not re.findall(r"(?:src|href|action)=\"(?!#content|decide)", body)


def test_page__can_be_read_by_every_reader(tmp_path: Path) -> None:
    """Headings in order, a label for what is measured, captions, heads with a scope, one `h1`."""
    page = pages.desk(busy_site(tmp_path), "token", "")
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels.count(1) == 1
    assert all(later - level <= 1 for level, later in pairwise(levels))
    assert page.count("<table") == page.count("<caption>")
    assert all("scope=" in head for head in re.findall(r"<th\b[^>]*>", page))
    labelled = re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert set(labelled) <= set(ids)
    assert len(ids) == len(set(ids))
    assert 'for="meter"' in page
    assert "<html lang=" in page
    for one in re.findall(r"<form.*?</form>", page, re.DOTALL):
        assert 'name="form" value="token"' in one
        assert re.search(r"<button [^>]*>\w", one)


def test_budget__says_what_is_left_and_never_too_much(tmp_path: Path) -> None:
    site = busy_site(tmp_path)
    found = account_of(ledger_of(site), look(site).site.policy.budget)
    assert found.points[-1].epsilon == found.spent
    assert [one.epsilon for one in found.points] == sorted(one.epsilon for one in found.points)
    assert found.left == pytest.approx(8.0 - found.spent)
    assert [one.number for one in found.receipts] == [2, 1]
    (refusal,) = found.refusals
    assert refusal.reason.startswith("policy.allow_models")
    left = re.findall(r"<b>([\d.]+)</b><span>epsilon left", pages.desk(site, "token", ""))
    assert found.left - 0.001 < float(left[0]) <= found.left


def test_curve__is_within_its_box_and_none_where_nothing_was_spent(tmp_path: Path) -> None:
    site = busy_site(tmp_path)
    points = account_of(ledger_of(site), look(site).site.policy.budget).points
    for total in (0.01, 2.0, 8.0, 1e6, float("inf")):
        drawn = pages.curve(points, total)
        assert drawn is not None
        numbers = [float(one) for one in re.findall(r"[\d.]+", drawn.line)]
        assert all(0 <= x <= 640 for x in numbers[::2])
        assert all(0 <= y <= 200 for y in numbers[1::2])
    assert pages.curve((), 8.0) is None


def test_page__says_what_is_wrong_and_shows_the_rest(site: Path) -> None:
    terms = ask(site, study())
    ledger_of(site).write_text("no ledger\n")
    page = pages.desk(site, "token", "")
    assert "is not a line of such a file" in page
    assert terms in page
    decide(site, "approve", terms)
    decisions.beside(ledger_of(site)).write_text("")


def test_page__of_decisions_that_were_cut_says_so_in_place_of_all(
    browser: Browser, site: Path
) -> None:
    decide(site, "approve", ask(site, study()))
    decisions.beside(ledger_of(site)).write_text("")
    browser.log_in()
    status, _, text = browser.send("GET", browser.guard.path)
    assert status == 200
    assert "the end was cut off" in text
    assert "<form" not in text


def test_desk__is_on_loopback_alone(site: Path) -> None:
    for address in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(ConfigError, match="on loopback alone"):
            PageServer(Desk(site), address, 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot be listened on"):
            PageServer(Desk(site), "127.0.0.1", taken.getsockname()[1])
    assert main(["desk", str(site), "--port", "70000"]) == 2


def test_desk__of_ipv6_is_the_same(site: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        server = PageServer(Desk(site), "::1", 0)
    except ConfigError:
        pytest.skip("this machine has no loopback of IPv6")
    with server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        browser = Browser(server)
        browser.log_in()
        assert browser.guard.host.startswith("[::1]:")
        assert browser.send("GET", browser.guard.path)[0] == 200
        server.shutdown()
