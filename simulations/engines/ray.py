"""Engine `ray`: both apps in Flower's own simulation runtime."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedlearn.config.engine import RayEngine
from fedlearn.core.errors import ConfigError, FedlearnError
from fedlearn.flower import private

APP = """\
[project]
name = "fedlearn"
version = "0"
[tool.flwr.app]
publisher = "fedlearn"
[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"
[tool.flwr.app.config]
config = ""
overrides = ""
"""


def run_on_ray(
    server: ServerApp,
    client: ClientApp,
    engine: RayEngine,
    *,
    sites: int,
    run_config: dict[str, bool | float | int | str],
) -> None:
    """Run both apps to the end; Ray starts and stops with the call.

    Raises:
        ConfigError: Ray is not installed.
        FedlearnError: Ray did not start in its own time, as on a busy machine.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("engine=ray: needs Ray; install it with `pip install 'fedlearn[ray]'`")
    import ray

    # Processes of Ray and Flower may still write there while it is removed.
    with tempfile.TemporaryDirectory(prefix="fedlearn-", ignore_cleanup_errors=True) as folder:
        Path(folder, "pyproject.toml").write_text(APP, encoding="utf-8")
        # Flower keeps state in its home; two runs on one machine must not share it.
        os.environ.setdefault("FLWR_HOME", folder)
        try:
            private.run_on_ray(
                server,
                client,
                sites=sites,
                resources={"num_cpus": engine.cpus_per_site, "num_gpus": engine.gpus_per_site},
                run_config=run_config,
                app_dir=folder,
            )
        except RuntimeError as error:
            if _did_not_start(error):
                raise FedlearnError(
                    "engine=ray: Ray did not start within its 30 seconds, as on a busy machine. "
                    "Try again with another out=, or take engine=local, which gives the same model"
                ) from error
            raise
        finally:
            ray.shutdown()


def _did_not_start(error: BaseException | None) -> bool:
    while error is not None:
        if "timed out during startup" in str(error):
            return True
        error = error.__cause__
    return False
