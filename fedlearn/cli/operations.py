"""Commands for whoever keeps a deployment running: `status`, and the `queue` of its studies."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.cli.completion import words
from fedlearn.cli.form import PAGE_PLACE, command, say_lines, takes
from fedlearn.core.errors import ConfigError

if TYPE_CHECKING:
    from server.queue import Queue


@command(
    "status",
    "status server.yaml --json",
    takes(
        "file", "the file of the coordinator that is asked about", "SERVERFILE", there=ConfigError
    ),
    takes("--json", "as one JSON object, schema fedlearn/status/v1", action="store_true"),
    takes("--prometheus", "as metrics in the text format of Prometheus", action="store_true"),
    takes("--to", "written there, whole, as for node_exporter (default: the screen)", "FILE"),
    takes("--page", "as a page on this machine, with the queue", action="store_true"),
    *PAGE_PLACE,
)
def status(options: argparse.Namespace) -> None:
    """What a coordinator does: its run and round, whom it waits for and since when, the last error,
    and what the run has cost."""
    if options.page:
        _show_page(options)
        return
    from fedlearn.core.files import possible, write_atomically
    from server import serverfile
    from server.status import status_of
    from server.status_views import as_json, as_metrics, as_text

    if options.json and options.prometheus:
        raise ConfigError("--json, --prometheus: are two forms; choose one")
    found = status_of(serverfile.load(Path(options.file)).state, datetime.now(UTC))
    shown = as_metrics if options.prometheus else as_json if options.json else as_text
    text = shown(found).rstrip("\n")
    if options.to is None:
        print(text)
        return
    with possible("written", f"--to {options.to}", ConfigError):
        write_atomically(Path(options.to), f"{text}\n".encode())


def _show_page(options: argparse.Namespace) -> None:
    """Serve the page of a coordinator until it is interrupted."""
    from server import serverfile
    from server.page.server import serve

    if options.json or options.prometheus or options.to is not None:
        raise ConfigError("--page: is a form of its own; leave out --json, --prometheus and --to")
    file = serverfile.load(Path(options.file))
    serve(file, Path.cwd(), options.address, options.port, say_lines)


_FILE = takes(
    "file", "the file of the coordinator that serves them", "SERVERFILE", there=ConfigError
)
_NUMBER = takes("number", "of the study, as `fedlearn queue show` has it", "NUMBER", type=int)


@command(
    "queue add",
    "queue add server.yaml experiment=medical_heart out=runs/heart",
    _FILE,
    takes(
        "overrides", "the run, as for `fedlearn server`", "key=value", nargs="*", completed=words
    ),
)
def queue_add(options: argparse.Namespace) -> None:
    """Put a study at the end of the queue, whether or not a coordinator serves it now."""
    from fedlearn.config.words import refuse_words

    refuse_words(options.overrides)
    from server.standing_server import put_into

    study = put_into(_queue(options), options.overrides, Path.cwd())
    print(f"study {study.number} is queued: {study.out}")


@command("queue show", "queue show server.yaml", _FILE)
def queue_show(options: argparse.Namespace) -> None:
    """The studies that were put into the queue, and how each of them stands."""
    for one in _queue(options).studies():
        state = "running, to be stopped" if one.wish else one.state
        reason = f": {'; '.join(one.reason.splitlines())}" if one.reason else ""
        print(f"{one.number}  {state} since {one.since}  {one.out}{reason}")


@command("queue stop", "queue stop server.yaml 3", _FILE, _NUMBER)
def queue_stop(options: argparse.Namespace) -> None:
    """Take a study off that has not begun, or have one that is running end after its round; what
    was trained is kept."""
    one = _queue(options).stop(options.number)
    how = "ends after its round" if one.wish else "will not begin"
    print(f"study {one.number} {how}; `fedlearn queue resume` takes it up again")


@command("queue resume", "queue resume server.yaml 3", _FILE, _NUMBER)
def queue_resume(options: argparse.Namespace) -> None:
    """Put a study back that was stopped or has failed: it goes on from its last finished round."""
    one = _queue(options).resume(options.number)
    print(f"study {one.number} is queued: {one.out}")


def _queue(options: argparse.Namespace) -> Queue:
    from server import serverfile
    from server.queue import Queue

    return Queue(serverfile.load(Path(options.file)).state)
