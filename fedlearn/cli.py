"""The command line: `fedlearn COMMAND`, also `python -m fedlearn`.

Each command imports what it needs when it is called, so that `--help` and a
wrong option answer at once. Errors that a user can act on end with their exit
code and without a traceback; anything else is a bug, whose traceback goes to a
log file.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedlearn.arguments import parse
from fedlearn.errors import ConfigError, FedlearnError, StoppedError

if TYPE_CHECKING:
    from fedlearn.config import RunConfig

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    _say_anything()
    options = parse(arguments)
    try:
        return COMMANDS[options.command](options)
    except FedlearnError as error:
        _complain("\n".join([str(error), *getattr(error, "__notes__", ())]))
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


def _bug(error: Exception) -> int:
    import tempfile

    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix="fedlearn-", suffix=".log", delete=False
    ) as log:
        traceback.print_exception(error, file=log)
    _complain(f"a bug in fedlearn: {type(error).__name__}: {error}; traceback in {log.name}")
    return 1


# --- Runs and data ----------------------------------------------------------------


def _simulate(options: argparse.Namespace) -> int:
    # Before the first import that takes time, so that it may hold off the collector.
    from simulations.warm import nothing_collected, warm_up

    with nothing_collected():
        config = _config(options)
        from server.run import telling_what_is_kept
        from server.stop import Stop, stop_on_interrupt
        from simulations.display import Display
        from simulations.run import notes, simulate

        warm_up(config)
    stop = Stop()
    with Display() as display, stop_on_interrupt(stop, display.say):
        for note in notes(config):
            display.note(note)
        with telling_what_is_kept(config, "the same command with resume=true"):
            simulate(config, display, stop)
    return 0


def _config(options: argparse.Namespace) -> RunConfig:
    if options.config is None:
        from fedlearn.config import compose

        return compose(options.overrides)
    from fedlearn.config_file import load_file

    return load_file(Path(options.config), options.overrides)


def _server(options: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from fedlearn.config import compose
    from fedlearn.logs import log_json
    from server import deployment, serverfile
    from server.run import telling_what_is_kept
    from server.stop import Stop, stop_on_interrupt
    from simulations.display import Display

    file = serverfile.load(Path(options.file))
    config = deployment.deployed(compose(options.overrides), Path.cwd())
    parties = deployment.check(file, config, datetime.now(UTC))
    if options.check:
        for line in (f"sites: {', '.join(parties.certificates)}", *parties.warnings):
            print(line)
        return 0
    if deployment.finished(config):
        print(f"{config.out}: this run is finished; choose another out for the next one")
        return 0
    file.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    stop = Stop()
    with (file.state / "server.jsonl").open("a", encoding="utf-8") as log:
        log_json(log, role="server")
        with (
            Display() as display,
            stop_on_interrupt(stop, display.say),
            telling_what_is_kept(config, "the same command"),
        ):
            deployment.serve(file, config, display, stop)
    return 0


def _client(options: argparse.Namespace) -> int:
    import signal
    import threading
    from datetime import UTC, datetime

    from clients.app import app
    from clients.checkup import check
    from clients.node import serve
    from fedlearn.logs import log_json

    path = Path(options.file)
    found = check(path, datetime.now(UTC))
    if found.problems:
        raise ConfigError(found.problems)
    if options.check:
        print("\n".join(found.facts))
        return 0
    log_json(sys.stderr, role="client", file=str(path))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    serve(path, app, stop)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from server.stop import Stop, stop_on_interrupt
    from simulations.compare import compare
    from simulations.compare_display import CompareDisplay

    stop = Stop()
    with CompareDisplay() as display, stop_on_interrupt(stop, display.say):
        return compare(options.overrides, display, stop)


def _report(options: argparse.Namespace) -> int:
    from server.report.page import write_report

    if options.explain is not None:
        from simulations.explaining import explain_run

        explain_run(Path(options.folder), options.explain)
    print(write_report(Path(options.folder)))
    return 0


def _audit(options: argparse.Namespace) -> int:
    from simulations.audit import audit

    audit(options.words)
    return 0


def _data_list(_: argparse.Namespace) -> int:
    from fedlearn import terminal
    from simulations.data_display import show_list

    show_list(terminal.console())
    return 0


def _data_fetch(options: argparse.Namespace) -> int:
    from fedlearn.data import archives, download
    from fedlearn.data.medmnist_sets import SETS

    cache = archives.default_cache(os.environ)
    if options.name in archives.ARCHIVES:
        print(archives.fetch(archives.ARCHIVES[options.name], cache))
    elif options.name in SETS:
        print(download.fetch(SETS[options.name].file, cache))
    else:
        known = ", ".join([*archives.ARCHIVES, *SETS])
        raise ConfigError([f"{options.name}: must be one of {known}"])
    return 0


def _data_check(options: argparse.Namespace) -> int:
    from fedlearn import terminal
    from fedlearn.data.check import check
    from simulations.data_display import show_check

    report = check(Path(options.path))
    show_check(report, terminal.console())
    return 5 if report.problems else 0


# --- Keys, ledgers, export ----------------------------------------------------------


def _keys_new(options: argparse.Namespace) -> int:
    from fedlearn import keyring_display

    keyring_display.new(Path(options.folder), options.name, options.role)
    return 0


def _keys_certificate(options: argparse.Namespace) -> int:
    from fedlearn import keyring_display

    keyring_display.certify(Path(options.folder), options.hosts)
    return 0


def _keys_show(options: argparse.Namespace) -> int:
    from fedlearn import keyring_display

    keyring_display.show(Path(options.path))
    return 0


def _roster_sign(options: argparse.Namespace) -> int:
    from fedlearn import keyring_display

    public = [Path(path) for path in options.public]
    keyring_display.sign(Path(options.to), options.federation, public, Path(options.by))
    return 0


def _roster_pin(options: argparse.Namespace) -> int:
    from fedlearn import keyring_display

    keyring_display.pin(Path(options.path), options.fingerprint)
    return 0


def _roster_show(options: argparse.Namespace) -> int:
    from fedlearn import keyring_display

    keyring_display.show_roster(Path(options.path), options.pin)
    return 0


def _ledger_show(options: argparse.Namespace) -> int:
    from clients import ledger_display

    ledger_display.show(Path(options.path), options.delta)
    return 0


def _ledger_verify(options: argparse.Namespace) -> int:
    from clients import ledger_display

    ledger_display.verify(Path(options.path), options.head)
    return 0


def _export(options: argparse.Namespace) -> int:
    from server.export import export, notes

    folder = Path(options.to)
    for path in export(Path(options.run), folder):
        print(path)
    for note in notes(folder):
        print(f"note: {note}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from fedlearn.prediction import load, write_table

    model = load(Path(options.model))
    names = ("separator", "encoding", "decimal", "text")
    written = {name: value for name in names if (value := getattr(options, name)) is not None}
    like = None if options.like is None else Path(options.like)
    found = model.read(Path(options.records), like, **written)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    write_table(model, found, None if options.to is None else Path(options.to))
    return 0


COMMANDS: Final[Mapping[str, Command]] = {
    "simulate": _simulate,
    "server": _server,
    "client": _client,
    "compare": _compare,
    "report": _report,
    "audit": _audit,
    "data list": _data_list,
    "data fetch": _data_fetch,
    "data check": _data_check,
    "keys new": _keys_new,
    "keys certificate": _keys_certificate,
    "keys show": _keys_show,
    "keys roster sign": _roster_sign,
    "keys roster pin": _roster_pin,
    "keys roster show": _roster_show,
    "ledger show": _ledger_show,
    "ledger verify": _ledger_verify,
    "export": _export,
    "predict": _predict,
}
"""What to call for the words of a command; `fedlearn.arguments` says which there are."""


if __name__ == "__main__":
    sys.exit(main())
