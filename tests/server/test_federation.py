"""A federation round by round: who counts, what it cost, and how it ends when it cannot go on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fedlearn import models
from fedlearn.config import RunConfig, plan_of
from fedlearn.core.errors import (
    ConfigError,
    DataError,
    FedlearnError,
    PrivacyError,
    ProtocolError,
    StoppedError,
)
from fedlearn.core.rng import Streams
from fedlearn.core.vector import layout_of
from fedlearn.data.tables.schema import ColumnShape
from fedlearn.flower import messages as flower
from fedlearn.privacy.accounting import epsilon
from fedlearn.rounds import Refusal, TrainReply
from fedlearn.tasks import ClassificationTask, TableInput
from server.admission import SIMULATED, Admission
from server.enrol import enrol, secagg_driver
from server.federation import Federation
from server.run_state import Progress

from .parties import NAMES, TASK, Parties, description, hello, make_config

PRIVATE = ("privacy=record", "training.sample_rate=0.2", "privacy.on_exhausted=drop_site")


def federate(parties: Parties, admission: Admission = SIMULATED) -> Federation:
    config = parties.config
    plan = plan_of(config, task=TASK)
    enrolment = enrol(parties.grid(), config, lambda: False, bytes(16), admission)
    assert enrolment.grid.timeout == config.reply_timeout
    return Federation(config, plan, enrolment, Progress([], enrolment.initial), "run", None)


def private(*overrides: str) -> Parties:
    config = make_config(*PRIVATE, *overrides)
    plan = plan_of(config)
    assert plan is not None
    return Parties(config, event=plan.round_event)


def refuse(code: int, reason: str = "no") -> RecordDict:
    return flower.refusal_reply(Refusal(site="?", exit_code=code, reason=reason))


# --- Enrolment --------------------------------------------------------------------


def test_enrol__knows_sites_by_the_names_they_give() -> None:
    federation = federate(Parties(make_config()))
    enrolment = federation.enrolment
    assert list(enrolment.sites) == sorted(NAMES)
    assert enrolment.grid.node_of == {name: 1000 + i for i, name in enumerate(NAMES)}
    assert len(enrolment.initial) == enrolment.layout.size == enrolment.parameters == 6


@pytest.mark.parametrize(
    ("code", "error"),
    [(1, ProtocolError), (2, ConfigError), (3, PrivacyError), (4, ProtocolError), (5, DataError)],
)
def test_enrol__a_refusal_ends_the_run_with_its_own_exit_code(
    code: int, error: type[FedlearnError]
) -> None:
    parties = Parties(make_config(), on_hello={"bravo": lambda: refuse(code, "because")})
    with pytest.raises(error, match="because") as caught:
        federate(parties)
    assert caught.value.exit_code == (4 if code == 1 else code)


def test_enrol__tells_every_reason_of_every_site_once() -> None:
    refusals = {
        "bravo": lambda: refuse(2, "one\ntwo"),
        "delta": lambda: refuse(2, "two\nthree"),
    }
    with pytest.raises(ConfigError) as caught:
        federate(Parties(make_config(), on_hello=refusals))
    assert sorted(caught.value.problems) == ["one", "three", "two"]


def test_enrol__refuses_two_nodes_of_one_name() -> None:
    twice = {"delta": lambda: flower.hello_reply(hello("alpha"))}
    with pytest.raises(ProtocolError, match="two nodes claim this name") as caught:
        federate(Parties(make_config(), on_hello=twice))
    assert caught.value.peer == "alpha"


def test_enrol__refuses_sites_whose_records_look_different() -> None:
    other = ClassificationTask(input=TableInput(numeric=3), classes=("no", "yes"))
    unlike = {"delta": lambda: flower.description_reply(description(other))}
    with pytest.raises(DataError, match="different at delta"):
        federate(Parties(make_config(), on_describe=unlike))


def test_enrol__names_the_column_that_differs_before_anything_is_trained() -> None:
    there = ColumnShape(name="age", kind="numeric", magnitude=6)
    also = ColumnShape(name="dose", kind="numeric", magnitude=4)
    told = dict.fromkeys(NAMES, (there, also)) | {"delta": (there,)}
    described = {
        name: partial(flower.description_reply, replace(description(), schema=schema))
        for name, schema in told.items()
    }
    parties = Parties(make_config(), on_describe=described)
    with pytest.raises(DataError, match="column 'dose': is missing at delta and there at alpha"):
        federate(parties)
    assert parties.trained == []


def test_enrol__notes_other_units_and_goes_on() -> None:
    told = {name: ColumnShape(name="age", kind="numeric", magnitude=6) for name in NAMES}
    told["bravo"] = ColumnShape(name="age", kind="numeric", magnitude=14)
    described = {
        name: partial(flower.description_reply, replace(description(), schema=(column,)))
        for name, column in told.items()
    }
    (note,) = federate(Parties(make_config(), on_describe=described)).enrolment.notes
    assert "column 'age': its numbers at bravo differ" in note


def test_enrol__refuses_a_silent_node() -> None:
    with pytest.raises(ProtocolError, match="no answer in time") as caught:
        federate(Parties(make_config(), lost={("query", "delta")}), Admission(seconds=0.1))
    assert caught.value.exit_code == 4


def test_enrol__refuses_a_model_that_cannot_be_trained_privately() -> None:
    mixing = private("model.architecture=mlp", "model.norm=batch")
    with pytest.raises(ConfigError, match=r"BatchNorm1d.*LayerNorm"):
        federate(mixing)


def test_enrol__waits_for_as_many_nodes_as_it_needs() -> None:
    with pytest.raises(ProtocolError, match="4 of at least 5 sites"):
        federate(Parties(make_config("strategy.min_sites=5")), Admission(seconds=0.3))


def test_enrol__starts_without_the_late_once_there_are_enough() -> None:
    found = federate(Parties(make_config()), Admission(seconds=0.3, wanted=7))
    assert len(found.enrolment.sites) == 4


def test_enrol__refuses_other_code_and_names_both() -> None:
    with pytest.raises(ProtocolError) as caught:
        federate(Parties(make_config()), Admission(version="9.9", code="ab" * 32))
    assert all(f"{name} runs fedlearn" in str(caught.value) for name in NAMES)
    assert f"the coordinator 9.9 ({'ab' * 8})" in str(caught.value)


# --- Rounds -----------------------------------------------------------------------


def test_round__averages_the_replies_and_pools_the_evaluation() -> None:
    federation = federate(Parties(make_config()))
    entry = federation.run_round(1)
    np.testing.assert_allclose(federation.progress.model, federation.enrolment.initial + 2.5)
    assert (entry.clients.invited, entry.clients.replied, entry.clients.dropped) == (4, 4, {})
    assert entry.evaluate["accuracy"] == 0.5
    assert entry.loss == pytest.approx(-np.log([0.8, 0.3]).mean())
    assert entry.bytes["up"] > 0 < entry.bytes["down"]
    assert entry.epsilon == {}
    assert federation.progress.rounds == [entry]


def test_round__goes_on_without_the_dropped_and_names_them() -> None:
    parties = Parties(
        make_config(),
        lost={("train", "delta")},
        on_train={"bravo": lambda _: refuse(1, "diverged")},
    )
    federation = federate(parties)
    entry = federation.run_round(1)
    assert entry.clients.replied == 2
    assert entry.clients.dropped == {"delta": "no answer in time", "bravo": "diverged"}
    np.testing.assert_allclose(federation.progress.model, federation.enrolment.initial + 2.5)


def test_round__below_the_quorum_ends_the_run_and_releases_nothing() -> None:
    silent = {("train", name) for name in ("alpha", "bravo", "delta")}
    federation = federate(Parties(make_config("strategy.min_sites=2"), lost=silent))
    with pytest.raises(
        ProtocolError, match=r"1 usable replies, and strategy\.min_sites=2"
    ) as caught:
        federation.run_round(1)
    assert caught.value.exit_code == 4
    assert "delta: no answer in time" in str(caught.value)
    assert (federation.progress.model == federation.enrolment.initial).all()
    assert federation.progress.rounds == []


def test_round__takes_what_a_rule_has_chosen_among_single_updates() -> None:
    """A rule sees that one of them is far from the others, and what it says of its weight."""

    def far(message: Message) -> RecordDict:
        model = flower.read_train_request(message).model + np.float32(1e6)
        return flower.train_reply(TrainReply(site="delta", model=model, weight=1e6, spent=()))

    federation = federate(Parties(make_config("robust=median"), on_train={"delta": far}))
    assert federation.rule == "median"
    federation.run_round(1)
    moved = np.median([1e6 if name == "delta" else i + 1 for i, name in enumerate(NAMES)])
    np.testing.assert_allclose(
        federation.progress.model, federation.enrolment.initial + moved, rtol=1e-5
    )


def test_round__with_fewer_updates_than_a_rule_needs_ends_the_run() -> None:
    silent = {("train", name) for name in ("alpha", "bravo")}
    federation = federate(Parties(make_config("robust=trimmed_mean"), lost=silent))
    with pytest.raises(ProtocolError, match=r"2 usable replies, and robust=trimmed_mean needs 3"):
        federation.run_round(1)


def test_run__with_fewer_sites_than_a_rule_needs_does_not_begin() -> None:
    parties = Parties(make_config("robust=krum"))
    enrolment = enrol(parties.grid(), parties.config, lambda: False, bytes(16))
    with pytest.raises(ConfigError, match=r"robust=krum: assumes .* takes 5 sites"):
        secagg_driver(enrolment, parties.config, None, bytes(16))


@pytest.mark.parametrize(("code", "error"), [(2, ConfigError), (3, PrivacyError), (5, DataError)])
def test_round__refused_below_the_quorum_carries_the_exit_code(
    code: int, error: type[FedlearnError]
) -> None:
    parties = Parties(make_config(), on_train={name: lambda _: refuse(code) for name in NAMES[:3]})
    federation = federate(parties)
    with pytest.raises(error) as caught:
        federation.run_round(1)
    assert caught.value.exit_code == code


def test_round__evaluates_when_asked_and_after_the_last() -> None:
    federation = federate(Parties(make_config("evaluate_every=2")))
    evaluated = [bool(federation.run_round(number).evaluate) for number in (1, 2, 3)]
    assert evaluated == [False, True, True]


def test_round__invites_a_share_that_changes_by_round_and_repeats_with_the_seed() -> None:
    def cohorts(seed: int) -> list[list[str]]:
        parties = Parties(make_config("strategy.fraction=0.5", "rounds=12", f"seed={seed}"))
        federation = federate(parties)
        for number in range(1, 13):
            federation.run_round(number)
        return [parties.trained[2 * i : 2 * i + 2] for i in range(12)]

    first = cohorts(0)
    assert first == cohorts(0)
    assert first != cohorts(1)
    assert all(cohort == sorted(set(cohort)) and len(cohort) == 2 for cohort in first)
    assert {name for cohort in first for name in cohort} == set(NAMES)


# --- Privacy ----------------------------------------------------------------------


def expected(parties: Parties, rounds: int) -> float:
    assert parties.event is not None
    return epsilon([parties.event] * rounds, parties.config.privacy.delta)  # type: ignore[union-attr]


def test_epsilon__grows_over_rounds_as_one_history_and_never_restarts() -> None:
    parties = private()
    federation = federate(parties)
    found = [federation.run_round(number).epsilon for number in (1, 2, 3)]
    for rounds, by_site in enumerate(found, start=1):
        assert by_site == {name: pytest.approx(expected(parties, rounds)) for name in sorted(NAMES)}
    # An accountant that began anew each round would report the first number three times.
    assert found[2]["alpha"] > 1.3 * found[0]["alpha"]  # type: ignore[operator]
    assert found[2]["alpha"] <= 4.0  # type: ignore[operator]


def test_epsilon__counts_a_round_of_the_silent_and_the_failed_and_not_of_those_who_refused() -> (
    None
):
    def crash(message: Message) -> RecordDict:
        raise ZeroDivisionError

    parties = private("strategy.min_sites=1")
    parties.lost = {("train", "delta")}
    parties.on_train = {
        "alpha": crash,
        "bravo": lambda _: refuse(3, "spent"),
    }
    federation = federate(parties)
    found = [federation.run_round(number).epsilon for number in (1, 2)]
    for rounds, by_site in enumerate(found, start=1):
        cost = pytest.approx(expected(parties, rounds))
        assert by_site == {"alpha": cost, "charlie": cost, "delta": cost}


def test_epsilon__believes_a_site_that_has_spent_more_than_was_seen() -> None:
    """A restarted coordinator takes over what the ledger of the site says."""
    parties = private()
    assert parties.event is not None
    parties.spent["alpha"] = (parties.event,) * 5
    entry = federate(parties).run_round(1)
    assert entry.epsilon["alpha"] == pytest.approx(expected(parties, 6))
    assert entry.epsilon["bravo"] == pytest.approx(expected(parties, 1))


@pytest.mark.parametrize("error", [ProtocolError("superlink", "call", "lost"), StoppedError("now")])
def test_epsilon__counts_a_round_whose_replies_were_lost_with_the_superlink_or_a_stop(
    monkeypatch: pytest.MonkeyPatch, error: FedlearnError
) -> None:
    """Sites have trained and paid, and one that never comes back would never say so."""
    parties = private()
    federation = federate(parties)
    federation.run_round(1)

    def lost(ids: object) -> Any:
        if parties.trained.count("alpha") == 2:
            raise error
        return pull(ids)

    pull: Any = federation.grid.inner.pull_messages
    monkeypatch.setattr(federation.grid.inner, "pull_messages", lost)
    with pytest.raises(type(error)):
        federation.run_round(2)
    cost = pytest.approx(expected(parties, 2))
    assert federation.epsilons() == dict.fromkeys(sorted(NAMES), cost)
    monkeypatch.undo()
    # Who comes back says what it has spent: the lost round counts once.
    found = federation.run_round(2).epsilon
    assert found == dict.fromkeys(sorted(NAMES), pytest.approx(expected(parties, 3)))


def test_epsilon__counts_private_test_figures_that_were_lost_on_their_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The round is kept without them, and they were paid for all the same."""
    parties = Parties(make_config(*PRIVATE, "rounds=1", "evaluation=private"))
    federation = federate(parties)
    plan = federation.plan
    assert plan is not None
    assert plan.evaluation is not None
    pull: Any = federation.grid.inner.pull_messages

    def lost(ids: object) -> Any:
        if parties.tested:
            raise ProtocolError("superlink", "call", "lost")
        return pull(ids)

    monkeypatch.setattr(federation.grid.inner, "pull_messages", lost)
    entry = federation.run_round(1)
    assert entry.evaluate == {}
    paid = epsilon([plan.round_event, plan.evaluation.event_at(1)], plan.delta)
    assert federation.epsilons() == dict.fromkeys(sorted(NAMES), pytest.approx(paid))


def test_epsilon__of_sites_that_were_not_invited_stays() -> None:
    federation = federate(private("strategy.fraction=0.5"))
    entry = federation.run_round(1)
    assert len(entry.epsilon) == 2


def test_budget__ends_the_run_for_all_unless_the_site_may_be_dropped() -> None:
    def federation(config: RunConfig) -> Federation:
        parties = private()
        return federate(
            Parties(config, event=parties.event, on_train={"bravo": lambda _: refuse(3, "spent")})
        )

    with pytest.raises(PrivacyError, match="spent"):
        federation(make_config(*PRIVATE, "privacy.on_exhausted=stop")).run_round(1)
    dropped = federation(make_config(*PRIVATE)).run_round(1).clients.dropped
    assert dropped == {"bravo": "spent"}


def test_layout__of_the_run_is_that_of_its_model() -> None:
    federation = federate(Parties(make_config()))
    task = federation.enrolment.task
    model = models.build(federation.config.model, task, Streams(0)).model
    assert layout_of(model).digest() == federation.enrolment.layout.digest()
