"""A coordinator or a relay cannot have a site act under terms that it has not joined."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedlearn.config import RunConfig, decode, encode
from fedlearn.config.study import OF_ONE_MACHINE, study_text
from fedlearn.core.errors import PrivacyError, ProtocolError
from fedlearn.crypto.identity import Identity
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.records import arrays_of, vector_of
from fedlearn.rounds import TermsOffer
from server.deployment import composed
from server.federation import Federation
from tests.attacks.lab import SITES, STRICT, STUDY, Lab

VICTIM, LAST = SITES[0], SITES[-1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab.make(tmp_path_factory.mktemp("lab"))


def loosened(config: RunConfig) -> RunConfig:
    """What a relay would like a site to believe: nothing is masked, sealed or noised."""
    words = [word for word in STUDY if not word.startswith("privacy")]
    return composed([*words, "secagg=off", "transport=plain", "privacy=none", f"out={config.out}"])


def test_honest_study__trains(lab: Lab) -> None:
    federation = lab.again().federate()
    federation.run_round(1)
    assert not np.array_equal(federation.progress.model, federation.enrolment.initial)
    assert {lab.spent_at(site) for site in SITES} == {1}


def test_relay__that_rewrites_the_config_of_a_site_gets_no_answer_of_it(lab: Lab) -> None:
    attacked = lab.again(**{VICTIM: loosened(lab.config)})
    with pytest.raises(ProtocolError, match="could not be authenticated"):
        attacked.federate()
    assert [(kind, site) for kind, site, _ in attacked.refused] == [("hello", VICTIM)]


def test_hello__is_answered_to_the_pinned_coordinator_alone(lab: Lab) -> None:
    terms = lab.config.terms
    stranger = Identity.new().sign("study/terms", terms).hex()
    for offer in (
        TermsOffer(terms=terms.hex()),
        TermsOffer(terms=terms.hex(), signature=stranger),
        TermsOffer(terms=bytes(32).hex(), signature=lab.identity.sign("study/terms", terms).hex()),
        TermsOffer(terms="no hex", signature="no hex"),
    ):
        answer = lab.again().ask(flower.HELLO, VICTIM, flower.hello_request(offer))
        refusal = flower.read_refusal(answer)
        assert refusal is not None
        assert refusal.reason == f"site {VICTIM}: message could not be authenticated"
    answer = lab.again().ask(flower.HELLO, VICTIM, RecordDict())
    assert flower.read_refusal(answer) is not None


@pytest.mark.parametrize("kind", ["query.describe", "query.afford", "train", "evaluate"])
def test_site__touches_no_record_for_anybody_before_it_has_joined(
    tmp_path: Path, kind: str
) -> None:
    lab = Lab.make(tmp_path)
    for name in SITES:  # no table: who reads it fails in another way
        (tmp_path / name / "table.csv").unlink()
    note = {"terms": lab.config.terms.hex(), "run-id": "00" * 16, "server-round": 1, "cohort": 4}
    content = RecordDict({"config": ConfigRecord(note)})
    refusal = flower.read_refusal(lab.ask(kind, VICTIM, content))
    assert refusal is not None
    assert "table.csv" not in refusal.reason
    assert not lab.opened()


ALTERED: dict[str, Callable[[ConfigRecord], None]] = {
    "other terms": lambda note: note.update({"terms": "00" * 32}),
    "another run": lambda note: note.update({"run-id": "11" * 16}),
    "a round beyond the promise": lambda note: note.update({"server-round": 3}),
    "a round before the first": lambda note: note.update({"server-round": 0}),
    "no cohort": lambda note: note.pop("cohort"),
    "no terms": lambda note: note.pop("terms"),
}


@pytest.mark.parametrize("how", ALTERED)
def test_coordinator__that_asks_for_what_was_not_joined_is_refused_and_nothing_is_spent(
    tmp_path: Path, how: str
) -> None:
    lab = Lab.make(tmp_path)
    federation = lab.federate()
    honest = federation.messages

    def lying(*arguments: Any, **options: Any) -> list[Message]:
        messages = honest(*arguments, **options)
        for message in messages:
            ALTERED[how](message.content.config_records["config"])
        return messages

    federation.messages = lying  # type: ignore[method-assign]
    with pytest.raises(ProtocolError):
        federation._train(1, list(SITES))
    assert {lab.spent_at(site) for site in SITES} == {0}


def sum_of_one(lab: Lab, change: Callable[[Message], Message]) -> None:
    """A round in which the coordinator asks everybody but the victim for something else."""
    federation = lab.federate()
    honest = federation.messages

    def lying(*arguments: Any, **options: Any) -> list[Message]:
        messages = honest(*arguments, **options)
        victim = federation.grid.node_of[VICTIM]
        return [m if m.metadata.dst_node_id == victim else change(m) for m in messages]

    federation.messages = lying  # type: ignore[method-assign]
    with pytest.raises(ProtocolError, match="replied"):
        federation._train(1, list(SITES))


def with_note(message: Message, **values: float | str) -> Message:
    """The request with another note."""
    note = ConfigRecord({**message.content.config_records["config"], **values})
    return private.with_content(message, RecordDict({**message.content, "config": note}))


def test_masked_sum__is_of_nobody_where_the_others_clip_at_another_norm(tmp_path: Path) -> None:
    sum_of_one(Lab.make(tmp_path), lambda message: with_note(message, **{"clip-norm": 1e-9}))


def test_masked_sum__is_of_nobody_where_the_others_get_another_model(tmp_path: Path) -> None:
    def shifted(message: Message) -> Message:
        vector = vector_of(message.content.array_records["arrays"])
        arrays = arrays_of(vector + np.float32(1))
        return private.with_content(message, RecordDict({**message.content, "arrays": arrays}))

    sum_of_one(Lab.make(tmp_path), shifted)


@pytest.mark.parametrize(
    "other",
    [
        "training.learning_rate=1e-9",
        "scenario.drop=[name,age,pressure]",
        "seed=7",
        "strategy.proximal_mu=9",
    ],
)
def test_site__that_was_shown_other_terms_never_joins(tmp_path: Path, other: str) -> None:
    words = [*STUDY, *(("strategy=fedprox",) if "mu" in other else ()), other]
    lab = Lab.make(tmp_path)
    shown = replace(composed(words), out=lab.config.out)
    attacked = lab.again(**dict.fromkeys(SITES[1:], shown))
    with pytest.raises(ProtocolError, match="could not be authenticated"):
        attacked.federate()


@pytest.mark.parametrize("transport", ["sealed", "plain"])
@pytest.mark.parametrize("kind", ["train.default", "evaluate.default"])
def test_other_names_of_a_handler__are_none_of_the_protocols(
    tmp_path: Path, transport: str, kind: str
) -> None:
    policy = STRICT.replace("sealed", "null").replace("masked", "null")
    lab = Lab.make(tmp_path, f"transport={transport}", "secagg=off", policy=policy)
    federation = lab.federate()
    note = federation.note(1, len(SITES))
    arrays = arrays_of(federation.enrolment.initial)
    content = RecordDict({"arrays": arrays, "config": flower.note_of(note)})
    refusal = flower.read_refusal(lab.ask(kind, VICTIM, content))
    assert refusal is not None
    assert lab.spent_at(VICTIM) == 0


def test_site__takes_no_clip_norm_that_is_not_the_plans(tmp_path: Path) -> None:
    policy = STRICT.replace("unit: record", "unit: client")
    words = [word for word in STUDY if not word.startswith("privacy")]
    config = composed([*words, "privacy=client", "privacy.epsilon=4", "privacy.clip_norm=0.01"])
    lab = Lab.make(tmp_path, policy=policy)
    lab = lab.again(replace(config, out=lab.config.out))
    federation = lab.federate()
    honest = federation.note
    federation.note = lambda *of: replace(honest(*of), clip_norm=1e4)  # type: ignore[method-assign]
    with pytest.raises(ProtocolError):
        federation._train(1, list(SITES))
    assert {lab.spent_at(site) for site in SITES} == {0}


@pytest.mark.slow
def test_site__says_that_a_model_is_another_one_and_nothing_is_spent(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path)
    federation = lab.federate()
    honest = federation.messages
    federation.messages = (  # type: ignore[method-assign]
        lambda kind, note, before, *rest: honest(kind, note, before[:-2], *rest)
    )
    with pytest.raises(ProtocolError, match="the request is none that the site expects"):
        federation._train(1, list(SITES))
    assert {lab.spent_at(site) for site in SITES} == {0}


def test_model__that_is_not_the_announced_one_is_not_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under masks it is refused all the same; and a site that has paid has trained for nothing."""
    lab = Lab.make(tmp_path)
    federation = lab.federate()
    monkeypatch.setattr("server.federation.request_digest", lambda *of: bytes(32))
    with pytest.raises(ProtocolError, match="the request is none that the site expects"):
        federation.run_round(1)
    assert {lab.spent_at(site) for site in SITES} == {0}


def test_run__that_the_coordinator_has_not_signed_is_not_joined(tmp_path: Path) -> None:
    """A relay that has the coordinator's terms cannot start runs of its own under them."""
    lab = Lab.make(tmp_path)

    def another_run(kind: str, site: str, message: Message) -> Message:
        if kind != "join":
            return message
        told = replace(flower.read_invitation(message), run_id="11" * 16, helper="22" * 32)
        return private.with_content(message, flower.invitation(told))

    lab.on_request = another_run
    with pytest.raises(ProtocolError, match="could not be authenticated"):
        lab.federate()


# --- The terms themselves -----------------------------------------------------------


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the plain values of a config are."""
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in leaves(value, (*path, key))]
    return [path]


def test_terms__change_with_every_value_of_a_config_that_is_not_of_one_machine(lab: Lab) -> None:
    tree = json.loads(encode(lab.config))
    before = study_text(tree)
    for path in leaves(tree):
        changed = json.loads(encode(lab.config))
        node = changed
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = [node[path[-1]], "other"]
        free = path[0] in OF_ONE_MACHINE and path != ("engine", "threads")
        assert (study_text(changed) == before) == free, path


def test_terms__are_the_same_at_both_ends_of_a_round_trip(lab: Lab) -> None:
    assert decode(RunConfig, encode(lab.config)).terms == lab.config.terms
    moved = replace(lab.config, out="elsewhere", resume=True)
    assert moved.terms == lab.config.terms
    assert replace(lab.config, rounds=3).terms != lab.config.terms


def test_ledger__says_under_which_terms_was_spent(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path)
    lab.federate().run_round(1)
    assert f'"terms":"{lab.config.terms.hex()}"' in lab.world.ledger(VICTIM).read_text().replace(
        ": ", ":"
    )


@pytest.mark.parametrize("said", [4, 3])
def test_cohort__is_that_of_the_masks_and_not_what_a_note_says(
    tmp_path: Path, said: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of four sites may lie here, and the owner asks for a half: two, but one of three."""
    policy = STRICT + "  min_corrupt_fraction: 0.5\n"
    words = ("secagg.corrupt_fraction=0.0", "secagg.corrupt_sites=1")
    lab = Lab.make(tmp_path, *words, policy=policy)
    federation, note = lab.federate(), Federation.note
    monkeypatch.setattr(Federation, "note", lambda self, number, _: note(self, number, said))
    with pytest.raises(PrivacyError, match=r"policy\.min_corrupt_fraction"):
        federation.run_round(1)
    assert {lab.spent_at(site) for site in SITES} == {0}
