"""The grid of named sites: one order, nothing lost, and the strategies' short leash."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedlearn.core.errors import StoppedError
from fedlearn.flower import messages as flower
from fedlearn.flower.grid import SiteGrid
from fedlearn.flower.records import arrays_of, size_of
from fedlearn.rounds import Refusal
from simulations.engines.local import InProcessGrid
from tests.server.parties import NAMES, Parties, make_config

CONFIG = make_config()


def note() -> RecordDict:
    config = ConfigRecord({"terms": "", "run-id": "r", "server-round": 1, "cohort": 4})
    return RecordDict({"arrays": arrays_of(np.ones(3, np.float32)), "config": config})


def site_grid(inner: InProcessGrid, timeout: float | None = None) -> SiteGrid:
    return SiteGrid(inner, {name: 1000 + i for i, name in enumerate(NAMES)}, timeout)


def ask_all(grid: SiteGrid) -> list[Message]:
    return [Message(note(), dst_node_id=grid.node_of[site], message_type="train") for site in NAMES]


class Backwards(InProcessGrid):
    """Hands out one reply at a time, the last first."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        waiting = sorted((i for i in message_ids if i in self._replies), reverse=True)
        return super().pull_messages(waiting[:1])


def test_exchange__gives_replies_in_the_order_of_names_whatever_the_order_of_arrival() -> None:
    parties = Parties(CONFIG)
    forward = parties.grid()
    backward = Backwards(forward.app, forward.contexts)
    for inner in (forward, backward):
        replies = site_grid(inner).exchange(ask_all(site_grid(inner)))
        assert list(replies.answers) == sorted(NAMES)
        assert replies.refusals == []
        assert replies.failures == {}
    assert parties.trained == sorted(NAMES) * 2, "messages go out in the order of names as well"


def test_exchange__sorts_refusals_failures_and_silence_from_answers() -> None:
    def refuse(message: Message) -> RecordDict:
        return flower.refusal_reply(Refusal(site="liar", exit_code=3, reason="spent"))

    def crash(message: Message) -> RecordDict:
        raise ZeroDivisionError("oh")

    parties = Parties(CONFIG, on_train={"alpha": refuse, "bravo": crash}, lost={("train", "delta")})
    grid = site_grid(parties.grid(), timeout=0.1)
    replies = grid.exchange(ask_all(grid))
    assert list(replies.answers) == ["charlie"]
    assert set(replies.failures) == {"bravo", "delta"}
    assert replies.failures["delta"] == "no answer in time"
    assert "oh" in replies.failures["bravo"]
    # Who refused is known from who was asked, not from what the reply calls itself.
    assert replies.refusals == [Refusal(site="alpha", exit_code=3, reason="spent")]


def test_exchange__counts_the_bytes_of_both_ways_since_the_last_look() -> None:
    grid = site_grid(Parties(CONFIG).grid())
    messages = ask_all(grid)
    replies = grid.exchange(messages)
    down = sum(map(size_of, messages))
    up = sum(size_of(reply) for reply in replies.answers.values())
    assert down > 0
    assert up > 0
    assert grid.traffic.take() == {"up": up, "down": down}
    assert grid.traffic.take() == {"up": 0, "down": 0}


def test_exchange__stops_waiting_when_told() -> None:
    parties = Parties(CONFIG, lost={("train", "delta")})
    grid = site_grid(parties.grid())
    grid.stopping = lambda: True
    with pytest.raises(StoppedError):
        grid.exchange(ask_all(grid))


def test_ask__asks_only_the_sites_that_are_named() -> None:
    grid = site_grid(Parties(CONFIG).grid())
    replies = grid.ask(flower.HELLO, RecordDict(), ["charlie", "alpha"])
    assert list(replies.answers) == ["alpha", "charlie"]
    assert flower.read_hello(replies.answers["alpha"].content).site == "alpha"


@pytest.mark.parametrize("raised", [EOFError(), RecursionError(), MemoryError(), KeyError("x")])
def test_reply__fails_its_site_and_no_other_whatever_reading_it_raises(raised: Exception) -> None:
    grid = site_grid(Parties(CONFIG).grid())

    def read(site: str, reply: Message) -> Message:
        if site == "bravo":
            raise raised
        return reply

    for sorts in (True, False):
        replies = grid.exchange(ask_all(grid), keep=read, sorts=sorts)
        assert replies.failures == {"bravo": f"its reply cannot be read ({type(raised).__name__})"}
        assert sorted(replies.answers) == sorted({*NAMES} - {"bravo"})


def test_exchange__hands_on_unsorted_replies_as_they_come_and_holds_one_at_a_time() -> None:
    forward = Parties(CONFIG).grid()
    inner, order, held = Backwards(forward.app, forward.contexts), list[str](), list[int]()

    def keep(site: str, reply: Message) -> Message:
        order.append(site)
        held.append(len(inner._replies))
        return reply

    replies = site_grid(inner).exchange(ask_all(site_grid(inner)), keep=keep, sorts=False)
    assert order == sorted(NAMES, reverse=True)
    assert held == [3, 2, 1, 0], "a reply is taken before the next is fetched"
    assert list(replies.answers) == sorted(NAMES)
