"""A cable between a site and its coordinator, that can be cut without either being told."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress


class Cable:
    """Passes bytes from `port` of this machine on to another port, both ways, until it is cut.

    While it is cut, bytes wait where they are, and connections are taken and lead
    nowhere: nobody gets an error, as when packets are dropped on the way.
    """

    def __init__(self, target: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._target = target
        self._whole = threading.Event()
        self._whole.set()
        self._ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on nothing arrives."""
        self._whole.clear()

    def mend(self) -> None:
        """What has waited arrives, late."""
        self._whole.set()

    def close(self) -> None:
        """Give the port back."""
        self._ended.set()
        self._whole.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._ended.is_set():
                near, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._whole.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            near.close()  # the coordinator is not there: so the site is told
            return
        with near, far, suppress(OSError):
            while not self._ended.is_set():
                ready, _, _ = select.select([near, far], [], [], 0.2)
                self._whole.wait()
                for one in ready:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    (far if one is near else near).sendall(data)
