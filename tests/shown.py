"""Shows what it was given, and ends as it is told: `python -m tests.shown HOW ...`."""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
from pathlib import Path

if __name__ == "__main__":
    how, *others = sys.argv[1:]
    atexit.register(print, "the end")
    shown = {
        "others": others,
        "folder": str(Path.cwd()),
        "environment": {name: os.environ.get(name) for name in ("GIVEN", "HOME", "TAKEN")},
        "read": sys.stdin.read(),
        "leads": os.getsid(0) == os.getpid(),
        "threads": threading.active_count(),
        "child": signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "open": len([*Path("/proc/self/fd").iterdir()]),
    }
    print(json.dumps(shown))
    print("said", file=sys.stderr)
    if how == "raise":
        raise ValueError("told to")
    if how == "kill":
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(int(how))
