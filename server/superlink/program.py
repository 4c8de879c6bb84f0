"""Flower's SuperLink with our relay beside its own paths: a process of its own.

What `flower-superlink` does, from the same arguments, but for the router that is added
and for the news that it asks for and sends when it starts.

Uses private names of flwr 1.41 and 1.42; `tests/server/superlink/test_endpoint.py` starts it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import uvicorn
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.logger import console_handler
from flwr.superlink.cli.flower_superlink import (
    SuperLinkLifespan,
    _parse_superlink_lifespan_config,
)
from flwr.superlink.main import create_app

from server.superlink.broker import Broker
from server.superlink.relay import router

_KEEP_ALIVE_SECONDS: Final = 75
"""Longer than the gateway keeps a connection without use: it never meets a closed one."""


def main(arguments: Sequence[str]) -> None:
    """Serve until this process is told to end; `arguments` are those of `flower-superlink`."""
    sys.argv = ["flower-superlink", *arguments]
    config = _parse_superlink_lifespan_config()
    app = create_app(config, SuperLinkLifespan)
    app.state.fedlearn_broker = Broker()
    app.include_router(router)
    uvicorn.run(
        app,
        host=config.host,
        port=config.port,
        access_log=False,
        log_config=get_uvicorn_log_config(console_handler.level),
        ssl_keyfile=config.ssl_keyfile,
        ssl_certfile=config.ssl_certfile,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
