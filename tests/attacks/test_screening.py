"""Tables that are compared: what a coordinator that lies, or a site that lies, gets of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from clients import screening
from clients.site import Site
from fedlearn.config import screened_layout
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.rounds import RoundNote
from server.screening import screen
from tests.attacks.lab import RUN_ID, SITES, STRICT, Lab
from tests.attacks.neighbours import VICTIM, Talk, check, watched
from tests.attacks.test_neighbours import HEADER, USUAL, prepared

COLUMNS = ("screening=sums", "training.local_steps=1")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab.make(tmp_path, *COLUMNS, policy=f"{STRICT}  on_findings: refuse\n")


def findings_of(lab: Lab, site: str) -> Any:
    path = lab.world.ledger(site).parent / screening.FILE
    return json.loads(path.read_text())["findings"] if path.exists() else None


# --- a coordinator -------------------------------------------------------------------------


def test_record__is_told_by_no_refusal_whatever_sums_a_coordinator_sends(
    tmp_path: Path,
) -> None:
    """Its sums say that there are a billion people elsewhere, older with every message, and it asks
    each time whether the site goes on: by the exact table the line would be where its records are.
    """
    rng = np.random.default_rng(1)
    words = [*USUAL, "secagg=off", "screening=sums"]
    asked = prepared(Lab.make(tmp_path), rng, words, series=False)
    rows = [(f"P{i}", "1", str(30 + i % 9), "90", "fm"[i % 2], "01"[i % 2]) for i in range(60)]
    old = [(f"Q{i}", "1", "89", "219", "f", "1") for i in range(4)]  # some are trained on
    note = RoundNote(terms=asked.config.terms.hex(), run_id=RUN_ID.hex(), round=1, cohort=4)

    def script(talk: Talk) -> None:
        talk.federate()
        talk.screen()
        assert talk.federation is not None
        layout = screened_layout(talk.lab.config, talk.federation.enrolment.task)
        assert layout is not None
        for place in np.linspace(-0.1, 1.0, 80):
            each = np.zeros(layout.width)
            each[:2] = 1.0, place
            sums = np.rint(np.tile(each, 2) * 2**40).astype(np.int64)
            content = flower.compare_request(sums, SITES[1:])
            talk.ask(Message(content, dst_node_id=1, message_type=flower.COMPARE))
            may_i = flower.afford_request(note)
            talk.ask(Message(may_i, dst_node_id=1, message_type=flower.AFFORD))

    seen = [watched(asked, [HEADER, *table], script) for table in (rows, rows + old)]
    assert ("screening", VICTIM) in {(what, who) for who, what, *_ in seen[0].sums}
    last = seen[0].left[-1][2]
    assert isinstance(last, bytes)
    assert b"its owner does not allow it" in last, "in the end it is refused, by what was given"
    check(seen[0], seen[1], len(old))


def test_sums__are_given_once_in_a_run_and_paid_for_first(lab: Lab) -> None:
    federation = lab.federate()
    asked: dict[str, RecordDict] = {}

    def keep(kind: str, site: str, message: Message) -> Message:
        if kind == "screen" and site == SITES[0]:
            asked["again"] = message.content
        return message

    lab.on_request = keep
    screen(federation)
    assert [lab.reserved(site, "screening") for site in SITES] == [1] * len(SITES)
    lab.ask(flower.SCREEN, SITES[0], asked["again"])
    assert lab.reserved(SITES[0], "screening") == 1
    # A coordinator that begins the run anew, at sites that have forgotten all but their ledgers.
    again = lab.again()
    other = again.federate()
    screen(other)
    assert other.progress.screened is None
    assert [again.reserved(site, "screening") for site in SITES] == [1] * len(SITES)


def test_run_without_screening__gives_no_sums(tmp_path: Path) -> None:
    plain = Lab.make(tmp_path)
    federation = plain.federate()
    screen(federation)
    assert federation.progress.screened is None
    for kind in (flower.SCREEN, flower.COMPARE):
        content = flower.compare_request(np.zeros(8, np.int64), SITES)
        plain.ask(kind, SITES[0], content)
    assert not any(plain.reserved(site, "screening") for site in SITES)
    assert findings_of(plain, SITES[0]) is None


def test_answer__is_the_same_whatever_was_found(lab: Lab) -> None:
    replies: list[RecordDict] = []

    def keep(kind: str, site: str, reply: Message) -> Message:
        if kind == "compare":
            replies.append(reply.content)
        return reply

    lab.on_reply = keep
    mistaken(lab, SITES[1])
    screen(lab.federate())
    assert findings_of(lab, SITES[0]) is not None
    assert findings_of(lab, SITES[1]) is not None
    assert len(replies) == len(SITES)
    assert {tuple(reply) for reply in replies} == {("sealed",)}
    assert len({len(private.content_to_bytes(reply)) for reply in replies}) == 1


def mistaken(lab: Lab, site: str) -> None:
    """The site writes its ages in months."""
    path = lab.world.root / site / "table.csv"
    header, *lines = path.read_text().splitlines()
    cells = [line.split(",") for line in lines]
    path.write_text("\n".join([header, *(
        ",".join([one[0], str(12 * int(one[1])), *one[2:]]) for one in cells
    )]) + "\n")  # fmt: skip


# --- a site --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fewer than none", "beyond its number"])
def test_lie__that_no_records_add_up_to_is_told_to_nobody_and_ends_nothing(
    lab: Lab, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = screening.given

    def given(site: Site, *of: Any) -> NDArray[np.int64]:
        found = honest(site, *of)
        if site.name == SITES[2]:
            shape = len(site.task.classes), -1
            sums = found.reshape(shape)
            sums[:, 0 if kind == "fewer than none" else 1] -= 10**7
        return found

    monkeypatch.setattr(screening, "given", given)
    federation = lab.federate()
    screen(federation)
    assert "one has lied" in caplog.text
    assert federation.progress.screened is None
    assert findings_of(lab, SITES[0]) is None
    assert federation.run_round(1).clients.replied == len(SITES)


@pytest.mark.slow
def test_lie__makes_others_find_something_at_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand people who are not there: all of them young, ill and under high pressure."""
    warned = Lab.make(tmp_path, *COLUMNS, "privacy.epsilon=8", policy=STRICT)
    honest = screening.exact_sums

    def exact(site: Site, paid: Any) -> NDArray[np.int64]:
        found = honest(site, paid)
        if site.name == SITES[2]:
            layout = screening.layout_in(site)
            row = layout.added(np.array([[-1.0, 1.0, 1.0]])).reshape(-1)
            found.reshape(2, -1)[1] += np.rint(100_000 * row * paid.steps[0]).astype(np.int64)
        return found

    monkeypatch.setattr(screening, "exact_sums", exact)
    federation = warned.federate()
    screen(federation)
    assert federation.progress.screened == len(SITES)
    assert any(one["kind"] == "unit" for one in findings_of(warned, SITES[0]))
    assert federation.run_round(1).clients.replied == len(SITES)
