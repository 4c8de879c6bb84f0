"""What a coordinator does can be read from its files, whatever they hold."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.cli import main
from fedlearn.core.logs import EVENTS
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.events import GaussianEvent
from fedlearn.results.result import Attendance, RoundResult
from server.federation import Federation
from server.queue import Queue
from server.run import Silent
from server.spending import SpendingWatch
from server.status import SILENT_SECONDS, STATES, Status, status_of
from server.status_views import as_json, as_metrics, as_text, published
from tests.effort import examples

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = ("started", "waiting", "training", "round", "cut_off", "finished", "ended", "absent",
         "clock", "copied", "restarted", "site", "budget", "decided", "else")  # fmt: skip


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def written(folder: Path, *events: dict[str, Any]) -> Path:
    """A state folder with these events, a second apart."""
    state = folder / "state"
    state.mkdir(exist_ok=True)
    lines = [json.dumps({"time": at(i), **event}) for i, event in enumerate(events)]
    (state / "server.jsonl").write_text("\n".join(lines) + "\n")
    return state


def run(folder: Path, **result: Any) -> dict[str, Any]:
    """The event of a run whose folder holds a result."""
    out = folder / "run"
    out.mkdir(exist_ok=True)
    privacy = {"per_site": {"a": {"epsilon": 1.25}, "b": {"epsilon": None}}}
    config = {"privacy": {"epsilon": 4.0, "delta": 1e-5}}
    found = {"privacy": privacy, "config": config, "seconds": 61.5, **result}
    (out / "result.json").write_text(json.dumps(found))
    return {"event": "started", "out": str(out), "rounds": 20, "sites": 3}


WAITS = {"event": "waiting", "for": ["b", "c"], "there": 1, "least": 3, "seconds_left": 590}


def test_status__says_who_is_awaited_which_round_what_went_wrong_and_what_it_cost(
    tmp_path: Path,
) -> None:
    state = written(
        tmp_path, run(tmp_path), {"event": "training", "round": 1, "sites": ["a", "b", "c"]},
        {"event": "round", "round": 1}, {"event": "round", "round": 2},
        {"event": "cut_off", "round": 3, "reason": "round 3: b:\nit is \x1b[31moffline"}, WAITS,
    )  # fmt: skip
    health = [{"site": "a", "state": "online", "since": at(0), "as_of": at(8)}]
    (state / "health.json").write_text(json.dumps(health))
    found = status_of(state, NOW + timedelta(seconds=9))
    assert (found.state, found.round, found.rounds) == ("waiting", 2, 20)
    assert (found.awaited, found.seconds_left) == (("b", "c"), 590)
    assert (found.since, found.as_of, found.cut_offs) == (at(4), at(8), 1)
    assert found.last_error is not None
    assert found.last_error.event == "cut_off"
    assert found.cost is not None
    assert (found.cost.epsilon, found.cost.promised) == ({"a": 1.25, "b": None}, 4.0)
    text = as_text(found)
    assert "awaited: b, c, 590 seconds at most" in text
    assert "2 of 20 rounds are done" in text
    assert "epsilon of a: 1.25 of 4 at delta 1e-05" in text
    assert "\x1b" not in text
    assert json.loads(as_json(found))["schema"] == "fedlearn/status/v1"


def test_status__says_whose_owner_is_awaited_until_that_is_decided(tmp_path: Path) -> None:
    why = {"b": "awaiting its owner's approval", "c": 7}
    events = [run(tmp_path), {**WAITS, "why": why}]
    found = status_of(written(tmp_path, *events), NOW)
    assert "awaited: b (awaiting its owner's approval), c (7), 590 seconds" in as_text(found)
    assert json.loads(as_json(found))["why"]["b"] == "awaiting its owner's approval"
    for number, state in ((0, "starting"), (3, "training")):
        after = [*events, {"event": "decided", "round": number, "without": []}]
        found = status_of(written(tmp_path, *after), NOW)
        assert (found.state, found.awaited, found.why) == (state, (), {})
    odd = status_of(written(tmp_path, run(tmp_path), {**WAITS, "why": ["b"]}), NOW)
    assert (odd.awaited, odd.why) == (("b", "c"), {})


@pytest.mark.parametrize(
    ("last", "state", "code"),
    [
        ({"event": "finished", "rounds": 20}, "finished", 0),
        ({"event": "ended", "exit_code": 4, "reason": "waited in vain"}, "ended", 4),
        ({"event": "training", "round": 3}, "gone", None),
        (WAITS, "gone", None),
    ],
)
def test_status__tells_a_run_that_is_over_from_one_that_was_killed(
    tmp_path: Path, last: dict[str, Any], state: str, code: int | None
) -> None:
    folder = written(tmp_path, run(tmp_path), last)
    later = status_of(folder, NOW + timedelta(seconds=SILENT_SECONDS + 5))
    assert (later.state, later.exit_code) == (state, code)
    soon = status_of(folder, NOW + timedelta(seconds=5))
    assert (soon.state == "gone") == (later.state == soon.state == "gone")
    health = [{"site": "a", "state": "online", "since": at(0), "as_of": at(60)}]
    (folder / "health.json").write_text(json.dumps(health))
    assert status_of(folder, NOW + timedelta(seconds=SILENT_SECONDS + 5)).state != "gone"


def test_status__of_a_run_that_begins_anew_after_a_cut_is_that_of_the_same_run(
    tmp_path: Path,
) -> None:
    cut = {"event": "cut_off", "round": 8, "reason": "gone"}
    begun = run(tmp_path)
    state = written(tmp_path, begun, {"event": "round", "round": 7}, cut, begun, WAITS)
    found = status_of(state, NOW)
    assert (found.state, found.round, found.rounds, found.cut_offs) == ("waiting", 7, 20, 1)
    assert found.last_error is not None


def test_status__of_the_next_run_holds_nothing_of_the_one_before(tmp_path: Path) -> None:
    before = {"event": "ended", "exit_code": 3, "reason": "spent"}
    state = written(tmp_path, run(tmp_path), {"event": "round", "round": 7}, before)
    (state / "server.jsonl").rename(state / "server.jsonl.1")
    state = written(tmp_path, {"event": "started", "out": "/nowhere", "rounds": 3})
    found = status_of(state, NOW)
    assert (found.state, found.round, found.rounds) == ("starting", 0, 3)
    assert (found.exit_code, found.last_error, found.cost) == (None, None, None)


def test_status__of_a_coordinator_that_was_never_started_is_nothing(tmp_path: Path) -> None:
    found = status_of(tmp_path / "state", NOW)
    assert found == Status()
    assert as_text(found) == "the coordinator has not served a run yet"


VALUES = (None, True, 3, -1, 10**400, float("inf"), float("nan"), 2.5, "", "x\x1b[31m", "{site}",
          "2026-03-01T12:00:00", [], ["a", 1, None], [[["a"]]], {}, {"a": [1]})  # fmt: skip
KEYS = ("time", "for", "seconds_left", "round", "rounds", "out", "reason", "exit_code", "sites",
        "site", "program", "seconds_ahead")  # fmt: skip
EVENT = st.builds(
    lambda name, fields: {**fields, "event": name},
    st.sampled_from((*NAMES, *VALUES)),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=5),
)


@settings(max_examples=examples(300))
@given(st.lists(EVENT, max_size=6))
def test_status__whatever_its_files_hold_can_be_shown(events: list[dict[str, Any]]) -> None:
    found = Status()
    for event in events:
        found = found.after(event)
    assert found.state in STATES
    assert as_text(found)
    json.loads(as_json(found))
    check_format(as_metrics(found))


@pytest.mark.parametrize("content", ["[]", "{}", '[{"site": 1}]', "[[[", "[null]", '"x"', "\xff"])
def test_status__with_broken_files_beside_its_events_goes_on(tmp_path: Path, content: str) -> None:
    state = written(tmp_path, run(tmp_path))
    for path in (state / "health.json", tmp_path / "run" / "result.json"):
        path.write_bytes(content.encode("latin-1"))
    with (state / "server.jsonl").open("ab") as log:
        log.write(f'{content}\n{{"event": "round", "ro'.encode("latin-1"))
    found = status_of(state, NOW)
    assert (found.state, found.sites, found.cost) == ("starting", (), None)


SAMPLE = re.compile(
    r"[a-zA-Z_:][a-zA-Z0-9_:]*"
    r'(\{[a-zA-Z_][a-zA-Z0-9_]*="([^"\\\n]|\\["\\n])*"(,[a-zA-Z_][a-zA-Z0-9_]*="([^"\\\n]|\\["\\n])*")*\})?'
    r" ([+-]Inf|NaN|[-+0-9.e]+)"
)


def check_format(text: str) -> list[str]:
    """By the grammar of the text format, written down anew; the names of the samples."""
    names, typed = [], set()
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        words = line.split(" ")
        if words[:2] == ["#", "TYPE"]:
            assert words[2] not in typed, "the lines of a metric stand together"
            typed.add(words[2])
        elif words[0] != "#":
            assert SAMPLE.fullmatch(line), line
            names.append(re.split(r"[{ ]", line)[0])
            assert names[-1] in typed
    return names


def test_metrics__are_in_the_format_of_prometheus_and_say_nothing_of_a_model(
    tmp_path: Path,
) -> None:
    final = {"evaluate": {"accuracy": 0.987654}}
    state = written(tmp_path, run(tmp_path, final=final), WAITS)
    strange = 'no"rth\\\n'
    health = [{"site": strange, "state": "offline", "since": at(0), "as_of": at(2)}]
    (state / "health.json").write_text(json.dumps(health))
    text = as_metrics(status_of(state, NOW))
    names = check_format(text)
    assert 'fedlearn_state{state="waiting"} 1.0\n' in text
    assert r'fedlearn_site_online{site="no\"rth\\\n"} 0.0' in text
    assert "fedlearn_sites_awaited 2.0\n" in text
    assert 'fedlearn_epsilon_spent{site="a"} 1.25\n' in text
    assert 'fedlearn_epsilon_spent{site="b"} +Inf\n' in text
    assert names.count("fedlearn_state") == len(STATES)
    for shown in (text, as_text(status_of(state, NOW)), as_json(status_of(state, NOW))):
        assert "98765" not in shown
        assert "accuracy" not in shown


def test_metrics__are_in_their_file_while_a_coordinator_runs_and_say_how_it_ended(
    tmp_path: Path,
) -> None:
    state, path = written(tmp_path, run(tmp_path)), tmp_path / "fedlearn.prom"
    with published(state, path):
        first = path.read_text()
        written(tmp_path, run(tmp_path), {"event": "finished"})
    check_format(first)
    assert 'fedlearn_state{state="finished"} 1.0' in path.read_text()
    with published(state, tmp_path / "nowhere" / "x.prom"), published(state, None):
        pass  # nothing ends for a folder that is not there


def test_status__has_the_studies_that_wait(tmp_path: Path) -> None:
    state = written(tmp_path, run(tmp_path))
    for name in "abc":
        Queue(state).add([], tmp_path / name)
    Queue(state).stop(2)
    found = status_of(state, NOW)
    assert [one.state for one in found.queue] == ["queued", "aborted", "queued"]
    assert "study 3: queued since" in as_text(found)
    assert "study 2" not in as_text(found)
    text = as_metrics(found)
    check_format(text)
    assert 'fedlearn_studies{state="queued"} 2.0\n' in text
    (state / "queue" / "000002.json").write_text("no study")
    assert status_of(state, NOW).queue == ()


def test_status__by_the_command_in_three_forms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(
        'listen: "127.0.0.1:8443"\nkeys: k\nroster: r\nintroductions: i\ntls: t\n'
        "metrics: m.prom\nalerts: [page, --high]\n"
    )
    written(tmp_path, run(tmp_path), {"event": "finished"})
    assert main(["status", str(file)]) == 0
    assert capsys.readouterr().out.startswith("the coordinator has finished the run since ")
    assert main(["status", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "finished"
    to = tmp_path / "found.prom"
    assert main(["status", str(file), "--prometheus", "--to", str(to)]) == 0
    check_format(to.read_text())
    assert main(["status", str(file), "--prometheus", "--json"]) == 2


def test_budget__of_which_four_fifths_are_spent_is_an_event_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", EVENTS.name)
    step = GaussianEvent(noise_multiplier=4.0, sample_rate=0.2, steps=1)
    whole = (GaussianEvent(noise_multiplier=4.0, sample_rate=0.2, steps=20),)
    watch = SpendingWatch(Silent())
    plan = SimpleNamespace(events=whole, delta=1e-5, unit="record")
    watch.started(cast(Federation, SimpleNamespace(plan=plan)), 1)
    promised, said = epsilon(whole, 1e-5), []
    for number in range(1, 21):
        spent = epsilon([step] * number, 1e-5)
        watch.round_finished(
            RoundResult(
                round=number, seconds=1.0, loss=None, evaluate={}, bytes={},
                clients=Attendance(invited=2, replied=2, dropped={}),
                epsilon={"a": spent, "b": spent / 2, "c": None},
            )
        )  # fmt: skip
        said.append(len([one for one in caplog.records if one.getMessage() == "budget"]))
        assert said[-1] == (spent >= 0.8 * promised)
    assert {*said} == {0, 1}
    watch.started(cast(Federation, SimpleNamespace(plan=None)), 1)
