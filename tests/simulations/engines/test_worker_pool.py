"""Workers: every message gets its own answer, whoever gives it, and a death costs one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedlearn.flower import private
from fedlearn.flower.records import arrays_of
from simulations.engines.worker_pool import Died, Done, Job, WorkerPool
from tests.simulations.small import environment


def task(number: int, *, content: RecordDict | None = None, work: float = 0.0) -> Job:
    private.new_run(1)
    asked = content or RecordDict({"asked": ConfigRecord({"number": number})})
    message = Message(asked, dst_node_id=number, message_type="train")
    private.set_message_id(message, f"m{number}")
    return Job(message, RecordDict({"count": ConfigRecord({"seen": number})}), work)


def answer(message: Message, state: RecordDict) -> tuple[Message, RecordDict]:
    """Says who asked and who answered, and counts up what the site remembers."""
    node = message.metadata.dst_node_id
    if node == 666:
        os.kill(os.getpid(), signal.SIGKILL)
    said = ConfigRecord({"node": node, "process": os.getpid(), "records": len(message.content)})
    remembered = RecordDict({"count": ConfigRecord({"seen": int(str(state["count"]["seen"])) + 1})})
    return Message(RecordDict({"said": said}), reply_to=message), remembered


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(answer)
    yield made
    made.close()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_pool__answers_in_order_and_brings_back_what_sites_remember(
    pool: WorkerPool, size: int
) -> None:
    pool.fork(size)
    found = pool.outcomes([task(i, work=i % 5) for i in range(40)])
    processes = set()
    for i, outcome in enumerate(found):
        assert isinstance(outcome, Done)
        assert outcome.state is not None
        assert outcome.state["count"]["seen"] == i + 1
        assert outcome.reply.content["said"]["node"] == i
        assert outcome.reply.metadata.reply_to_message_id == f"m{i}"
        processes.add(outcome.reply.content["said"]["process"])
    assert os.getpid() not in processes
    assert len(processes) <= size


def test_pool__sends_a_shared_content_and_then_another(pool: WorkerPool) -> None:
    pool.fork(1)
    one = RecordDict({"a": ConfigRecord({})})
    two = RecordDict({"a": ConfigRecord({}), "b": arrays_of(np.ones(3, np.float32))})
    found = pool.outcomes([task(i, content=c) for i, c in enumerate([one, one, two, two, one])])
    records = [o.reply.content["said"]["records"] for o in found if isinstance(o, Done)]
    assert records == [1, 1, 2, 2, 1]


def test_pool__loses_one_task_to_a_worker_that_dies(pool: WorkerPool) -> None:
    pool.fork(2)
    found = pool.outcomes([task(i) for i in (1, 666, 2, 3, 4)])
    assert isinstance(found[1], Died)
    assert "signal 9" in found[1].reason
    assert sum(isinstance(outcome, Done) for outcome in found) == 4
    assert len(pool) == 1


def test_pool__leaves_the_rest_when_no_worker_is_left(pool: WorkerPool) -> None:
    pool.fork(1)
    found = pool.outcomes([task(i, work=w) for i, w in ((1, 3), (666, 2), (2, 1))])
    assert isinstance(found[0], Done)
    assert isinstance(found[1], Died)
    assert found[2] is None
    assert len(pool) == 0
    assert pool.forked


def test_pool__goes_on_after_a_worker_died_while_it_had_nothing_to_do(pool: WorkerPool) -> None:
    pool.fork(2)
    first = pool.outcomes([task(1)])[0]
    assert isinstance(first, Done)
    os.kill(int(str(first.reply.content["said"]["process"])), signal.SIGKILL)
    found = pool.outcomes([task(i) for i in range(6)])
    # The one that it may have been given before its death was seen is lost; no other is.
    assert sum(isinstance(outcome, Done) for outcome in found) >= 5
    assert len(pool) == 1


def runs(pid: str) -> bool:
    """Whether the process is there, and more than an entry that nobody has collected."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


ORPHANS = """
import os, signal, sys
from tests.simulations.engines.test_worker_pool import answer, task
from simulations.engines.worker_pool import WorkerPool
pool = WorkerPool(answer)
pool.fork(3)
found = pool.outcomes([task(i) for i in range(12)])
print(*{str(o.reply.content["said"]["process"]) for o in found}, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_pool__leaves_no_process_behind_when_the_first_one_is_killed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS],
        capture_output=True, text=True, env=environment(), timeout=300,
    )  # fmt: skip
    workers = done.stdout.split()
    assert workers, done.stderr
    deadline = time.monotonic() + 60
    while any(map(runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, workers))
