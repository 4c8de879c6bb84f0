"""One federated run on this machine, on the engine that its config names."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from clients.app import app as client
from clients.claim import claimed
from clients.owner import owned_ledgers
from clients.site import simulated_sites
from fedlearn import flower
from fedlearn.config import RunConfig
from fedlearn.data import Csv
from fedlearn.engine import LocalEngine, RayEngine
from server.app import make_app
from server.folder import RunFolder
from server.run import Listener
from server.stop import Stop
from simulations.local import run_locally
from simulations.ray_engine import run_on_ray

STOP_SECONDS = 20.0


def simulate(config: RunConfig, listener: Listener, stop: Stop) -> None:
    """Run `config` to its end; the result is in the folder `config.out`.

    Raises:
        FedlearnError: see `server.run.run`.
        StoppedError: stopped by the user, after everything was written.
    """
    config = with_absolute_paths(config, Path.cwd())
    RunFolder(Path(config.out)).check(config)
    sites = list(simulated_sites(config))
    # Only what outlives the run: a ledger in the run's own folder is nobody else's.
    ledgers = owned_ledgers(config, sites)
    with claimed(ledgers):
        _run(config, len(sites), listener, stop)


def _run(config: RunConfig, sites: int, listener: Listener, stop: Stop) -> None:
    run_config = flower.run_config_of(config)
    ended = threading.Event()
    server = make_app(listener, stop, ended.set)
    match config.engine:
        case LocalEngine():
            run_locally(server, client, sites=sites, run_config=run_config)
        case RayEngine():
            try:
                run_on_ray(server, client, config.engine, sites=sites, run_config=run_config)
            except KeyboardInterrupt:
                # The ServerApp runs in a thread of Flower's: let it write what is done.
                ended.wait(STOP_SECONDS)
                raise
        case _:
            assert_never(config.engine)


def with_absolute_paths(config: RunConfig, folder: Path) -> RunConfig:
    """The config with paths that mean the same in every process."""
    config = replace(config, out=str(folder / config.out))
    if config.sites is not None:
        config = replace(config, sites=str(folder / config.sites))
    if isinstance(config.scenario, Csv):
        config = replace(
            config, scenario=replace(config.scenario, path=str(folder / config.scenario.path))
        )
    return config
