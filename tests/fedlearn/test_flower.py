"""Our records survive Flower, and the private names of flwr that we touch are as we think.

A failure below the line means that flwr has changed: read `fedlearn/flower.py`
from its own line downwards, and mend it there and nowhere else.
"""

from __future__ import annotations

import inspect
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

import fedlearn
from fedlearn import flower
from fedlearn.config import compose
from fedlearn.metrics import evaluation_sums
from fedlearn.privacy.events import GaussianEvent
from fedlearn.rounds import EvaluateReply, Hello, Refusal, TrainReply
from fedlearn.task import ImageInput, Input, TableInput, Task, TextInput

CHANGED = "flwr has changed: mend fedlearn/flower.py"


@pytest.fixture(autouse=True)
def identity() -> None:
    flower.new_run(run_id=1)


def over_the_wire(content: RecordDict) -> RecordDict:
    """What arrives on the other side, as bytes make it."""
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

    proto = recorddict_to_proto(content)
    return recorddict_from_proto(type(proto).FromString(proto.SerializeToString()))


@pytest.mark.parametrize(
    "input_",
    [
        TableInput(numeric=3, cardinalities=(2, 5)),
        ImageInput(channels=1, height=8, width=9),
        TextInput(vocabulary=100, max_length=7),
    ],
)
def test_hello__round_trip(input_: Input) -> None:
    hello = Hello(
        site='St. Mary\'s "é"', task=Task(input=input_, classes=("no", "yes")),
        data_sha256="ab" * 32, train_records=10, test_records=0, real_noise=True, public_key="",
    )  # fmt: skip
    assert flower.read_hello(over_the_wire(flower.hello_reply(hello))) == hello


def test_train_reply__round_trip_keeps_every_bit() -> None:
    model = np.array([0.1, -0.0, 1e-45, 3e38, math.inf], np.float32)
    spent = (
        GaussianEvent(noise_multiplier=0.1 + 0.2, sample_rate=1 / 3, steps=7),
        GaussianEvent(noise_multiplier=0.0, sample_rate=1.0, steps=1),
    )
    reply = TrainReply(site="a", model=model, weight=2.5, spent=spent)
    content = over_the_wire(flower.train_reply(reply))
    assert flower.vector_of(content.array_records["arrays"]).tobytes() == model.tobytes()
    assert flower.read_spent(content) == spent
    assert content.metric_records["metrics"][flower.WEIGHT] == 2.5
    assert flower.read_refusal(content) is None


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("n", [0, 5])
def test_evaluate_reply__round_trip(classes: int, n: int) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), n)
    sums = evaluation_sums(probabilities.reshape(n, classes), np.arange(n) % classes)
    content = over_the_wire(flower.evaluate_reply(EvaluateReply(site="a", sums=sums)))
    found = flower.read_evaluate_reply(content)
    assert (found.site, found.sums.count, found.sums.loss) == ("a", n, sums.loss)
    assert found.sums.confusion.tolist() == sums.confusion.tolist()
    assert found.sums.scores.tolist() == sums.scores.tolist()
    assert found.sums.scores.shape == sums.scores.shape


def test_refusal__round_trip() -> None:
    refusal = Refusal(site="a", exit_code=3, reason="spent\nall of it")
    assert flower.read_refusal(over_the_wire(flower.refusal_reply(refusal))) == refusal


def test_train_request__is_read_from_what_a_strategy_sends() -> None:
    config = ConfigRecord({"server-round": 4, "run-id": "r", "proximal-mu": 0.25})
    model = np.arange(5, dtype=np.float32)
    content = RecordDict({"arrays": flower.arrays_of(model), "config": config})
    message = Message(content, dst_node_id=7, message_type="train")
    request = flower.read_train_request(message)
    assert (request.run_id, request.round, request.proximal_mu) == ("r", 4, 0.25)
    assert (request.model == model).all()


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


def test_size_of__counts_what_the_records_hold_and_nothing_for_an_error() -> None:
    small, large = (
        Message(RecordDict({"arrays": flower.arrays_of(np.zeros(n, np.float32))}), 7, "train")
        for n in (10, 1010)
    )
    assert flower.size_of(large) - flower.size_of(small) == 4000
    assert flower.size_of(Message(RecordDict(), 7, "train")) == 0
    assert flower.size_of(flower.error_reply(flower.set_message_id(small, "m"), "no")) == 0


def test_separate__gives_a_message_whose_records_are_its_own() -> None:
    shared = RecordDict({"metrics": MetricRecord({"a": 1})})
    message = flower.set_message_id(Message(shared, 7, "train"), "m1")
    copy = flower.separate(message)
    copy.content.metric_records["metrics"]["a"] = 2
    copy.content["more"] = ArrayRecord()
    assert message.content.metric_records["metrics"]["a"] == 1
    assert list(message.content) == ["metrics"]
    assert copy.metadata.message_id == "m1", CHANGED


# --- private names of flwr --------------------------------------------------------


def test_flwr__a_message_takes_the_id_that_we_give_it() -> None:
    message = flower.set_message_id(Message(RecordDict(), 7, "train"), "m1")
    assert message.metadata.message_id == "m1", CHANGED
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "m1", CHANGED
    assert reply.metadata.src_node_id == 7, CHANGED


def test_flwr__an_error_reply_names_its_site_and_reason() -> None:
    message = flower.set_message_id(Message(RecordDict(), 7, "train"), "m1")
    reply = flower.error_reply(message, "out of memory")
    assert reply.has_error(), CHANGED
    assert (reply.error.code, reply.error.reason) == (2, "out of memory")
    assert reply.metadata.src_node_id == 7


def test_flwr__our_error_code_is_that_of_a_client_app_that_raised() -> None:
    from flwr.common.constant import ErrorCode

    assert flower.CLIENT_APP_FAILED == ErrorCode.CLIENT_APP_RAISED_EXCEPTION, CHANGED


def test_flwr__a_run_is_made_and_this_process_gets_an_identity() -> None:
    run = flower.new_run(run_id=42)
    assert run.run_id == 42, CHANGED
    assert flower.TaskIdentity.run_id == 42, CHANGED
    for name in ("override_config", "primary_task_id", "federation_id"):
        assert hasattr(run, name), f"{CHANGED}: Run.{name} is gone"


def test_flwr__the_simulation_takes_our_arguments() -> None:
    from flwr.simulation.run_simulation import _run_simulation

    found = set(inspect.signature(_run_simulation).parameters)
    ours = {
        "num_supernodes", "exit_event", "client_app", "server_app", "server_app_context",
        "backend_config", "run", "app_dir", "is_app",
    }  # fmt: skip
    assert ours <= found, f"{CHANGED}: {ours - found} are gone"
    assert isinstance(flower.NOOP_FEDERATION_ID, str), CHANGED
    assert flower.EventType.PYTHON_API_RUN_SIMULATION_LEAVE, CHANGED


def test_flwr__phones_home_and_installs_nothing_by_default() -> None:
    """In a fresh interpreter without any of the switches, as a user has it."""
    code = (
        "import os, fedlearn.flower\n"
        "from flwr.common import constant as common\n"
        "from flwr.supercore import telemetry, constant\n"
        "assert telemetry.FLWR_TELEMETRY_ENABLED == '0', 'telemetry'\n"
        "assert os.environ[constant.FLWR_DISABLE_UPDATE_CHECK] == '1', 'update check'\n"
        "installs = common.FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION\n"
        "assert os.environ[installs] == '1', 'installs'\n"
    )
    clean = {key: value for key, value in os.environ.items() if key not in fedlearn.SWITCHES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{CHANGED}: {done.stderr}"


def test_switches__leave_what_the_user_has_turned_on() -> None:
    code = "import os, fedlearn; print(os.environ['FLWR_TELEMETRY_ENABLED'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"FLWR_TELEMETRY_ENABLED": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "1"
