"""A real browser opens the coordinator's page: buttons, keyboard, contrast, and a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from server.page.server import CoordinatorPages
from server.queue import Queue
from tests.chromium import CHROMIUM, Chromium, browsing
from tests.server.page.made import WORDS, busy
from tests.visitor import Visitor, visited

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to open a page in"),
]

CONTRASTS = """
(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((c) => c / 255)
      .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = (one) => {
    for (; one; one = one.parentElement) {
      const found = getComputedStyle(one).backgroundColor;
      if (!/rgba\\(.*, 0\\)/.test(found)) return found;
    }
    return 'rgb(255, 255, 255)';
  };
  const low = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const one = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !one.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(back(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(walk.currentNode.data.trim() + ' ' + ratio.toFixed(2));
  }
  return low;
})()
"""
"""Texts whose contrast is below that of WCAG 2.2, success criterion 1.4.3, level AA."""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def visitor(tmp_path: Path) -> Iterator[Visitor]:
    with visited(CoordinatorPages(busy(tmp_path), tmp_path)) as found:
        yield found


def states(visitor: Visitor) -> list[str]:
    file = cast(CoordinatorPages, visitor.server.pages).file
    return [one.state for one in Queue(file.state).studies()]


def test_coordinator__opens_the_link_and_works_by_buttons(
    chromium: Chromium, visitor: Visitor
) -> None:
    chromium.open(visitor.guard.link)
    assert chromium.say("location.pathname") == visitor.guard.path
    assert chromium.complaints() == []
    assert {one.split("/")[2] for one in chromium.asked()} == {visitor.guard.host}
    assert states(visitor) == ["finished", "failed", "running", "queued", "aborted"]
    assert chromium.say("document.querySelector('figure path').getTotalLength()") > 100
    chromium.click("document.querySelector('article[aria-labelledby=s4] button')")
    assert states(visitor)[3] == "aborted"
    assert "Study 4 will not begin." in chromium.say("document.body.innerText")
    chromium.click("document.querySelector('article[aria-labelledby=s2] button')")
    assert states(visitor)[1] == "queued"
    chromium.say(f"document.getElementById('words').value = '{' '.join(WORDS)} out=runs/sixth'")
    chromium.click("document.querySelector('form.add button')")
    assert states(visitor)[5:] == ["queued"]
    chromium.click("document.querySelector('a[href=\"report/run\"]')")
    assert chromium.say("document.querySelector('h1').textContent") == "A report"
    assert chromium.complaints() == []


def test_keyboard__reaches_all_that_can_be_done(chromium: Chromium, visitor: Visitor) -> None:
    chromium.open(visitor.guard.link)
    met = set[str]()
    for _ in range(60):
        chromium.press("Tab", 9)
        met.add(chromium.say("document.activeElement.outerHTML.slice(0, 200)"))
        if chromium.say("document.activeElement.textContent") == "Abort before its start":
            break
    assert chromium.say("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    chromium.press("Enter", 13, loads=True)
    assert states(visitor)[3] == "aborted"
    assert any("report/run" in one for one in met)


@pytest.mark.parametrize("width", [390, 1280])
def test_page__can_be_read_on_a_phone_and_by_weak_eyes(
    chromium: Chromium, visitor: Visitor, width: int
) -> None:
    chromium.width(width)
    chromium.open(visitor.guard.link)
    assert chromium.say("document.documentElement.scrollWidth") == width
    small = chromium.say(
        "[...document.querySelectorAll('button, summary, input:not([type=hidden])')]"
        ".filter((one) => one.getBoundingClientRect().height < 24).length"
    )
    assert small == 0, "a finger finds them"
    assert chromium.say(CONTRASTS) == []
    chromium.width(1280)
