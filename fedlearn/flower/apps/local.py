"""Flower apps in one process: our engine, for apps that are not ours; and rooms above this one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedlearn.core.errors import ConfigError

Scalar = bool | float | int | str


def run_apps(
    server: ServerApp,
    client: ClientApp,
    *,
    nodes: int,
    run_config: Mapping[str, Scalar] | None = None,
) -> None:
    """Run a ServerApp and a ClientApp to the end in this process, without Ray or a SuperLink.

    Args:
        server: the app that calls a strategy.
        client: the app of every node; it finds `partition-id` and `num-partitions` in its
            node's config, as in Flower's own simulation.
        nodes: how many nodes there are.
        run_config: what `[tool.flwr.app.config]` would hold.

    Raises:
        ConfigError: there is no node.
        Exception: whatever the ServerApp raises. What a ClientApp raises is logged and
            becomes an error reply.

    Guarantees: the same numbers in every run, if the apps compute the same: nodes have the
    same ids, and replies come in the order of the messages.

    Example:
        >>> from flwr.clientapp import ClientApp
        >>> from flwr.serverapp import ServerApp
        >>> server = ServerApp()
        >>> @server.main()
        ... def main(grid, context):
        ...     print(len(list(grid.get_node_ids())), context.run_config["rounds"])
        >>> run_apps(server, ClientApp(), nodes=3, run_config={"rounds": 2})
        3 2
    """
    if nodes < 1:
        raise ConfigError(f"nodes={nodes}: must be at least 1")
    engine = room_above("simulations.engines.local")
    engine.run_apps(server, client, nodes, dict(run_config or {}))


def room_above(name: str) -> ModuleType:
    """A module of a room above this one, asked for by name: nothing here depends on it.

    Raises:
        ConfigError: a file of the user's own has the name of that package.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = sys.modules.get(name.partition(".")[0])
        path = getattr(package, "__file__", None)
        if path is None:
            raise
        raise ConfigError(
            f"{path}: has the name of a package of fedlearn, which needs {name}; rename it"
        ) from error
