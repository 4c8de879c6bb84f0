"""The local engine: how many processes work is never part of a result, nor of its memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from clients.site import TEST_NOISE
from fedlearn.config import compose
from fedlearn.config.engine import LocalEngine
from fedlearn.core.errors import ConfigError
from fedlearn.core.vector import Vector
from fedlearn.flower import messages as flower
from fedlearn.flower.grid import SiteGrid
from fedlearn.flower.records import config_record
from fedlearn.rounds import RoundNote, TrainReply
from server.average import RunningSum
from simulations.engines.local import PAYS, InProcessGrid, Workers, make_contexts, workers_of
from tests import warm
from tests.simulations.small import environment, table

SIZE = 50


def app_of() -> ClientApp:
    """Site i adds i + 1 to the model, counts its rounds, and says which process it is."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = int(str(context.node_config["partition-id"]))
        seen = config_record(context.state, "rounds")
        rounds = 1 if seen is None else int(str(seen["n"])) + 1
        context.state["rounds"] = ConfigRecord({"n": rounds})
        model = flower.read_train_request(message).model
        if number == 13 and rounds == 2 and os.getpid() != FIRST:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = TrainReply(
            site=str(number), model=model + np.float32(number / 3 + rounds), weight=1.0 + number,
            spent=(),
        )  # fmt: skip
        reply = flower.train_reply(answer)
        reply["who"] = ConfigRecord({"process": os.getpid(), "rounds": rounds})
        return Message(reply, reply_to=message)

    return app


FIRST = os.getpid()


class Federation:
    """Rounds of plain federated averaging over `sites` sites, answered by `crew`."""

    def __init__(self, sites: int, staff: Workers) -> None:
        contexts = make_contexts(sites, {})
        self.inner = InProcessGrid(app_of(), contexts, staff=staff)
        self.grid = SiteGrid(self.inner, {f"s{i:04}": node for i, node in enumerate(contexts)})
        self.processes: set[int] = set()
        self.failures: dict[str, str] = {}

    def round(self, number: int, vector: Vector) -> Vector:
        note = RoundNote(terms="", run_id="r", round=number, cohort=len(self.grid.sites))
        nodes = [self.grid.node_of[site] for site in self.grid.sites]
        messages = flower.round_messages("train", note, vector, nodes)
        mean = RunningSum.of_models(vector.size)

        def keep(site: str, answer: Message) -> Message:
            self.processes.add(int(str(answer.content["who"]["process"])))
            assert answer.content["who"]["rounds"] == number, "a site remembers its rounds"
            return mean.take(site, answer)

        self.failures |= self.grid.exchange(messages, keep=keep).failures
        return mean.result()


@pytest.fixture
def federations() -> Iterator[list[Federation]]:
    made: list[Federation] = []
    yield made
    for one in made:
        one.inner.close()


@pytest.mark.slow
def test_workers__give_the_same_model_and_state_however_many_there_are(
    federations: list[Federation],
) -> None:
    found = []
    for workers in (1, 2, 3):
        one = Federation(12, Workers(workers=workers, pays=0.0, work=lambda node: node % 5))
        federations.append(one)
        vector = np.zeros(SIZE, np.float32)
        for number in (1, 2, 3):
            vector = one.round(number, vector)
        found.append(vector)
        assert (FIRST in one.processes) == (workers == 1)
        assert len(one.processes) <= workers
    for vector in found[1:]:
        np.testing.assert_array_equal(vector, found[0])


def test_workers__that_die_cost_the_sites_they_had_and_the_run_goes_on(
    federations: list[Federation],
) -> None:
    one = Federation(16, Workers(workers=2, pays=0.0))
    federations.append(one)
    vector = one.round(1, np.zeros(SIZE, np.float32))
    assert one.failures == {}
    one.round(2, vector)  # site 13 kills the process that answers for it
    assert list(one.failures) == ["s0013"]
    assert "signal 9" in one.failures["s0013"]


def test_workers__all_dead_leave_the_work_to_the_first_process(
    federations: list[Federation],
) -> None:
    one = Federation(4, Workers(workers=2, pays=0.0))
    federations.append(one)
    vector = one.round(1, np.zeros(SIZE, np.float32))
    for process in one.processes:
        os.kill(process, signal.SIGKILL)
    one.processes.clear()
    one.round(2, vector)
    # Each may have been given a site before its death was seen.
    assert len(one.failures) <= 2
    assert one.processes == {FIRST}


@pytest.mark.parametrize(("work", "forked"), [(PAYS / SIZE / 4, False), (PAYS / SIZE * 2, True)])
def test_workers__start_when_a_site_has_enough_to_do(
    federations: list[Federation], work: float, forked: bool
) -> None:
    one = Federation(3, Workers(workers=2, work=lambda node: work if node == 1001 else 0.0))
    federations.append(one)
    one.round(1, np.zeros(SIZE, np.float32))
    assert (FIRST not in one.processes) == forked


@pytest.mark.parametrize(("pays", "told"), [(0.0, 1), (float("inf"), 0)])
def test_workers__that_were_worth_it_and_cannot_be_forked_are_told_of_once(
    federations: list[Federation],
    pays: float,
    told: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("fedlearn.training.device._driver_asked", True)
    one = Federation(3, Workers(workers=2, pays=pays, work=lambda node: 1.0))
    federations.append(one)
    vector = one.round(1, np.zeros(SIZE, np.float32))
    one.round(2, vector)
    assert one.processes == {FIRST}
    said = [record.getMessage() for record in caplog.records]
    assert sum("one process answers for all sites, where 2" in text for text in said) == told


def test_crew__fits_the_cores_and_the_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    from simulations.engines import local

    monkeypatch.setattr(local, "cores", lambda: 8)
    training = compose(["experiment=medical_heart"]).training

    def workers(engine: LocalEngine, sites: int) -> int:
        return workers_of(engine, training, [100] * sites).workers

    assert workers(LocalEngine(threads=1), 20) == 8
    assert workers(LocalEngine(threads=3), 20) == 2
    assert workers(LocalEngine(threads=16), 20) == 1
    assert workers(LocalEngine(threads=1), 3) == 3
    assert workers(LocalEngine(threads=1, workers=5), 20) == 5
    assert workers_of(LocalEngine(threads=2, workers=2), training, [100] * 4).at_once


@pytest.mark.parametrize("value", ["0", "some", "1.5"])
def test_config__refuses_workers_that_are_no_number(value: str) -> None:
    with pytest.raises(ConfigError, match=r"engine\.workers"):
        compose(["experiment=medical_heart", "engine=local", f"engine.workers={value}"])


def simulate(out: Path, *overrides: str) -> dict[str, Any]:
    """A run in a process of its own; its result."""
    command = [sys.executable, "-m", "fedlearn", "simulate", f"out={out}", *overrides]
    environ = environment() | {TEST_NOISE: "7"}
    done = warm.run(command, text=True, env=environ, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_run__is_the_same_with_one_two_and_three_workers(tmp_path: Path, threads: int) -> None:
    sites = ("north", "south", "west")
    overrides = [
        *table(tmp_path, sites=sites), "privacy=record", "rounds=2", "secagg=masked",
        "transport=sealed", f"engine.threads={threads}",
    ]  # fmt: skip
    results = [
        simulate(tmp_path / str(workers), *overrides, f"engine.workers={workers}")
        for workers in ((1, 2, 3) if threads == 1 else (1, 2))
    ]
    hashes = {result["model"]["sha256"] for result in results}
    assert len(hashes) == 1
    # Every site has paid for every round once, whichever process wrote it down.
    for workers in range(1, len(results) + 1):
        for site in sites:
            ledger = tmp_path / str(workers) / "sites" / site / "ledger.jsonl"
            assert ledger.read_text().count('"kind":"reserve"') == 2


COHORT = """
import resource, sys
import numpy as np
from tests.simulations.engines.test_local import Federation
from simulations.engines.local import Workers
sites, size = int(sys.argv[1]), 250_000
one = Federation(sites, Workers(workers=int(sys.argv[2]), pays=0.0))
vector = np.zeros(size, np.float32)
Federation(2, Workers()).round(1, vector)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
one.round(1, vector)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
one.inner.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_round__of_four_hundred_clients_needs_the_memory_of_forty(workers: int) -> None:
    # A model is 1 MB, so four hundred replies held at once would need 400 MB.
    def growth(sites: int) -> float:
        command = [sys.executable, "-c", COHORT, str(sites), str(workers)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(), timeout=300, check=True
        )
        return int(done.stdout) / 1024

    few, many = growth(40), growth(400)
    assert many < few + 60
