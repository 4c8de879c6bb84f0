"""The command `fedlearn`, also `python -m fedlearn`: what Ctrl-C does before and after all else."""

import signal
import sys

from fedlearn.core.interrupt import interrupt, interrupts

STOPPED = 130
"""128 + SIGINT, as shells have it."""


def main() -> int:
    """Run the command line; returns its exit code."""
    try:
        signal.signal(signal.SIGINT, interrupt)
        from fedlearn import cli

        return cli.main()
    except BaseException:
        if not interrupts():
            raise
        print("fedlearn: stopped", file=sys.stderr)
        return STOPPED
    finally:  # nothing is left to stop, and Python would say so by a traceback
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
