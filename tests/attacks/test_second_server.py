"""A second server of another organisation: whom it helps, and a coordinator that gets around it.

Sites and helper are the real ones, called in one process.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from clients.helper import app as helper_module
from clients.helper import asked, helperfile
from clients.helper.app import HELPER_FILE
from clients.helper.app import app as helper_app
from fedlearn.cli import main
from fedlearn.config import RunConfig
from fedlearn.config.study import sign_run, study_hash, study_text
from fedlearn.core.errors import ConfigError, PrivacyError, ProtocolError
from fedlearn.core.files import PRIVATE
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keyring import load_pinned
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.records import config_record
from fedlearn.secagg import proven, two_server
from fedlearn.secagg.framing import decode, encode, kind_of
from fedlearn.secagg.messages import Params
from fedlearn.secagg.proven import ProvingHelper
from fedlearn.secagg.proven_messages import Statements
from fedlearn.secagg.two_server_messages import SEALED_BYTES, UNOPENED, Seeds
from server.admission import Admission, HelperNode
from server.enrol import enrol, plan_for, secagg_driver
from server.federation import Federation
from server.helper import RemoteHelper
from server.run_state import Progress
from tests.attacks.lab import RUN_ID, SITES, STRICT, Lab
from tests.deployment.world import NOTARY, World, approve
from tests.effort import slow_but

NODE = 999
POLICY = STRICT.replace("require_secagg: masked", "require_secagg: two_server")
STUDY = ("secagg=two_server", "robust=proofs", "evaluation=none", "rounds=3")


FIVE = (*SITES, "elder")
NINE = (*FIVE, "fir", "gum", "hazel", "iroko")


@dataclass
class Helped(Lab):
    """A lab with a second server; `between` sees what goes to it, and returns what travels on."""

    between: Callable[[Message], Message] = lambda message: message

    def __post_init__(self) -> None:
        super().__post_init__()
        self.helper_state = RecordDict()
        self.shown_to_helper: RunConfig | None = None
        self.helper_says: list[RecordDict] = []

    @classmethod
    def of(
        cls, root: Path, *overrides: str, policy: str = POLICY, sites: tuple[str, ...] = SITES
    ) -> Helped:
        """Sites and a notary that has approved of their study."""
        lab = cls.make(root, *STUDY, *overrides, policy=policy, sites=sites, notary=True)
        approve(lab.world, lab.config.terms.hex())
        return lab

    @property
    def file(self) -> Path:
        return self.world.root / NOTARY / "helper.yaml"

    @property
    def asked(self) -> Path:
        """What the notary's owner is to look at."""
        return self.file.parent / "state" / "asked.json"

    def get_node_ids(self) -> Iterable[int]:
        return [*super().get_node_ids(), NODE]

    def _carry(self, message: Message) -> Message | None:
        if message.metadata.dst_node_id != NODE:
            return super()._carry(message)
        return self.helped(self.between(message))

    def helped(self, message: Message) -> Message:
        """What the notary's program answers."""
        private.identify(run_id=1, node_id=NODE)
        config = self.shown_to_helper or self.config
        context = Context(
            run_id=1,
            node_id=NODE,
            node_config={HELPER_FILE: str(self.file)},
            state=self.helper_state,
            run_config=flower.run_config_of(config),
        )
        reply = helper_app(message, context)
        self.helper_says.append(reply.content)
        return reply

    def federate(self, run_id: bytes = RUN_ID, *, alone: bool = False) -> Federation:
        """The coordinator's objects; `alone`: with a second server of its own making."""
        listed = load_pinned(self.world.coordinator / "roster.json").helper
        assert listed is not None
        node = HelperNode(name=listed.name, public=listed.public, node=NODE)
        admission = Admission(
            identity=self.identity, helper=None if alone else node, seconds=1.0, wanted=4
        )
        grid = _WithoutHelper(self) if alone else self
        enrolment = enrol(grid, self.config, lambda: False, run_id, admission)  # type: ignore[arg-type]
        plan = plan_for(self.config, enrolment)
        enrolment.grid.timeout = 0.05
        summing = secagg_driver(enrolment, self.config, plan, run_id)
        progress = Progress([], enrolment.initial)
        return Federation(self.config, plan, enrolment, progress, run_id.hex(), summing)


class _WithoutHelper:
    """The same grid without the notary's node."""

    def __init__(self, lab: Helped) -> None:
        self._lab = lab

    def __getattr__(self, name: str) -> object:
        return getattr(self._lab, name)

    def get_node_ids(self) -> list[int]:
        return [node for node in self._lab.get_node_ids() if node != NODE]


@pytest.fixture
def lab(tmp_path: Path) -> Helped:
    return Helped.of(tmp_path)


def test_rounds__are_proved_and_summed_with_the_helper(lab: Helped) -> None:
    federation = lab.federate()
    before = federation.progress.model
    for number in (1, 2):
        entry = federation.run_round(number)
        assert (entry.clients.replied, entry.refused) == (4, None)
    assert not np.array_equal(before, federation.progress.model)
    helper = federation.enrolment.keys.helper
    assert isinstance(helper, RemoteHelper)
    assert helper.name == NOTARY


def test_coordinator__that_puts_its_own_key_in_the_helpers_place_gets_no_site(
    lab: Helped,
) -> None:
    """It could read every seed, and so every update."""
    with pytest.raises(ProtocolError):
        lab.federate(alone=True)
    assert {kind for kind, _, _ in lab.refused} == {"join"}
    assert len(lab.refused) == 4


def test_coordinator__that_changes_the_helpers_key_on_its_way_gets_no_site(
    lab: Helped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed by the coordinator itself, and vouched for by nobody."""
    own = ProvingHelper(RUN_ID, {})
    monkeypatch.setattr(RemoteHelper, "public", property(lambda _: own.public), raising=False)
    monkeypatch.setattr(RemoteHelper, "__init__", _settled)
    with pytest.raises(ProtocolError):
        lab.federate()
    assert {kind for kind, _, _ in lab.refused} == {"join"}


def _settled(self: RemoteHelper, grid: object, name: str, public: bytes, vouched: bytes) -> None:
    vars(self).update(grid=grid, name=name, vouched=vouched)


def test_helper__says_no_to_terms_that_its_owner_has_not_approved(lab: Helped) -> None:
    approve(lab.world, "ab" * 32)
    with pytest.raises(ProtocolError, match=r"notary.*has not approved the terms") as caught:
        lab.federate()
    assert lab.config.terms.hex() in str(caught.value)
    told = json.loads(lab.asked.read_text())
    assert (told["terms"], told["config"]["robust"]["kind"]) == (lab.config.terms.hex(), "proofs")
    assert stat.S_IMODE(lab.asked.stat().st_mode) == PRIVATE
    assert [path.name for path in lab.asked.parent.iterdir()] == ["asked.json"]
    assert not lab.opened()


def test_coordinator__that_shows_one_study_after_another_gets_no_hash_beside_the_wrong_one(
    lab: Helped,
) -> None:
    """Whom it asks to approve of the first, when the second is there to be looked at, sees it."""
    approve(lab.world, "ab" * 32)
    for config in (replace(lab.config, rounds=300), lab.config):
        with pytest.raises(ProtocolError, match=f"has not approved the terms {config.terms.hex()}"):
            lab.again(config).federate()
        told = json.loads(lab.asked.read_text())
        assert study_hash(study_text(told["config"])).hex() == told["terms"] == config.terms.hex()


def test_study__that_was_asked_for_is_kept_until_it_is_approved_or_old(lab: Helped) -> None:
    approve(lab.world, "")
    with pytest.raises(ProtocolError, match="has not approved"):
        lab.federate()
    other = lab.asked.read_bytes().replace(b"proofs", b"bounded")
    for kept, left in ((lab.asked.read_bytes(), False), (other, True)):
        lab.asked.write_bytes(kept)
        approve(lab.world, lab.config.terms.hex())
        lab.again().federate()
        assert lab.asked.exists() == left
    old = time.time() - 31 * 86_400
    os.utime(lab.asked, (old, old))
    asked.forget_old(lab.asked.parent)
    assert not lab.asked.exists()


def test_helper__says_no_to_terms_that_the_pinned_coordinator_has_not_signed(lab: Helped) -> None:
    """As those which another organisation, or somebody on the way, has put in their place."""
    lab.shown_to_helper = replace(lab.config, seed=77)
    approve(lab.world, lab.shown_to_helper.terms.hex())
    with pytest.raises(ProtocolError, match="notary"):
        lab.federate()


def changed_invitation(lab: Helped, message: Message, **fields: str) -> Message:
    """A `join` with other fields, signed by the coordinator; all else as it is."""
    if message.metadata.message_type != flower.JOIN:
        return message
    invitation = replace(flower.read_invitation(message), **fields)
    signature = sign_run(
        lab.identity, lab.config.terms, bytes.fromhex(invitation.run_id), b""
    ).hex()
    return private.with_content(
        message, flower.invitation(replace(invitation, signature=signature))
    )


def test_helper__takes_no_site_that_is_not_on_its_roster(lab: Helped) -> None:
    """Two invented sites beside a victim would tell its update."""
    coordinator = lab.identity
    pinned = load_pinned(lab.file.parent / "roster.json")
    sites = [one for one in pinned.participants if one.role == "site"][:1]
    invented = [replace(one, name=f"x{one.name}", public=Identity.new().public) for one in sites]
    server = replace(sites[0], name="server", role="server", public=coordinator.public)
    roster = type(pinned).sign("run", (*sites, *invented, server), coordinator).to_json()
    lab.between = lambda message: changed_invitation(lab, message, roster=roster)
    with pytest.raises(ProtocolError, match=r"notary.*pinned roster does not have"):
        lab.federate()


def test_coordinator__that_shows_the_helper_a_shorter_list_gets_no_site(
    lab: Helped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its list the helper counts how many a sum needs: of noise in shares it had too little."""
    pinned = load_pinned(lab.file.parent / "roster.json")
    sites = [one for one in pinned.participants if one.role == "site"][:3]
    server = replace(sites[0], name="server", role="server", public=lab.identity.public)
    roster = type(pinned).sign("run", (*sites, server), lab.identity).to_json()
    lab.between = lambda message: changed_invitation(lab, message, roster=roster)
    monkeypatch.setattr("server.helper.is_helper_signed", lambda *given: True)
    with pytest.raises(ProtocolError):
        lab.federate()
    assert {kind for kind, _, _ in lab.refused} == {"join"}
    assert len(lab.refused) == 4


FOUR = POLICY.replace("min_cohort: 3", "min_cohort: 4")
"""The policy of owners who want to be one of four in every sum that is opened."""


def test_owners_company__is_that_of_the_sum_and_not_of_the_cohort_that_was_named(
    tmp_path: Path,
) -> None:
    """Whoever is left out on the way to the helper, no site sees: the helper's least is the run's,
    and it is part of the terms."""
    lab = Helped.of(tmp_path, policy=FOUR)
    with pytest.raises(PrivacyError, match=r"policy\.min_cohort"):
        lab.federate()
    assert {kind for kind, _, _ in lab.refused} == {"hello"}
    assert {lab.spent_at(site) for site in lab.world.sites} == {0}


@pytest.mark.parametrize("rule", slow_but(lambda rule: rule == "proofs", ["proofs", "bounded"]))
def test_helper__opens_no_sum_of_fewer_than_the_owners_ask_for(tmp_path: Path, rule: str) -> None:
    """A coordinator that names four sites and has three of them summed."""
    words = ("secagg.min_cohort=4", f"robust={rule}")
    lab = Helped.of(tmp_path, *words, policy=FOUR)
    federation = lab.federate()
    lab.on_reply = lambda kind, site, reply: None if (kind, site) == ("train", "doum") else reply
    with pytest.raises(ProtocolError, match="3 clients; needed: 4"):
        federation.run_round(1)


WRONG: dict[str, Callable[[Params], Params]] = {
    "run": lambda params: replace(params, run_id=bytes(16)),
    "round": lambda params: replace(params, round=params.round + 2),
    "bits": lambda params: replace(params, bits=params.bits - 1),
    "length": lambda params: replace(params, length=params.length + 1),
    "form": lambda params: replace(params, layout_hash=bytes(32)),
    "plan": lambda params: replace(params, plan_hash=bytes(32)),
    "request": lambda params: replace(params, request_hash=bytes(32)),
    "cohort": lambda params: replace(params, cohort=params.cohort[:2]),
}
"""What a coordinator asks for that no site is to take part in."""


@pytest.mark.parametrize("wrong", WRONG)
def test_request__that_is_not_the_sites_own_is_refused_before_it_is_paid_for(
    lab: Helped, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, honest = lab.federate(), flower.with_request

    def lying(message: Message, request: bytes) -> Message:
        return honest(message, WRONG[wrong](Params.decode(request)).encode())

    monkeypatch.setattr(flower, "with_request", lying)
    with pytest.raises(ProtocolError) as caught:
        federation.run_round(1)
    assert all(f"{site}: site {site}: " in str(caught.value) for site in lab.world.sites)
    assert {lab.spent_at(site) for site in lab.world.sites} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["groups", "bounded"])
def test_helper__counts_on_the_noise_that_a_sum_is_planned_with(
    tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In shares: of a group with that of the group, and else with that of all sites."""
    policy = POLICY.replace("  epsilon_total: 8.0\n", "").replace("unit: record", "unit: none")
    words = [f"robust={rule}", "privacy=distributed", "privacy.unit=record", "privacy.epsilon=6"]
    words += ["privacy.max_dropouts=0", "training.local_steps=1"]
    federation = Helped.of(tmp_path, *words, policy=policy, sites=NINE).federate()
    needed = federation.plan.min_survivors if federation.plan else 0
    assert needed == {"groups": 3, "bounded": 9}[rule]
    assert federation.run_round(1).clients.replied == 9
    sealing_garbage(monkeypatch, ["doum"])
    if rule == "groups":
        assert federation.run_round(2).clients.replied == 6
        return
    with pytest.raises(ProtocolError, match="8 sites are left; needed: 9"):
        federation.run_round(2)


def test_helper__joins_a_run_once(lab: Helped) -> None:
    lab.federate()
    joined = config_record(lab.helper_state, "joined")
    assert joined is not None
    key = joined["public"]
    federation = replace_run(lab, b"other run 123456")
    assert "a second invitation" in str(federation)
    assert config_record(lab.helper_state, "joined")["public"] == key  # type: ignore[index]


def replace_run(lab: Helped, run_id: bytes) -> Exception:
    with pytest.raises(ProtocolError) as caught:
        lab.federate(run_id)
    return caught.value


@pytest.mark.slow
def test_helper__answers_a_round_once_also_after_its_process_has_died(lab: Helped) -> None:
    """What it must remember is in its state: the last round, and its key."""
    federation = lab.federate()
    asked: list[Message] = []

    def keep(message: Message) -> Message:
        if message.metadata.message_type == flower.HELP:
            asked.append(private.with_content(message, message.content))
        return message

    lab.between = keep
    federation.run_round(1)
    # Restarted: nothing is left but what is on the disk.
    lab.helper_state = private.content_from_bytes(private.content_to_bytes(lab.helper_state))
    joined = config_record(lab.helper_state, "joined")
    assert joined is not None
    assert joined["round"] == 2
    assert sorted(joined["summed"]) == sorted(lab.world.sites)  # type: ignore[arg-type]
    again = lab.helped(asked[0])
    assert flower.read_refusal(again.content) is not None
    federation.run_round(2)


def test_helper__is_asked_in_sealed_messages_alone(lab: Helped) -> None:
    federation = lab.federate()
    federation.run_round(1)
    sealed = [list(content) for content in lab.helper_says[2:]]
    assert sealed == [["sealed"]]
    clear = Message(
        RecordDict({"params": ConfigRecord({"bytes": b"x"})}),
        dst_node_id=NODE,
        message_type=flower.HELP,
    )
    answer = lab.helped(private.set_message_id(clear, "clear"))
    refusal = flower.read_refusal(answer.content)
    assert refusal is not None
    assert "authenticated" in refusal.reason


@pytest.mark.slow
def test_helper__that_is_silent_ends_the_run_with_its_name(lab: Helped) -> None:
    federation = lab.federate()
    lab._carry = lambda message: (  # type: ignore[method-assign]
        None if message.metadata.dst_node_id == NODE else Lab._carry(lab, message)
    )
    with pytest.raises(ProtocolError, match="no answer in time"):
        federation.run_round(1)


# --- sites that seal garbage -----------------------------------------------------------


def sealing_garbage(patch: pytest.MonkeyPatch, liars: Collection[str]) -> None:
    """These sites give the second server what is no seed, under signatures that are good."""
    honest = two_server.sealed_seed

    def sealed(seed: bytes, helper_key: bytes, context: bytes, name: str) -> bytes:
        nothing = bytes(SEALED_BYTES) if name == min(liars) else os.urandom(SEALED_BYTES)
        return nothing if name in liars else honest(seed, helper_key, context, name)

    for module in (two_server, proven):
        patch.setattr(module, "sealed_seed", sealed)


RULES = ("proofs", "bounded")


@pytest.mark.parametrize("liars", [("doum",), ("birch", "elder")], ids=len)
@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_garbage__for_the_second_server_costs_nobody_but_its_sites_a_round(
    tmp_path: Path, rule: str, liars: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Helped.of(tmp_path, f"robust={rule}", sites=FIVE)
    federation = lab.federate()
    sealing_garbage(monkeypatch, liars)
    for number in (1, 2):
        before = federation.progress.model
        entry = federation.run_round(number)
        assert entry.clients.replied == 5 - len(liars)
        assert entry.clients.dropped == dict.fromkeys(liars, UNOPENED)
        assert entry.refused is None
        assert not np.array_equal(before, federation.progress.model)


@pytest.mark.slow
def test_garbage__in_one_group_loses_the_sum_of_that_group_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Helped.of(tmp_path, "robust=groups", sites=NINE).federate()
    sealing_garbage(monkeypatch, ["doum"])
    entry = federation.run_round(1)
    assert (entry.clients.replied, entry.clients.dropped) == (6, {"doum": UNOPENED})


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_garbage__beside_test_sums_is_named_and_the_others_are_opened(
    tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    federation = Helped.of(tmp_path, f"robust={rule}", "evaluation=private").federate()
    federation.run_round(1)
    everybody = federation.progress.tested
    trained = federation._train(2, federation.grid.sites)
    assert len(trained[0].answers) == 4
    sealing_garbage(monkeypatch, ["doum"])
    found = federation._evaluated(2, federation.progress.shown, federation.grid.sites)
    assert f"round 2, evaluate: the sum is without doum: {UNOPENED}" in caplog.text
    assert everybody is not None
    assert found not in (None, everybody)


@pytest.mark.parametrize("rule", RULES)
def test_garbage__of_so_many_that_too_few_are_left_opens_nothing_and_names_them(
    tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Helped.of(tmp_path, f"robust={rule}")
    federation = lab.federate()
    heard = overheard(monkeypatch)
    sealing_garbage(monkeypatch, ["birch", "doum"])
    left = f"2 sites are left; needed: 3 of 4; birch, doum: {UNOPENED}"
    with pytest.raises(ProtocolError, match=left):
        federation.run_round(1)
    # Nor is anything to be had by asking for others of that round.
    (params, request), second = heard[0], federation.enrolment.keys.helper
    assert second is not None
    for names in (params.cohort, ("alder", "birch", "cedar")):
        with pytest.raises(ProtocolError, match="a round again"):
            second.answer(params, of(params, request, names))


def overheard(patch: pytest.MonkeyPatch) -> list[tuple[Params, bytes]]:
    """What the coordinator asks of the second server, from here on."""
    asked, honest = list[tuple[Params, bytes]](), RemoteHelper.answer

    def answer(self: RemoteHelper, params: Params, request: bytes) -> bytes:
        asked.append((params, request))
        return honest(self, params, request)

    patch.setattr(RemoteHelper, "answer", answer)
    return asked


def of(params: Params, request: bytes, names: Collection[str]) -> bytes:
    """The same request for some of its sites."""
    context = params.context()
    if kind_of(request) == Statements.KIND:
        whole = decode(Statements, request, context)
        table = {name: row for name, row in whole.table.items() if name in names}
        return encode(replace(whole, table=table), context)
    seeds = decode(Seeds, request, context).table
    return encode(Seeds(table={name: seeds[name] for name in names}), context)


@pytest.mark.parametrize("restarted", slow_but(bool, [False, True]))
@pytest.mark.parametrize("rule", slow_but(lambda rule: rule == "bounded", RULES))
def test_coordinator__that_was_told_whose_seed_is_none_gets_no_second_sum(
    tmp_path: Path, rule: str, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sums that differ by one site would tell its update: of four with and without it."""
    lab = Helped.of(tmp_path, f"robust={rule}", sites=FIVE)
    federation = lab.federate()
    heard = overheard(monkeypatch)
    sealing_garbage(monkeypatch, ["elder"])
    federation.run_round(1)
    ((params, request),) = heard
    second = federation.enrolment.keys.helper
    assert second is not None
    if restarted:
        lab.helper_state = private.content_from_bytes(private.content_to_bytes(lab.helper_state))
    for names in (params.cohort, SITES, SITES[:3]):
        for fewer in (params, replace(params, cohort=tuple(names))):
            with pytest.raises(ProtocolError, match="a round again"):
                second.answer(fewer, of(params, request, names))
    federation.run_round(2)


def test_second_server__that_opens_fewer_than_the_noise_counts_on_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum of one that it says it could open, for the coordinator to see."""
    lab = Helped.of(tmp_path, "robust=bounded")
    federation = lab.federate()
    monkeypatch.setattr(ProvingHelper, "_check_count", lambda self, params, clients: None)
    honest = helper_module.ProvingHelper
    monkeypatch.setattr(
        helper_module, "ProvingHelper", lambda *a, **k: honest(*a, **{**k, "min_cohort": 1})
    )
    monkeypatch.setattr(ProvingHelper, "_needed", lambda self, params: 1)
    sealing_garbage(monkeypatch, ["birch", "cedar", "doum"])
    with pytest.raises(ProtocolError, match="1 site is left; needed: 3 of 4"):
        federation.run_round(1)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_second_server__that_lies_of_whom_it_can_open_chooses_who_is_in_the_sum(
    tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down to more than half, for nobody else can open a seed: of five, with two sites, it knows
    the third's part. It cannot do so unseen, and every site pays once for what has left it."""
    lab = Helped.of(tmp_path, f"robust={rule}", sites=FIVE)
    federation, out = lab.federate(), ("doum", "elder")
    leaving_out(monkeypatch, out)
    entry = federation.run_round(1)
    assert entry.clients.replied == 3
    assert entry.clients.dropped == dict.fromkeys(out, UNOPENED)
    assert {lab.spent_at(site) for site in FIVE} == {1}


def leaving_out(patch: pytest.MonkeyPatch, names: Collection[str]) -> None:
    """The second server says that it could not open what these have sealed, and sums the rest."""
    honest = ProvingHelper._unsealed

    def lying(self: ProvingHelper, name: str, sealed: bytes, context: bytes) -> bytes | None:
        return None if name in names else honest(self, name, sealed, context)

    patch.setattr(ProvingHelper, "_unsealed", lying)
    patch.setattr(ProvingHelper, "_needed", lambda self, params: 3)


@pytest.mark.parametrize("rule", slow_but(lambda rule: rule == "bounded", RULES))
def test_second_server__that_leaves_out_half_of_the_cohort_gets_no_sum_and_is_reported(
    tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sites that work with it would know the third's part of the nine, by the next model."""
    federation = Helped.of(tmp_path, f"robust={rule}", sites=NINE).federate()
    before, out = federation.progress.model, NINE[3:]
    leaving_out(monkeypatch, out)
    left = f"3 sites are left; needed: 5 of 9; {', '.join(out)}: {UNOPENED}"
    with pytest.raises(ProtocolError, match=left):
        federation.run_round(1)
    assert np.array_equal(federation.progress.model, before)


def test_helper__sums_for_no_half_of_those_that_the_coordinator_has_shown_to_sites(
    tmp_path: Path,
) -> None:
    """Nor does a coordinator, or who holds messages back, choose whom a site is summed with."""
    lab = Helped.of(tmp_path, "robust=bounded", sites=NINE)
    federation = lab.federate()
    late = NINE[3:7]
    lab.on_reply = lambda kind, site, reply: (
        None if (kind, site in late) == ("train", True) else reply
    )
    assert federation.run_round(1).clients.replied == 5
    late = NINE[3:8]
    with pytest.raises(ProtocolError, match="4 clients; needed: 5"):
        federation.run_round(2)


# --- its file ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    lab = Helped.of(tmp_path_factory.mktemp("world"))
    return lab.world


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("approved: [", "approved: [abc, ", "approved=abc: must be 64 hex digits"),
        ("name: notary", "name: not/ary", "name: "),
        ("127.0.0.1:", "127.0.0.1", "server.address="),
        ("keys: keys/notary\n", "", "keys"),
        ("name: notary", "name: notary\nmin_cohort: 2", "min_cohort"),
        ("name: notary", "name: notary\nepsilon: 2", "epsilon"),
    ],
)
def test_file__says_everything_that_is_wrong_by_name(
    world: World, tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = tmp_path / "helper.yaml"
    path.write_text((world.root / NOTARY / "helper.yaml").read_text().replace(old, new))
    with pytest.raises(ConfigError, match=said):
        helperfile.load(path)


def test_check__refuses_keys_that_are_not_those_of_the_roster(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = world.root / NOTARY
    text = (own / "helper.yaml").read_text()
    assert main(["helper", str(own / "helper.yaml"), "--check"]) == 0
    assert "approved: 1 studies" in capsys.readouterr().out
    other = own / "other.yaml"
    assert main(["keys", "new", "other", "--role", "helper", "--folder", str(own / "keys")]) == 0
    other.write_text(
        text.replace("keys/notary", "keys/other").replace("name: notary", "name: other")
    )
    assert main(["helper", str(other), "--check"]) == 2
    assert "has another second server, or none" in capsys.readouterr().err.replace("\n", " ")
    other.unlink()


def test_roster__names_one_second_server_at_most(world: World) -> None:
    roster = load_pinned(world.coordinator / "roster.json")
    assert roster.helper is not None
    assert roster.helper.name == NOTARY
    second = replace(roster.helper, name="second", public=Identity.new().public)
    with pytest.raises(ValueError, match="one second server"):
        type(roster).sign("heart", (*roster.participants, second), Identity.new())
