"""What secure aggregation and sealing promise, kept by the real apps under a hostile network."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clients import secagg, work
from clients.ledger.report import verify
from clients.site import TEST_NOISE
from fedlearn.agreement import protocol_round
from fedlearn.config import RunConfig
from fedlearn.core.errors import ConfigError, FedlearnError, ProtocolError
from fedlearn.core.ring import Ring
from fedlearn.core.rng import Streams
from fedlearn.core.vector import vector_digest
from fedlearn.crypto.keystream import SecureWords
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.records import arrays_of, large_bytes, vector_of
from fedlearn.rounds import Refusal
from fedlearn.secagg.messages import Params
from fedlearn.secagg.settings import SecAggRing, fixed_point_of
from server.run import Silent
from server.run import run as run_server
from server.stop import Stop
from simulations.run import simulate
from tests.effort import examples

from .relay import (
    RUN_ID,
    Relay,
    Step,
    config_of,
    federate,
    flipped,
    with_blob,
)

# Whole runs: too long for the fast gate.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("heart_archive")]

STEPS = ("advertise", "share", "train", "agree", "unmask")
"""The five steps of the protocol; the vector travels in reply to `train`."""
HOSPITALS = ("cleveland", "hungary", "switzerland", "va_long_beach")
LAST = HOSPITALS[-1]
SEVEN = ("partition=iid", "partition.num_sites=7", "evaluation=pooled")
OPAQUE = "message could not be authenticated"


def result_of(folder: Path, *overrides: str) -> dict[str, Any]:
    config = config_of(folder, *overrides)
    simulate(config, Silent(), Stop())
    return read(folder)


def read(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


@pytest.fixture(autouse=True)
def seeded_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TEST_NOISE, "7")


# --- One model, whatever protects it ------------------------------------------------


MODES = [
    *(("off", "plain"), ("off", "sealed"), ("ring", "plain"), ("ring", "sealed")),
    *(("masked", "plain"), ("masked", "sealed"), ("two_server", "plain"), ("two_server", "sealed")),
]


@pytest.mark.parametrize(("privacy", "rounds"), [("none", 2), ("record", 1)])
def test_modes__give_the_same_model_bit_for_bit(tmp_path: Path, privacy: str, rounds: int) -> None:
    shas: dict[str, set[str]] = {"sum": set(), "off": set()}
    for masks, transport in MODES:
        options = (f"secagg={masks}", f"transport={transport}", f"privacy={privacy}")
        result = result_of(
            tmp_path / masks / transport, f"rounds={rounds}", "evaluate_every=2", *options
        )
        rule = "none" if masks == "off" else "bounded"
        held = {"secagg": masks, "transport": transport, "robust": rule}
        assert result["protection"].items() >= held.items()
        shas["off" if masks == "off" else "sum"].add(result["model"]["sha256"])
    assert len(shas["sum"]) == 1
    assert len(shas["off"]) == 1, "sealing changes nothing"


def trained_in_clear(config: RunConfig, number: int = 1) -> dict[str, tuple[Any, int]]:
    """Every site's change of the first model and its weight, from a run in clear."""
    relay, found = Relay(config), {}
    federation = federate(config, relay)

    def note(step: Step, reply: Message) -> Message:
        if step[0] == "train":
            model = vector_of(reply.content.array_records["arrays"])
            weight = reply.content.metric_records["metrics"][flower.WEIGHT]
            found[step[1]] = (model - federation.enrolment.initial, int(float(str(weight))))
        return reply

    relay.on_reply = note
    federation.run_round(number)
    return found


def mean_by_hand(
    config: RunConfig, initial: NDArray[np.float32], changes: dict[str, tuple[Any, int]]
) -> NDArray[np.float32]:
    """Quantised changes, summed as Python integers, over the sum of weights: no ring, no lanes."""
    rule = fixed_point_of(SecAggRing(bits=32, clip=2.0, resolution=2.0**-16))
    total, weights = [0] * initial.size, 0
    for name, (change, weight) in changes.items():
        words = SecureWords(rounding_key(config, name))
        # Two lanes of 32 bits: the first half of the values is rounded first.
        half = -(-change.size // 2)
        rounded = [
            rule.encode(part, 1, Ring(bits=64), words).astype(np.int64)
            for part in (change[:half], change[half:])
        ]
        total = [t + weight * int(q) for t, q in zip(total, np.concatenate(rounded), strict=True)]
        weights += weight
    means = [t * 2.0**-16 / weights for t in total]
    return (initial.astype(np.float64) + np.array(means)).astype(np.float32)


def rounding_key(config: RunConfig, name: str) -> bytes:
    number = Streams(config.seed).key("rounding", name, "train", 1)
    return hashlib.sha256(number.to_bytes(16, "little")).digest()


@pytest.mark.parametrize("privacy", ["none", "record"])
def test_masked__is_the_mean_of_what_off_sends_after_quantisation(
    tmp_path: Path, privacy: str
) -> None:
    # What honest sums need shapes the ring, and a private step: it is none of the arithmetic.
    plain = ("transport=plain", "rounds=1", f"privacy={privacy}", "robust=none")
    off = config_of(tmp_path / "off", "secagg=off", *plain)
    changes = trained_in_clear(off)
    weights = {weight for _, weight in changes.values()}
    assert len(weights) == (4 if privacy == "none" else 1), "weights differ, unless private"
    config = config_of(tmp_path / "masked", *plain)
    federation = federate(config, Relay(config))
    initial = federation.enrolment.initial
    federation.run_round(1)
    expected = mean_by_hand(config, initial, changes)
    assert vector_digest(federation.progress.model) == vector_digest(expected)
    assert not np.array_equal(expected, initial)


@pytest.mark.parametrize("strategy", ["fedprox", "fedadam", "fedyogi"])
def test_strategies__of_flower_work_unmodified_on_the_one_masked_mean(
    tmp_path: Path, strategy: str
) -> None:
    steps = "training.local_steps=2"  # the first step of FedProx is that of FedAvg
    shas = {
        result_of(tmp_path / secagg, f"strategy={strategy}", f"secagg={secagg}", steps)["model"][
            "sha256"
        ]
        for secagg in ("ring", "masked")
    }
    fedavg = result_of(tmp_path / "fedavg", "secagg=ring", "transport=plain", steps)
    assert len(shas) == 1
    assert fedavg["model"]["sha256"] not in shas


def test_pooled__opens_the_sum_of_the_metrics_and_no_single_one(tmp_path: Path) -> None:
    open_, pooled = (
        result_of(tmp_path / how, f"evaluation={how}") for how in ("per_site", "pooled")
    )
    assert set(open_["final"]["per_site"]) == set(HOSPITALS)
    assert pooled["final"]["per_site"] == {}
    assert pooled["final"]["worst_site"] is None
    # Counts are summed exactly, the loss in whole 2^-20 nats.
    assert pooled["final"]["evaluate"] == pytest.approx(open_["final"]["evaluate"], abs=1e-6)
    assert pooled["model"]["sha256"] == open_["model"]["sha256"]


# --- Dropping out -------------------------------------------------------------------


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, int]]:
    """What seven sites compute in the first round."""
    folder = tmp_path_factory.mktemp("seven")
    return trained_in_clear(
        config_of(folder, *SEVEN, "secagg=off", "transport=plain", "evaluation=per_site")
    )


@settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_dropouts__within_the_threshold_leave_the_exact_sum_of_the_survivors(
    seven: dict[str, tuple[Any, int]], tmp_path: Path, data: st.DataObject
) -> None:
    config = config_of(tmp_path, *SEVEN, "transport=plain")
    relay = Relay(config)
    federation = federate(config, relay)
    initial = federation.enrolment.initial
    # Four of six neighbours open a survivor's secret: with seven sites, two may vanish.
    gone = data.draw(st.lists(st.sampled_from(sorted(seven)), max_size=2, unique=True))
    lost = [(data.draw(st.sampled_from(STEPS)), name) for name in gone]
    relay.lose(*lost, late=data.draw(st.booleans(), label="late"))
    entry_of, _ = federation._train(1, sorted(seven))
    survivors = [n for n in seven if not any(lost_at(n, s, lost) for s in STEPS[:3])]
    assert sorted(entry_of.answers) == sorted(survivors)
    assert entry_of.failures == dict.fromkeys(gone, "no answer in time")
    expected = mean_by_hand(config, initial, {name: seven[name] for name in survivors})
    assert np.array_equal(federation.progress.model, expected)


def test_dropouts__who_are_gone_in_training_are_not_waited_for_in_the_sum_of_tests(
    tmp_path: Path,
) -> None:
    # Of seven sites three are one too many for masks that count on all of them.
    config = config_of(tmp_path, *SEVEN, "transport=plain", "evaluation=pooled", "privacy=record")
    relay = Relay(config)
    federation = federate(config, relay)
    gone = relay.names[:3]
    relay.lose(*((step, name) for step in ("afford", *STEPS) for name in gone))
    entry = federation.run_round(1)
    assert set(entry.clients.dropped) == set(gone)
    assert entry.evaluate
    assert federation.progress.tested is not None
    assert federation.progress.tested.count > 0


def lost_at(name: str, step: str, lost: list[Step]) -> bool:
    return (step, name) in lost


@pytest.mark.parametrize("transport", ["plain", "sealed"])
@pytest.mark.parametrize("step", STEPS)
def test_dropouts__beyond_the_threshold_release_nothing(
    tmp_path: Path, step: str, transport: str
) -> None:
    config = config_of(tmp_path / "run", f"transport={transport}", "privacy=record")
    relay = Relay(config, reports=True)
    # After the vectors two of four can open the sum; one alone cannot.
    relay.lose(*((step, name) for name in HOSPITALS[: 3 if step in ("agree", "unmask") else 2]))
    with pytest.raises(ProtocolError, match=r"No partial sum|share") as caught:
        run_server(relay, config, Silent(), Stop())
    assert caught.value.exit_code == 4
    assert HOSPITALS[0] in str(caught.value)
    result = read(tmp_path / "run")
    assert (result["status"], result["rounds"]) == ("failed", [])
    initial = federate(config, Relay(config)).enrolment.initial
    assert result["model"]["sha256"] == vector_digest(initial)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    # Who got the model has paid for a round; who vanished before has not.
    asked = {name for kind, name in relay.asked if kind == "train"}
    assert bool(asked) == (step not in ("advertise", "share"))
    ledgers = (tmp_path / "run").glob("sites/*/ledger.jsonl")
    assert {path.parent.name for path in ledgers if verify(path).spent} == asked


@pytest.mark.parametrize(("step", "spent"), [("share", 0), ("train", 1), ("unmask", 1)])
def test_dropouts__a_failed_round_counts_as_spent_where_the_model_was_sent(
    tmp_path: Path, step: str, spent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path / "run", "privacy=record", "transport=plain")
    relay = Relay(config)
    federation = federate(config, relay)
    relay.lose(*((step, name) for name in HOSPITALS[1:]), late=True)
    with pytest.raises(ProtocolError):
        federation.run_round(1)
    steps = {
        name: sum(event.steps for event in events)
        for name, events in federation.progress.spent.items()
    }
    assert steps == (dict.fromkeys(HOSPITALS, 1) if spent else {})


def test_two_server__goes_on_without_who_vanished_and_stops_below_three(tmp_path: Path) -> None:
    for gone, code in ((1, None), (2, 4)):
        config = config_of(tmp_path / str(gone), "secagg=two_server", "transport=plain")
        relay = Relay(config)
        federation = federate(config, relay)
        relay.lose(*(("train", name) for name in HOSPITALS[:gone]))
        if code is None:
            assert federation.run_round(1).clients.replied == 3
            continue
        silent = r"2 clients.*cleveland, hungary: no answer"
        with pytest.raises(ProtocolError, match=silent) as caught:
            federation.run_round(1)
        assert caught.value.exit_code == code


@pytest.mark.parametrize("secagg", ["masked", "two_server"])
@pytest.mark.parametrize(
    "cohort", [["partition=iid", "partition.num_sites=2"], ["strategy.fraction=0.5"]]
)
def test_cohort__of_two_is_refused_before_anything_is_trained(
    tmp_path: Path, secagg: str, cohort: list[str]
) -> None:
    config = config_of(tmp_path / "run", f"secagg={secagg}", "privacy=record", *cohort)
    relay = Relay(config)
    with pytest.raises(ConfigError, match=r"at least 3|min_cohort=3"):
        run_server(relay, config, Silent(), Stop())
    assert {kind for kind, _ in relay.asked} == {"hello", "join", "describe"}
    assert not (tmp_path / "run").exists()


# --- Sites that fail or break the protocol ---------------------------------------------


@pytest.mark.parametrize("options", [("secagg=off",), ("transport=plain",), ()])
def test_failing_site__is_left_out_and_the_text_of_its_error_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    honest = work.train

    def fails_at_hungary(model: Any, features: Any, *rest: Any, **options: Any) -> None:
        if len(features) == sizes["hungary"]:
            raise IndexError("record 4711 of Jane Doe")
        honest(model, features, *rest, **options)

    config = config_of(tmp_path / "run", "rounds=1", *options)
    relay = Relay(config)
    sizes = {
        name: hello.train_records for name, hello in federate(config, relay).enrolment.sites.items()
    }
    monkeypatch.setattr(work, "train", fails_at_hungary)
    relay = Relay(config)
    federation = federate(config, relay)
    entry = federation.run_round(1)
    assert entry.clients.dropped == {"hungary": "its app failed (IndexError)"}
    assert not any(b"Jane Doe" in data for data in relay.carried)


def garbage(data: bytes) -> bytes:
    return bytes(np.random.default_rng(0).bytes(len(data)))


BREACHES = {
    "garbage": garbage,
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\x00",
    "empty": lambda data: b"",
    "one bit at the end": lambda data: flipped(data, -1),
    "one bit of the context": lambda data: flipped(data, 100),
}


@pytest.mark.parametrize("step", STEPS)
def test_site_that_breaks_the_protocol__is_left_out_of_that_round_and_named(
    tmp_path: Path, step: str
) -> None:
    config = config_of(tmp_path, "rounds=20", "transport=plain")
    relay = Relay(config)
    federation = federate(config, relay)
    for number, (how, breach) in enumerate(BREACHES.items(), start=1):
        if how == "one bit at the end" and step in ("share", "train", "unmask"):
            continue  # a valid message: that site's own shares or values
        relay.on_reply = lambda found, reply, breach=breach: (
            with_blob(reply, breach) if found == (step, LAST) else reply
        )
        replies, _ = federation._train(number, HOSPITALS)
        assert set(replies.failures) == {LAST}, how
        # After its vector is in the sum, a site can only fall silent.
        assert (LAST in replies.answers) == (step in ("agree", "unmask"))


@pytest.mark.parametrize("step", STEPS)
def test_reply_of_the_round_before__is_refused(tmp_path: Path, step: str) -> None:
    config = config_of(tmp_path, "transport=plain")
    relay = Relay(config)
    federation = federate(config, relay)
    kept: list[RecordDict] = []

    def repeat(found: Step, reply: Message) -> Message:
        if found != (step, LAST):
            return reply
        kept.append(reply.content)
        return private.with_content(reply, kept[0])

    relay.on_reply = repeat
    assert federation._train(1, HOSPITALS)[0].failures == {}
    assert set(federation._train(2, HOSPITALS)[0].failures) == {LAST}


def record(**values: Any) -> ConfigRecord:
    return ConfigRecord(values)


UNREADABLE = {
    "nothing": RecordDict(),
    "refusal without text": RecordDict({"refusal": record(x=1)}),
    "refusal that is no JSON": RecordDict({"refusal": record(json="{")}),
    "bytes that are a text": RecordDict({"secagg": record(bytes="text")}),
    "record without bytes": RecordDict({"secagg": record(other=b"")}),
    "contribution of another name": RecordDict({"contribution": large_bytes("x", b"y")}),
    "contribution without spending": RecordDict(
        {"contribution": large_bytes("contribution", b"y")}
    ),
    "arrays without a model": RecordDict({"arrays": large_bytes("x", b"y")}),
    "metrics in the place of arrays": RecordDict({"metrics": record(count=1)}),
}


@pytest.mark.parametrize(
    ("secagg", "step"),
    [("masked", "share"), ("masked", "train"), ("off", "train"), ("ring", "train")],
)
def test_reply_that_cannot_be_read__is_that_sites_failure(
    tmp_path: Path, secagg: str, step: str
) -> None:
    config = config_of(tmp_path, "rounds=20", f"secagg={secagg}", "transport=plain")
    relay = Relay(config)
    federation = federate(config, relay)
    for number, (what, content) in enumerate(UNREADABLE.items(), start=1):
        relay.on_reply = lambda found, reply, content=content: (
            private.with_content(reply, content) if found == (step, LAST) else reply
        )
        replies, _ = federation._train(number, HOSPITALS)
        assert set(replies.failures) == {LAST}, what
        assert set(replies.answers) == set(HOSPITALS) - {LAST}


def test_metrics_of_another_shape__are_that_sites_failure(tmp_path: Path) -> None:
    config = config_of(tmp_path, "transport=plain", "rounds=1")
    relay = Relay(config)
    federation = federate(config, relay)

    def reshape(found: Step, reply: Message) -> Message:
        if found == ("evaluate", LAST):
            reply.content.metric_records["metrics"]["confusion"] = [0] * 9
        return reply

    relay.on_reply = reshape
    federation.run_round(1)
    assert set(federation.progress.per_site) == set(HOSPITALS) - {LAST}


@pytest.mark.parametrize("change", [{"site": "server"}, {"public_key": "00"}, {"site": "x" * 300}])
def test_enrol__refuses_names_and_keys_that_cannot_be(
    tmp_path: Path, change: dict[str, str]
) -> None:
    config = config_of(tmp_path)
    relay = Relay(config)

    def lie(found: Step, reply: Message) -> Message:
        if found == ("hello", LAST):
            hello = replace(flower.read_hello(reply.content), **change)
            return private.with_content(reply, flower.hello_reply(hello))
        return reply

    relay.on_reply = lie
    with pytest.raises(ProtocolError, match="cannot be read"):
        federate(config, relay)


# --- A server that lies ------------------------------------------------------------------


def other_model(message: Message) -> Message:
    """The train request with another model."""
    content = RecordDict(dict(message.content))
    vector = vector_of(content.array_records["arrays"]) + np.float32(1)
    content["arrays"] = arrays_of(vector)
    return private.with_content(message, content)


def other_announcement(message: Message) -> Message:
    """The parameters of the round, announcing that other model."""

    def change(data: bytes) -> bytes:
        return replace(Params.decode(data), request_hash=b"m" * 32).encode()

    return with_blob(message, change)


@pytest.mark.parametrize("announced", [False, True])
def test_server_that_shows_different_models__gets_no_sum(tmp_path: Path, announced: bool) -> None:
    config = config_of(tmp_path, "transport=plain")
    relay = Relay(config)
    federation = federate(config, relay)
    deceived = HOSPITALS[:2]

    def deceive(found: Step, message: Message) -> Message:
        if found[1] not in deceived:
            return message
        if found[0] == "advertise" and announced:
            return other_announcement(message)
        return other_model(message) if found[0] == "train" else message

    relay.on_request = deceive
    with pytest.raises(ProtocolError, match="No partial sum") as caught:
        federation.run_round(1)
    reason = "another round, model or setting" if announced else "not the one that was announced"
    assert f"{', '.join(deceived)}: " in str(caught.value)
    assert reason in str(caught.value)
    assert np.array_equal(federation.progress.model, federation.enrolment.initial)


@pytest.mark.parametrize("secagg", ["masked", "two_server"])
def test_request_in_clear__to_a_masking_site_is_refused_before_it_reads_a_record(
    tmp_path: Path, secagg: str
) -> None:
    config = config_of(
        tmp_path / "run", f"secagg={secagg}", "transport=plain", "privacy=record", "rounds=1"
    )
    relay = Relay(config)
    federation = federate(config, relay)

    def strip(found: Step, message: Message) -> Message:
        if found != ("train", LAST):
            return message
        content = {key: value for key, value in message.content.items() if key != "secagg"}
        return private.with_content(message, RecordDict(content))

    relay.on_request = strip
    replies, _ = federation._train(1, HOSPITALS)
    assert [(r.site, r.exit_code) for r in replies.refusals] == [(LAST, 4)]
    assert "in clear" in replies.refusals[0].reason
    assert not (tmp_path / "run" / "sites" / "va_long_beach").exists(), (
        "its ledger was not even opened"
    )
    assert (tmp_path / "run" / "sites" / "cleveland").exists()


def test_update_asked_for_out_of_order__is_refused_before_it_is_paid_for(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", "transport=plain", "privacy=record", "rounds=1")
    relay = Relay(config)
    federation = federate(config, relay)
    federation._train(1, HOSPITALS)
    [node] = [n for n, c in relay.contexts.items() if site_name(relay, n) == LAST]
    steps = spent_at(tmp_path / "run", LAST)
    requests = [
        flower.with_request(train_request(federation, node), b"x"),
        train_request(federation, node),
    ]
    for request in requests:
        refusal = flower.read_refusal(relay.app(request, relay.contexts[node]).content)
        assert refusal is not None
        assert refusal.exit_code == 4
    assert spent_at(tmp_path / "run", LAST) == steps


def site_name(relay: Relay, node: int) -> str:
    return relay.names[node - 1000]


def spent_at(folder: Path, site: str) -> int:
    return (folder / "sites" / site / "ledger.jsonl").read_text().count('"reserve"')


def train_request(federation: Any, node: int) -> Message:
    content = RecordDict(
        {
            "arrays": arrays_of(federation.enrolment.initial),
            "config": flower.note_of(federation.note(2, 4)),
        }
    )
    return private.set_message_id(Message(content, dst_node_id=node, message_type="train"), "m")


def test_second_invitation__is_refused_and_the_same_one_is_answered_alike(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    relay = Relay(config)
    joins: list[Message] = []
    relay.on_request = lambda found, message: (
        joins.append(message) or message if found[0] == "join" else message  # type: ignore[func-returns-value]
    )
    answers: list[RecordDict] = []
    relay.on_reply = lambda found, reply: (
        answers.append(reply.content) or reply if found[0] == "join" else reply  # type: ignore[func-returns-value]
    )
    federate(config, relay)
    context = relay.contexts[joins[0].metadata.dst_node_id]
    again = relay.app(joins[0], context)
    assert again.content == answers[0]
    # Somebody on the way, with a coordinator of its own.
    other = Relay(config)
    seen: list[Message] = []
    other.on_request = lambda found, message: (
        seen.append(message) or message if found[0] == "join" else message  # type: ignore[func-returns-value]
    )
    federate(config, other)
    refusal = flower.read_refusal(relay.app(seen[0], context).content)
    assert refusal is not None
    assert "second invitation" in refusal.reason


def test_site__that_broke_off_a_round_stays_out_of_it(tmp_path: Path) -> None:
    config = config_of(tmp_path, "transport=plain", "rounds=1")
    relay = Relay(config)
    federation = federate(config, relay)

    def twice(found: Step, message: Message) -> Message:
        if found == ("agree", LAST):
            node = message.metadata.dst_node_id
            bad = with_blob(message, garbage)
            relay.app(bad, relay.contexts[node])
        return message

    relay.on_request = twice
    replies, _ = federation._train(1, HOSPITALS)
    assert [(r.site, r.exit_code) for r in replies.refusals] == [(LAST, 4)]
    assert "closed" in replies.refusals[0].reason


# --- Somebody on the way -------------------------------------------------------------------


def test_sealed__nothing_of_a_model_or_a_metric_can_be_read_on_the_way(tmp_path: Path) -> None:
    readable: dict[str, list[bool]] = {}
    for transport in ("plain", "sealed"):
        config = config_of(tmp_path / transport, f"transport={transport}", "secagg=off", "rounds=1")
        relay = Relay(config)
        federation = federate(config, relay)
        after_join = len(relay.carried)
        federation.run_round(1)
        sums = federation.progress.per_site["cleveland"]
        secrets = [
            federation.enrolment.initial.tobytes(),
            federation.progress.model.tobytes(),
            np.float64(sums["loss"]).tobytes(),
            b"confusion",
            b"num-examples",
            b"server-round",
            b"cleveland",
        ]
        carried = b"".join(relay.carried[after_join:])
        readable[transport] = [secret in carried for secret in secrets]
    assert readable == {"plain": [True] * 7, "sealed": [False] * 7}


TAMPER = {
    "bit in the header": lambda m, old: with_blob(m, lambda data: flipped(data, 8 * 30)),
    "bit in the stream": lambda m, old: with_blob(m, lambda data: flipped(data, -200)),
    "last bit": lambda m, old: with_blob(m, lambda data: flipped(data, -1)),
    "cut": lambda m, old: with_blob(m, lambda data: data[:-1]),
    "replayed": lambda m, old: private.with_content(m, old),
    "huge length": lambda m, old: with_blob(
        m, lambda data: data[:76] + (2**62).to_bytes(8, "big") + data[84:]
    ),
    "in clear": lambda m, old: private.with_content(
        m, RecordDict({"config": ConfigRecord({"server-round": 2, "run-id": RUN_ID.hex()})})
    ),
}


@pytest.mark.parametrize("side", ["request", "reply"])
@pytest.mark.parametrize("secagg", ["off", "masked"])
def test_sealed__what_was_changed_on_the_way_is_refused_at_both_ends(
    tmp_path: Path, secagg: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, "rounds=20", f"secagg={secagg}")
    relay = Relay(config)
    federation = federate(config, relay)
    kept: list[RecordDict] = []
    trained: list[str] = []
    train = work.SiteRound.train
    monkeypatch.setattr(
        work.SiteRound, "train", lambda here: trained.append(here.site.name) or train(here)
    )
    for number, (how, act) in enumerate({"first": lambda m, old: m, **TAMPER}.items(), start=1):

        def hook(found: Step, message: Message, act: Any = act) -> Message:
            if found != ("train", LAST):
                return message
            kept.append(message.content)
            changed: Message = act(message, kept[0])
            return changed

        if side == "request":
            relay.on_request = hook
        else:
            relay.on_reply = hook
        assert federation.grid.sealing is not None
        federation.grid.sealing.round = number
        trained.clear()
        replies, _ = federation._train(number, HOSPITALS)
        assert replies.failures == ({} if how == "first" else {LAST: OPAQUE}), how
        # A request that was changed reaches no record; a reply that was changed reaches no sum.
        assert (LAST in trained) == (how == "first" or side == "reply")
        assert (LAST in replies.answers) == (how == "first")


@pytest.mark.parametrize("side", ["request", "reply"])
def test_sealed__messages_swapped_between_sites_are_refused(tmp_path: Path, side: str) -> None:
    config = config_of(tmp_path, "secagg=off", "rounds=1")
    relay = Relay(config)
    federation = federate(config, relay)
    swapped: list[RecordDict] = []

    def swap(found: Step, message: Message) -> Message:
        if found[0] != "train" or found[1] not in ("switzerland", LAST):
            return message
        swapped.append(message.content)
        return private.with_content(message, swapped[0])

    # `switzerland` comes first, and its message reaches, or comes from, `va_long_beach` as well.
    if side == "request":
        relay.on_request = swap
    else:
        relay.on_reply = swap
    replies, _ = federation._train(1, HOSPITALS)
    assert replies.failures == {LAST: OPAQUE}


def test_sealed__the_app_runs_once_for_a_message_even_if_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, "secagg=off", "rounds=1")
    relay = Relay(config)
    federation = federate(config, relay)
    calls: list[str] = []

    def fail(here: work.SiteRound) -> Any:
        calls.append(here.site.name)
        raise IndexError

    monkeypatch.setattr(work.SiteRound, "train", fail)

    def again(found: Step, message: Message) -> Message:
        if found == ("train", LAST):
            relay.app(message, relay.contexts[message.metadata.dst_node_id])
        return message

    relay.on_request = again
    with pytest.raises(FedlearnError):
        federation.run_round(1)
    assert sorted(calls) == sorted(HOSPITALS)


FORGED = {
    "refusal": lambda reply: private.with_content(
        reply, flower.refusal_reply(Refusal(site=LAST, exit_code=3, reason="budget spent"))
    ),
    "error": lambda reply: private.error_reply(reply, "<script>"),
}


@pytest.mark.parametrize("what", FORGED)
def test_sealed__a_refusal_or_error_from_outside_is_not_believed(tmp_path: Path, what: str) -> None:
    """Under `on_exhausted=stop` a site's refusal ends the run: it must be the site's own."""
    config = config_of(tmp_path / "run", "privacy=record", "privacy.on_exhausted=stop", "rounds=1")
    relay = Relay(config)
    federation = federate(config, relay)

    def forge(found: Step, reply: Message) -> Message:
        if found != ("train", LAST):
            return reply
        forged = FORGED[what](reply)
        forged.metadata.__dict__.update(reply.metadata.__dict__)
        return forged

    relay.on_reply = forge
    entry = federation.run_round(1)
    assert set(entry.clients.dropped) == {LAST}
    assert "script" not in entry.clients.dropped[LAST]
    assert entry.clients.replied == 3


# --- What a site is told -----------------------------------------------------------------


def test_clip__that_cuts_an_update_is_logged_at_the_site(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = ("secagg.clip=0.001", "secagg.resolution=0.0001", "transport=plain", "rounds=1")
    for options, warned in ((cut, True), (("transport=plain", "rounds=1"), False)):
        caplog.clear()
        config = config_of(tmp_path / str(warned), *options)
        with caplog.at_level(logging.WARNING, logger=secagg.__name__):
            federate(config, Relay(config)).run_round(1)
        found = [r.getMessage() for r in caplog.records if "secagg.clip" in r.getMessage()]
        assert bool(found) == warned
        assert all("were cut" in text for text in found)


def test_protocol_round__differs_between_the_parts_of_all_rounds() -> None:
    numbers = [protocol_round(part, n) for n in range(9) for part in ("train", "evaluate")]
    assert numbers == sorted(set(numbers))
