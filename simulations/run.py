"""One federated run on this machine, on the engine that its config names."""

from __future__ import annotations

import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from flwr.clientapp import ClientApp

from clients import screening
from clients.app import app as honest
from clients.owner import owned_ledgers, owner_of
from clients.records import Choice, simulated_notes, simulated_sites, simulated_task
from clients.records import records as kept_records
from clients.supernode.run_lock import claimed
from fedlearn.config import RunConfig
from fedlearn.config.engine import LocalEngine, RayEngine
from fedlearn.core.errors import PrivacyError
from fedlearn.data import Pool, SiteData
from fedlearn.data.tables.guess import key_of
from fedlearn.flower import messages as flower
from fedlearn.prediction import found_categories, row_scenario, unnamed_categories
from fedlearn.results.categories import keep_categories
from fedlearn.results.folder import RunFolder
from fedlearn.results.result import ResultFile, RoundResult
from fedlearn.results.statistics import named, read_statistics, write_statistics
from server.app import make_app
from server.enrol import enrol, plan_for, secagg_driver
from server.federation import Federation
from server.run import Listener
from server.stop import Stop
from server.tracking import check_tracking
from simulations.engines.local import FIRST_NODE, InProcessGrid, make_contexts, run_locally
from simulations.engines.ray import run_on_ray

STOP_SECONDS = 20.0


def simulate(
    config: RunConfig,
    listener: Listener,
    stop: Stop,
    *,
    only: str | None = None,
    client: ClientApp = honest,
) -> None:
    """Run `config` to its end; the result is in the folder `config.out`.

    `only` names the one site that takes part, for the local engine: a study of
    what that site learns by itself. `client` answers for the sites; honestly, unless it is an
    attack.

    Raises:
        FedlearnError: see `server.run.run`.
        StoppedError: stopped by the user, after everything was written.
    """
    config = with_absolute_paths(config, Path.cwd())
    check_folder(config)
    sites = simulated_sites(config)
    names, sizes = list(sites), [len(site.train) for site in sites.values()]
    # Only what outlives the run: a ledger in the run's own folder is nobody else's.
    with claimed(owned_ledgers(config, names)):
        chosen = None if only is None else names.index(only)
        if only is None and client is honest and config.statistics.idle:
            listener = _Comparing(config, listener)
        if config.audit.kind != "none":
            listener = _Measuring(config, listener)
        _run(config, sizes, listener, stop, chosen, client)
    if not config.statistics.idle:
        _name_categories(config)
    elif only is None and client is honest:
        _keep_categories(config)


def _keep_categories(config: RunConfig) -> None:
    """Keep what `fedlearn predict` needs of records beside what sites keep of a run."""
    rows, unnamed = row_scenario(config.scenario), _unnamed(config)
    if rows is not None and unnamed:
        keep_categories(Path(config.out), found_categories(rows, unnamed))


def _name_categories(config: RunConfig) -> None:
    """Write the names of categories that are not public into the figures of a simulation: of those
    that have been let through, and of no others."""
    rows, unnamed = row_scenario(config.scenario), _unnamed(config)
    if rows is not None and unnamed:
        folder = Path(config.out)
        found = named(read_statistics(folder), found_categories(rows, unnamed))
        write_statistics(folder, found)


def _unnamed(config: RunConfig) -> tuple[str, ...]:
    return unnamed_categories(config.scenario, simulated_task(config).form.input)


def _run(
    config: RunConfig,
    sizes: Sequence[int],
    listener: Listener,
    stop: Stop,
    only: int | None,
    client: ClientApp,
) -> None:
    ended = threading.Event()
    server = make_app(listener, stop, ended.set)
    match config.engine:
        case LocalEngine():
            run_locally(server, client, config, config.engine, sizes=sizes, only=only)
        case RayEngine():
            try:
                asked = flower.run_config_of(config)
                run_on_ray(server, client, config.engine, sites=len(sizes), run_config=asked)
            except KeyboardInterrupt:
                # The ServerApp runs in a thread of Flower's: let it write what is done.
                ended.wait(STOP_SECONDS)
                raise
        case _:
            assert_never(config.engine)


@dataclass(frozen=True)
class _Adding(ABC):
    """Adds to the result of a run at its end, before anybody hears of it."""

    config: RunConfig
    listener: Listener

    def started(self, federation: Federation, first_round: int) -> None:
        """Pass it on."""
        self.listener.started(federation, first_round)

    def round_finished(self, entry: RoundResult) -> None:
        """Pass it on."""
        self.listener.round_finished(entry)

    def finished(self, result: ResultFile) -> None:
        """Add to it, write it into `result.json`, and pass it on."""
        result = self.more(result)
        RunFolder(Path(self.config.out)).write_result(result)
        self.listener.finished(result)

    @abstractmethod
    def more(self, result: ResultFile) -> ResultFile:
        """The result with what is added."""


class _Comparing(_Adding):
    """Holds a run against a plain model of all records."""

    def more(self, result: ResultFile) -> ResultFile:
        """The result with the baseline, and with what a pretrained model got before training."""
        from simulations.baseline import baseline_of, untouched

        if before := untouched(self.config):
            result = replace(result, final=replace(result.final, uninformed=before))
        return replace(result, baseline=baseline_of(self.config))


class _Measuring(_Adding):
    """Measures a run with canaries."""

    def more(self, result: ResultFile) -> ResultFile:
        """The result with what was measured."""
        # SciPy's statistics take a second.
        from simulations.attacks.measure import measure
        from simulations.attacks.whole_update import checks_of_run

        found = measure(self.config, result)
        if found is not None:
            found = found.checked(checks_of_run(self.config, result))
        return replace(result, audit=found)


def records(config: RunConfig) -> tuple[Pool, dict[str, SiteData]]:
    """All records of a simulation, and those of each site; kept for the run.

    Raises:
        ConfigError, DataError: they cannot be read or learned from.
    """
    return kept_records(Choice.of(with_absolute_paths(config, Path.cwd())))


def check_folder(config: RunConfig) -> None:
    """Refuse a folder that the run may not write into: of use before records are read for it.

    Raises:
        ConfigError: it holds something else, or nothing can be written there.
    """
    config = with_absolute_paths(config, Path.cwd())
    RunFolder(Path(config.out)).check(config)


def notes(config: RunConfig) -> tuple[str, ...]:
    """What is unusual in the records of a simulation, in sentences for who owns them all.

    Raises:
        DataError: the records cannot be read.
    """
    config = with_absolute_paths(config, Path.cwd())
    found = simulated_notes(config)
    return (*found, *_asked_later(_unnamed(config)))


def _asked_later(unnamed: Sequence[str]) -> Iterator[str]:
    """What whoever asks the model later will lack: said before it is trained."""
    if unnamed:
        yield (
            f"the categories of {', '.join(unnamed)} are found in records: they stay with the "
            "run's sites, and an export has none of them. Where they are public, name them, and "
            f"the export can be asked by itself ({key_of('scenario.categories', unnamed[0])}=[...])"
        )


def findings(config: RunConfig, sites: Iterable[str]) -> Iterator[str]:
    """What these sites of a simulation have found in their own tables by `screening=sums`, in
    sentences for who owns them all; of a site whose file cannot be read, that."""
    for site in () if config.screening.idle else sites:
        try:
            yield from screening.kept_findings(owner_of(config, site), config.terms)
        except PrivacyError as error:
            yield str(error)


def rehearse(config: RunConfig, *, only: str | None = None) -> None:
    """Ask everything that can be refused before a first round; writes and trains nothing.

    Every site opens its records, says hello and joins, in this process; what it
    loads stays in the caches for the run itself.

    Raises:
        FedlearnError: what `simulate` would raise before its first round.
    """
    config = with_absolute_paths(config, Path.cwd())
    check_tracking(config)
    contexts = make_contexts(len(simulated_sites(config)), flower.run_config_of(config))
    if only is not None:
        names = list(simulated_sites(config))
        contexts = {n: c for n, c in contexts.items() if names[n - FIRST_NODE] == only}
    run_id = secrets.token_bytes(16)
    enrolment = enrol(InProcessGrid(honest, contexts), config, lambda: False, run_id)
    secagg_driver(enrolment, config, plan_for(config, enrolment), run_id)


def with_absolute_paths(config: RunConfig, folder: Path) -> RunConfig:
    """The config with paths that mean the same in every process."""
    config = replace(config, out=str(folder / config.out))
    if config.sites is not None:
        config = replace(config, sites=str(folder / config.sites))
    return replace(config, scenario=config.scenario.under(folder))
