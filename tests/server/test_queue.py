"""Studies one after another: added, stopped, aborted before their start, and resumed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.serverapp import Grid
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.cli import main
from fedlearn.core.errors import ConfigError, DataError, ProtocolError, StoppedError
from fedlearn.results.reading import read_result
from server import deployment, standing_server
from server.admission import SIMULATED
from server.deployment import Connected
from server.queue import Queue, QueuedStudy
from server.serverfile import Participants, ServerFile
from server.standing_server import MOST_TRIES, StandingServer
from server.stop import Stop
from server.superlink.endpoint import SuperLink
from tests.effort import examples

from .parties import Parties, make_config

# --- the queue by itself --------------------------------------------------------------------

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "stop", "resume", "begin", "finished", "failed", "again"]),
        st.integers(1, 4),
    ),
    max_size=25,
)


@settings(max_examples=examples(200), deadline=None)
@given(operations=OPERATIONS)
def test_queue__is_what_a_list_of_states_would_be(
    operations: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("queue")
    queue, model = Queue(folder), dict[int, str]()
    tries = dict[int, int]()
    for name, number in operations:
        running = [n for n, state in model.items() if state == "running"]
        state = model.get(number)
        if name == "add":
            made = queue.add(["a=1"], folder / f"run{len(model)}")
            assert made.number == len(model) + 1
            model[made.number], tries[made.number] = "queued", 0
        elif name == "stop":
            if state in ("queued", "running"):
                assert queue.stop(number).state == ("aborted" if state == "queued" else "running")
                assert queue.wished(number) == (state == "running")
                model[number] = "aborted" if state == "queued" else state
            else:
                with pytest.raises(ConfigError):
                    queue.stop(number)
        elif name == "resume":
            if state in ("stopped", "aborted", "failed"):
                queue.resume(number)
                model[number], tries[number] = "queued", 0
            else:
                with pytest.raises(ConfigError):
                    queue.resume(number)
        elif name == "begin":
            found = queue.begin_next()
            order = sorted((tries[n], n) for n, one in model.items() if one == "queued")
            expected = running[0] if running else order[0][1] if order else None
            assert (found and found.number) == expected
            if found:
                model[found.number] = "running"
                assert not found.wish
        elif running:
            again = name == "again"
            queue.end(running[0], "queued" if again else cast(Any, name), "why", tries=again)
            model[running[0]] = "queued" if again else name
            tries[running[0]] += again
        assert {one.number: one.state for one in queue.studies()} == model
        assert list(model.values()).count("running") <= 1


def test_queue__takes_no_two_studies_of_one_folder(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    queue.add([], tmp_path / "run")
    with pytest.raises(ConfigError, match="study 1 writes there, and is queued"):
        queue.add([], tmp_path / "run")
    queue.stop(1)
    assert queue.add([], tmp_path / "run").number == 2


def test_queue__makes_no_folder_of_the_coordinator_that_others_may_read(tmp_path: Path) -> None:
    """Events, health and messages of runs come to lie beside it."""
    Queue(tmp_path / "state").add(["rounds=1"], tmp_path / "a")
    for made in (tmp_path / "state", tmp_path / "state" / "queue"):
        assert made.stat().st_mode & 0o077 == 0
    [study] = (tmp_path / "state" / "queue").glob("*.json")
    assert study.stat().st_mode & 0o077 == 0


def test_queue__that_many_write_to_at_once_loses_nothing(tmp_path: Path) -> None:
    def add(first: int) -> None:
        for i in range(5):
            Queue(tmp_path).add([f"seed={first}"], tmp_path / f"run{first}-{i}")

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.number for one in Queue(tmp_path).studies()] == list(range(1, 21))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"number": "x"}', "\xff"])
def test_queue__with_a_file_that_is_no_study_names_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "queue").mkdir()
    path = tmp_path / "queue" / "000001.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"000001\.json: is no study"):
        Queue(tmp_path).studies()


# --- a coordinator that serves it, over sites of this process ---------------------------------


class Link:
    """What a SuperLink is to a coordinator: runs are carried out over scripted sites."""

    def __init__(self, grid: Callable[[], Grid], lives: int = 1000) -> None:
        self.grid, self.lives, self.runs = grid, lives, 0

    def ready(self) -> bool:
        return self.lives > 0

    def start_run(self, run_config: dict[str, Any]) -> int:
        self.runs += 1
        return self.runs

    @contextmanager
    def carry_out(self, run_id: int, longest: float) -> Iterator[tuple[Grid, None]]:
        self.lives -= 1
        yield self.grid(), None


@pytest.fixture
def served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[StandingServer, list[str], list[Link]]:
    """A coordinator whose sites answer in this process; what it says; its links."""
    nowhere = Path("unused")
    file = ServerFile(
        listen="127.0.0.1:1", keys=nowhere, roster=nowhere, introductions=nowhere, tls=nowhere,
        state=tmp_path / "state", wait_seconds=5.0, client_certificates=True,
    )  # fmt: skip
    parties = SimpleNamespace(roster="r", certificates=dict.fromkeys("abcd", ""), warnings=())
    made = cast(Participants, parties)
    links = [Link(lambda: Parties(make_config()).grid())]

    @contextmanager
    def connected(*_: object) -> Iterator[Connected]:
        yield Connected(cast(SuperLink, links[-1]), made, {}, None)

    monkeypatch.setattr(standing_server, "connected", connected)
    monkeypatch.setattr(standing_server, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(standing_server.serverfile, "federation", lambda *_: made)
    monkeypatch.setattr(deployment, "_admission", lambda *_: SIMULATED)
    said: list[str] = []
    return StandingServer(file, Queue(file.state), Stop(), said.append), said, links


WORDS = ("model.architecture=linear", "rounds=3", "privacy=none", "secagg=off",
         "transport=plain", "reply_timeout=1.0")  # fmt: skip


def until(server: StandingServer, over: Callable[[], bool]) -> None:
    """Serve until something is so."""

    def look() -> None:
        for _ in range(3000):
            if over():
                break
            threading.Event().wait(0.02)
        server.stop.after_round.set()

    watching = threading.Thread(target=look)
    watching.start()
    with pytest.raises(StoppedError):
        server.serve()
    watching.join()
    assert over()
    server.stop.after_round.clear()


def states(server: StandingServer) -> list[str]:
    return [one.state for one in server.queue.studies()]


def test_studies__are_served_one_after_another_over_one_link(
    served: tuple[StandingServer, list[str], list[Link]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, said, links = served
    for name, words in (("a", WORDS), ("b", (*WORDS, "rounds=x")), ("c", WORDS), ("d", WORDS)):
        server.queue.add(words, tmp_path / name)
    server.queue.stop(3)
    until(server, lambda: states(server) == ["finished", "failed", "aborted", "finished"])
    # Whoever is told of ends (`alerts`) is told of one that never began as well.
    assert "ended" in [one.message for one in caplog.records if one.name == "events"]
    assert links[0].runs == 2
    assert "rounds" in server.queue.studies()[1].reason
    for name in ("a", "d"):
        assert read_result(tmp_path / name).status == "finished"
    assert not (tmp_path / "c").exists()
    assert said[0] == f"study 1 begins: {tmp_path / 'a'}"
    server.queue.resume(3)
    until(server, lambda: states(server)[2] == "finished")


def test_study__that_is_stopped_ends_after_its_round_and_goes_on_from_there(
    served: tuple[StandingServer, list[str], list[Link]], tmp_path: Path
) -> None:
    server, _, _ = served
    server.queue.add((*WORDS, "rounds=400"), tmp_path / "long")
    server.queue.add(WORDS, tmp_path / "next")
    metrics = tmp_path / "long" / "metrics.jsonl"

    def stop_it() -> None:
        while not metrics.exists():
            threading.Event().wait(0.02)
        server.queue.stop(1)

    stopping = threading.Thread(target=stop_it)
    stopping.start()
    until(server, lambda: states(server) == ["stopped", "finished"])
    stopping.join()
    kept = len(metrics.read_text().splitlines())
    assert 1 <= kept < 400
    assert read_result(tmp_path / "long").status == "interrupted"
    server.queue.resume(1)
    until(server, lambda: len(metrics.read_text().splitlines()) > kept + 2)
    assert states(server)[0] == "running", "whoever stops the coordinator has not stopped the study"
    assert json.loads(metrics.read_text().splitlines()[kept])["round"] == kept + 1


def test_study__that_an_outage_ends_is_tried_again_after_the_others(
    served: tuple[StandingServer, list[str], list[Link]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, _, _ = served
    real, tried = standing_server.carried_on, list[str]()

    def carried_on(there: Any, file: Any, config: Any, *rest: Any) -> Any:
        tried.append(Path(config.out).name)
        if tried[-1] == "a":
            raise ProtocolError("", "hello", "2 of at least 3 sites connected")
        return real(there, file, config, *rest)

    monkeypatch.setattr(standing_server, "carried_on", carried_on)
    server.queue.add(WORDS, tmp_path / "a")
    server.queue.add(WORDS, tmp_path / "b")
    until(server, lambda: states(server) == ["failed", "finished"])
    assert tried == ["a", "b", *["a"] * (MOST_TRIES - 1)]
    assert "2 of at least 3" in server.queue.studies()[0].reason


@pytest.mark.parametrize(
    ("error", "tries"), [(TypeError("a model of somebody's"), 1), (OSError(28, "No space"), 3)]
)
def test_study__that_fails_by_whatever_ends_no_other(
    served: tuple[StandingServer, list[str], list[Link]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    tries: int,
) -> None:
    """It was served first after every new start of the coordinator, and ended it each time."""
    server, _, _ = served
    real, tried = standing_server.carried_on, list[str]()

    def carried_on(there: Any, file: Any, config: Any, *rest: Any) -> Any:
        tried.append(Path(config.out).name)
        if tried[-1] == "a":
            raise error
        return real(there, file, config, *rest)

    monkeypatch.setattr(standing_server, "carried_on", carried_on)
    server.queue.add(WORDS, tmp_path / "a")
    server.queue.add(WORDS, tmp_path / "b")
    until(server, lambda: states(server) == ["failed", "finished"])
    assert tried.count("a") == tries
    assert [one.message for one in caplog.records if one.name == "events"].count("ended") == tries
    assert str(error) in server.queue.studies()[0].reason


def test_study__whose_link_is_lost_goes_on_over_another_one(
    served: tuple[StandingServer, list[str], list[Link]], tmp_path: Path
) -> None:
    server, _, links = served
    links[0].lives = 0
    server.queue.add(WORDS, tmp_path / "a")

    def another() -> bool:
        links[0].lives = 1000
        return states(server) == ["finished"]

    until(server, another)


def test_sites__that_join_and_leave_count_from_the_next_study_without_a_restart(
    served: tuple[StandingServer, list[str], list[Link]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A roster that is pinned anew while a study runs; what sites connect to is started with it."""
    server, said, links = served
    pinned = ["cleveland, hungary"]
    connections: list[tuple[str, int]] = []

    def parties(*_: object) -> Participants:
        return cast(
            Participants,
            SimpleNamespace(roster=pinned[-1], certificates=dict.fromkeys("abcd", ""), warnings=()),
        )

    @contextmanager
    def connected(_: ServerFile, of: Participants) -> Iterator[Connected]:
        connections.append((str(of.roster), links[-1].runs))
        yield Connected(cast(SuperLink, links[-1]), of, {}, None)

    monkeypatch.setattr(standing_server.serverfile, "federation", parties)
    monkeypatch.setattr(standing_server, "connected", connected)

    def tell(sentence: str) -> None:
        said.append(sentence)
        if sentence.startswith("study 1 begins"):
            pinned.append("cleveland, switzerland")

    server = replace(server, tell=tell)
    for name in "ab":
        server.queue.add(WORDS, tmp_path / name)
    until(server, lambda: states(server) == ["finished"] * 2)
    assert connections == [("cleveland, hungary", 0), ("cleveland, switzerland", 1)]


def test_queue__by_its_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "server.yaml"
    file.write_text('listen: "127.0.0.1:1"\nkeys: k\nroster: r\nintroductions: i\ntls: t\n')
    out = tmp_path / "run"
    assert main(["queue", "add", str(file), "rounds=3", f"out={out}"]) == 0
    assert main(["queue", "add", str(file), "rounds=none", f"out={out}2"]) == 2
    assert main(["queue", "add", str(file), f"out={out}"]) == 2
    (one,) = Queue(tmp_path / "state").studies()
    assert (one.words, one.out) == (("rounds=3",), str(out))
    capsys.readouterr()
    assert main(["queue", "stop", str(file), "1"]) == 0
    assert "study 1 will not begin" in capsys.readouterr().out
    assert main(["queue", "resume", str(file), "1"]) == 0
    assert main(["queue", "stop", str(file), "2"]) == 2
    capsys.readouterr()
    assert main(["queue", "show", str(file)]) == 0
    assert capsys.readouterr().out.startswith("1  queued since ")
    assert main(["server", str(file), "--queue", "rounds=3"]) == 2
    assert "fedlearn queue add" in capsys.readouterr().err
    assert isinstance(one, QueuedStudy)
