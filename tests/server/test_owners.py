"""Owners are waited for by name, and in all no longer than is bounded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import StoppedError
from fedlearn.flower import private
from fedlearn.flower.grid import Replies
from fedlearn.rounds import ByOwner, Refusal
from server import owners
from server.owners import OwnersWait
from tests.effort import examples


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "SOONEST_SECONDS", 0.001)
    monkeypatch.setattr(owners, "LATEST_SECONDS", 0.002)
    private.new_run(run_id=1)


def answer(site: str) -> Message:
    return Message(RecordDict(), dst_node_id=1, message_type="query")


def refusal(site: str, by_owner: ByOwner) -> Refusal:
    return Refusal(site=site, exit_code=4, reason=f"site {site}: {by_owner}", by_owner=by_owner)


class Sites:
    """Sites that say what their owners say, the next word at each question."""

    def __init__(self, **words: list[ByOwner]) -> None:
        self.words, self.asked = words, list[tuple[str, ...]]()

    def __call__(self, names: Sequence[str]) -> Replies:
        self.asked.append(tuple(names))
        found = Replies({}, [], {})
        for name in names:
            now = self.words[name].pop(0) if len(self.words[name]) > 1 else self.words[name][0]
            if now:
                found.refusals.append(refusal(name, now))
            else:
                found.answers[name] = answer(name)
        return found


def test_owners__are_asked_again_until_they_have_decided() -> None:
    said: list[str] = []
    sites = Sites(a=[""], b=["undecided", "undecided", ""], c=["paused", "withdrawn"])
    wait = OwnersWait(seconds=60.0, tell=said.append)
    replies = wait.settled(sites(["a", "b", "c"]), sites)
    assert list(replies.answers) == ["a", "b"]
    assert [one.by_owner for one in replies.refusals] == ["withdrawn"]
    assert sites.asked == [("a", "b", "c"), ("b", "c"), ("b",)]
    assert "b (awaiting its owner's approval), c (paused by its owner)" in said[0]
    assert "60 seconds at most" in said[0]


def test_owners__who_never_decide_are_waited_for_so_long_and_no_longer_in_later_rounds() -> None:
    said: list[str] = []
    sites = Sites(a=[""], b=["paused"])
    wait = OwnersWait(seconds=0.01, tell=said.append)
    for _ in range(3):
        replies = wait.settled(sites(["a", "b"]), sites, 1)
        assert [one.site for one in replies.refusals] == ["b"]
    assert wait.waited["b"] == pytest.approx(0.01)
    assert len([one for one in said if "no more" in one]) == 1
    assert len([one for one in sites.asked if one == ("b",)]) <= 10


def test_owners__are_not_waited_for_where_nobody_is_to_be() -> None:
    sites = Sites(a=["undecided"])
    assert OwnersWait().settled(sites(["a"]), sites).refusals[0].by_owner == "undecided"
    assert len(sites.asked) == 1


def test_owners__are_waited_for_no_longer_than_the_user_wants() -> None:
    stop = threading.Event()
    sites = Sites(a=["undecided"])
    stop.set()
    with pytest.raises(StoppedError, match="waiting for the owners"):
        OwnersWait(seconds=60.0, stopping=stop.is_set).settled(sites(["a"]), sites)


def test_events__say_who_is_awaited_why_and_that_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    sites = Sites(a=["undecided", ""])
    OwnersWait(seconds=60.0).settled(sites(["a"]), sites, 3)
    found = [(one.message, vars(one)["fields"]) for one in caplog.records if one.name == "events"]
    why = {"a": "awaiting its owner's approval"}
    assert found == [
        ("waiting", {"for": ["a"], "why": why, "seconds_left": 60}),
        ("decided", {"round": 3, "without": []}),
    ]


WORD = st.sampled_from(["", "undecided", "paused", "refused", "withdrawn"])


@settings(max_examples=examples(60), deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.lists(WORD, min_size=1, max_size=4), min_size=1))
def test_owners__whatever_they_say_each_site_has_one_outcome(words: dict[str, Any]) -> None:
    sites = Sites(**words)
    names = sorted(words)
    replies = OwnersWait(seconds=0.01).settled(sites(names), sites)
    outcome = [*replies.answers, *(one.site for one in replies.refusals), *replies.failures]
    assert sorted(outcome) == names
    assert list(replies.answers) == sorted(replies.answers)
