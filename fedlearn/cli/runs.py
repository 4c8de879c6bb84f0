"""Commands that train: `simulate`, `compare`, and `server` and `client` on separate machines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.cli.form import Commands, add

if TYPE_CHECKING:
    from fedlearn.config import RunConfig


def add_simulate(commands: Commands[argparse.ArgumentParser]) -> None:
    """`simulate`."""
    simulate = add(
        commands,
        "simulate",
        "one federated run on this machine",
        "simulate experiment=medical_heart privacy=none rounds=5 out=runs/open",
        _simulate,
    )
    simulate.add_argument(
        "--config",
        metavar="FILE",
        help="start from the config.yaml that a run left behind instead of configs/run.yaml",
    )
    overrides = simulate.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="what to change, as Hydra overrides. Groups and their options: %(options)s",
    )
    setattr(overrides, "options", _Options())  # noqa: B010  (argparse fills it in from here)


class _Options:
    """The options of every group, looked up when a help text is shown and not before."""

    def __str__(self) -> str:
        from fedlearn.core.registry import plugin_kinds

        configs = Path(__file__).resolve().parents[2] / "configs"
        found = {
            folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
            for folder in sorted(configs.iterdir())
            if folder.is_dir()
        }
        named = {group: [*own, *plugin_kinds(group)] for group, own in found.items()}
        return "; ".join(f"{group}: {', '.join(o)}" for group, o in named.items() if len(o) > 1)


def add_compare(commands: Commands[argparse.ArgumentParser]) -> None:
    """`compare`."""
    compare = add(
        commands,
        "compare",
        "run the product of all comma-separated values, side by side, into one table and one "
        "report; the same command again does what is left",
        "compare experiment=medical_heart privacy.epsilon=0.5,1,2,4,8 seed=0,1,2 out=runs/cost",
        _compare,
    )
    compare.add_argument(
        "overrides",
        nargs="+",
        metavar="key=value",
        help="what to run, as Hydra overrides; compare.baselines=true adds reference lines, "
        "compare.workers=N limits the runs at a time",
    )


def add_deployment(commands: Commands[argparse.ArgumentParser]) -> None:
    """`server` and `client`."""
    server = add(
        commands,
        "server",
        "carry out a run over sites on their own machines; the same command again goes on "
        "with a run that was cut off",
        "server server.yaml experiment=medical_heart out=runs/heart",
        _server,
    )
    server.add_argument("file", metavar="SERVERFILE", help="where it listens, and who takes part")
    server.add_argument("--check", action="store_true", help="only say what is wrong")
    server.add_argument(
        "overrides", nargs="*", metavar="key=value", help="the run, as for `fedlearn simulate`"
    )
    client = add(
        commands,
        "client",
        "serve the site of a site file, run after run, until it is stopped",
        "client site.yaml --check",
        _client,
    )
    client.add_argument(
        "file", metavar="SITEFILE", help="the site's data, keys, ledger and policy, and its server"
    )
    client.add_argument("--check", action="store_true", help="only say what is wrong")


def _simulate(options: argparse.Namespace) -> int:
    # Before the first import that takes time, so that it may hold off the collector.
    from simulations.engines.warm import nothing_collected, warm_up

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
    _refuse_broken(config)
    return 0


def _refuse_broken(config: RunConfig) -> None:
    """A run whose own audit says that its promise is broken has not ended well."""
    if config.audit.kind != "none":
        from fedlearn.auditing.findings import refuse_broken
        from fedlearn.results.reading import read_result

        refuse_broken({config.out: read_result(Path(config.out)).audit})


def _config(options: argparse.Namespace) -> RunConfig:
    if options.config is None:
        from fedlearn.config import compose

        return compose(options.overrides)
    from fedlearn.config.saved import load_file

    return load_file(Path(options.config), options.overrides)


def _compare(options: argparse.Namespace) -> int:
    from server.stop import Stop, stop_on_interrupt
    from simulations.sweeps.compare import compare
    from simulations.sweeps.display import CompareDisplay

    stop = Stop()
    with CompareDisplay() as display, stop_on_interrupt(stop, display.say):
        return compare(options.overrides, display, stop)


def _server(options: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from fedlearn.core.logs import log_json
    from server import deployment, serverfile
    from server.run import telling_what_is_kept
    from server.stop import Stop, stop_on_interrupt
    from simulations.display import Display

    file = serverfile.load(Path(options.file))
    config = deployment.deployed(deployment.composed(options.overrides), Path.cwd())
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
    from clients.supernode.checkup import check
    from clients.supernode.node import serve
    from fedlearn.core.logs import log_json

    path = Path(options.file)
    facts = check(path, datetime.now(UTC))
    if options.check:
        print("\n".join(facts))
        return 0
    log_json(sys.stderr, role="client", file=str(path))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    serve(path, app, stop)
    return 0
