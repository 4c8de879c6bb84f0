"""Tables that are compared: what a coordinator that lies, or a site that lies, gets of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from clients import screening
from clients.site import Site
from fedlearn.config import screened_layout
from fedlearn.core.errors import PrivacyError, ProtocolError
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from server.deployment import composed
from server.screening import screen
from tests.attacks.lab import RUN_ID, SITES, STRICT, STUDY, Lab
from tests.attacks.neighbours import VICTIM, Talk, check, watched
from tests.attacks.test_neighbours import HEADER, USUAL, prepared
from tests.effort import slow_but

COLUMNS = ("screening=sums", "training.local_steps=1")
SIZE = 2 * (1 + 1 + 1 + 3)
"""Of both classes: records, ages, pressures, and sexes with the gap among them."""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab.make(tmp_path, *COLUMNS, policy=f"{STRICT}  on_findings: refuse\n")


def findings_of(lab: Lab, site: str) -> Any:
    path = lab.world.ledger(site).parent / screening.FILE
    return json.loads(path.read_text())["findings"] if path.exists() else None


# --- a coordinator -------------------------------------------------------------------------


@pytest.mark.parametrize("place", slow_but((0.22).__eq__, [0.19, 0.22, 0.25, 1.0]))
def test_record__is_told_by_no_refusal_whatever_sums_a_coordinator_sends(
    tmp_path: Path, place: float
) -> None:
    """Its sums say that there are a billion people elsewhere, of an age at which by the exact table
    the site would refuse and its neighbour would not.
    """
    rng = np.random.default_rng(1)
    words = [*USUAL, "secagg=off", "screening=sums"]
    asked = prepared(Lab.make(tmp_path), rng, words, series=False)
    rows = [(f"P{i}", "1", str(30 + i % 9), "90", "fm"[i % 2], "01"[i % 2]) for i in range(60)]
    old = [(f"Q{i}", "1", "89", "219", "f", "1") for i in range(4)]  # some are trained on
    taken: list[bool] = []

    def script(talk: Talk) -> None:
        talk.federate()
        assert talk.federation is not None
        layout = screened_layout(talk.lab.config, talk.federation.enrolment.task)
        assert layout is not None
        each = np.zeros(layout.width)
        each[:2] = 1.0, place
        sums = np.rint(np.tile(each, 2) * 2**40).astype(np.int64)

        def other(kind: str, site: str, message: Message) -> Message:
            if (kind, site) != ("compare", VICTIM):
                return message
            return private.with_content(message, flower.compare_request(sums, SITES[1:]))

        def reply(kind: str, site: str, message: Message) -> Message:
            if (kind, site) == ("compare", VICTIM):
                taken.append(flower.read_refusal(message.content) is None)
            return message

        talk.lab.on_request, talk.lab.on_reply = other, reply
        talk.screen()
        talk.round(1)

    seen = [watched(asked, [HEADER, *table], script) for table in (rows, rows + old)]
    assert taken == [True, True], "it has compared its table with them"
    assert ("screening", VICTIM) in {(what, who) for who, what, *_ in seen[0].sums}
    said = any(isinstance(one, bytes) and b"does not allow it" in one for *_, one in seen[0].left)
    assert said or place < 1, "by what was given it is refused in the end"
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


def shown(lab: Lab, site: str, sums: NDArray[np.int64]) -> RecordDict:
    """What a site answers to sums of the coordinator's making."""
    return lab.ask(flower.COMPARE, site, flower.compare_request(sums, ["x", "y", "z"]))


@pytest.mark.parametrize("privacy", slow_but("none".__eq__, ["record", "none"]))
def test_site__compares_once_so_that_no_search_finds_its_own_sums(
    tmp_path: Path, privacy: str
) -> None:
    """A site that compared as often as it was asked told its own mean through masks, one threshold
    after the other, by when it refused: with `privacy=none` the exact one."""
    unit = "none" if privacy == "none" else "record"
    policy = f"unit: {unit}\n  min_cohort: 3\n  require_transport: null\n  on_findings: refuse\n"
    policy = f"  {policy}" + ("  epsilon_total: 8.0\n" if unit == "record" else "")
    words = [one for one in STUDY if not one.startswith("privacy")]
    words += [f"privacy={privacy}", "transport=plain", "evaluation=none", *COLUMNS]
    words += ["privacy.epsilon=4"] if privacy == "record" else []
    made = Lab.make(tmp_path, policy=policy)
    lab = made.again(replace(composed(words), out=made.config.out))
    federation = lab.federate()
    assert flower.read_refusal(shown(lab, SITES[0], np.zeros(SIZE, np.int64))), "nothing was given"
    screen(federation)
    assert federation.progress.screened == len(SITES)
    before = findings_of(lab, SITES[0])
    far = np.full(SIZE, 1 << 40)
    for _ in range(3):
        refused = flower.read_refusal(shown(lab, SITES[0], far))
        assert refused is not None
        assert refused.exit_code == ProtocolError.exit_code
    assert findings_of(lab, SITES[0]) == before
    assert federation.run_round(1).clients.replied == len(SITES)


def in_clear(tmp_path: Path) -> Lab:
    """Sites to which anything can be sent."""
    policy = f"{STRICT}  on_findings: refuse\n".replace("sealed", "null")
    words = (*COLUMNS, "screening.share=0.5", "transport=plain")
    return Lab.make(tmp_path, *words, policy=policy, rows=240)  # where noise hides nothing


@pytest.mark.slow
def test_refusal__is_settled_before_the_records_are_looked_at_and_whatever_comes_of_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or a table that is too large to be looked at, changes nothing outside."""
    lab = in_clear(tmp_path)
    monkeypatch.setattr(screening, "exact_sums", _broken_after_giving(screening.exact_sums))
    monkeypatch.setattr(screening, "_write", _fails)
    lab.on_request = _with_other_sums
    federation = lab.federate()
    screen(federation)
    assert findings_of(lab, SITES[0]) is None
    with pytest.raises(PrivacyError):
        federation.run_round(1)
    assert {site for kind, site, _ in lab.refused if kind == "afford"} == {*SITES}


def _fails(*_: object) -> Any:
    raise OSError("no space left")


def _broken_after_giving(honest: Any) -> Any:
    asked: list[str] = []

    def exact(site: Site, paid: Any) -> NDArray[np.int64]:
        asked.append(site.name)
        if asked.count(site.name) > 1:
            raise MemoryError
        return np.asarray(honest(site, paid))

    return exact


def _with_other_sums(kind: str, site: str, message: Message) -> Message:
    """By them every table is wrong: elsewhere all are far beyond the upper end of each column."""
    if kind == "compare":
        sums = np.full(SIZE, 1 << 40)
        sums[:: SIZE // 2] = 1 << 30
        content = flower.compare_request(sums, ["x", "y", "z"])
        return private.with_content(message, content)
    return message


@pytest.mark.slow
def test_run__that_was_refused_is_refused_when_it_is_resumed_until_its_owner_has_looked(
    tmp_path: Path,
) -> None:
    lab = in_clear(tmp_path)
    lab.on_request = _with_other_sums
    screen(lab.federate())
    path = lab.world.ledger(SITES[0]).parent / screening.FILE
    kept = json.loads(path.read_text())
    assert {"age", "pressure"} <= {*kept["grave"][RUN_ID.hex()]}
    with pytest.raises(PrivacyError):
        lab.again().federate().run_round(1)
    path.write_text("{")
    with pytest.raises(PrivacyError):
        lab.again().federate().run_round(1)
    path.write_text(json.dumps(kept))
    for name in SITES:
        file = lab.world.site_file(name)
        looked = "on_findings: refuse\n  known_findings: [age, pressure, label]"
        file.write_text(file.read_text().replace("on_findings: refuse", looked))
    assert lab.again().federate().run_round(1).clients.replied == len(SITES)


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


@pytest.mark.parametrize(
    "kind", slow_but("fewer than none".__eq__, ["fewer than none", "beyond its number"])
)
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


# --- exact sums ----------------------------------------------------------------------------

EXACTLY = """\
  unit: none
  min_cohort: 3
  require_transport: null
  require_secagg: null
  on_findings: refuse
"""


def of_ill(path: Path, ages: list[int]) -> None:
    """Forty healthy people, and ill ones of these ages: none of whom is tested on."""
    rows = [f"P{i},{30 + i % 9},{120 + i % 7},{'fm'[i % 2]},0" for i in range(40)]
    ill = [f"Q{i},{age},{200 + i},f,1" for i, age in enumerate(ages)]
    path.write_text("\n".join(["name,age,pressure,sex,ill", *rows, *ill]) + "\n")


def exactly(root: Path, ages: list[int], secagg: str = "off") -> tuple[list[bytes], set[str]]:
    """What a site with such ill people gives, and for what it refuses then, as it is shown."""
    made = Lab.make(root, policy=EXACTLY, rows=120)
    of_ill(made.world.root / SITES[0] / "table.csv", ages)
    words = [one for one in STUDY if not one.startswith("privacy")]
    words += ["privacy=none", f"secagg={secagg}", "transport=plain", "evaluation=none"]
    lab = made.again(replace(composed([*words, "screening=sums"]), out=made.config.out))
    given: list[bytes] = []

    def keep(kind: str, site: str, reply: Message) -> Message:
        if (kind, site) == ("screen", SITES[0]):
            given.append(flower.read_noised_reply(reply.content, SIZE).tobytes())
        return reply

    lab.on_reply, lab.on_request = keep, _with_other_sums
    screen(lab.federate())
    path = lab.world.ledger(SITES[0]).parent / screening.FILE
    return given, {*json.loads(path.read_text())["grave"].get(RUN_ID.hex(), ())}


def test_class_of_few_records__is_one_of_none_where_sums_are_exact_and_no_refusal_tells(
    tmp_path: Path,
) -> None:
    """The sums of a class with one record are that record: by name, age and pressure."""
    few = [[], [67], [67, 20, 99, 31, 80, 25, 59, 95, 20]]
    seen = [exactly(tmp_path / str(at), ages) for at, ages in enumerate(few)]
    assert seen[0] == seen[1] == seen[2]
    sums = np.frombuffer(seen[0][0][0], np.int64).reshape(2, -1)
    assert sums[0, 0] > 0
    assert not sums[1].any()
    many = np.frombuffer(exactly(tmp_path / "many", [50] * 40)[0][0], np.int64).reshape(2, -1)
    assert many[1, 0] >= 10 * screening.EXACT
