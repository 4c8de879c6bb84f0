"""A process that ends with its parent: `python -m server.child superlink|gateway ARGUMENTS`.

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
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_GRACE_SECONDS)
    os._exit(1)


def main() -> None:
    """Run one of the two programs in this process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    program, *arguments = sys.argv[1:]
    match program:
        case "superlink":
            from server import superlink_program

            superlink_program.main(arguments)
        case "gateway":
            from server import gateway

            gateway.main(arguments)
        case _:
            raise SystemExit(f"no such program: {program}")


if __name__ == "__main__":
    main()
