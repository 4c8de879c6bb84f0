"""The private names of flwr that we touch are as we think.

A failure means that flwr has changed: mend `fedlearn/flower/private.py`, and nothing else.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys

import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

import fedlearn
from fedlearn.flower import private
from tests.sources import ROOT, trees

CHANGED = "flwr has changed: mend fedlearn/flower/private.py"


@pytest.fixture(autouse=True)
def identity() -> None:
    private.new_run(run_id=1)


PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"}
"""What Flower documents."""

CARRIERS = ("fedlearn/flower/private.py", "fedlearn/flower/envelopes.py", "clients/supernode/",
            "server/superlink/")  # fmt: skip
"""Where private names may be: once for all, and where messages of a deployment are carried."""


def test_private_names__are_where_they_are_looked_for_when_flower_changes() -> None:
    found = list[str]()
    for name, tree in trees().items():
        nodes = ast.walk(tree) if "flwr" in (ROOT / name).read_text("utf-8") else ()
        modules = [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
        private_ones = [m for m in modules if m.split(".")[0] == "flwr" and m not in PUBLIC]
        if private_ones and not name.startswith(CARRIERS):
            found.append(f"{name}: {', '.join(private_ones)}")
    assert found == []


def test_separate__gives_a_message_whose_records_are_its_own() -> None:
    shared = RecordDict({"metrics": MetricRecord({"a": 1})})
    message = private.set_message_id(Message(shared, 7, "train"), "m1")
    copy = private.separate(message)
    copy.content.metric_records["metrics"]["a"] = 2
    copy.content["more"] = ArrayRecord()
    assert message.content.metric_records["metrics"]["a"] == 1
    assert list(message.content) == ["metrics"]
    assert copy.metadata.message_id == "m1", CHANGED


def test_flwr__a_message_takes_the_id_that_we_give_it() -> None:
    message = private.set_message_id(Message(RecordDict(), 7, "train"), "m1")
    assert message.metadata.message_id == "m1", CHANGED
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "m1", CHANGED
    assert reply.metadata.src_node_id == 7, CHANGED


def test_flwr__an_error_reply_names_its_site_and_reason() -> None:
    message = private.set_message_id(Message(RecordDict(), 7, "train"), "m1")
    reply = private.error_reply(message, "out of memory")
    assert reply.has_error(), CHANGED
    assert (reply.error.code, reply.error.reason) == (2, "out of memory")
    assert reply.metadata.src_node_id == 7


def test_flwr__our_error_codes_are_flowers() -> None:
    from flwr.common.constant import ErrorCode

    assert private.CLIENT_APP_FAILED == ErrorCode.CLIENT_APP_RAISED_EXCEPTION, CHANGED
    assert private.NODE_UNAVAILABLE == ErrorCode.NODE_UNAVAILABLE, CHANGED


def test_flwr__a_run_is_made_and_this_process_gets_an_identity() -> None:
    run = private.new_run(run_id=42)
    assert run.run_id == 42, CHANGED
    assert private.TaskIdentity.run_id == 42, CHANGED
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
    assert isinstance(private.NOOP_FEDERATION_ID, str), CHANGED
    assert private.EventType.PYTHON_API_RUN_SIMULATION_LEAVE, CHANGED


@pytest.mark.slow
def test_flwr__phones_home_and_installs_nothing_by_default() -> None:
    """In a fresh interpreter without any of the switches, as a user has it."""
    code = (
        "import os, fedlearn.flower.private\n"
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
