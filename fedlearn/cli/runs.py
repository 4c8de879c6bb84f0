"""Commands that train: `simulate`, `compare`, and `server` and `client` on separate machines."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.cli.completion import words
from fedlearn.cli.form import command, takes
from fedlearn.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fedlearn.config import RunConfig
    from server.serverfile import ServerFile


class _WithOptions(str):
    """A help text and the options of every group, which are looked up when it is shown."""

    __slots__ = ()

    def __mod__(self, _: object) -> str:
        from fedlearn.config.layers import groups_of_files, options_of

        listed = (f"{group}: {', '.join(options_of(group))}" for group in groups_of_files())
        return f"{self} {'; '.join(listed)}"


_STATISTICS = takes(
    "--statistics",
    "take ranges and categories of columns from what `fedlearn statistics` has found",
    "statistics.yaml",
    there=ConfigError,
)


def _with_statistics(options: argparse.Namespace) -> None:
    """Put what a file of figures stands for before the words, which go before it."""
    if options.statistics is not None:
        from fedlearn.config.composition import split
        from fedlearn.results.statistics import words_of

        given = {split(word)[0].lstrip("+~") for word in options.overrides}
        found = [one for one in words_of(Path(options.statistics)) if split(one)[0] not in given]
        options.overrides = [*found, *options.overrides]


@command(
    "simulate",
    "simulate experiment=medical_heart privacy=none rounds=5 out=runs/open",
    takes(
        "--config",
        "start from the config.yaml that a run left behind instead of configs/run.yaml",
        "FILE",
        there=ConfigError,
    ),
    takes("--cfg", "show the config that would be run, and run nothing", action="store_true"),
    _STATISTICS,
    takes(
        "overrides",
        _WithOptions("what to change, as Hydra overrides. Groups and their options:"),
        "key=value",
        nargs="*",
        completed=words,
    ),
)
def simulate(options: argparse.Namespace) -> None:
    """One federated run on this machine."""
    _with_statistics(options)
    if options.config is None:
        _refuse_words(options)
    if options.cfg:
        _show(*_config(options))
        return
    # Before the first import that takes time, so that it may hold off the collector.
    from simulations.engines.warm import nothing_collected, warm_up

    with nothing_collected():
        config, derived = _config(options)
        from server.run import telling_what_is_kept
        from server.stop import Stop, stop_on_interrupt
        from simulations.display import Display
        from simulations.run import check_folder, notes, simulate

        check_folder(config)
        warm_up(config)
    stop = Stop()
    with Display() as display, stop_on_interrupt(stop, display.say):
        for note in (*notes(config), *derived):
            display.note(note)
        with telling_what_is_kept(config, "the same command with resume=true"):
            simulate(config, display, stop)
    _refuse_broken(config)


def _refuse_words(options: argparse.Namespace) -> None:
    """Say at once what is wrong with words, before all that takes a second to import."""
    from fedlearn.config.words import refuse_words

    refuse_words(options.overrides)


def _refuse_broken(config: RunConfig) -> None:
    """A run whose own audit says that its promise is broken has not ended well."""
    if config.audit.kind != "none":
        from fedlearn.auditing.findings import refuse_broken
        from fedlearn.results.reading import read_result

        refuse_broken({config.out: read_result(Path(config.out)).audit})


def _show(config: RunConfig, notes: Sequence[str]) -> None:
    """Print a config as a run would leave it behind."""
    from fedlearn.config import to_tree
    from fedlearn.core import yaml_file

    print("".join(f"# {note}\n" for note in notes), end="")
    print(yaml_file.dump(to_tree(config)), end="")


def _config(options: argparse.Namespace) -> tuple[RunConfig, tuple[str, ...]]:
    """The config that is asked for, and notes on what of it nobody has set."""
    if options.config is None:
        from fedlearn.config import compose
        from simulations.derived import composed
        from simulations.run import check_folder

        check_folder(compose(options.overrides))  # before records are read
        found = composed(options.overrides)
        return found.config, found.notes
    from fedlearn.config.saved import load_file

    return load_file(Path(options.config), options.overrides), ()


@command(
    "new",
    "new my-study --data my.csv",
    takes("folder", "made for the study, whose name it is", "FOLDER"),
    takes(
        "--data", "what `fedlearn data check` understands", "FILE", required=True, there=DataError
    ),
    takes("--label", "the column to predict, where it is not the likeliest", "NAME"),
    _STATISTICS,
    takes(
        "overrides",
        "what is set otherwise, as for `fedlearn simulate`",
        "key=value",
        nargs="*",
        completed=words,
    ),
)
def new(options: argparse.Namespace) -> None:
    """A study file from one's own data: what was understood, every setting with what it means,
    and what follows by rule."""
    from fedlearn.core.files import shortest
    from simulations.new_study import new_study

    _with_statistics(options)
    folder, data = Path(options.folder), Path(options.data)
    path, found = new_study(folder, data, options.label, options.overrides)
    for note in found.notes:
        print(f"note: {note}")
    file = shortest(path)
    print(f"{file} says what was understood and what is set; read it, then:")
    print(f"  fedlearn simulate --config {shlex.quote(file)}")


@command(
    "compare",
    "compare experiment=medical_heart privacy.epsilon=0.5,1,2,4,8 seed=0,1,2 out=runs/cost",
    takes(
        "overrides",
        "what to run, as Hydra overrides; compare.baselines=true adds reference lines, "
        "compare.workers=N limits the runs at a time",
        "key=value",
        nargs="+",
        completed=words,
    ),
)
def compare(options: argparse.Namespace) -> int:
    """Run the product of all comma-separated values, side by side, into one table and one report;
    the same command again does what is left."""
    from fedlearn.config.words import refuse_swept

    refuse_swept(options.overrides)
    from server.stop import Stop, stop_on_interrupt
    from simulations.sweeps.compare import compare
    from simulations.sweeps.display import CompareDisplay

    stop = Stop()
    with CompareDisplay() as display, stop_on_interrupt(stop, display.say):
        return compare(options.overrides, display, stop)


_CHECK = takes("--check", "only say what is wrong", action="store_true")


@command(
    "server",
    "server server.yaml experiment=medical_heart out=runs/heart",
    takes("file", "where it listens, and who takes part", "SERVERFILE", there=ConfigError),
    _CHECK,
    takes(
        "--queue",
        "stay, and serve the studies of `fedlearn queue` one after another",
        action="store_true",
    ),
    takes(
        "overrides",
        "the run, as for `fedlearn simulate`",
        "key=value",
        nargs="*",
        completed=words,
    ),
)
def server(options: argparse.Namespace) -> None:
    """Carry out a run over sites on their own machines; the same command again goes on with a run
    that was cut off."""
    from fedlearn.core.alerts import alerting
    from fedlearn.core.logs import logged_json
    from server import deployment, serverfile
    from server.run import telling_what_is_kept
    from server.status import LOG
    from server.status_views import published
    from server.stop import Stop, stop_on_interrupt
    from simulations.display import Display

    file = serverfile.load(Path(options.file))
    if options.queue:
        _serve_queue(file, options)
        return
    config = deployment.deployed(deployment.composed(options.overrides), Path.cwd())
    parties = deployment.check(file, config, datetime.now(UTC))
    if options.check:
        sites = f"sites: {', '.join(parties.certificates)}"
        print("\n".join([sites, *parties.warnings, *deployment.left_open(config)]))
        return
    if deployment.finished(config):
        print(f"{config.out}: this run is finished; choose another out for the next one")
        return
    file.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    stop = Stop()
    with (
        logged_json(file.state / LOG, role="server"),
        alerting(file.alerts, file.webhook),
        published(file.state, file.metrics),
        Display() as display,
        stop_on_interrupt(stop, display.say),
        telling_what_is_kept(config, "the same command"),
    ):
        deployment.serve(file, config, display, stop, display.note)


def _serve_queue(file: ServerFile, options: argparse.Namespace) -> None:
    """Serve studies one after another until it is stopped."""
    from fedlearn.core.alerts import alerting
    from fedlearn.core.logs import logged_json
    from server import serverfile
    from server.queue import Queue
    from server.standing_server import StandingServer
    from server.status import LOG
    from server.status_views import published
    from server.stop import Stop, stop_on_interrupt

    if options.overrides:
        words = " ".join(options.overrides)
        raise ConfigError(f"--queue: takes no run; fedlearn queue add {options.file} {words}")
    parties = serverfile.federation(file, datetime.now(UTC))
    if options.check:
        print("\n".join([f"sites: {', '.join(parties.certificates)}", *parties.warnings]))
        return
    file.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    stop = Stop()
    with (
        logged_json(file.state / LOG, role="server"),
        alerting(file.alerts, file.webhook),
        published(file.state, file.metrics),
        stop_on_interrupt(stop, _say),
    ):
        StandingServer(file, Queue(file.state), stop, _say).serve()


def _say(sentence: str) -> None:
    print(sentence, flush=True)


@command(
    "helper",
    "helper helper.yaml --check",
    takes(
        "file",
        "its keys, its server and the studies that it helps in",
        "HELPERFILE",
        there=ConfigError,
    ),
    _CHECK,
)
def helper(options: argparse.Namespace) -> None:
    """Be the second server of `secagg=two_server`, at an organisation that is not the
    coordinator's, run after run, until it is stopped."""
    from clients.helper.helperfile import check
    from clients.helper.program import serve

    _until_stopped(options, "helper", check, serve)


@command(
    "client",
    "client site.yaml --check",
    takes(
        "file",
        "the site's data, keys, ledger and policy, and its server",
        "SITEFILE",
        there=ConfigError,
    ),
    _CHECK,
)
def client(options: argparse.Namespace) -> None:
    """Serve the site of a site file, run after run, until it is stopped."""
    from clients import sitefile
    from clients.app import app
    from clients.supernode.checkup import check
    from clients.supernode.node import serve
    from fedlearn.core.alerts import alerting

    def served(path: Path, stop: threading.Event) -> None:
        site = sitefile.load(path)
        with alerting(site.alerts, site.webhook):
            serve(path, app, stop)

    _until_stopped(options, "client", check, served)


def _until_stopped(
    options: argparse.Namespace,
    role: str,
    check: Callable[[Path, datetime], list[str]],
    serve: Callable[[Path, threading.Event], None],
) -> None:
    """Say what `check` finds in the file of a party; and unless only that is asked, `serve` it."""
    path = Path(options.file)
    facts = check(path, datetime.now(UTC))
    if options.check:
        print("\n".join(facts))
        return
    from fedlearn.core.logs import log_json

    log_json(sys.stderr, role=role, file=str(path))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    serve(path, stop)
