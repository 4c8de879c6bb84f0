"""Random histories of a site: whatever happens to it, its ledger books no less than has left.

The sites are deployed ones, the coordinator is a test that does as it likes, and what was done to
records is watched where it is done: what a mechanism has added, and how often. An accountant that
knows nothing of ours (`losses`) says what all of that is worth at the least.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

import clients.site
from clients import records
from clients.ledger import hash_chain
from clients.ledger.ledger import Budget, Ledger
from clients.ledger.receipts import contradictions, misfits
from clients.ledger.report import verify
from clients.ledger.state import Cost
from fedlearn.config import RunConfig
from fedlearn.core.errors import FedlearnError
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.privacy import accounting
from fedlearn.privacy.events import GaussianEvent
from fedlearn.results import receipts
from fedlearn.results.receipts import Receipt
from server.deployment import composed
from server.federation import Federation
from tests.attacks.lab import STUDY, Lab, write_table
from tests.attacks.test_groups import NINE
from tests.attacks.test_second_server import Helped
from tests.clients.ledger.losses import Release, true_epsilon
from tests.clients.ledger.watch import VICTIM, Killed, Watch, watching
from tests.deployment.world import approve

DELTA = 1e-5
ALONE, TOGETHER = ("alder",), ("alder", "birch", "cedar", "doum")

POLICY = """\
  epsilon_total: {total}
  delta: 1.0e-5
  unit: record
  min_cohort: 1
  require_transport: null
  require_secagg: null
  evaluation: [none, private, pooled, per_site]
  min_test_records: 1
"""

STUDIES_ALONE = tuple(
    ("secagg=off", "strategy.min_sites=1", *words)
    for words in (
        ("rounds=3", "privacy.epsilon=null", "privacy.noise_multiplier=2", "transport=plain"),
        ("rounds=2", "privacy.epsilon=2", "training.sample_rate=0.5"),
        ("rounds=2", "evaluation=none", "privacy.epsilon=1", "transport=plain"),
        ("rounds=3", "evaluate_every=2", "training.sample_rate=1", "privacy.epsilon=3"),
        ("rounds=2", "evaluation=per_site", "privacy.epsilon=2", "transport=plain"),
        ("rounds=1", "evaluation=pooled", "privacy.epsilon=0.5"),
    )
)
DISTRIBUTED = ("privacy=distributed", "training.local_steps=1", "rounds=2")
STUDIES_TOGETHER = (
    ("rounds=2", "privacy.epsilon=2"),
    ("rounds=2", "evaluation=none", "privacy.epsilon=1"),
    (*DISTRIBUTED, "privacy.epsilon=2"),
    (*DISTRIBUTED, "privacy.epsilon=1", "privacy.max_dropouts=1"),
    (*DISTRIBUTED, "privacy.epsilon=2", "privacy.mechanism=skellam", "privacy.max_dropouts=1"),
)
STUDIES_GROUPED = (
    ("robust=groups", "rounds=2", "privacy.epsilon=2", "evaluation=none"),
    ("robust=groups", "rounds=2", "privacy.epsilon=1", "training.sample_rate=0.5"),
)
STUDIES_HELPED = (
    ("secagg=two_server", "robust=proofs", "rounds=2", "privacy.epsilon=2", "evaluation=none"),
    ("secagg=two_server", "rounds=2", "privacy.epsilon=1"),
)
"""Sums of groups that are drawn from what sites open; sums over a second server of others."""


Words = tuple[tuple[str, ...], ...]
"""The overrides of some studies."""


@dataclass
class Outcome:
    """What a history has come to."""

    booked: float
    true: float
    total: float


class History:
    """One site's life: things happen to it in a random order."""

    def __init__(self, lab: Lab, studies: Sequence[RunConfig], watch: Watch, seed: int) -> None:
        self.lab, self.studies = lab, studies
        self.watch, self.rng = watch, np.random.default_rng(seed)
        alone = len(lab.world.sites) == 1
        self.length = (8, 30) if alone else (2, 7)
        self.total = float(self.rng.choice([1.0, 2.5, 6.0] if alone else [2.0, 3.0, 6.0]))
        self.runs: list[Federation] = []
        self.ids = [self.rng.bytes(16) for _ in range(3)]
        self.sent: list[tuple[Lab, Message]] = []
        self.left: set[bytes] = set()
        self.receipts: dict[Path, Receipt] = {}
        for name in lab.world.sites:
            shutil.rmtree(lab.world.ledger(name).parent, ignore_errors=True)
            file = lab.world.site_file(name)
            head, tail = file.read_text().split("policy:\n")[0], "server:"
            after = file.read_text().split(tail)[1]
            file.write_text(f"{head}policy:\n{POLICY.format(total=self.total)}{tail}{after}")
        self._change_data()

    def play(self) -> Outcome:
        """Live, look at the ledger after everything that happens, and add up at the end."""
        happenings = self._happenings()
        weights = np.array([weight for _, weight in happenings], float)
        self._start()
        for _ in range(int(self.rng.integers(*self.length))):
            happens = happenings[self.rng.choice(len(happenings), p=weights / weights.sum())][0]
            try:
                happens()
            except Killed:
                self._die()
            except FedlearnError:
                pass
            self.watch.opened(self._colluders)
            self._look()
        return self._added_up()

    def _happenings(self) -> list[tuple[Callable[[], None], int]]:
        common = [(self._start, 2), (self._change_data, 1), (self._kill_soon, 1), (self._tear, 1)]
        if len(self.lab.world.sites) > 1:
            return [*common, (self._round, 8), (self._drop_out, 2)]
        return [
            *common,
            (self._train, 7),
            (self._evaluate, 7),
            (self._afford, 1),
            (self._sign, 2),
            (self._replay, 1),
            (self._lie, 1),
            (self._busy, 1),
            (self._statistics, 1),
        ]

    # --- what happens ------------------------------------------------------------------

    def _start(self) -> None:
        """Another run beside those that go on, or one of before once more, or resumed."""
        lab = self.lab.again(self.studies[self.rng.integers(len(self.studies))])
        lab.on_request, lab.on_reply = self._on_request, self._on_reply
        self.runs = [*self.runs[-2:], lab.federate(self.ids[self.rng.integers(len(self.ids))])]

    def _round(self) -> None:
        run = self._any_run()
        run.resumed = True
        run.run_round(min(run.config.rounds, len(run.progress.rounds) + 1))

    def _drop_out(self) -> None:
        """A round in which one site's answer to one step is lost, or its request is."""
        run, lab = self._any_run(), self._lab(self._any_run())
        silent = self.lab.world.sites[self.rng.integers(len(self.lab.world.sites))]
        when = ["train", "evaluate", "secagg_agree", "secagg_unmask"][self.rng.integers(4)]
        lost = [self._lost_request, self._lost_reply][self.rng.integers(2)]
        lost(lab, silent, when)
        try:
            run.run_round(min(run.config.rounds, len(run.progress.rounds) + 1))
        finally:
            lab.on_request, lab.on_reply = self._on_request, self._on_reply

    def _lost_request(self, lab: Lab, silent: str, when: str) -> None:
        def lost(kind: str, site: str, message: Message) -> Message | None:
            gone = (kind, site) == (when, silent)
            return None if gone else self._on_request(kind, site, message)

        lab.on_request = lost

    def _lost_reply(self, lab: Lab, silent: str, when: str) -> None:
        def lost(kind: str, site: str, message: Message) -> Message | None:
            return None if (kind, site) == (when, silent) else message

        lab.on_reply = lost

    def _train(self) -> None:
        self._tell("train")

    def _evaluate(self) -> None:
        self._tell("evaluate")

    def _afford(self) -> None:
        run = self._any_run()
        run._able(1, [VICTIM])

    def _sign(self) -> None:
        """A receipt, shown the last one: both stay true whatever happens later."""
        known = [*self.receipts.values()]
        shown = receipts.to_json(known[-1]) if known else ""
        replies = self._any_run().grid.ask(flower.RECEIPT, flower.receipt_content(shown), [VICTIM])
        for message in replies.answers.values():
            receipt = receipts.from_json(flower.read_receipt(message.content))
            self.receipts[Path(f"{receipt.number}.{receipt.head}")] = receipt

    def _lie(self) -> None:
        """Other terms, another run, or a cohort of nobody."""
        lies: list[dict[str, Any]] = [{"terms": "00" * 32}, {"run_id": "ab" * 16}, {"cohort": 0}]
        lie = lies[self.rng.integers(len(lies))]
        before = self.watch.touched
        self._tell(str(self.rng.choice(["train", "evaluate"])), **lie)
        assert self.watch.touched == before

    def _replay(self) -> None:
        if self.sent:
            lab, message = self.sent[self.rng.integers(len(self.sent))]
            node = message.metadata.dst_node_id
            again = Message(
                message.content, dst_node_id=node, message_type=message.metadata.message_type
            )
            lab.push_messages([private.set_message_id(again, "again")])

    def _busy(self) -> None:
        """Another process has the ledger open: nothing is done meanwhile."""
        path = self.lab.world.ledger(VICTIM)
        if not path.exists():
            return
        with path.open() as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            before = self.watch.touched
            if self._any_run().config.evaluation in ("none", "private"):
                with suppress(FedlearnError):
                    self._train()
                with suppress(FedlearnError):
                    self._evaluate()
            assert self.watch.touched == before

    def _statistics(self) -> None:
        """What else asks the ledger, before it looks: here one noisy sum over all records."""
        event = GaussianEvent(noise_multiplier=6.0, sample_rate=1.0, steps=1)
        cost = Cost(event=event, run_id="statistics", round_number=1, purpose="statistics")
        path, now = self.lab.world.ledger(VICTIM), datetime.now(UTC)
        budget = Budget(epsilon=self.total, delta=DELTA)
        with Ledger(path, site=VICTIM, data=VICTIM, budget=budget, now=now) as ledger:
            held = ledger.reserve(cost, now=now)
            self.watch.releases.append(Release(law="gaussian", stddev=6.0, moves=(1.0,)))
            ledger.commit(held, now=now)

    def _change_data(self) -> None:
        for name in self.lab.world.sites:
            table = self.lab.world.root / name / "table.csv"
            write_table(table, int(self.rng.integers(30, 50)), int(self.rng.integers(99)))
        records.forget()
        clients.site._open.cache_clear()

    def _kill_soon(self) -> None:
        self.watch.fuse = int(self.rng.integers(12))

    def _tear(self) -> None:
        """A power cut in the middle of a line."""
        path = self.lab.world.ledger(VICTIM)
        lines = path.read_bytes().splitlines() if path.exists() else []
        if len(lines) > 1 and path.read_bytes().endswith(b"\n"):
            line = lines[self.rng.integers(len(lines))]
            with path.open("ab") as file:
                file.write(line[: self.rng.integers(len(line))])

    def _die(self) -> None:
        """The node starts anew, with or without what it remembers of its runs."""
        if self.rng.random() < 0.7:
            self.runs, self.sent = [], []

    # --- how it is asked, and what is seen ---------------------------------------------

    def _any_run(self) -> Federation:
        if not self.runs:
            self._start()
        return self.runs[self.rng.integers(len(self.runs))]

    @property
    def _colluders(self) -> int:
        return 1 if len(self.lab.world.sites) > 1 else 0

    @staticmethod
    def _lab(run: Federation) -> Lab:
        assert isinstance(run.grid.inner, Lab)
        return run.grid.inner

    def _tell(self, kind: Any, **lie: Any) -> None:
        """Ask for any round, of the run or not, with any model."""
        run = self._any_run()
        number = int(self.rng.integers(0, run.config.rounds + 2))
        if run.grid.sealing:
            run.grid.sealing.round += 1
        model = self.rng.normal(size=run.progress.model.size).astype(np.float32)
        note = replace(run.note(number, 1), **lie)
        before = self.watch.touched
        replies = run.grid.exchange(run.messages(kind, note, model, [VICTIM]))
        for message in replies.answers.values():
            content = private.content_to_bytes(message.content)
            told = {"arrays", "metrics", "contribution"} & set(message.content)
            assert not told or self.watch.touched > before or content in self.left
            self.left.add(content)

    def _on_request(self, kind: str, site: str, message: Message) -> Message:
        self.watch.site = site
        if kind in ("train", "evaluate"):
            node = message.metadata.dst_node_id
            copy = Message(RecordDict({**message.content}), dst_node_id=node, message_type=kind)
            self.sent.append((self._lab(self.runs[-1]), copy) if self.runs else (self.lab, copy))
        return message

    def _on_reply(self, kind: str, site: str, message: Message) -> Message:
        return message

    def _look(self) -> None:
        """Nothing was done that is not on the disk by now."""
        entries = hash_chain.read(self.lab.world.ledger(VICTIM)).entries
        purposes = [str(e["purpose"]).split()[0] for e in entries if e["kind"] == "reserve"]
        exact = [e for e in entries if e["kind"] == "evaluate" and e["evaluation"] != "private"]
        assert self.watch.trainings <= purposes.count("training")
        assert self.watch.evaluations <= purposes.count("evaluation")
        assert self.watch.exact <= len(exact)

    def _added_up(self) -> Outcome:
        path = self.lab.world.ledger(VICTIM)
        spent = verify(path).spent if hash_chain.read(path).entries else ()
        assert not self.receipts or misfits(path, self.receipts) == []
        assert contradictions(self.receipts) == []
        booked = accounting.epsilon(spent, DELTA)
        return Outcome(booked, true_epsilon(self.watch.releases, DELTA), self.total)


@cache
def studies(words: Words) -> tuple[RunConfig, ...]:
    """The configs of some studies."""
    # None is spare: a history plays as many rounds as are left, and one more.
    return tuple(composed([*STUDY, "spare_rounds=0", *some]) for some in words)


def sites_of(root: Path, names: tuple[str, ...]) -> Lab:
    """Deployed sites that allow whatever their ledgers can bear."""
    return Lab.make(root, policy=POLICY.format(total=1), sites=names)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return sites_of(tmp_path_factory.mktemp("alone"), ALONE)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return sites_of(tmp_path_factory.mktemp("together"), TOGETHER)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return sites_of(tmp_path_factory.mktemp("grouped"), NINE)


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Helped.of(tmp_path_factory.mktemp("helped"), policy=POLICY.format(total=1))
    approve(lab.world, ", ".join(study.terms.hex() for study in studies(STUDIES_HELPED)))
    return lab


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return watching(monkeypatch)


def played(lab: Lab, words: Words, watch: Watch, seed: int) -> Outcome:
    """A history, of which all that must hold is asserted."""
    vars(watch).update(vars(Watch()))
    outcome = History(lab, studies(words), watch, seed).play()
    assert outcome.true <= outcome.booked * (1 + 1e-9), seed
    assert outcome.booked <= outcome.total, seed
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(16))
def test_history__of_one_site_is_never_booked_for_less_than_what_was_done(
    alone: Lab, watch: Watch, seed: int
) -> None:
    played(alone, STUDIES_ALONE, watch, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1004))
def test_history__of_masked_sites_is_never_booked_for_less_than_what_was_done(
    together: Lab, watch: Watch, seed: int
) -> None:
    played(together, STUDIES_TOGETHER, watch, seed)


KINDS = {
    "alone": (STUDIES_ALONE, 140, 2000),
    "together": (STUDIES_TOGETHER, 40, 3000),
    "grouped": (STUDIES_GROUPED, 10, 4000),
    "helped": (STUDIES_HELPED, 10, 5000),
}
"""The studies of some sites, how many histories they have, and the seed of the first."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_histories__two_hundred_are_booked_for_no_less_and_not_for_much_more(
    request: pytest.FixtureRequest, watch: Watch, kind: str
) -> None:
    lab, (words, count, first) = request.getfixturevalue(kind), KINDS[kind]
    outcomes = [played(lab, words, watch, seed) for seed in range(first, first + count)]
    ratios = [one.booked / one.true for one in outcomes if one.true]
    assert len(ratios) >= count // 2, "most histories release something"
    # More is booked where shares are counted as lost, for Skellam noise, and after a kill.
    assert np.median(ratios) < 1.01


@pytest.mark.slow
def test_studies__of_histories_have_tests_under_noise_a_second_server_and_groups() -> None:
    kinds = {kind: studies(words) for kind, (words, *_) in KINDS.items()}
    for kind, found in kinds.items():
        assert "private" in {one.evaluation for one in found}, kind
    assert all(one.robust.group_size for one in kinds["grouped"])
    assert all(one.secagg.two_servers for one in kinds["helped"])
    assert sum(count for _, count, _ in KINDS.values()) == 200
