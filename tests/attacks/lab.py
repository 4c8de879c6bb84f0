"""Deployed sites, with files, keys and policies of their own, called in one process.

The sites are the real ones; what stands between them and the coordinator, and the coordinator
itself, is in the hands of a test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from flwr.app import Context, Message, RecordDict

from clients.app import app as client
from clients.supernode.deployed import SITE_FILE
from fedlearn import __version__
from fedlearn.config import RunConfig
from fedlearn.core.code import code_digest
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keyring import load_pinned
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.rounds import Refusal
from server.admission import Admission
from server.deployment import composed
from server.enrol import enrol, plan_for, secagg_driver
from server.federation import Federation
from server.run_state import Progress
from simulations.engines.local import FIRST_NODE, InProcessGrid
from tests.deployment.world import World, copied_world

SITES = ("alder", "birch", "cedar", "doum")
RUN_ID = bytes(range(16))

STRICT = """\
  epsilon_total: 8.0
  delta: 1.0e-5
  unit: record
  min_cohort: 3
  require_transport: sealed
  require_secagg: masked
"""
SITE = """\
name: {name}
data: {{kind: csv, path: table.csv, label: ill, drop: [name]}}
keys: keys/{name}
roster: roster.json
ledger: state/ledger.jsonl
policy:
{policy}server: {{address: "127.0.0.1:{port}", authority: ca.crt}}
"""

STUDY = (
    *("scenario=csv", "scenario.path=table.csv", "scenario.label=ill", "scenario.drop=[name]"),
    "scenario.scaling.columns={age:[0,100],pressure:[60,220]}",
    *("scenario.numeric=[age,pressure]", "scenario.categories.sex=[f,m]"),
    *("scenario.gaps=[]", "scenario.classes=['0','1']"),
    *("partition=natural", "model=tabular", "model.architecture=linear", "rounds=2"),
    *("privacy=record", "privacy.epsilon=4", "training.local_steps=2", "training.sample_rate=0.2"),
    *("training.nominal_records=40", "reply_timeout=5"),
)
"""The overrides of a study that the sites' policies allow."""


def write_table(path: Path, rows: int, seed: int) -> None:
    """Invented people with a name, an age, a pressure, a sex and a diagnosis."""
    rng = np.random.default_rng(seed)
    lines = ["name,age,pressure,sex,ill"]
    for i in range(rows):
        age, pressure = rng.integers(20, 90), rng.integers(90, 180)
        ill = int(rng.random() < age / 110)
        lines.append(f"Person {seed}-{i:03d},{age},{pressure},{'fm'[rng.integers(2)]},{ill}")
    path.write_text("\n".join(lines) + "\n")


@dataclass
class Lab(InProcessGrid):
    """A federation of deployed sites over one coordinator's folder.

    `on_request` and `on_reply` see every message by its kind and site, and return what travels
    on; None withholds it.
    """

    world: World
    config: RunConfig
    policy: str = STRICT
    shown: Mapping[str, RunConfig] = field(default_factory=dict)
    """The config that Flower hands to a site, where it is not the coordinator's."""

    def __post_init__(self) -> None:
        contexts = {
            FIRST_NODE + i: self._context(i, name) for i, name in enumerate(self.world.sites)
        }
        super().__init__(client, contexts)
        self.on_request = lambda kind, site, message: message
        self.on_reply = lambda kind, site, message: message
        self.refused: list[tuple[str, str, Refusal]] = []
        """(kind of message, site, refusal): every no of a site."""
        self.carried: list[bytes] = []
        """Everything that has left a site."""

    @classmethod
    def make(
        cls,
        root: Path,
        *overrides: str,
        policy: str = STRICT,
        rows: int = 60,
        sites: tuple[str, ...] = SITES,
        notary: bool = False,
    ) -> Self:
        """Sites with tables, keys, a roster and files; and the study that they are asked for."""
        world = copied_world(root, sites, notary=notary)
        for seed, name in enumerate(sites):
            write_table(root / name / "table.csv", rows, seed)
            text = SITE.format(name=name, port=world.port, policy=policy)
            world.site_file(name).write_text(text)
        config = composed([*STUDY, *overrides])
        return cls(world, replace(config, out=str(root / "run")), policy)

    def again(self, config: RunConfig | None = None, **shown: RunConfig) -> Self:
        """The same sites, asked anew: for another study, or with other configs for some."""
        return type(self)(self.world, config or self.config, self.policy, shown)

    def _context(self, number: int, name: str) -> Context:
        return Context(
            run_id=1,
            node_id=FIRST_NODE + number,
            node_config={SITE_FILE: str(self.world.site_file(name))},
            state=RecordDict(),
            run_config=flower.run_config_of(self.shown.get(name, self.config)),
        )

    @property
    def identity(self) -> Identity:
        """The coordinator's, which the sites have pinned."""
        return Identity.load(self.world.coordinator / "keys" / "coordinator")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Carry messages to sites and back, past the test's hooks."""
        ids = []
        for message in messages:
            private.set_message_id(message, f"message-{next(self._ids)}")
            ids.append(message.metadata.message_id)
            if (reply := self._carry(message)) is not None:
                self._replies[ids[-1]] = reply
        return ids

    def _carry(self, message: Message) -> Message | None:
        kind = message.metadata.message_type.removeprefix("query.")
        site = self.world.sites[message.metadata.dst_node_id - FIRST_NODE]
        request = self.on_request(kind, site, message)
        if request is None:
            return None
        reply = self._answer(request)
        if not reply.has_error():
            self.carried.append(private.content_to_bytes(reply.content))
            if refusal := flower.read_refusal(reply.content):
                self.refused.append((kind, site, refusal))
        return self.on_reply(kind, site, reply)

    def ask(self, kind: str, site: str, content: RecordDict) -> RecordDict:
        """What a site answers to one message of a coordinator's own making."""
        node = FIRST_NODE + self.world.sites.index(site)
        private.new_run(run_id=1)
        message = private.set_message_id(
            Message(content, dst_node_id=node, message_type=kind), f"message-{next(self._ids)}"
        )
        return self._answer(message).content

    def admission(self) -> Admission:
        """As `fedlearn server` lets sites in: it goes on without those that cannot take part."""
        nodes = {FIRST_NODE + number: name for number, name in enumerate(self.world.sites)}
        return Admission(
            identity=self.identity,
            roster=load_pinned(self.world.coordinator / "roster.json"),
            nodes=nodes,
            version=__version__,
            code=code_digest(),
            receipts=self.world.coordinator / "state" / "receipts",
            sets_aside=True,
        )

    def federate(self, run_id: bytes = RUN_ID, admission: Admission | None = None) -> Federation:
        """The coordinator's real objects over these sites, enrolled and joined."""
        admission = admission or Admission(identity=self.identity)
        enrolment = enrol(self, self.config, lambda: False, run_id, admission)
        plan = plan_for(self.config, enrolment)
        enrolment.grid.timeout = 0.05
        summing = secagg_driver(enrolment, self.config, plan, run_id)
        progress = Progress([], enrolment.initial)
        return Federation(self.config, plan, enrolment, progress, run_id.hex(), summing)

    def spent_at(self, site: str) -> int:
        """How many reservations for training the ledger of a site holds."""
        return self.reserved(site, "training")

    def reserved(self, site: str, purpose: str) -> int:
        """How many reservations for `training` or `evaluation` the ledger of a site holds."""
        path = self.world.ledger(site)
        lines = path.read_text().splitlines() if path.exists() else []
        return sum('"reserve"' in line and f'"purpose":"{purpose}' in line for line in lines)

    def opened(self) -> bool:
        """Whether any site has made a ledger, and so has looked at a record."""
        return any(self.world.ledger(site).exists() for site in self.world.sites)
