"""A real browser opens the desk, decides by its buttons and by the keyboard, on a phone as well."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.desk.server import Desk
from clients.studies.view import look
from fedlearn.loopback.server import PageServer
from tests.chromium import CHROMIUM, Chromium, browsing
from tests.clients.desk.made import ask, busy_site, study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to open a desk in"),
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[PageServer]:
    with PageServer(Desk(busy_site(tmp_path)), "127.0.0.1", 0) as server:
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
    chromium: Chromium, desk: PageServer, tmp_path: Path
) -> None:
    site, guard = desk.pages.site, desk.guard
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


def test_keyboard__reaches_what_is_to_be_decided(chromium: Chromium, desk: PageServer) -> None:
    terms = study().terms.hex()
    chromium.open(desk.guard.link)
    for _ in range(60):
        chromium.press("Tab", 9)
        if chromium.say("document.activeElement.value") == "approve":
            break
    assert chromium.say("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    chromium.press("Enter", 13, loads=True)
    assert look(desk.pages.site).study(terms).standing == "approved", "the first on the page"


def test_phone__shows_all_without_scrolling_sideways(chromium: Chromium, desk: PageServer) -> None:
    ask(desk.pages.site, study("long" * 400))
    chromium.width(390)
    chromium.open(desk.guard.link)
    assert chromium.say("document.documentElement.scrollWidth") == 390
    small = chromium.say(
        "[...document.querySelectorAll('button, summary')]"
        ".filter((one) => one.getBoundingClientRect().height < 24).length"
    )
    assert small == 0, "a finger finds them"
    chromium.width(1280)


def test_page_of_another_site__can_neither_see_nor_decide(
    chromium: Chromium, desk: PageServer, tmp_path: Path
) -> None:
    """It knows even the path and the token, and has the browser of the owner."""
    guard, terms = desk.guard, study().terms.hex()
    chromium.open(guard.link)
    fields = {"form": guard.form, "terms": terms, "standing": "waiting", "verb": "approve"}
    fields["roster"] = look(desk.pages.site).roster
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
    assert look(desk.pages.site).study(terms).standing == "waiting"
