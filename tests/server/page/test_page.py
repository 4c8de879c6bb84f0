"""The page of a coordinator shows what it knows, and its buttons do what the commands do."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.cli import main
from fedlearn.core.errors import ConfigError
from fedlearn.results.reading import read_result
from fedlearn.results.result import Attendance, ResultFile, RoundResult
from server.page import view
from server.page.curves import curves
from server.page.server import CoordinatorPages, number_of, words_of
from server.queue import Queue
from server.serverfile import ServerFile
from tests.effort import examples
from tests.server.page.made import NASTY, WORDS, busy, coordinator
from tests.visitor import Visitor, visited

NOW = datetime(2026, 3, 1, 12, 0, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[ServerFile, str]:
    """A busy coordinator and its page, which these tests only read."""
    folder = tmp_path_factory.mktemp("coordinator")
    file = busy(folder)
    return file, view.page(file, folder, "token", "<b>notice</b>")


@pytest.fixture
def visitor(tmp_path: Path) -> Iterator[Visitor]:
    file = coordinator(tmp_path)
    with visited(CoordinatorPages(file, tmp_path)) as found:
        found.log_in()
        yield found


def queue_of(visitor: Visitor) -> Queue:
    return Queue(cast(CoordinatorPages, visitor.server.pages).file.state)


def test_page__says_what_the_status_says_and_what_the_rounds_gave(
    shown: tuple[ServerFile, str],
) -> None:
    file, page = shown
    found = view.look(file, NOW)
    assert found.status.state == "waiting"
    for said in ("4 of 9", "delta</bdi>: <bdi>awaiting its owner", "590 seconds at most"):
        assert said in page.replace("&#39;", "'")
    assert page.count('<th scope="row"><bdi>') == 4, "a line for every site"
    assert "Stop after its round" in page
    assert "Abort before its start" in page
    result = read_result(Path(found.status.out))
    names = [one.name for one in found.curves]
    assert names == ["loss", "accuracy"]
    for one in result.rounds:
        assert f'<th scope="row" class="number">{one.round}</th>' in page


def test_page__has_no_number_of_records_and_nothing_by_site_but_what_it_has_spent(
    tmp_path: Path,
) -> None:
    """Its result may hold more where a run was without privacy; the page is of rounds alone."""
    file = busy(tmp_path)
    out = tmp_path / "runs" / "heart"
    result = json.loads((out / "result.json").read_text())
    marks = iter(range(7_770_001, 7_780_000))
    counts = [next(marks) for _ in result["data"]["sites"]]
    for one, count in zip(result["data"]["sites"].values(), counts, strict=True):
        one["train"] = one["test"] = count
    for metrics in result["final"]["per_site"].values():
        for name in metrics:
            metrics[name] = 0.777123
    (out / "result.json").write_text(json.dumps(result))
    page = view.page(file, tmp_path, "token", "")
    assert "figcaption" in page, "the result was read"
    assert not [count for count in counts if str(count) in page]
    assert "0.777" not in page


def test_page__of_nasty_texts_holds_them_as_text(shown: tuple[ServerFile, str]) -> None:
    _, page = shown
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;notice" in page
    assert "\x1b" not in page
    assert NASTY[:8] not in page
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    assert " style=" not in body
    assert not re.findall(r"(?:src|href|action)=\"(?!#content|decide|report/)", body)


def test_page__can_be_read_by_every_reader(shown: tuple[ServerFile, str]) -> None:
    """Headings in order, labels, captions, heads with a scope, one `h1`, no id twice."""
    _, page = shown
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels.count(1) == 1
    assert all(later - level <= 1 for level, later in pairwise(levels))
    assert page.count("<table") == page.count("<caption>")
    assert all("scope=" in head for head in re.findall(r"<th\b[^>]*>", page))
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    labelled = re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', page)
    assert {*labelled, *re.findall(r' for="([^"]+)"', page)} <= set(ids)
    for one in re.findall(r"<input (?!type=\"hidden\")[^>]*>", page):
        (name,) = re.findall(r'id="([^"]+)"', one)
        assert f'for="{name}"' in page
    for one in re.findall(r"<form.*?</form>", page, re.DOTALL):
        assert 'name="form" value="token"' in one


def test_epsilon__is_never_shown_as_less_than_it_is(tmp_path: Path) -> None:
    file = busy(tmp_path)
    path = tmp_path / "runs" / "heart" / "result.json"
    result = json.loads(path.read_text())
    for one in result["rounds"]:
        one["epsilon"] = {"alpha": 1.23449, "bravo": 0.5}
    result["privacy"]["per_site"] = {
        "alpha": {
            "epsilon": 1.23449,
            "epsilon_rdp": 9.0,
            "delta": 1e-5,
            "steps": 4,
            "sample_rate": 0.1,
        }
    }
    path.write_text(json.dumps(result))
    assert view.look(file, NOW).wrong == ()
    body = view.page(file, tmp_path, "token", "").partition("<main")[2]
    assert re.findall(r"1\.2\d+", body) == ["1.235"] * (1 + 3 + 4), "site, curve, rounds"


def test_page__of_a_coordinator_that_has_done_nothing(tmp_path: Path) -> None:
    page = view.page(coordinator(tmp_path), tmp_path, "token", "")
    for said in ("No run was served yet", "No site was seen yet", "The queue is empty"):
        assert said in page


def test_page__says_what_cannot_be_read_and_shows_the_rest(tmp_path: Path) -> None:
    file = busy(tmp_path)
    (tmp_path / "runs" / "heart" / "result.json").write_text("[]")
    (file.state / "queue" / "000002.json").write_text("no study")
    page = view.page(file, tmp_path, "token", "")
    assert page.count('class="warning"') >= 3
    assert "4 of 9" in page
    assert "No round is finished yet" in page


def test_buttons__put_stop_and_resume_studies_and_say_so(visitor: Visitor, tmp_path: Path) -> None:
    queue = queue_of(visitor)
    words = f"{' '.join(WORDS)} out='runs/a b'"
    assert visitor.post({"verb": "add", "words": words})[0] == 303
    (one,) = queue.studies()
    assert (one.words, one.out) == (WORDS, str(tmp_path / "runs" / "a b"))
    assert "Study 1 is queued" in visitor.page()
    stop = {"verb": "stop", "number": "1", "standing": "queued"}
    visitor.post(stop)
    assert queue.studies()[0].state == "aborted"
    assert "Study 1 will not begin." in visitor.page()
    visitor.post(stop)
    assert "Nothing was decided: study 1 is aborted by now: look again" in visitor.page()
    visitor.post({"verb": "resume", "number": "1", "standing": "aborted"})
    assert queue.studies()[0].state == "queued"
    queue.begin_next()
    visitor.post({"verb": "stop", "number": "1", "standing": "running"})
    assert queue.wished(1)
    assert "running, to be stopped" in visitor.page()


@pytest.mark.parametrize(
    "fields",
    [
        {"verb": "add", "words": "rounds=none"},
        {"verb": "add", "words": "rounds='3"},
        {"verb": "stop", "number": "2", "standing": "queued"},
        {"verb": "stop", "number": "../1", "standing": "queued"},
        {"verb": "stop", "number": "9" * 300, "standing": "queued"},
        {"verb": "stop", "number": "1", "standing": "running"},
        {"verb": "remove", "number": "1", "standing": "queued"},
        {"verb": ""},
    ],
    ids=str,
)
def test_form__that_asks_for_what_is_not_to_be_done_changes_nothing(
    visitor: Visitor, fields: dict[str, str], tmp_path: Path
) -> None:
    queue = queue_of(visitor)
    before = queue.add(WORDS, tmp_path / "a")
    assert visitor.post(fields)[0] == 303
    assert queue.studies() == [before]
    assert "Nothing was decided: " in visitor.page()


@pytest.mark.parametrize(
    "other",
    [{"Origin": "http://evil.example"}, {"form": "0" * 64}, {"Host": "evil.example"},
     {"Cookie": "fedlearn-page=x"}, {"Sec_Fetch_Site": "cross-site"}],
    ids=str,
)  # fmt: skip
def test_queue__is_not_changed_by_what_no_form_of_the_page_sends(
    visitor: Visitor, other: dict[str, str], tmp_path: Path
) -> None:
    before = queue_of(visitor).add(WORDS, tmp_path / "a")
    stop = {"verb": "stop", "number": "1", "standing": "queued"}
    assert visitor.post(stop, **other)[0] == 403
    assert queue_of(visitor).studies() == [before]


def test_report__is_shown_where_a_run_has_one_and_nothing_else_of_the_disk(tmp_path: Path) -> None:
    with visited(CoordinatorPages(busy(tmp_path), tmp_path)) as visitor:
        assert visitor.send("GET", f"{visitor.guard.path}report/run")[0] == 403, "not logged in"
        visitor.log_in()
        for name in ("report/run", "report/1"):
            status, headers, text = visitor.send("GET", visitor.guard.path + name)
            assert (status, "A report" in text) == (200, True)
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert " sandbox;" in policy
            assert "script" not in policy
        for name in ("report/2", "report/9", "report/../1", "report/run/", "result.json", "x"):
            assert visitor.send("GET", visitor.guard.path + name)[0] == 403


def test_page__by_its_command_is_a_form_of_its_own(tmp_path: Path) -> None:
    coordinator(tmp_path)
    file = str(tmp_path / "server.yaml")
    assert main(["status", file, "--page", "--json"]) == 2
    assert main(["status", file, "--page", "--port", "70000"]) == 2


FIGURE = st.none() | st.floats(width=32)


@settings(max_examples=examples(200))
@given(st.lists(st.tuples(FIGURE, FIGURE, FIGURE), max_size=12))
def test_curves__are_within_their_box_whatever_the_figures_are(
    figures: list[tuple[float | None, float | None, float | None]],
) -> None:
    there = Attendance(invited=2, replied=2, dropped={})
    rounds = [
        RoundResult(
            round=i, seconds=1.0, loss=loss, evaluate={"auroc": auroc}, clients=there, bytes={},
            epsilon={"a": spent, "b": None},
        )
        for i, (loss, auroc, spent) in enumerate(figures, start=1)
    ]  # fmt: skip
    for one in curves(cast(ResultFile, SimpleNamespace(rounds=rounds))):
        column = {"loss": 0, "auroc": 1}.get(one.name, 2)
        values = [f[column] for f in figures]
        finite = [v for v in values if v is not None and math.isfinite(v)]
        assert (one.low, one.high, one.last) == (min(finite), max(finite), finite[-1])
        points = re.findall(r"[ML]([-\d.]+) ([-\d.]+)", one.line)
        assert len(points) == len(finite)
        assert all(0 <= float(x) <= 640 and 0 <= float(y) <= 200 for x, y in points)


@settings(max_examples=examples(200))
@given(st.text(max_size=40))
def test_words__that_are_typed_are_read_or_refused(text: str) -> None:
    for read in (words_of, number_of):
        try:
            read(text)  # type: ignore[operator]
        except ConfigError:
            continue
    assert number_of("0012") == 12
