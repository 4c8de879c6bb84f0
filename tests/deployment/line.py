"""A slow line between a site and its coordinator: so many bytes a second, each late, none kept."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from contextlib import suppress

_ROOM = 8 * 1024
"""Bytes that wait in a buffer of the line, as in a router's."""
_TICK = 0.02


class Line:
    """Passes bytes from `port` of this machine on to another port, both ways.

    `rate` bytes a second go each way over all connections together, `delay` seconds late. What is
    beyond waits at its sender, whose own buffers fill, as on a long way. `drop` ends a connection
    for every so many bytes that have passed upwards, with what was on its way.
    """

    def __init__(self, target: int, rate: float, delay: float, drop: int | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
        self.port: int = self._listener.getsockname()[1]
        self.upwards, self.dropped = 0, 0
        self._target, self._rate, self._delay, self._drop = target, rate, delay, drop
        self._free = {True: 0.0, False: 0.0}
        self._threads: list[threading.Thread] = []
        self._turn, self._ended = threading.Lock(), threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Give the port back."""
        self._ended.set()
        self._listener.close()
        for one in self._threads:
            one.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._ended.is_set():
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()  # nobody listens there: so the site hears
                    continue
                for here, there, up in ((near, far, True), (far, near, False)):
                    one = threading.Thread(target=self._pass, args=(here, there, up), daemon=True)
                    self._threads.append(one)
                    one.start()

    def _pass(self, here: socket.socket, there: socket.socket, up: bool) -> None:
        late: deque[tuple[float, bytes]] = deque()
        here.settimeout(_TICK)
        open_ = True
        with suppress(OSError):
            while not self._ended.is_set() and (open_ or late):
                if open_ and self._may(up):
                    try:
                        data = here.recv(max(1, int(self._rate * _TICK)))
                    except TimeoutError:
                        data = None
                    if data == b"":
                        open_ = False
                    elif data:
                        late.append((self._take(up, len(data)) + self._delay, data))
                        if self._breaks():
                            break
                else:
                    time.sleep(_TICK / 4)
                while late and late[0][0] <= time.monotonic():
                    there.sendall(late.popleft()[1])
        for one in (here, there):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        here.close()  # each of the two threads the socket that it reads

    def _may(self, up: bool) -> bool:
        return self._free[up] <= time.monotonic()

    def _take(self, up: bool, count: int) -> float:
        """When so many bytes have passed; the line is taken until then."""
        with self._turn:
            self._free[up] = max(self._free[up], time.monotonic()) + count / self._rate
            self.upwards += count if up else 0
            return self._free[up]

    def _breaks(self) -> bool:
        if self._drop is None or self.upwards < self._drop * (self.dropped + 1):
            return False
        self.dropped += 1
        return True
