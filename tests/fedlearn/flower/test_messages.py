"""What coordinator and sites say arrives as it was sent, to the last bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from fedlearn.config import compose
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.records import vector_of
from fedlearn.privacy.events import GaussianEvent
from fedlearn.rounds import Description, EvaluateReply, Hello, Refusal, RoundNote, TrainReply
from fedlearn.tasks import ImageInput, Input, TableInput, TaskForm, TextInput
from tests.fedlearn.metrics.test_sums import evaluation_sums


def over_the_wire(content: RecordDict) -> RecordDict:
    """What arrives on the other side, as bytes make it."""
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

    proto = recorddict_to_proto(content)
    return recorddict_from_proto(type(proto).FromString(proto.SerializeToString()))


@pytest.mark.parametrize(
    "input_",
    [
        TableInput(numeric=3, cardinalities=(2, 5), squashed=(0, 2)),
        ImageInput(channels=1, height=8, width=9),
        TextInput(vocabulary=100, max_length=7),
    ],
)
def test_description__round_trip(input_: Input) -> None:
    one = Description(
        task=TaskForm(input=input_, classes=("no", "yes")),
        data_sha256="ab" * 32, train_records=10, test_records=0, real_noise=True,
    )  # fmt: skip
    assert flower.read_description(over_the_wire(flower.description_reply(one))) == one


def test_hello__round_trip() -> None:
    one = Hello(site='St. Mary\'s "é"', public_key="ab" * 32, version="1", code="cd")
    assert flower.read_hello(over_the_wire(flower.hello_reply(one))) == one


def test_train_reply__round_trip_keeps_every_bit() -> None:
    model = np.array([0.1, -0.0, 1e-45, 3e38, math.inf], np.float32)
    spent = (
        GaussianEvent(noise_multiplier=0.1 + 0.2, sample_rate=1 / 3, steps=7),
        GaussianEvent(noise_multiplier=0.0, sample_rate=1.0, steps=1),
    )
    reply = TrainReply(site="a", model=model, weight=2.5, spent=spent)
    content = over_the_wire(flower.train_reply(reply))
    assert vector_of(content.array_records["arrays"]).tobytes() == model.tobytes()
    assert flower.read_spent(content) == spent
    assert content.metric_records["metrics"][flower.WEIGHT] == 2.5
    assert flower.read_refusal(content) is None


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("n", [0, 5])
def test_evaluate_reply__round_trip(classes: int, n: int) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), n)
    sums = evaluation_sums(probabilities.reshape(n, classes), np.arange(n) % classes)
    content = over_the_wire(flower.evaluate_reply(EvaluateReply(site="a", sums=sums)))
    found = flower.read_evaluate_reply(content, sums.layout)
    assert (found.site, found.sums.count, found.sums["loss"]) == ("a", n, sums["loss"])
    assert found.sums["confusion"].tolist() == sums["confusion"].tolist()
    assert found.sums["scores"].tolist() == sums["scores"].tolist()
    assert found.sums["scores"].shape == sums["scores"].shape


def test_evaluate_reply__carries_groups_by_any_name() -> None:
    sums = evaluation_sums(np.array([[0.2, 0.8], [0.9, 0.1]]), np.array([1, 0]))
    groups = {"40 to below 60": sums, "": sums + sums}
    reply = EvaluateReply(site="a", sums=sums, groups=groups, withheld=("below 40",))
    found = flower.read_evaluate_reply(over_the_wire(flower.evaluate_reply(reply)), sums.layout)
    assert found.withheld == ("below 40",)
    assert {name: one.count for name, one in found.groups.items()} == {"40 to below 60": 2, "": 4}
    assert found.groups[""]["scores"].tolist() == (sums + sums)["scores"].tolist()


def test_refusal__round_trip() -> None:
    refusal = Refusal(site="a", exit_code=3, reason="spent\nall of it")
    assert flower.read_refusal(over_the_wire(flower.refusal_reply(refusal))) == refusal


def test_round_messages__are_read_as_they_were_meant() -> None:
    note = RoundNote(terms="ab", run_id="r", round=4, cohort=2, clip_norm=0.25)
    model, besides = np.arange(5, dtype=np.float32), {"control": np.ones(5, np.float32)}
    private.new_run(run_id=1)
    messages = flower.round_messages("train", note, model, [7, 3], besides)
    assert [message.metadata.dst_node_id for message in messages] == [7, 3]
    for message in messages:
        request = flower.read_train_request(message)
        assert flower.read_note(message) == note
        assert (request.run_id, request.round, request.clip_norm) == ("r", 4, 0.25)
        assert (request.model == model).all()
        assert list(request.besides) == ["control"]
        assert (request.besides["control"] == 1).all()


def test_run_config__carries_the_config_exactly_and_else_the_overrides() -> None:
    config = compose(["rounds=3", "seed=12345678901234567890"])
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(),
        run_config=flower.run_config_of(config),
    )  # fmt: skip
    assert flower.config_of(context) == config
    context.run_config = {"config": "", "overrides": "rounds=3 model.width=8"}
    found = flower.config_of(context)
    assert (found.rounds, found.model.width) == (3, 8)
