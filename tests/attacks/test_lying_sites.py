"""One site that says what no honest one would: the run goes on without it, and names it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from clients import evaluation
from clients.site import Site
from fedlearn.config import plan_of
from fedlearn.core.errors import PrivacyError, ProtocolError
from fedlearn.crypto.codec import name_bytes
from fedlearn.crypto.identity import Identity
from fedlearn.data import Records
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.records import read_small_bytes, small_bytes
from fedlearn.metrics.intervals import measured
from fedlearn.metrics.sums import Sums
from fedlearn.privacy.events import GaussianEvent
from fedlearn.results.result import ResultFile
from fedlearn.rounds import Refusal, TrainReply
from fedlearn.secagg.framing import decode, encode
from fedlearn.secagg.keys import is_usable
from fedlearn.secagg.messages import Advertisement, RoundKeys
from fedlearn.secagg.proven import ProvingHelper
from fedlearn.secagg.server import ServerSession
from fedlearn.tasks import ClassificationTask
from server.run import Silent, run
from server.stop import Stop
from tests.attacks.asked import CLEAR
from tests.attacks.lab import SITES, STRICT, Lab
from tests.effort import examples, slow_but, thinned
from tests.fedlearn.secagg.federation import federation, identity, run_until
from tests.server.parties import NAMES, TASK, Parties, make_config

LIAR = "bravo"
HONEST = set(NAMES) - {LIAR}
OPTIONS = {
    "none": ("privacy=none",),
    "record": ("privacy=record", "training.sample_rate=0.2", "training.local_steps=1"),
    "client": ("privacy=client",),
}

Lie = Callable[[Message], RecordDict]


def trained(message: Message, **change: object) -> RecordDict:
    model = flower.read_train_request(message).model
    honest = {"site": LIAR, "model": model + np.float32(1), "weight": 1.0, "spent": ()}
    return flower.train_reply(TrainReply(**{**honest, **change}))  # type: ignore[arg-type]


def of_model(value: float) -> Lie:
    def lie(message: Message) -> RecordDict:
        size = flower.read_train_request(message).model.size
        return trained(message, model=np.full(size, value, np.float32))

    return lie


def of_bytes(data: bytes, stype: str = "numpy.ndarray") -> Lie:
    def lie(message: Message) -> RecordDict:
        content = trained(message)
        array = Array(dtype="float32", shape=(6,), stype=stype, data=data)
        content["arrays"] = ArrayRecord({"model": array})
        return content

    return lie


def spent_text(text: str) -> Lie:
    def lie(message: Message) -> RecordDict:
        content = trained(message)
        content["site"] = ConfigRecord({"name": LIAR, "spent": text})
        return content

    return lie


LIES: dict[str, Lie] = {
    "NaN": of_model(math.nan),
    "infinite": of_model(-math.inf),
    "another length": lambda message: trained(message, model=np.ones(7, np.float32)),
    "no bytes": of_bytes(b""),
    "half a header": of_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fort"),
    "a header of brackets": of_bytes(b"\x93NUMPY\x01\x00\xff\x7f" + b"(" * 32767),
    "a pickle": of_bytes(b"\x80\x04K\x01.", "pickle"),
    "infinite weight": lambda message: trained(message, weight=math.inf),
    "NaN for a weight": lambda message: trained(message, weight=math.nan),
    "negative weight": lambda message: trained(message, weight=-1.0),
    "spending of no kind": spent_text('{"events": [{"kind": "free"}]}'),
    "spending of brackets": spent_text("[" * 100_000),
    "steps of spending beyond numbers": spent_text(
        '{"events": [{"kind": "gaussian", "noise_multiplier": 1.0, "sample_rate": 1.0, '
        '"steps": 1e400}]}'
    ),
}


def result_of(tmp_path: Path, *options: str, **lies: dict[str, object]) -> ResultFile:
    config = make_config(*options, "rounds=2", f"out={tmp_path / 'run'}")
    plan = plan_of(config)
    parties = Parties(config, event=plan.round_event if plan else None, **lies)  # type: ignore[arg-type]
    return run(parties.grid(), config, Silent(), Stop())


@pytest.mark.parametrize(
    ("what", "privacy"), thinned(((lie, kind) for kind in OPTIONS for lie in LIES), several=True)
)
def test_lie_of_a_site__ends_no_run(tmp_path: Path, what: str, privacy: str) -> None:
    result = result_of(tmp_path, *OPTIONS[privacy], on_train={LIAR: LIES[what]})
    assert (result.status, len(result.rounds)) == ("finished", 2)
    # An update that diverged counts as none where a client may not be told apart by it.
    counted = privacy == "client" and what in ("NaN", "infinite")
    for entry in result.rounds:
        assert set(entry.clients.dropped) == (set() if counted else {LIAR})


@pytest.mark.parametrize("privacy", ["record", "client"])
def test_weight_of_a_site__counts_nothing_under_privacy(tmp_path: Path, privacy: str) -> None:
    """Nothing is scaled by what a site says of its records: all models are one further."""
    lie = {LIAR: lambda message: trained(message, weight=1e9)}
    noise = ("privacy.epsilon=null", "privacy.noise_multiplier=1e-3", "privacy.clip_norm=100.0")
    result_of(tmp_path, *OPTIONS[privacy], *noise, on_train=lie)
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    bias = next(value for name, value in tensors.items() if name.endswith("bias"))
    # Two rounds of (1 + 2 + 3 + 1) / 4, whatever bravo weighs; it alone would move them by two.
    assert bias == pytest.approx(2 * (1 + 2 + 3 + 1) / 4, abs=0.5)


@pytest.mark.parametrize("step", ["describe", "afford"])
def test_no_of_a_site__draws_nothing_where_it_is_shown(tmp_path: Path, step: str) -> None:
    """On the coordinator's terminal, in its log and its report."""
    lie = "\x1b[2Jfinished\r\u202eepsilon: 0.1\x07\n\x9b1A"

    def refuse(*_: object) -> RecordDict:
        return flower.refusal_reply(Refusal(site=LIAR, exit_code=3, reason=lie))

    config = make_config(*OPTIONS["record"], f"out={tmp_path / 'run'}")
    lies: dict[str, Any] = {f"on_{step}": {LIAR: refuse}}
    parties = Parties(config, **lies)
    with pytest.raises(PrivacyError) as caught:
        run(parties.grid(), config, Silent(), Stop())
    assert "?[2Jfinished??epsilon" in str(caught.value)
    assert all(line.isprintable() for line in str(caught.value).split("\n"))


@pytest.mark.parametrize("steps", [10**7, 2**28])
def test_spending_that_cannot_be__costs_the_others_nothing(tmp_path: Path, steps: int) -> None:
    event = GaussianEvent(noise_multiplier=1.0, sample_rate=0.2, steps=steps)
    lie = {LIAR: lambda message: trained(message, spent=(event,))}
    result = result_of(tmp_path, *OPTIONS["record"], on_train=lie)
    assert result.status == "finished"
    told = {site: one.epsilon for site, one in result.privacy.per_site.items()}
    assert told[LIAR] > 2 * max(told[site] for site in HONEST)
    assert len({told[site] for site in HONEST}) == 1
    assert result.privacy.epsilon == told[LIAR]


SUMS = {
    "negative counts": {"confusion": [-1, 0, 0, 3]},
    "more than all records": {"confusion": [2**62, 0, 0, 2**62], "count": 2**63 - 1},
    "cells beside the records": {"confusion": [0, 0, 0, 0]},
    "bins beside the records": {"scores": [0] * 512},
    "fewer records than none": {"count": -2},
    "texts": {"confusion": ["a"] * 4},
}


@pytest.mark.parametrize("what", SUMS)
def test_test_sums_that_cannot_be__are_left_out_and_their_site_is_named(
    tmp_path: Path, what: str
) -> None:
    def lie(content: RecordDict) -> RecordDict:
        record = dict(content.metric_records["metrics"]) | SUMS[what]
        kind = ConfigRecord if what == "texts" else MetricRecord
        content["metrics"] = kind(record)  # type: ignore[arg-type]
        return content

    result = result_of(tmp_path, "evaluation=per_site", on_evaluate={LIAR: lie})
    assert (result.status, len(result.rounds)) == ("finished", 2)
    assert set(result.final.per_site) == HONEST
    assert f"is evaluated without {LIAR}" in (tmp_path / "run" / "run.log").read_text()


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_sums_that_pass__have_metrics_and_intervals(data: st.DataObject) -> None:
    """Whatever is let through can be computed with; and what honest sites send is let through."""
    big = st.sampled_from([0, 1, 2, 2**40, 2**40 + 1, 2**62, -1])
    count = data.draw(st.one_of(big, st.integers(0, 50)))
    cells = data.draw(st.lists(st.one_of(big, st.just(count)), min_size=4, max_size=4))
    honest = TASK.sums(np.array([[0.2, 0.8]] * 3), np.array([0, 1, 1]))
    TASK.check_sums(honest)
    scores = np.zeros_like(honest["scores"])
    scores[0, 0] = count
    arrays = {
        "loss": np.asarray(data.draw(st.floats())),
        "confusion": np.array(cells, np.int64).reshape(2, 2),
        "scores": scores,
    }
    sums = Sums(layout=TASK.sum_layout, count=count, arrays=arrays)
    try:
        TASK.check_sums(sums)
    except ValueError:
        return
    _graded(TASK, sums + honest)
    _graded(TASK, sums)


def _graded(task: ClassificationTask, sums: Sums) -> None:
    rng = np.random.default_rng(0)
    found = task.metrics(sums)
    measured(found, task.resampled(sums, rng))
    task.gap({"a": sums, "b": sums}, rng)
    task.calibration(sums, rng)


def test_key_of_small_order__is_refused_before_it_drives_away_all_others() -> None:
    fed = federation(4)
    clients, server = fed.clients(), fed.server()
    run_until(fed, "advertise", clients, server)
    weak = bytes(32)
    assert not is_usable(weak)
    liar, *others = fed.names
    for name in others:
        server.receive(name, clients[name].advertise(server.requests()[name]))
    context = server.params.context()
    for pair in ((weak, b"k" * 32), (b"k" * 32, weak)):
        signature = identity(liar).sign("secagg/keys", context, *_signed(liar, pair))
        keys = RoundKeys(cipher_key=pair[0], mask_key=pair[1], signature=signature)
        with pytest.raises(ProtocolError, match="small order"):
            server.receive(liar, encode(Advertisement(keys=keys), context))
    server.close_step()
    assert set(server.requests()) == set(others)


def _signed(name: str, pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    return (name_bytes(name), *pair)


SMALL = bytes(32)
"""A key of small order: with it nobody agrees on anything."""


@pytest.mark.parametrize("kind", ["cipher", "mask"])
def test_key_of_small_order__that_a_coordinator_lets_pass_is_found_before_anybody_has_paid(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they could have spent the ledgers of all others, round for round, on nothing."""
    lab = Lab.make(tmp_path, "transport=plain", "evaluation=none", policy=CLEAR)
    federation, liar = lab.federate(), SITES[-1]
    own = Identity.load(lab.world.root / liar / "keys" / liar)

    def lie(step: str, site: str, reply: Message) -> Message:
        if (step, site) != ("secagg_advertise", liar):
            return reply
        data = read_small_bytes(reply.content, "secagg")
        assert data is not None
        context = data[6:38]
        good = decode(Advertisement, data, context).keys
        pair = (SMALL, good.mask_key) if kind == "cipher" else (good.cipher_key, SMALL)
        signature = own.sign("secagg/keys", context, *_signed(liar, pair))
        keys = RoundKeys(cipher_key=pair[0], mask_key=pair[1], signature=signature)
        content = small_bytes("secagg", encode(Advertisement(keys=keys), context))
        return private.with_content(reply, content)

    def pass_on(self: ServerSession, name: str, one: RoundKeys) -> None:
        self._keys[name] = one

    lab.on_reply = lie
    monkeypatch.setattr(ServerSession, "_receive_keys", pass_on)
    with pytest.raises(ProtocolError):
        federation.run_round(1)
    assert {site for step, site, _ in lab.refused if step == "secagg_share"} >= {*SITES[:-1]}
    assert {lab.spent_at(site) for site in SITES} == {0}


def test_second_servers_key_of_small_order__is_joined_by_no_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that found it when it sealed its seed had paid by then."""
    policy = STRICT.replace("require_secagg: masked", "require_secagg: two_server")
    lab = Lab.make(tmp_path, "secagg=two_server", "evaluation=none", policy=policy)
    monkeypatch.setattr(ProvingHelper, "public", property(lambda _: SMALL, lambda *_: None), False)
    with pytest.raises(ProtocolError):
        lab.federate()
    assert {(step, site) for step, site, _ in lab.refused} == {("join", site) for site in SITES}
    assert not lab.opened()


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("kind", slow_but("pooled".__eq__, ["pooled", "private"]))
def test_test_figures__are_what_one_site_likes_under_proofs_as_well(
    tmp_path: Path, kind: str, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the threat model says is left: how many records a site tests on nobody else knows."""
    policy = STRICT.replace("require_secagg: masked", "require_secagg: two_server")
    policy += f"  evaluation: [{kind}]\n  min_test_records: 1\n"
    words = ("secagg=two_server", "robust=proofs", f"evaluation={kind}", "training.local_steps=1")
    lab = Lab.make(tmp_path, *words, policy=policy)
    federation, honest = lab.federate(), evaluation._grades
    labels = np.zeros(100_000, np.int64)

    def graded(site: Site, records: Records, rows: slice) -> np.ndarray:
        if site.name != SITES[-1]:
            return honest(site, records, rows)
        test = site.data.test
        vars(site.data)["test"] = replace(
            test,
            features=np.zeros((len(labels), test.features.shape[1]), np.float32),
            labels=labels,
        )
        return np.tile([[1.0, 0.0]] if right else [[0.0, 1.0]], (len(labels), 1))

    monkeypatch.setattr(evaluation, "_grades", graded)
    entry = federation.run_round(1)
    assert entry.clients.replied == 4
    accuracy = entry.evaluate["accuracy"]
    assert accuracy > 0.99 if right else accuracy < 0.01
