"""The command line: `fedlearn COMMAND`, also `python -m fedlearn`.

Each command imports what it needs when it is called, so that `--help` and a
wrong option answer at once. Errors that a user can act on end with their exit
code and without a traceback; anything else is a bug, whose traceback goes to a
log file.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from fedlearn import __version__
from fedlearn.errors import ConfigError, FedlearnError, StoppedError

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command(options)
    except FedlearnError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("stopped; what was done is kept")
        return StoppedError.exit_code
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; nothing is lost.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  (the last line of defence against a traceback on screen)
        return _bug(error)


def _complain(message: str) -> None:
    for line in message.splitlines():
        print(f"fedlearn: {line}", file=sys.stderr)


def _bug(error: Exception) -> int:
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="fedlearn-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    _complain(f"a bug in fedlearn: {type(error).__name__}: {error}; traceback in {log.name}")
    return 1


# --- the commands ---------------------------------------------------------------


def _simulate(options: argparse.Namespace) -> int:
    from fedlearn.config import compose

    config = compose(options.overrides)
    from server.stop import Stop, stop_on_interrupt
    from simulations.display import Display
    from simulations.run import simulate

    stop = Stop()
    with Display() as display, stop_on_interrupt(stop, display.say):
        simulate(config, display, stop)
    return 0


def _data_list(_: argparse.Namespace) -> int:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from fedlearn.data import DATASETS

    table = Table("name", "records", "sites", "classes", "licence", "source", box=box.SIMPLE)
    for data in DATASETS.values():
        sites, classes = ", ".join(data.sites), ", ".join(data.classes)
        table.add_row(data.name, f"{data.records:,}", sites, classes, data.licence, data.source)
    Console().print(table)
    return 0


def _data_fetch(options: argparse.Namespace) -> int:
    from fedlearn.data import archives

    if options.name not in archives.ARCHIVES:
        raise ConfigError([f"{options.name}: must be one of {', '.join(archives.ARCHIVES)}"])
    print(archives.fetch(archives.ARCHIVES[options.name], archives.default_cache(os.environ)))
    return 0


def _data_check(options: argparse.Namespace) -> int:
    from rich.console import Console

    from fedlearn.data.check import check
    from simulations.display import show_check

    report = check(Path(options.path))
    show_check(report, Console(highlight=False))
    return 5 if report.problems else 0


# --- the parser -------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedlearn",
        description="Federated learning whose privacy is true.",
        epilog="example: fedlearn simulate experiment=medical_heart out=runs/heart",
    )
    parser.add_argument("--version", action="version", version=f"fedlearn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    simulate = _add(
        commands,
        "simulate",
        _simulate,
        "one federated run on this machine",
        "fedlearn simulate experiment=medical_heart privacy=none rounds=5 out=runs/open",
    )
    simulate.add_argument(
        "overrides", nargs="*", metavar="key=value", help="Hydra overrides of configs/run.yaml"
    )

    data = commands.add_parser("data", help="what data there is")
    tasks = data.add_subparsers(required=True, metavar="TASK")
    _add(tasks, "list", _data_list, "known data sets", "fedlearn data list")
    fetch = _add(
        tasks, "fetch", _data_fetch, "bring a known set into the cache", "fedlearn data fetch heart"
    )
    fetch.add_argument("name", metavar="NAME")
    check = _add(
        tasks, "check", _data_check, "look at one's own table", "fedlearn data check my.csv"
    )
    check.add_argument("path", metavar="PATH")
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Command,
    summary: str,
    example: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=summary, epilog=f"example: {example}"
    )
    parser.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
