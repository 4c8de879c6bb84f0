"""The command line with Ctrl-C when it comes to a place, as a terminal sends it to all processes.

python -m tests.simulations.cut_off TIMES MODULE:NAME simulate key=value ...
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from typing import Any

from fedlearn.__main__ import main


def cut(place: str, times: int) -> None:
    """Press Ctrl-C when the function at `place` is first called; a second time soon after."""
    module, name = place.split(":")
    *parts, last = name.split(".")
    owner: Any = importlib.import_module(module)
    for part in parts:
        owner = getattr(owner, part)
    whole = getattr(owner, last)

    def interrupted(*arguments: Any, **named: Any) -> Any:
        setattr(owner, last, whole)
        for press in range(times):
            time.sleep(0.2 * press)
            os.killpg(0, signal.SIGINT)
        return whole(*arguments, **named)

    setattr(owner, last, interrupted)


if __name__ == "__main__":
    times, place = int(sys.argv.pop(1)), sys.argv.pop(1)
    cut(place, times)
    sys.exit(main())
