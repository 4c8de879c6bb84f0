"""Flower apps in one process: our engine, for apps that are not ours."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

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
        raise ConfigError([f"nodes={nodes}: must be at least 1"])
    # The engines are simulations' room, above this one: asked for by name.
    engine = importlib.import_module("simulations.engines.local")
    engine.run_apps(server, client, nodes, dict(run_config or {}))
