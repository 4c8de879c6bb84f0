"""Receipts between real sites and a real coordinator, and what either gets by lying about them."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from clients import app
from clients.ledger import hash_chain
from fedlearn.cli import main
from fedlearn.core.errors import PrivacyError
from fedlearn.flower import messages as flower
from fedlearn.privacy.events import GaussianEvent
from fedlearn.results import receipts
from fedlearn.results.receipts import Receipt
from server.admission import Admission
from server.receipts import Receipts
from server.run import Silent, run
from server.stop import Stop
from tests.attacks.lab import SITES, Lab, write_table
from tests.effort import slow_but

VICTIM = SITES[0]
STEP = GaussianEvent(noise_multiplier=1.0, sample_rate=0.5, steps=1)


class Study:
    """Sites that take part in run after run of one coordinator."""

    def __init__(self, root: Path) -> None:
        self.root, self.count = root, 0
        self.lab = Lab.make(root, "rounds=1", "privacy.epsilon=1", "reply_timeout=1")
        self.last = root / "coordinator" / "receipts"

    def run(self) -> Path:
        """The folder of one more run."""
        self.count += 1
        folder = self.root / f"run-{self.count}"
        config = replace(self.lab.config, out=str(folder))
        admission = Admission(identity=self.lab.identity, receipts=self.last)
        run(self.lab.again(config), config, Silent(), Stop(), admission)
        return folder

    @property
    def state(self) -> Path:
        return self.lab.world.ledger(VICTIM).parent


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def verified(study: Study, *places: Path) -> int:
    ledger, roster = study.lab.world.ledger(VICTIM), study.root / VICTIM / "roster.json"
    given = ["--roster", str(roster), "--receipts", *(str(place) for place in places)]
    return main(["ledger", "verify", str(ledger), *given])


def of_victim(folder: Path) -> list[Receipt]:
    given = receipts.read(folder).values()
    return sorted((r for r in given if r.site == VICTIM), key=lambda r: r.number)


@pytest.mark.slow
def test_every_site__signs_its_ledger_at_the_start_and_the_end_of_a_run(study: Study) -> None:
    first = study.run()
    write_table(study.root / VICTIM / "table.csv", 61, 9)
    second = study.run()
    for folder, numbers in ((first, [1, 2]), (second, [3, 4])):
        assert len(list((folder / "receipts").glob("*.json"))) == 2 * len(SITES)
        assert [r.number for r in of_victim(folder)] == numbers
        before, after = of_victim(folder)
        assert before.spent == ()
        assert sum(event.steps for event in after.spent) == 3  # two of training, one of tests
    assert len({r.data for r in of_victim(first) + of_victim(second)}) == 1
    assert verified(study, first, second) == 0
    assert verified(study, study.last) == 0


@pytest.mark.slow
def test_ledger__that_was_set_back_is_not_spent_from(study: Study) -> None:
    """The owner restored a backup, and would pay twice with one budget."""
    study.run()
    backup = study.root / "backup"
    shutil.copytree(study.state, backup)
    second = study.run()
    shutil.rmtree(study.state)
    shutil.copytree(backup, study.state)
    spent = study.lab.spent_at(VICTIM)
    with pytest.raises(PrivacyError):
        study.run()
    assert study.lab.spent_at(VICTIM) == spent
    assert verified(study, second) == 7


@pytest.mark.slow
def test_site__that_hides_that_its_ledger_was_set_back_leaves_two_receipts_of_one_number(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study.run()
    backup = study.root / "backup"
    shutil.copytree(study.state, backup)
    second = study.run()
    shutil.rmtree(study.state)
    shutil.copytree(backup, study.state)
    monkeypatch.setattr(app, "check_grown", lambda *of, **more: None)
    third = study.run()
    assert [r.number for r in of_victim(third)] == [3, 4, 4], "its own, and the last one known"
    assert f"{VICTIM}: its ledger was set back" in (third / "run.log").read_text()
    assert verified(study, third, second) == 7
    assert "the signatures prove it" in capsys.readouterr().err
    honest = [one for one in SITES if one != VICTIM]
    assert not any(f"{one}: its ledger" in (third / "run.log").read_text() for one in honest)


@pytest.mark.slow
def test_receipt__of_another_run_or_site_is_not_taken(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = of_victim(study.run())[-1]
    honest = app.sign

    def replayed(ledger: Any, *of: Any, **more: Any) -> Receipt:
        return old if ledger.site == VICTIM else honest(ledger, *of, **more)

    monkeypatch.setattr(app, "sign", replayed)
    folder = study.run()
    assert of_victim(folder) == []
    assert f"{VICTIM} gives no receipt" in (folder / "run.log").read_text()
    assert receipts.last_of(study.last, VICTIM) == old


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    slow_but(lambda one: "number" in one, [{"number": 10**300}, {"spent": (STEP,) * 5000}]),
)
def test_receipt__that_could_not_be_kept_ends_no_run(
    study: Study, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """Its number is in the name of a file, and the file must be read again."""
    honest = app.sign

    def odd(ledger: Any, identity: Any, **more: Any) -> Receipt:
        given = honest(ledger, identity, **more)
        return replace(given, **change).signed(identity) if ledger.site == VICTIM else given

    monkeypatch.setattr(app, "sign", odd)
    folder = study.run()
    assert '"status": "finished"' in (folder / "result.json").read_text()
    assert of_victim(folder) == []
    assert f"{VICTIM} gives no receipt" in (folder / "run.log").read_text()
    assert len(receipts.read(folder)) == 2 * (len(SITES) - 1)


@pytest.mark.slow
def test_run__ends_well_where_a_site_gives_no_receipt_at_its_end(study: Study) -> None:
    lab, asked = study.lab, list[str]()
    again = lab.again

    def watched(*of: Any, **more: Any) -> Lab:
        made = again(*of, **more)
        made.on_reply = withheld
        return made

    def withheld(kind: str, site: str, message: Message) -> Message | None:
        if kind == "receipt" and site == VICTIM:
            asked.append(kind)
            return None if len(asked) == 2 else message
        return message

    lab.again = watched  # type: ignore[method-assign]
    folder = study.run()
    assert '"status": "finished"' in (folder / "result.json").read_text()
    assert [r.number for r in of_victim(folder)] == [1]
    assert f"{VICTIM} gives no receipt" in (folder / "run.log").read_text()
    assert verified(study, folder) == 0


@pytest.mark.slow
def test_run__that_goes_on_after_another_has_ended_accuses_nobody(
    study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    """Its receipt of before is still true, and older than the last one."""
    first, _ = study.run(), study.run()
    run_id = of_victim(first)[0].run_id
    federation = study.lab.federate(bytes.fromhex(run_id))
    again = Receipts(
        last=study.last,
        grid=federation.grid,
        publics=federation.enrolment.keys.publics,
        run_id=run_id,
        terms=study.lab.config.terms.hex(),
    )
    again.keep(first / "receipts", again.ask())
    assert "set back" not in caplog.text
    assert [r.number for r in of_victim(first)] == [1, 2]
    last = receipts.last_of(study.last, VICTIM)
    assert last is not None
    assert last.number == 4


def test_coordinator__cannot_make_a_ledger_grow_by_asking(study: Study) -> None:
    federation = study.lab.federate()
    federation.run_round(1)

    def lines() -> int:
        return len(hash_chain.read(study.lab.world.ledger(VICTIM)).entries)

    content = flower.receipt_content("")
    replies = [federation.grid.ask(flower.RECEIPT, content, [VICTIM]) for _ in range(2)]
    after = lines()
    replies += [federation.grid.ask(flower.RECEIPT, content, [VICTIM]) for _ in range(5)]
    texts = {flower.read_receipt(reply.answers[VICTIM].content) for reply in replies}
    assert len(texts) == 1
    assert lines() == after


@pytest.mark.parametrize("known", ["{}", "no receipt", "[" * 10_000])
def test_coordinator__that_shows_no_receipt_is_refused_and_hears_nothing(
    study: Study, known: str, caplog: pytest.LogCaptureFixture
) -> None:
    federation = study.lab.federate()
    with caplog.at_level(logging.INFO):
        replies = federation.grid.ask(flower.RECEIPT, flower.receipt_content(known), [VICTIM])
    (refusal,) = replies.refusals
    assert "its owner finds the reason in the site's log" in refusal.reason
    assert "is no receipt" in caplog.text
    assert not study.lab.world.ledger(VICTIM).read_text().count('"kind":"receipt"')
