"""The processes of a sweep, by themselves."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.context import ForkProcess
from pathlib import Path

from fedlearn.config import compose, encode
from fedlearn.core.errors import StoppedError
from simulations.engines.forks import forking
from simulations.sweeps.workers import Ended, RunJob, _work
from tests.simulations.small import table


def test_worker__says_that_it_was_stopped_where_an_interrupt_came_before_it_could_listen(
    tmp_path: Path,
) -> None:
    config = compose([*table(tmp_path), "privacy=none", f"out={tmp_path / 'run'}"])
    job = RunJob(name="one", config=encode(config), only=None)
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)  # held back until the worker lets it in
        _work(job, theirs, 0)

    process = ForkProcess(target=interrupted, daemon=True)
    with forking():
        process.start()
    theirs.close()
    assert ours.recv() == Ended(name="one", exit_code=StoppedError.exit_code, reason="stopped")
    process.join()
    assert process.exitcode == 0
