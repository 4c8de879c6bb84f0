"""The command line: `fedlearn COMMAND`, also `python -m fedlearn`.

Each command imports what it needs when it is called, so that `--help` and a
wrong option answer at once. Errors that a user can act on end with their exit
code and without a traceback; anything else is a bug, whose traceback goes to a
log file.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

from fedlearn.cli.completion import complete
from fedlearn.cli.form import refuse_absent
from fedlearn.cli.parser import parse, parser
from fedlearn.core.code import check_packages
from fedlearn.core.errors import DataError, FedlearnError, StoppedError
from fedlearn.core.interrupt import interrupts

_FULL: Final = {errno.ENOSPC, errno.EDQUOT}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    _say_anything()
    complete(parser())
    options = parse(arguments)
    before = interrupts()
    try:
        check_packages()
        refuse_absent(options)
        return options.call(options) or 0
    except FedlearnError as error:
        _complain("\n".join([str(error), *getattr(error, "__notes__", ())]))
        return error.exit_code
    except KeyboardInterrupt:
        return _stopped()
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; nothing is lost.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _no_room(error) if error.errno in _FULL else _bug(error)
    except Exception as error:  # noqa: BLE001  (the last line of defence against a traceback on screen)
        return _stopped() if interrupts() > before else _bug(error)


def _say_anything() -> None:
    """A character that the screen's encoding lacks is written as an escape, not a crash.

    The name of a site is anything; a screen, or what reads our output, may know ASCII alone.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _complain(message: str) -> None:
    for line in message.splitlines():
        print(f"fedlearn: {line}", file=sys.stderr)


def _stopped() -> int:
    _complain("stopped; what was written is kept")
    return StoppedError.exit_code


def _no_room(error: OSError) -> int:
    where = f"{error.filename}: " if error.filename else ""
    _complain(
        f"{where}{error.strerror}; make room for it. What was done is kept: a run goes on with "
        "resume=true, anything else with the same command"
    )
    return DataError.exit_code


def _bug(error: Exception) -> int:
    import tempfile

    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix="fedlearn-", suffix=".log", delete=False
    ) as log:
        traceback.print_exception(error, file=log)
    _complain(f"a bug in fedlearn: {type(error).__name__}: {error}; traceback in {log.name}")
    return 1
