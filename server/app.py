"""The Flower ServerApp."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedlearn.flower import messages as flower
from server.run import Listener, Silent, run
from server.stop import Stop


def make_app(
    listener: Listener,
    stop: Stop,
    ended: Callable[[], None] = lambda: None,
) -> ServerApp:
    """A ServerApp that tells `listener` how its run goes on.

    It ends when `stop` says so, and calls `ended` when everything is written.
    """
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            run(grid, flower.config_of(context), listener, stop)
        finally:
            ended()

    return server


app = make_app(Silent(), Stop())
