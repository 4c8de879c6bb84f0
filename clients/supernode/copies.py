"""A site's process says which of two it is, and hears when there are two under its key."""

from __future__ import annotations

import logging
import secrets
import time
from typing import Final

import httpx

from fedlearn.flower.envelope import COPIED_HEADER, PROCESS_HEADER

log = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 60.0
"""How often it is said."""

REASON: Final = (
    "another process is online under this site's key, as from a copy of its folder: they take each "
    "other's messages, and the ledger that lacks what the other has signed is refused. End one of "
    "them, and keep the folder with the longer ledger"
)


class OneOfTwo:
    """Names this process in the requests of a client, and reads of their answers whether it is
    alone."""

    def __init__(self, client: httpx.Client) -> None:
        client.headers[PROCESS_HEADER] = secrets.token_hex(16)
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "response": [*hooks["response"], self._look]}
        self._noted = float("-inf")

    def _look(self, response: httpx.Response) -> None:
        now = time.monotonic()
        if COPIED_HEADER in response.headers and now - self._noted >= AGAIN_SECONDS:
            self._noted = now
            log.warning("copied", extra={"fields": {"reason": REASON}})
