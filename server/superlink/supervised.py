"""A process that ends with its parent, of one of the two programs beside a coordinator.

`python -m server.superlink.supervised superlink|gateway ARGUMENTS`

The parent holds the other end of standard input. When the parent dies, however it
dies, that end closes, and this process ends in an orderly way: no port stays taken
and no run goes on without its coordinator.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Final

_GRACE_SECONDS: Final = 5.0


def _end_with_parent() -> None:
    # Not by the buffer of `sys.stdin`: Python aborts where that is being read when it ends.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_GRACE_SECONDS)
    os._exit(1)


def main() -> None:
    """Run one of the two programs in this process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    name, *arguments = sys.argv[1:]
    match name:
        case "superlink":
            from server.superlink import relay

            relay.main(arguments)
        case "gateway":
            from server.superlink import gateway

            gateway.main(arguments)
        case _:
            raise SystemExit(f"no such program: {name}")


if __name__ == "__main__":
    main()
