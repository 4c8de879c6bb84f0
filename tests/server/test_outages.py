"""Which failures a run goes on after, and what is said meanwhile."""

from __future__ import annotations

import json
import logging
import re
from configparser import RawConfigParser
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from fedlearn.core import errors
from fedlearn.core.errors import (
    FedlearnError,
    PrivacyError,
    ProtocolError,
    StoppedError,
    UnauthenticatedError,
)
from fedlearn.core.logs import EVENTS
from fedlearn.results.result import Attendance, RoundResult
from server import waiting as waiting_module
from server.admission import Admission
from server.federation import Federation, PoisonedError
from server.outages import MOST_IN_A_ROW, MOST_PAID, Outages, telling_the_end
from server.run import Silent
from server.standing import mark_waiting, telling_how_it_ended
from server.stop import Stop
from server.superlink.link_grid import LinkLostError, reached
from server.waiting import EVERY_SECONDS, SOON_SECONDS, Waiting

from .parties import Parties, make_config
from .test_federation import federate

GONE = ProtocolError("", "round 2", "2 usable replies, and strategy.min_sites=3; a: it is offline")
LOST = LinkLostError(httpx.ConnectError("refused"))
UNITS = Path(__file__).resolve().parents[2] / "docs" / "deployment"


def begun(first: int = 1) -> tuple[Outages, list[str]]:
    said: list[str] = []
    outages = Outages(Silent(), said.append)
    training(outages, first)
    return outages, said


def training(outages: Outages, first: int) -> dict[str, tuple[str, ...]]:
    """A run that is under way, and what its sites have spent."""
    spent: dict[str, tuple[str, ...]] = {"a": ("a round",)}
    there = SimpleNamespace(
        grid=SimpleNamespace(sites=["a", "b"]), progress=SimpleNamespace(spent=spent)
    )
    outages.started(cast(Federation, there), first)
    return spent


def a_round(number: int) -> RoundResult:
    return RoundResult(
        round=number, seconds=1.0, loss=None, evaluate={"accuracy": 0.123},
        clients=Attendance(invited=2, replied=1, dropped={"a": "it is offline"}),
        bytes={}, epsilon={},
    )  # fmt: skip


@pytest.mark.parametrize("error", [GONE, LOST, UnauthenticatedError()])
def test_run__goes_on_after_what_cut_a_round_off_and_says_so(error: FedlearnError) -> None:
    outages, said = begun(first=2)
    assert outages.outlasts(error, Stop())
    assert said == [
        "round 2 was cut off, and is made again once enough sites are there; what sites have paid "
        f"for it stays spent ({error})"
    ]


def test_run__does_not_go_on_after_a_start_that_failed_but_for_a_lost_superlink() -> None:
    """Who waited in vain, or met another release, would do so again."""
    said: list[str] = []
    outages = Outages(Silent(), said.append)
    assert not outages.outlasts(ProtocolError("", "hello", "another release"), Stop())
    assert outages.outlasts(LOST, Stop())
    training(outages, 1)
    assert outages.outlasts(GONE, Stop())
    assert not outages.outlasts(GONE, Stop()), "it was cut off, and its start failed then"


def test_run__does_not_go_on_with_sums_that_are_poisoned_nor_against_its_users_wish() -> None:
    outages, _ = begun()
    assert not outages.outlasts(PoisonedError("", "sum", "refused"), Stop())
    for wish in ("after_round", "now"):
        outages, said = begun()
        stop = Stop()
        getattr(stop, wish).set()
        assert not outages.outlasts(GONE, stop)
        assert said == []


def test_run__that_comes_no_further_ends() -> None:
    outages, _ = begun()
    for _ in range(MOST_IN_A_ROW):
        assert outages.outlasts(GONE, Stop())
        training(outages, 1)
    outages.round_finished(a_round(1))
    for _ in range(MOST_IN_A_ROW):
        assert outages.outlasts(GONE, Stop()), "a round in between starts the count again"
        training(outages, 2)
    error = ProtocolError("", "round 2", "once more")
    assert not outages.outlasts(error, Stop())
    assert error.__notes__ == [f"cut off {MOST_IN_A_ROW + 1} times with no round in between"]


def test_run__that_sites_pay_for_and_that_comes_no_further_ends_sooner() -> None:
    """Under masks one site that lies can spoil every sum, once all others have paid."""
    outages = Outages(Silent())
    for number in (1, 2):  # a round in between starts the count again
        spent = training(outages, number)
        for _ in range(MOST_PAID - 1):
            spent["a"] += ("another",)
            assert outages.outlasts(GONE, Stop())
            spent = training(outages, number)
            assert outages.outlasts(LOST, Stop()), "what costs nothing is not counted"
            spent = training(outages, number)
        if number == 1:
            spent["a"] += ("a third",)
            outages.round_finished(a_round(number))
            assert outages.outlasts(GONE, Stop()), "nothing was spent since that round"
    spent["a"] += ("one more",)
    with pytest.raises(PrivacyError, match="paid for round 2 2 times") as caught:
        outages.outlasts(GONE, Stop())
    assert caught.value.exit_code == 3, "no service starts it again"


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(one.getMessage(), one.fields) for one in caplog.records if one.name == EVENTS.name]  # type: ignore[attr-defined]


def test_events__tell_rounds_and_ends_and_no_figure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, EVENTS.name)
    outages, _ = begun(first=4)
    outages.round_finished(a_round(4))
    outages.outlasts(GONE, Stop())
    with pytest.raises(ProtocolError), telling_the_end():
        raise GONE
    found = events(caplog)
    assert [name for name, _ in found] == ["training", "round", "cut_off", "ended"]
    assert found[1][1]["without"] == {"a": "it is offline"}
    assert found[2][1] == {"round": 5, "reason": str(GONE), "in_a_row": 1}
    assert found[3][1] == {"exit_code": 4, "reason": str(GONE)}
    assert "0.123" not in json.dumps([fields for _, fields in found])


def test_superlink__that_does_not_answer_is_lost_and_no_bug() -> None:
    request = httpx.Request("POST", "https://a")
    answer = httpx.Response(401, request=request)
    refused = httpx.HTTPStatusError("401", request=request, response=answer)
    with pytest.raises(LinkLostError, match="carries the run no more"), reached():
        raise httpx.ReadTimeout("")
    with pytest.raises(httpx.HTTPStatusError), reached():
        raise refused
    with pytest.raises(LinkLostError) as caught, reached(httpx.HTTPStatusError):
        raise refused
    assert caught.value.exit_code == 4


# --- whom a run waits for ------------------------------------------------------------


def test_waiting__names_who_is_missing_when_that_changes_and_every_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(waiting_module.time, "monotonic", lambda: clock[0])
    said: list[str] = []
    waiting = Waiting(3, 600.0, said.append, began=0.0)
    waiting.look(0, ["a", "b", "c"])
    assert said == [], "who comes at once is not waited for"
    clock[0] = SOON_SECONDS
    for _ in range(3):
        waiting.look(1, ["b", "c"])
    assert said == ["waiting for b, c, 597 seconds at most: 1 site is there, and 3 suffice then"]
    waiting.look(2, ["c"])
    assert len(said) == 2
    clock[0] = EVERY_SECONDS + 1
    waiting.look(2, ["c"])
    assert len(said) == 3
    error = waiting.over(2, ["c"])
    assert "2 of at least 3 sites connected; waited 600 seconds for c" in str(error)
    assert error.exit_code == 4


def test_enrol__names_the_sites_that_never_came() -> None:
    parties = Parties(make_config("strategy.min_sites=5"))
    nodes = {1000: "delta", 1001: "alpha", 1002: "charlie", 1003: "bravo", 1004: "echo"}
    with pytest.raises(ProtocolError, match=r"waited 0\.3 seconds for echo"):
        federate(parties, replace(Admission(seconds=0.3), nodes=nodes))


def test_enrol__waits_for_a_site_that_is_gone_once_and_not_at_every_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parties, said = Parties(make_config("strategy.min_sites=3")), list[str]()
    nodes = {1000: "delta", 1001: "alpha", 1002: "charlie", 1003: "bravo", 1004: "echo"}
    bound = Admission(seconds=0.3, nodes=nodes, wanted=5, tell=said.append)
    with caplog.at_level(logging.INFO, EVENTS.name):
        assert len(federate(parties, bound).enrolment.sites) == 4
    assert bound.absent == {"echo"}
    assert "goes on without echo, waited for 0.3 seconds" in said[-1]
    assert "absent" in [record.message for record in caplog.records]
    # Again, and for as long as a test may take: only of those who may come.
    forever = replace(bound, seconds=1e9)
    assert len(federate(parties, forever).enrolment.sites) == 4
    # One that is back is one of those again: there is nobody else to wait for.
    back = replace(forever, nodes={n: s for n, s in nodes.items() if n != 1004}, wanted=4)
    assert len(federate(parties, back).enrolment.sites) == 4
    assert back.absent == set()


def test_result__of_a_run_that_waits_says_so_and_of_one_that_ended_how(tmp_path: Path) -> None:
    config = replace(make_config(), out=str(tmp_path))
    path = tmp_path / "result.json"

    def stands() -> tuple[str, str]:
        found = json.loads(path.read_text())
        assert found["rounds"] == [1, 2]
        return found["status"], found["reason"]

    mark_waiting(config, "nothing is there")
    assert not path.exists()
    path.write_text(json.dumps({"status": "failed", "reason": "cut off", "rounds": [1, 2]}))
    mark_waiting(config, "a round was cut off")
    assert stands() == ("waiting", "a round was cut off")
    ends = [
        (PrivacyError("spent"), "stopped_budget"),
        (GONE, "failed"),
        (StoppedError("enough"), "interrupted"),
    ]
    for error, status in ends:
        mark_waiting(config, "waits for its sites")
        with pytest.raises(type(error)), telling_how_it_ended(config):
            raise error
        assert stands() == (status, str(error))
        with pytest.raises(ProtocolError), telling_how_it_ended(config):
            raise ProtocolError("", "later", "another end")
        assert stands() == (status, str(error)), "whoever knew how it ended has said so"
    path.write_text(json.dumps({"status": "finished", "reason": None, "rounds": [1, 2]}))
    mark_waiting(config, "waits")
    assert stands() == ("finished", None)
    path.write_text("{torn")
    mark_waiting(config, "waits")


# --- what systemd makes of it ----------------------------------------------------------


def unit(name: str) -> dict[str, str]:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / f"fedlearn-{name}.service")
    return dict(parser["Service"])


CODES = {
    kind.exit_code: kind.__name__
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, FedlearnError)
}


def test_unit__of_a_coordinator_restarts_after_what_passes_and_not_after_what_is_decided() -> None:
    service = unit("server")
    assert service["Restart"] == "on-failure"
    stays = {int(code) for code in service["RestartPreventExitStatus"].split()}
    decided = (errors.ConfigError, errors.PrivacyError, errors.ReceiptError)
    assert stays == {kind.exit_code for kind in decided}
    assert int(service["SuccessExitStatus"]) == errors.StoppedError.exit_code
    for kind in (errors.ProtocolError, errors.DataError, errors.UnauthenticatedError):
        assert kind.exit_code not in stays


@pytest.mark.parametrize("name", ["client", "helper"])
def test_unit__of_a_site_comes_back_whatever_happens_but_for_its_own_file(name: str) -> None:
    service = unit(name)
    assert service["Restart"] == "always"
    stays = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert stays == {errors.ConfigError.exit_code, errors.PrivacyError.exit_code}
    assert errors.ProtocolError.exit_code not in stays


def test_page__says_of_every_exit_code_what_it_means() -> None:
    page = (UNITS.parent / "deployment.md").read_text(encoding="utf-8")
    table = page.partition("## Exit codes")[2]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert told >= CODES.keys() - {6}, "an audit has its own page"
