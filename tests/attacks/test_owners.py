"""What an owner has not approved of is not begun, whatever a coordinator sends or swaps.

The sites are real ones, asked in one process; owners decide by the command line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from clients import payment
from clients.ledger.report import verify
from clients.site import Site
from clients.studies import asked, decisions
from clients.studies.view import look
from fedlearn.cli import main
from fedlearn.config import RunConfig
from fedlearn.core.errors import PrivacyError, ProtocolError
from fedlearn.rounds import Refusal
from server import owners
from server.deployment import composed
from server.federation import Federation
from server.owners import OwnersWait
from tests.attacks.lab import RUN_ID, SITES, STRICT, STUDY, Lab
from tests.attacks.test_evaluation import CLEAR, VICTIM
from tests.attacks.test_evaluation import asked as evaluated
from tests.effort import slow_but
from tests.simulations.small import table

ASKS = f"{STRICT}  approval: ask\n"
OWNED = SITES[1]
LEFT = [site for site in SITES if site != OWNED]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """One site of four is asked for its owner's approval."""
    monkeypatch.setattr(owners, "SOONEST_SECONDS", 0.02)
    lab = Lab.make(tmp_path, "reply_timeout=0.2")
    path = lab.world.site_file(OWNED)
    path.write_text(path.read_text().replace(STRICT, ASKS))
    return lab


def file_of(lab: Lab, site: str = OWNED) -> str:
    return str(lab.world.site_file(site))


def decide(lab: Lab, verb: str, terms: str | None = None, site: str = OWNED) -> int:
    """What `fedlearn studies VERB` returns for the study of the lab, or another."""
    return main(["studies", verb, file_of(lab, site), (terms or lab.config.terms.hex())[:16]])


def started(lab: Lab, seconds: float = 0.1, run_id: bytes = RUN_ID) -> Federation:
    """The start of a run by `fedlearn server`, which waits so long for owners."""
    lab.contexts.update(lab.again(lab.config, **lab.shown).contexts)
    wait = OwnersWait(seconds=seconds)
    return lab.federate(run_id, replace(lab.admission(), seconds=0.2, owners=wait))


def when(lab: Lab, kind: str, site: str, what: Callable[[], object]) -> None:
    """Have something happen as the first message of a kind is about to reach a site."""
    waiting = [what]

    def hook(of: str, to: str, message: Message) -> Message:
        if (of, to) == (kind, site) and waiting:
            waiting.pop()()
        return message

    lab.on_request = hook


def with_purpose(lab: Lab, purpose: str) -> RunConfig:
    return replace(lab.config, purpose=purpose)


def test_study__is_not_begun_before_its_owner_has_approved(lab: Lab) -> None:
    federation = started(lab)
    assert federation.grid.sites == LEFT
    (reason,) = federation.enrolment.declined
    assert reason == f"site {OWNED}: awaiting its owner's approval"
    federation.run_round(1)
    assert not lab.world.ledger(OWNED).exists(), "no record was read, nothing was spent"
    assert {kind for kind, site, _ in lab.refused} == {"hello"}
    (study,) = look(lab.world.site_file(OWNED)).studies
    assert (study.terms, study.standing) == (lab.config.terms.hex(), "waiting")


@pytest.mark.slow
def test_coordinator__hears_nothing_else_than_that_an_owner_is_awaited(lab: Lab) -> None:
    started(lab)
    (_, _, refusal) = lab.refused[0]
    assert refusal.reason == f"site {OWNED}: awaiting its owner's approval"
    assert (refusal.exit_code, refusal.by_owner) == (ProtocolError.exit_code, "undecided")


@pytest.mark.slow
def test_messages__that_leave_out_hello_begin_nothing(lab: Lab) -> None:
    """A coordinator that believes the site to have joined, and asks on."""
    assert decide(lab, "approve") == 2, "nobody has asked yet"
    federation = started(lab)
    lab.refused.clear()
    note = federation.note(1, len(SITES))
    question = federation.messages("train", note, federation.progress.model, LEFT[:1])[0].content
    for kind in ("query.join", "query.describe", "query.afford", "query.receipt", "train"):
        lab.ask(kind, OWNED, question)
    assert not lab.world.ledger(OWNED).exists()


@pytest.mark.slow
def test_approval__while_it_is_awaited_lets_the_site_take_part(lab: Lab) -> None:
    started(lab)
    assert decide(lab, "approve") == 0
    federation = started(lab, run_id=bytes(16))
    assert federation.grid.sites == list(SITES)
    entry = federation.run_round(1)
    assert (entry.clients.replied, entry.clients.dropped) == (4, {})
    state = verify(lab.world.ledger(OWNED))
    assert state.decided == decisions.read(lab.world.ledger(OWNED)).made[-1].line


@pytest.mark.slow
def test_approval__that_comes_while_the_coordinator_waits_is_taken(lab: Lab) -> None:
    calls = []

    def approve(kind: str, site: str, message: Message) -> Message:
        if (kind, site) == ("hello", OWNED):
            calls.append(kind)
            if len(calls) == 3:
                assert decide(lab, "approve") == 0
        return message

    lab.on_request = approve
    assert started(lab, seconds=60.0).grid.sites == list(SITES)
    assert len(calls) == 3


def test_terms__that_were_changed_after_an_approval_are_not_covered_by_it(lab: Lab) -> None:
    started(lab)
    assert decide(lab, "approve") == 0
    words = [word for word in STUDY if not word.startswith("privacy.epsilon")]
    for other in (
        with_purpose(lab, "something else"),
        replace(composed([*words, "privacy.epsilon=5", "reply_timeout=0.2"]), out=lab.config.out),
    ):
        again = lab.again(other)
        assert started(again).grid.sites == LEFT
        assert look(again.world.site_file(OWNED)).study(other.terms.hex()).standing == "waiting"
    assert not lab.world.ledger(OWNED).exists()


@pytest.mark.slow
def test_relay__that_swaps_the_config_of_an_approved_study_is_not_believed(lab: Lab) -> None:
    started(lab)
    assert decide(lab, "approve") == 0
    swapped = lab.again(lab.config, **{OWNED: with_purpose(lab, "swapped")})
    federation = started(swapped)
    assert federation.grid.sites == LEFT
    assert "could not be authenticated" in federation.enrolment.declined[0]


@pytest.mark.slow
def test_approval__holds_for_the_pinned_list_that_the_owner_has_seen(lab: Lab) -> None:
    started(lab)
    assert decide(lab, "approve") == 0
    lab.world.sign((*LEFT, OWNED))  # the same sites, signed anew, and pinned
    roster = lab.world.root / OWNED / "roster.json"
    listed = json.loads(roster.read_text())
    assert {*SITES} <= {one["name"] for one in listed["participants"]}
    if look(lab.world.site_file(OWNED)).studies[0].standing == "waiting":
        assert started(lab).grid.sites == LEFT
        assert decide(lab, "approve") == 0
    assert started(lab, run_id=bytes(16)).grid.sites == list(SITES)


@pytest.mark.slow
def test_refusal__is_for_good_and_is_told_as_the_owners(lab: Lab) -> None:
    started(lab)
    assert decide(lab, "refuse") == 0
    for verb in ("approve", "pause", "withdraw", "refuse"):
        assert decide(lab, verb) == 2
    federation = started(lab, seconds=60.0)  # nobody is waited for
    assert federation.enrolment.declined == (f"site {OWNED}: its owner has refused the study",)


@pytest.mark.slow
def test_start__that_too_few_are_left_for_ends_with_4_where_an_owner_is_awaited(lab: Lab) -> None:
    for site in LEFT[:2]:
        path = lab.world.site_file(site)
        path.write_text(path.read_text().replace(STRICT, ASKS))
    with pytest.raises(ProtocolError, match="awaiting its owner's approval"):
        started(lab)
    for site in LEFT[:2]:
        assert decide(lab, "refuse", site=site) == 0
    with pytest.raises(PrivacyError, match="its owner has refused the study"):
        started(lab)


@pytest.mark.slow
def test_pause__holds_the_next_round_and_approval_resumes_it(lab: Lab) -> None:
    started(lab)
    assert decide(lab, "approve") == 0
    federation = started(lab, seconds=60.0, run_id=bytes(16))
    federation.run_round(1)
    assert decide(lab, "pause") == 0
    calls = []

    def resume(kind: str, site: str, message: Message) -> Message:
        if (kind, site) == ("afford", OWNED):
            calls.append(kind)
            if len(calls) == 2:
                assert lab.spent_at(LEFT[0]) == 1, "the round is held before anybody trains"
                assert decide(lab, "approve") == 0
        return message

    lab.on_request = resume
    entry = federation.run_round(2)
    assert entry.clients.replied == 4
    assert len(calls) == 2


@pytest.mark.slow
def test_pause__for_longer_than_is_waited_for_makes_rounds_without_the_site(lab: Lab) -> None:
    started(lab)
    assert decide(lab, "approve") == 0
    federation = started(lab, seconds=0.1, run_id=bytes(16))
    assert decide(lab, "pause") == 0
    entry = federation.run_round(1)
    assert entry.clients.replied == 3
    assert entry.clients.dropped == {OWNED: f"site {OWNED}: paused by its owner"}
    assert lab.spent_at(OWNED) == 0
    assert decide(lab, "approve") == 0
    assert federation.run_round(2).clients.replied == 4


STEPS = ("afford", "secagg_advertise", "secagg_share", "train", "secagg_agree", "secagg_unmask")


@pytest.mark.parametrize("step", slow_but(("train",).__contains__, STEPS))
def test_withdrawal__at_any_step_of_a_masked_round_is_as_a_site_that_falls_silent(
    lab: Lab, step: str
) -> None:
    started(lab)
    assert decide(lab, "approve") == 0
    federation = started(lab, run_id=bytes(16))
    when(lab, step, OWNED, lambda: decide(lab, "withdraw"))
    entry = federation.run_round(1)
    there = LEFT if STEPS.index(step) <= STEPS.index("train") else list(SITES)
    assert entry.clients.replied == len(there)
    before = lab.spent_at(OWNED)
    assert before == (1 if len(there) == 4 else 0)
    assert federation.run_round(2).clients.dropped == {
        OWNED: f"site {OWNED}: its owner has withdrawn from the study"
    }
    assert lab.spent_at(OWNED) == before


@pytest.mark.slow
def test_withdrawal__while_a_round_is_computed_keeps_its_update_at_home(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(lab)
    assert decide(lab, "approve") == 0
    federation = started(lab, run_id=bytes(16))
    pay = payment.pay

    def paid(site: Site, *rest: Any) -> Any:
        found = pay(site, *rest)
        if site.name == OWNED:
            assert decide(lab, "withdraw") == 0
        return found

    monkeypatch.setattr(payment, "pay", paid)
    entry = federation.run_round(1)
    assert entry.clients.replied == 3
    assert "withdrawn" in entry.clients.dropped[OWNED]
    assert lab.spent_at(OWNED) == 1, "what was paid stays paid"
    paid_there = verify(lab.world.ledger(OWNED)).by_run[bytes(16).hex()]
    assert federation.progress.spent[OWNED] == paid_there, "and the run counts it"


@pytest.mark.slow
def test_owner__who_need_not_be_asked_can_pause_and_withdraw_as_well(lab: Lab) -> None:
    federation = started(lab)
    site = LEFT[0]
    (study,) = look(lab.world.site_file(site)).studies
    assert study.standing == "allowed"
    assert decide(lab, "pause", site=site) == 0
    with pytest.raises(ProtocolError, match=r"secagg\.min_cohort=3; alder.*paused by its owner"):
        federation.run_round(1)  # two are too few
    assert {lab.spent_at(one) for one in LEFT} == {0}


@pytest.mark.slow
def test_approval__raises_no_bound_of_policy_or_ledger(lab: Lab) -> None:
    started(lab)
    assert decide(lab, "approve") == 0
    path = lab.world.site_file(OWNED)
    path.write_text(path.read_text().replace("epsilon_total: 8.0", "epsilon_total: 0.5"))
    with pytest.raises(PrivacyError, match="its owner does not allow it"):
        started(lab, run_id=bytes(16)).run_round(1)  # the ledger's word, before a round is paid for
    assert lab.spent_at(OWNED) == 0
    path.write_text(path.read_text().replace("policy:\n", "policy:\n  allow_models: [cnn]\n"))
    declined = started(lab, run_id=bytes(16)).enrolment.declined
    assert "allow_models" in declined[0]


@pytest.mark.slow
def test_study__that_the_policy_refuses_is_not_shown_for_approval(lab: Lab) -> None:
    path = lab.world.site_file(OWNED)
    path.write_text(path.read_text().replace("policy:\n", "policy:\n  allow_models: [cnn]\n"))
    started(lab)
    assert look(path).studies == ()


@pytest.mark.slow
def test_decisions__that_were_put_back_from_an_older_copy_begin_nothing(lab: Lab) -> None:
    started(lab)
    assert decide(lab, "approve") == 0
    file = decisions.beside(lab.world.ledger(OWNED))
    files = (file, file.with_name(f"{file.name}.head"))
    older = [one.read_bytes() for one in files]
    federation = started(lab, run_id=bytes(16))
    federation.run_round(1)
    assert decide(lab, "withdraw") == 0
    federation.run_round(2)  # the site hears of it, and its ledger holds it
    for one, content in zip(files, older, strict=True):
        one.write_bytes(content)
    assert started(lab, run_id=bytes(16)).grid.sites == LEFT
    for one in files:
        one.unlink()
    assert started(lab, run_id=bytes(16)).grid.sites == LEFT


@pytest.mark.slow
def test_coordinator__that_asks_without_end_fills_no_disk_and_no_decision_is_forgotten(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "MOST_UNDECIDED", 3)
    started(lab)
    assert decide(lab, "refuse") == 0
    for number in range(6):
        started(lab.again(with_purpose(lab, f"again {number}")))
    view = look(lab.world.site_file(OWNED))
    assert sorted(one.standing for one in view.studies) == ["refused", *["waiting"] * 3]
    assert view.study(lab.config.terms.hex()).standing == "refused"


@pytest.mark.slow
def test_studies__of_the_same_name_are_told_apart_by_their_hash_alone(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    started(lab)
    other = with_purpose(lab, "the other one")
    started(lab.again(other))
    assert main(["studies", "approve", file_of(lab), lab.config.experiment]) == 2
    assert "a name may be that of two studies" in " ".join(capsys.readouterr().err.split())
    assert main(["studies", "approve", file_of(lab), lab.config.terms.hex()[:15]]) == 2
    assert decide(lab, "approve", other.terms.hex()) == 0
    found = {one.terms: one.standing for one in look(lab.world.site_file(OWNED)).studies}
    assert found == {lab.config.terms.hex(): "waiting", other.terms.hex(): "approved"}
    assert started(lab).grid.sites == LEFT


@pytest.mark.slow
def test_simulation__of_a_site_that_asks_waits_for_nobody_and_is_approved_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its ledger is that of the data, whoever begins the run."""
    words = table(tmp_path)
    folder = tmp_path / "owners"
    folder.mkdir()
    name = "north"
    file = folder / f"{name}.yaml"
    policy = "{unit: none, min_cohort: 1, require_transport: null, require_secagg: null"
    file.write_text(f"name: {name}\nledger: ledger.jsonl\npolicy: {policy}, approval: ask}}\n")
    run = ["simulate", *words, "privacy=none", f"sites={folder}", f"out={tmp_path / 'run'}"]
    assert main(run) == 4
    said = capsys.readouterr().err
    assert f"site {name}: awaiting its owner's approval" in said
    (study,) = look(file).studies
    assert main(["studies", "approve", str(file), study.terms[:16]]) == 0
    assert main(run) == 0


@pytest.mark.slow
def test_pause__lets_no_evaluation_begin_a_round_and_the_test_least_of_all(tmp_path: Path) -> None:
    """A coordinator that goes on with models of its own, and trains nobody."""
    words = ("scenario.validation_fraction=0.3", "training.keep=best", "evaluation=private")
    lab = Lab.make(tmp_path, "secagg=off", "robust=none", "rounds=3", *words, policy=CLEAR)
    federation = lab.federate()
    federation.run_round(1)
    before = lab.reserved(VICTIM, "evaluation")
    assert decide(lab, "pause", site=VICTIM) == 0
    for number in (2, 3, 4):  # the last is the test
        answer = evaluated(federation, number)
        assert isinstance(answer, Refusal)
        assert answer.by_owner == "paused"
    assert lab.reserved(VICTIM, "evaluation") == before == 1
    assert decide(lab, "approve", site=VICTIM) == 0
    assert not isinstance(evaluated(federation, 2), Refusal)


@pytest.mark.slow
def test_study__that_goes_on_can_be_withdrawn_from_however_many_others_ask(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that would hide it behind studies that nobody has decided of."""
    monkeypatch.setattr(asked, "MOST_UNDECIDED", 3)
    federation, site = started(lab), LEFT[0]
    for number in range(4):
        started(lab.again(with_purpose(lab, f"again {number}")))
    assert decide(lab, "withdraw", site=site) == 2, "hidden, before its next round"
    federation.run_round(1)
    assert decide(lab, "withdraw", site=site) == 0
    assert lab.spent_at(site) == 1
    with pytest.raises(ProtocolError, match="its owner has withdrawn"):
        federation.run_round(2)
    assert lab.spent_at(site) == 1
