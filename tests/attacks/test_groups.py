"""Sums over groups: a site is summed with its own group alone, and a liar is found and left out.

The sites are deployed ones with their own files and policies; what lies is one of them, or the
coordinator.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import groups, openings
from fedlearn.agreement import bound_of
from fedlearn.core.errors import PrivacyError, ProtocolError
from fedlearn.crypto.common import commitment, new_share
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.results.result import Suspect
from fedlearn.robust import Draw
from fedlearn.robust.groups import Groups, shortened
from fedlearn.rounds import Openings
from fedlearn.secagg.whole import AnyPayload
from fedlearn.stages import Update
from server.deployment import composed
from server.federation import Federation
from tests.attacks.asked import CLEAR
from tests.attacks.lab import SITES, STRICT, Lab
from tests.attacks.lab import STUDY as LAB_STUDY
from tests.attacks.test_poison import LIAR, instead, largest_values, lying, runs
from tests.effort import examples, slow_but

NINE = (*SITES, "elder", "fir", "gum", "hazel", "iroko")
STUDY = ("robust=groups", "evaluation=none")


@pytest.mark.slow
def test_round__sums_every_group_and_no_site_is_in_two(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path, *STUDY, "rounds=2", sites=NINE)
    federation = lab.federate()
    assert federation.draw is not None
    for number in (1, 2):
        entry = federation.run_round(number)
        assert (entry.clients.invited, entry.clients.replied) == (9, 9)
    suspicion = federation.progress.suspicion
    assert suspicion is not None
    groups = [set(one.sites) for one in suspicion.changes]
    assert [len(one) for one in groups] == [3] * 6
    assert groups == [set(one) for n in (1, 2) for one in federation.draw.groups(n)]
    assert {lab.spent_at(site) for site in NINE} == {2}
    assert [one.named for one in federation.progress.rounds] == [[], []]


@pytest.mark.slow
def test_group__that_cannot_be_opened_is_left_out_of_the_round_and_the_others_are_used(
    tmp_path: Path,
) -> None:
    lab = Lab.make(tmp_path, *STUDY, "rounds=2", sites=NINE)
    federation = lab.federate()
    start = federation.progress.model
    lab.on_reply = lambda kind, site, reply: None if (kind, site) == ("train", NINE[0]) else reply
    entry = federation.run_round(1)
    assert entry.clients.replied == 6
    assert not np.array_equal(federation.progress.model, start)
    assert federation.draw is not None
    group = federation.draw.group_of(NINE[0], 1)
    suspicion = federation.progress.suspicion
    assert suspicion is not None
    assert not any(set(group) & set(one.sites) for one in suspicion.changes)


class OfTheCoordinatorsChoice(Draw):
    """Groups that bring a victim together with whom the coordinator likes."""

    def groups(self, number: int, without: object = ()) -> tuple[tuple[str, ...], ...]:
        """One site of each group that was drawn: no two of them would be summed together."""
        return tuple(zip(*super().groups(number), strict=True))


@pytest.mark.slow
def test_site__is_summed_with_its_own_group_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the coordinator proposes, and nothing is spent."""
    lab = Lab.make(tmp_path, *STUDY, "rounds=2", sites=NINE)
    federation = lab.federate()
    keys = federation.enrolment.keys
    assert keys.draw is not None
    chosen = OfTheCoordinatorsChoice(keys.draw.seed, keys.draw.names, 3)
    assert set(chosen.groups(1)) != set(keys.draw.groups(1))
    object.__setattr__(keys, "draw", chosen)
    caplog.set_level("INFO")
    with pytest.raises(ProtocolError, match="0 of 3 clients replied"):
        federation.run_round(1)
    assert "advertise: server: not on the roster" in caplog.text
    assert {lab.spent_at(site) for site in NINE} == {0}


WRONG = {
    "another": "has opened another share",
    "forged": "has not opened its share",
    "fewer": "not those of the run's sites",
    "missing": "cannot be read",
    "commitment": "has not opened its share",
}
"""What the coordinator shows one site, and what that finds wrong."""


@pytest.mark.parametrize("lie", slow_but(("another", "commitment").__contains__, WRONG))
def test_site__takes_no_groups_that_do_not_follow_from_what_all_were_committed_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lie: str
) -> None:
    victim, other = SITES[1], SITES[0]

    def told(kind: str, site: str, message: Message) -> Message:
        if site != victim:
            return message
        if kind == "join" and lie == "commitment":
            invitation = flower.read_invitation(message)
            listed = {**invitation.commitments, other: commitment(other, new_share())}
            content = flower.invitation(replace(invitation, commitments=listed))
            return private.with_content(message, content)
        if kind != "draw" or lie == "commitment":
            return message
        shares = dict(flower.read_openings(message).shares)
        if lie == "another":
            shares[other] = replace(shares[other], share=new_share().hex())
        if lie == "forged":
            shares[other] = replace(shares[other], signature=shares[victim].signature)
        if lie == "fewer":
            del shares[other]
        request = flower.openings_request(Openings(shares=shares))
        return private.with_content(message, RecordDict() if lie == "missing" else request)

    lab = Lab.make(tmp_path, *STUDY, "transport=plain", policy=CLEAR, sites=NINE)
    lab.on_request = told
    caplog.set_level("INFO")
    if lie == "commitment":  # which the share is opened under
        with pytest.raises(ProtocolError, match=WRONG[lie]):
            lab.federate()
        return
    federation = lab.federate()
    # It takes part in no group, and the others in those that they all know.
    assert WRONG[lie] in caplog.text
    assert federation.draw is not None
    group = federation.draw.group_of(victim, 1)
    entry = federation.run_round(1)
    assert entry.clients.replied == 6
    assert "came before all shares were opened" in caplog.text
    assert victim in entry.clients.dropped
    assert {lab.spent_at(site) for site in group} == {0}


@pytest.mark.slow
def test_sites_that_are_left_out__never_come_back_and_are_a_quarter_at_most(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is said of who is left out can be looked at after the run: it holds for all of it."""
    federation = Lab.make(tmp_path, *STUDY, "rounds=3", sites=NINE).federate()
    suspicion = federation.progress.suspicion
    assert suspicion is not None
    caplog.set_level("INFO")

    def left_out(*sites: str) -> None:
        suspicion.named = [Suspect(site=site, round=0, reason="is not liked") for site in sites]

    draw = federation.draw
    assert draw is not None
    # Who is with it in round 1 is not asked, and has heard of nobody: one draw in 28 has the same
    # three together again.
    one = next(s for s in NINE if {*draw.group_of(s, 1)} != {*draw.group_of(s, 2)})
    left_out(one)
    federation.run_round(1)
    left_out(next(s for s in NINE if s != one))
    with pytest.raises(ProtocolError):
        federation.run_round(2)
    assert "a site that was left out is back" in caplog.text
    left_out(*draw.group_of(one, 3))
    with pytest.raises(ProtocolError):
        federation.run_round(3)
    assert "3 of 9 sites are left out" in caplog.text


def metrics_of(federation: Federation) -> dict[str, float]:
    """Of the sums that were opened last: some, unless noise has left no record in them."""
    tested = federation.progress.tested
    assert tested is not None
    found = federation.enrolment.task.metrics(tested)
    assert found or (tested.noise and tested.count == 0)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", ["private", "pooled", "per_site"])
def test_run__that_leaves_a_site_out_goes_on_with_every_kind_of_evaluation(
    tmp_path: Path, evaluation: str
) -> None:
    """Test sums are masked with the same list of who is left out, who is in none of them."""
    policy = f"{STRICT}  evaluation: [{evaluation}]\n  min_test_records: 1\n"
    words = ("robust=groups", f"evaluation={evaluation}", "evaluate_every=1", "rounds=3")
    lab = Lab.make(tmp_path, *words, policy=policy, sites=NINE)
    federation = lab.federate()
    assert federation.run_round(1).evaluate == metrics_of(federation)
    assert federation.progress.suspicion is not None
    federation.progress.suspicion.named = [Suspect(site=NINE[3], round=1, reason="is not liked")]
    asked = list[str]()

    def noted(kind: str, site: str, message: Message) -> Message:
        asked.extend([site] * (kind == "evaluate"))
        return message

    lab.on_request = noted
    for number in (2, 3):
        before = federation.progress.tested
        entry = federation.run_round(number)
        assert federation.progress.tested is not before
        assert entry.evaluate == metrics_of(federation)
        assert entry.clients.dropped == {}
    assert (NINE[3] in asked) == (evaluation == "per_site")


@settings(max_examples=examples(200, few=60), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), groups_of=st.integers(3, 11), data=st.data())
def test_shortening__by_liars_in_fewer_than_half_of_the_groups_leaves_the_shortest_honest_one(
    seed: int, groups_of: int, data: st.DataObject
) -> None:
    """Whatever they send, and however little of it: by their lower median a model is slowed down no
    further than to the pace of the honest group that moves least."""
    rng = np.random.default_rng(seed)
    liars = data.draw(st.integers(0, (groups_of - 1) // 2))
    changes = rng.normal(size=(groups_of, 6)) * rng.uniform(0.1, 10, groups_of)[:, None]
    honest = np.linalg.norm(changes[liars:], axis=1)
    changes[:liars] *= rng.choice([0.0, 1e-9, 1.0, 1e9], (liars, 1))
    after = shortened(changes)
    found = np.linalg.norm(after[liars:], axis=1)
    assert (found >= min(honest) * (1 - 1e-9)).all()
    assert (found <= honest * (1 + 1e-9)).all()
    assert np.allclose(after[liars:] * honest[:, None], changes[liars:] * found[:, None])


@pytest.mark.parametrize("groups_of", [4, 5, 8, 9])
def test_shortening__by_liars_in_half_of_the_groups_lets_the_model_stand_still_at_worst(
    groups_of: int,
) -> None:
    """That is what the threat model says is left to them: nothing is turned round."""
    changes, liars = np.ones((groups_of, 6)), (groups_of + 1) // 2
    changes[:liars] = 0.0
    assert not shortened(changes).any()
    assert not Groups().combined(changes).any()


def knowing() -> Context:
    """The state of a site that knows its groups."""
    known = ConfigRecord({"share": bytes(32), "without": list[str](), "seed": bytes(32)})
    state = RecordDict({"groups": known})
    return Context(run_id=1, node_id=1, node_config={}, state=state, run_config={})


def left_out_at(context: Context) -> object:
    """Whom a site has taken as left out."""
    stored = context.state["groups"]
    assert isinstance(stored, ConfigRecord)
    return stored["without"]


def test_list_of_who_is_left_out__holds_sites_of_the_roster_alone() -> None:
    context, config = knowing(), composed([*LAB_STUDY, *STUDY])
    for wrong in (("nobody",), (NINE[0], "nobody")):
        with pytest.raises(ProtocolError, match="not on the roster"):
            groups.leave_out(context, config, wrong, NINE)
    assert left_out_at(context) == []
    groups.leave_out(context, config, NINE[:1], NINE)
    assert left_out_at(context) == [NINE[0]]


def test_list_of_who_is_left_out__is_kept_only_where_the_sum_is_accepted() -> None:
    """A sum that a site refuses leaves no trace in whom it takes part with."""
    context, config = knowing(), composed([*LAB_STUDY, *STUDY])

    def refused() -> None:
        with groups.unless_refused(context):
            groups.leave_out(context, config, NINE[:1], NINE)
            raise ProtocolError("", "advertise", "is refused")

    with pytest.raises(ProtocolError, match="is refused"):
        refused()
    assert left_out_at(context) == []


@pytest.mark.slow
def test_site__that_refuses_a_sum_takes_nobody_as_left_out_for_it(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path, *STUDY, "rounds=3", sites=NINE)
    federation = lab.federate()
    keys = federation.enrolment.keys
    assert keys.draw is not None
    chosen = OfTheCoordinatorsChoice(keys.draw.seed, keys.draw.names, 3)
    object.__setattr__(keys, "draw", chosen)
    suspicion = federation.progress.suspicion
    assert suspicion is not None
    suspicion.named = [Suspect(site=NINE[0], round=0, reason="is not liked")]
    with pytest.raises(ProtocolError):
        federation.run_round(1)
    contexts = dict(zip(NINE, lab.contexts.values(), strict=True))
    assert [left_out_at(contexts[site]) for site in NINE] == [[]] * 9


@pytest.mark.slow
def test_coordinator__that_breaks_off_before_the_first_round_cannot_draw_on_and_on(
    tmp_path: Path,
) -> None:
    """It sees the groups of all rounds as soon as all shares are open, and nothing is paid yet."""
    lab, seeds = Lab.make(tmp_path, *STUDY, sites=NINE), set[bytes]()
    for at in range(openings.MOST):
        draw = lab.again().federate(bytes([at] * 16)).draw
        assert draw is not None
        seeds.add(draw.seed)
    assert len(seeds) == openings.MOST
    with pytest.raises(PrivacyError):
        lab.again().federate(bytes([99] * 16))
    # Other terms are no way round it.
    with pytest.raises(PrivacyError):
        lab.again(replace(lab.config, seed=7)).federate(bytes([98] * 16))


@pytest.mark.slow
def test_site__that_has_trained_opens_its_share_again(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path, *STUDY, "rounds=2", sites=NINE)
    federation = lab.federate()
    counted = [lab.world.ledger(site).with_suffix(".openings") for site in NINE]
    assert [path.read_text() for path in counted] == ["1"] * 9
    federation.run_round(1)
    assert not any(path.exists() for path in counted)


def test_owner__that_asks_for_more_company_than_a_group_refuses_before_anything_is_read(
    tmp_path: Path,
) -> None:
    policy = STRICT.replace("min_cohort: 3", "min_cohort: 4")
    lab = Lab.make(tmp_path, *STUDY, policy=policy, sites=NINE)
    with pytest.raises(PrivacyError, match=r"policy\.min_cohort"):
        lab.federate()
    assert {lab.spent_at(site) for site in NINE} == {0}


def test_owner__is_asked_for_colluders_in_a_group_before_anything_is_read(tmp_path: Path) -> None:
    """Of nine sites one may work with the coordinator; of the three of a group none."""
    lab = Lab.make(tmp_path, *STUDY, "secagg.dropout_fraction=0.34", sites=NINE)
    with pytest.raises(PrivacyError, match=r"policy\.min_corrupt_fraction"):
        lab.federate()
    assert {lab.spent_at(site) for site in NINE} == {0}


def against(federation: Federation) -> float:
    """The norm of an honest update."""
    form = federation.route.form(federation.stack)
    bound = bound_of(federation.config, federation.plan, form)
    assert bound is not None
    return bound.reach.norm(form.values)


@pytest.mark.slow
def test_liar__that_pulls_with_all_its_group_could_is_left_out_and_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within what honest sites could sum up to, so that `bounded` takes it in every round."""
    lab = Lab.make(tmp_path, *STUDY, "rounds=24", rows=150, sites=NINE)
    federation = lab.federate()
    most = 3 * against(federation)

    def pull(payload: AnyPayload, vector: np.ndarray, mine: Update, _: int) -> np.ndarray:
        direction = np.ones(mine.values.size) / np.sqrt(mine.values.size)
        return instead(payload, vector, -most * direction)

    lying(monkeypatch, pull)
    rounds = runs(federation)
    named = [one for entry in rounds for one in entry.named]
    assert [one.site for one in named] == [LIAR]
    assert named[0].round <= 20
    suspicion = federation.progress.suspicion
    assert suspicion is not None
    assert all(LIAR not in one.sites for one in suspicion.changes if one.number > named[0].round)
    # The model is that of the sums without it.
    clean = sum(np.mean([one.change for one in sums], axis=0) for _, sums in suspicion.clean())
    moved = federation.progress.model - federation.enrolment.initial
    assert moved == pytest.approx(clean, abs=1e-5)


@pytest.mark.slow
def test_liar__whose_sums_are_refused_is_left_out_once_nobody_else_can_have_lied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying(monkeypatch, largest_values)
    federation = Lab.make(tmp_path, *STUDY, "rounds=24", sites=NINE).federate()
    rounds = runs(federation)
    named = [one for entry in rounds for one in entry.named]
    assert [one.site for one in named] == [LIAR]
    last = named[0].round
    assert [len(entry.unused) for entry in rounds] == [1] * last + [0] * (24 - last)
    assert [entry.refused for entry in rounds] == [None] * 24


@pytest.mark.slow
def test_honest_sites__are_neither_refused_nor_left_out(tmp_path: Path) -> None:
    federation = Lab.make(tmp_path, *STUDY, "rounds=16", sites=NINE).federate()
    rounds = runs(federation)
    assert [entry.refused for entry in rounds] == [None] * 16
    assert [entry.named for entry in rounds] == [[]] * 16
