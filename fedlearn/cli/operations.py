"""Commands for whoever keeps a deployment running: `status`."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from fedlearn.cli.form import command, takes


@command(
    "status",
    "status server.yaml --json",
    takes("file", "the file of the coordinator that is asked about", "SERVERFILE"),
    takes("--json", "as one JSON object, schema fedlearn/status/v1", action="store_true"),
    takes("--prometheus", "as metrics in the text format of Prometheus", action="store_true"),
    takes("--to", "written there, whole, as for node_exporter (default: the screen)", "FILE"),
)
def status(options: argparse.Namespace) -> None:
    """What a coordinator does: its run and round, whom it waits for and since when, the last error,
    and what the run has cost."""
    from fedlearn.core.errors import ConfigError
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
