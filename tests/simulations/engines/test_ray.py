"""The engine on Ray, where Ray does not come up."""

from __future__ import annotations

import pytest

from clients.app import app as client
from fedlearn.config.engine import RayEngine
from fedlearn.core.errors import FedlearnError
from fedlearn.flower import private
from server.app import app as server
from simulations.engines.ray import run_on_ray

pytest.importorskip("ray")


@pytest.mark.slow  # Ray takes seconds to import
def test_ray_that_does_not_start__is_no_bug_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        try:
            raise OSError("The current node timed out during startup.")
        except OSError as error:
            raise RuntimeError("Simulation Runtime crashed.") from error

    engine = RayEngine(threads=1, cpus_per_site=1, gpus_per_site=0)
    monkeypatch.setattr(private, "run_on_ray", busy)
    with pytest.raises(FedlearnError, match="engine=local"):
        run_on_ray(server, client, engine, sites=2, run_config={})
