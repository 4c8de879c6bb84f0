"""A site that is broken, misconfigured or lies does not hold up the start of a run for the others.

They begin a run of themselves: its list of sites, its masks and its noise are those of a run to
which nobody else was ever asked.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedlearn.core.errors import FedlearnError, PrivacyError, ProtocolError
from fedlearn.crypto.identity import Identity
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.grid import SiteGrid
from fedlearn.flower.site import roster_of
from fedlearn.results import receipts
from fedlearn.rounds import Hello
from server.admission import SIMULATED
from server.aside import FailingSitesError
from server.deployment import composed
from server.enrol import _greeted
from server.federation import Federation
from server.joining import Joining, draw_groups, join
from simulations.engines.local import FIRST_NODE
from tests.attacks.lab import RUN_ID, SITES, STRICT, STUDY, Lab
from tests.effort import slow_but

BROKEN = SITES[1]
LEFT = [site for site in SITES if site != BROKEN]
Reply = Callable[[Message], Message | None]

SILENT: Reply = lambda reply: None  # noqa: E731


def garbage(reply: Message) -> Message:
    """Bytes in the place of everything."""
    content = RecordDict({name: ConfigRecord({"bytes": b"\xff" * 90}) for name in reply.content})
    return private.with_content(reply, content)


def greeting(reply: Message, **other: str) -> Message:
    """A hello that says something else."""
    hello = flower.read_hello(reply.content)
    return private.with_content(reply, flower.hello_reply(replace(hello, **other)))


STRANGER = Identity.new().public.hex()
OTHERS_NAME: tuple[str, Reply] = ("hello", partial(greeting, site=SITES[2]))
LIES: dict[str, tuple[str, Reply]] = {
    "silent at hello": ("hello", SILENT),
    "garbage for a hello": ("hello", garbage),
    "a name that is none": ("hello", partial(greeting, site="../x")),
    "the name of another": OTHERS_NAME,
    "a key of its own": ("hello", partial(greeting, public_key=STRANGER)),
    "no key": ("hello", partial(greeting, public_key="")),
    "other code": ("hello", partial(greeting, code="0" * 64)),
    "silent at join": ("join", SILENT),
    "garbage for an acceptance": ("join", garbage),
    "silent at describe": ("describe", SILENT),
    "garbage for a description": ("describe", garbage),
}


def made(root: Path, *words: str, **how: Any) -> Lab:
    """Sites of which nobody waits for long: they answer at once, or never."""
    return Lab.make(root, "reply_timeout=0.2", *words, **how)


def started(lab: Lab, run_id: bytes = RUN_ID) -> Federation:
    """The start of `fedlearn server`."""
    federation = lab.federate(run_id, replace(lab.admission(), seconds=0.2))
    federation.enrolment.grid.timeout = None
    return federation


def is_of(federation: Federation, lab: Lab, sites: list[str]) -> None:
    """The run is theirs: at the coordinator, in what they joined, and in a round."""
    assert federation.grid.sites == sites
    for number, site in enumerate(SITES):
        joined = lab.contexts[FIRST_NODE + number].state.get("joined")
        if site in sites:
            assert sorted(roster_of(str(joined["roster"])).sites()) == sites  # type: ignore[index]
    entry = federation.run_round(1)
    assert (entry.clients.replied, entry.clients.dropped) == (len(sites), {})
    assert {site: lab.spent_at(site) for site in SITES} == {s: int(s in sites) for s in SITES}


QUICK = ("no key", "silent at describe")


@pytest.mark.parametrize("lie", slow_but(QUICK.__contains__, LIES))
def test_site__that_fails_at_the_start_is_set_aside_by_name(
    tmp_path: Path, lie: str, caplog: pytest.LogCaptureFixture
) -> None:
    lab, (step, answer) = made(tmp_path), LIES[lie]
    lab.on_reply = lambda kind, site, reply: (
        answer(reply) if (kind, site) == (step, BROKEN) else reply
    )
    federation = started(lab)
    (reason,) = federation.enrolment.declined
    assert reason.startswith(f"site {BROKEN}: ")
    assert reason in caplog.text
    is_of(federation, lab, LEFT)


def test_site__that_refuses_is_set_aside_whatever_for(tmp_path: Path) -> None:
    """Its owner's policy, its records, and a ledger of other data."""
    lab = made(tmp_path, sites=(*SITES, "elder", "fir"))
    path = lab.world.site_file("alder")
    path.write_text(path.read_text().replace("policy:\n", "policy:\n  allow_models: [cnn]\n"))
    (lab.world.root / "birch" / "table.csv").unlink()
    lab.world.ledger("cedar").parent.mkdir()
    lab.world.ledger("cedar").write_text("no ledger\n")
    federation = started(lab)
    assert federation.grid.sites == ["doum", "elder", "fir"]
    declined = federation.enrolment.declined
    assert [line.split(":")[0] for line in sorted(declined)] == [
        *("site alder", "site birch", "site cedar"),
    ]
    assert "policy.allow_models" in min(declined)
    assert federation.run_round(1).clients.replied == 3


def test_ledger__that_was_set_back_is_its_own_sites_affair(tmp_path: Path) -> None:
    lab = made(tmp_path)
    first = started(lab)
    first.run_round(1)
    folder = lab.world.coordinator / "state" / "receipts"
    assert first.enrolment.receipts is not None
    first.enrolment.receipts.at_end(folder.parent / "run")
    assert receipts.last_of(folder, BROKEN) is not None
    before = {site: lab.spent_at(site) for site in SITES}
    shutil.rmtree(lab.world.ledger(BROKEN).parent)
    second = started(lab.again(), bytes(16))
    (reason,) = second.enrolment.declined
    assert reason.startswith(f"site {BROKEN}: ")
    assert second.grid.sites == LEFT
    second.run_round(1)
    assert lab.spent_at(BROKEN) == 0
    assert all(lab.spent_at(site) > before[site] for site in LEFT)


def test_records__of_another_form_are_not_those_of_the_first_by_name(tmp_path: Path) -> None:
    """Most sites say what the form is: one that differs does not set the others aside."""
    policy = STRICT.replace("  epsilon_total: 8.0\n", "").replace("unit: record", "unit: none")
    lab = made(tmp_path, policy=policy)
    words = [word for word in STUDY if not word.startswith(("privacy", "scenario.numeric"))]
    words = [word for word in words if "categories" not in word and "gaps" not in word]
    lab.config = replace(
        composed([*words, "privacy=none", "evaluation=none", "reply_timeout=0.2"]),
        out=lab.config.out,
    )
    odd = lab.world.root / SITES[0] / "table.csv"
    header, *rows = odd.read_text().splitlines()
    odd.write_text("\n".join([f"{header},weight", *(f"{row},7" for row in rows)]) + "\n")
    federation = started(lab.again(lab.config))
    assert federation.grid.sites == list(SITES[1:])
    (reason,) = federation.enrolment.declined
    assert reason.startswith(f"site {SITES[0]}: ")
    assert "weight" in reason
    shutil.copy(odd, lab.world.root / SITES[1] / "table.csv")  # two of four: who is right?
    with pytest.raises(FedlearnError, match="column 'weight'"):
        started(lab.again(lab.config))


@pytest.mark.slow
def test_noise__in_shares_is_that_of_the_sites_that_are_left(tmp_path: Path) -> None:
    """No site adds less than the run of fewer needs, and ledgers count no share of who is gone."""
    words = ("privacy=distributed", "privacy.unit=record", "training.local_steps=1",
             "privacy.epsilon=6", "evaluation=none", "privacy.max_dropouts=0")  # fmt: skip
    lab = made(tmp_path / "four", *words)
    lab.on_reply = lambda kind, site, reply: None if (kind, site) == ("describe", BROKEN) else reply
    federation = started(lab)
    alone = started(made(tmp_path / "three", *words, sites=tuple(LEFT)))
    assert federation.plan == alone.plan
    assert federation.plan is not None
    assert federation.plan.epsilon <= 6
    is_of(federation, lab, LEFT)


TEN = (*SITES, "elder", "fir", "gum", "hazel", "iroko", "juniper")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "answer"),
    [
        ("hello", partial(greeting, commitment="")),
        ("hello", partial(greeting, commitment="00" * 32)),
        ("describe", SILENT),
        ("open", SILENT),
    ],
)
def test_groups__of_the_sites_that_are_left_are_drawn_from_shares_that_nobody_knew(
    tmp_path: Path, step: str, answer: Reply
) -> None:
    """Shares that were opened are known: whom to set aside would choose the groups by them."""
    lab, shown = made(tmp_path, "robust=groups", "rounds=4", sites=TEN), dict[str, set[str]]()

    def reply(kind: str, site: str, message: Message) -> Message | None:
        if kind == "hello":
            shown.setdefault(site, set()).add(flower.read_hello(message.content).commitment)
        return answer(message) if (kind, site) == (step, BROKEN) else message

    lab.on_reply = reply
    federation = started(lab)
    left = [site for site in TEN if site != BROKEN]
    assert federation.grid.sites == left
    assert federation.enrolment.keys.draw is not None
    assert sorted(federation.enrolment.keys.draw.names) == left
    # Where all shares were open by then each site has another; else nobody knows it yet.
    assert {len(shown[site]) for site in left} == {2 if step == "open" else 1}
    assert federation.run_round(1).clients.replied == len(left)


def test_start__without_enough_sites_ends_with_every_reason(tmp_path: Path) -> None:
    lab = made(tmp_path, "strategy.min_sites=4")
    lab.on_reply = lambda kind, site, reply: None if (kind, site) == ("join", BROKEN) else reply
    with pytest.raises(ProtocolError, match=f"{BROKEN}: no answer in time"):
        started(lab)
    assert not lab.opened()


def test_owner__who_asks_for_more_sites_than_are_left_is_not_overruled(tmp_path: Path) -> None:
    """It has said so before anything is paid for, and the error names who was set aside before."""
    lab = made(tmp_path, policy=STRICT.replace("min_cohort: 3", "min_cohort: 4"))
    lab.on_reply = lambda kind, site, reply: None if (kind, site) == ("describe", BROKEN) else reply
    with pytest.raises(PrivacyError, match=r"policy\.min_cohort") as refused:
        started(lab)
    assert any(f"site {BROKEN}:" in note for note in refused.value.__notes__)
    assert {lab.spent_at(site) for site in SITES} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_start__is_that_of_the_sites_that_answer_as_they_should(tmp_path: Path, seed: int) -> None:
    """Any of them fails anywhere: the others begin, where three are left, or all is refused."""
    rng = np.random.default_rng(seed)
    names = (*SITES, "elder", "fir")
    lies = {name: LIES[str(rng.choice(list(LIES)))] for name in names if rng.random() < 0.4}
    # The name of another is the own one of whom it belongs to.
    failing = {site: lie for site, lie in lies.items() if (site, lie) != (SITES[2], OTHERS_NAME)}
    lab = made(tmp_path, sites=names)

    def reply(kind: str, site: str, message: Message) -> Message | None:
        step, answer = failing.get(site, ("", SILENT))
        return answer(message) if kind == step else message

    lab.on_reply = reply
    left = [name for name in names if name not in failing]
    if len(left) < 3:
        with pytest.raises(FedlearnError):
            started(lab)
        return
    federation = started(lab)
    assert federation.grid.sites == left
    assert len(federation.enrolment.declined) == len(failing)
    assert federation.run_round(1).clients.replied == len(left)


# --- what a coordinator, or somebody on the way, makes of it -----------------------------


def invitations(lab: Lab) -> list[RecordDict]:
    """Those that a site has had, with a start that was made twice."""
    had: list[RecordDict] = []

    def keep(kind: str, site: str, message: Message) -> Message:
        if (kind, site) == ("join", LEFT[0]):
            had.append(message.content)
        return message

    lab.on_request = keep
    lab.on_reply = lambda kind, site, reply: None if (kind, site) == ("describe", BROKEN) else reply
    federation = started(lab)
    assert len(had) == 2
    assert federation.grid.sites == LEFT
    return had


def test_invitation__of_before_is_not_taken_again(tmp_path: Path) -> None:
    """Lists of sites get shorter and never longer."""
    lab = made(tmp_path)
    first, second = invitations(lab)
    refusal = flower.read_refusal(lab.ask("query.join", LEFT[0], first))
    assert refusal is not None
    assert refusal.exit_code == ProtocolError.exit_code
    assert flower.read_refusal(lab.ask("query.join", LEFT[0], second)) is None  # the same again


def test_invitation__to_fewer_is_refused_once_the_run_has_begun(tmp_path: Path) -> None:
    lab = made(tmp_path)
    federation = started(lab)
    federation._able(1, list(SITES))
    grid, config = federation.grid, lab.config
    hellos = {s: Hello(site=s, public_key=federation.enrolment.keys.publics[s].hex()) for s in LEFT}
    grid.sealing = None
    grid.node_of.pop(BROKEN)
    with pytest.raises(FailingSitesError) as failing:
        join(Joining(grid, config, RUN_ID, lab.identity, RecordDict(), SIMULATED), hellos)
    assert sorted(failing.value.reasons) == LEFT


@pytest.mark.parametrize("drawn", slow_but(lambda known: not known, [False, True]))
def test_share__is_opened_under_one_list_and_a_refusal_leaves_that_as_it_was(
    tmp_path: Path, drawn: bool
) -> None:
    """Who knows all shares could try lists until one brings a site among whom it likes. Once a site
    knows its groups there is no other list at all."""
    lab, left = made(tmp_path, "robust=groups", "rounds=4", sites=TEN), list(TEN[:-1])
    admission = replace(lab.admission(), seconds=0.2)
    named = {site: node for node, site in admission.nodes.items()}
    grid = SiteGrid(lab, dict(named), 0.2)
    hellos = _greeted(grid, lab.config, lab.identity, admission, ()).hellos

    def invited(sites: list[str]) -> None:
        grid.sealing, grid.node_of = None, {site: named[site] for site in sites}
        run = Joining(grid, lab.config, RUN_ID, lab.identity, RecordDict(), SIMULATED)
        keys = join(run, {site: hellos[site] for site in sites})
        if drawn:
            draw_groups(grid, lab.config, RUN_ID, keys)
        else:
            assert len(grid.ask(flower.OPEN, RecordDict(), sites).answers) == len(sites)

    invited(list(TEN))
    before = [private.content_to_bytes(context.state) for context in lab.contexts.values()]
    with pytest.raises(FailingSitesError) as failing:
        invited(left)
    assert sorted(failing.value.reasons) == sorted(left)
    assert [private.content_to_bytes(one.state) for one in lab.contexts.values()] == before
    counted = [lab.world.ledger(site).with_suffix(".openings") for site in TEN]
    assert [path.read_text() for path in counted] == ["1"] * len(TEN)
    hellos = _greeted(grid, lab.config, lab.identity, admission, ()).hellos
    if not drawn:
        invited(left)  # with new shares, which nobody knew
        return
    with pytest.raises(FailingSitesError) as failing:
        invited(left)
    assert sorted(failing.value.reasons) == sorted(left)


@pytest.mark.parametrize("step", slow_but("describe".__eq__, ["hello", "join", "describe"]))
def test_site__that_fails_before_shares_are_opened_uses_up_no_opening_of_the_others(
    tmp_path: Path, step: str
) -> None:
    """One that did so in four starts, or four in one, kept all others out of groups: they open no
    more than eight shares without a round."""
    lab = made(tmp_path, "robust=groups", "rounds=4", sites=TEN)
    lab.on_reply = lambda kind, site, reply: None if (kind, site) == (step, BROKEN) else reply
    assert len(started(lab).enrolment.declined) == 1
    counted = {site: lab.world.ledger(site).with_suffix(".openings") for site in TEN}
    opened = {site: path.read_text() for site, path in counted.items() if path.exists()}
    assert opened == {site: "1" for site in TEN if site != BROKEN}


@pytest.mark.slow
def test_site__that_does_not_open_its_share_costs_each_of_the_others_one(tmp_path: Path) -> None:
    """That nobody can tell from a coordinator that does not like what it would get; it is named."""
    lab = made(tmp_path, "robust=groups", "rounds=4", sites=TEN)
    lab.on_reply = lambda kind, site, reply: None if (kind, site) == ("open", BROKEN) else reply
    federation = started(lab)
    (reason,) = federation.enrolment.declined
    assert reason.startswith(f"site {BROKEN}: ")
    counted = {site: lab.world.ledger(site).with_suffix(".openings") for site in TEN}
    assert {path.read_text() for site, path in counted.items() if site != BROKEN} == {"2"}


@pytest.mark.slow
def test_site__that_knows_no_groups_sits_the_rounds_out_and_ends_no_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was shown all shares twice, and answered neither time: all others have opened theirs."""
    lab = made(tmp_path, "robust=groups", "rounds=4", sites=TEN)
    lab.on_request = lambda kind, site, message: (
        None if (kind, site) == ("draw", BROKEN) else message
    )
    federation = started(lab)
    assert f"{BROKEN} does not know its groups" in caplog.text
    assert federation.grid.sites == [*TEN]
    assert federation.run_round(1).clients.replied >= 6
    counted = {site: lab.world.ledger(site).with_suffix(".openings") for site in TEN}
    assert {path.read_text() for path in counted.values() if path.exists()} == {"1"}


def test_invitation__of_another_coordinator_is_refused_before_the_run_begins(
    tmp_path: Path,
) -> None:
    """Shorter, and signed by somebody else: as an invitation in the place of the first one."""
    lab = made(tmp_path)
    federation = started(lab)
    hellos = {s: Hello(site=s, public_key=federation.enrolment.keys.publics[s].hex()) for s in LEFT}
    federation.grid.sealing = None
    federation.grid.node_of.pop(BROKEN)
    run = Joining(federation.grid, lab.config, RUN_ID, Identity.new(), RecordDict(), SIMULATED)
    with pytest.raises(FailingSitesError) as failing:
        join(run, hellos)
    assert sorted(failing.value.reasons) == LEFT


def test_simulation__is_refused_for_one_site_as_ever(tmp_path: Path) -> None:
    """All sites are one user's, who is to mend what is wrong with one."""
    lab = made(tmp_path)
    (lab.world.root / BROKEN / "table.csv").unlink()
    with pytest.raises(FedlearnError, match=BROKEN):
        lab.federate()
