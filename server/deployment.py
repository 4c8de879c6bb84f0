"""`fedlearn server`: a run over sites on their own machines, from its start to its end.

No outage ends it by itself. Sites that are gone are waited for, a gateway that dies is started
anew, and where a round was cut off, or the SuperLink has died, the run goes on from its last
finished round as the same command would: with another SuperLink, where all nodes are registered
again, and with sites that join once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fedlearn import __version__
from fedlearn.config import RunConfig, compose
from fedlearn.core.code import code_digest
from fedlearn.core.errors import (
    ConfigError,
    ProtocolError,
    UnauthenticatedError,
    collected,
    counted,
)
from fedlearn.core.logs import EVENTS
from fedlearn.crypto.certificates import node_public_key, read_certificate
from fedlearn.flower import messages as flower
from fedlearn.results import receipts
from fedlearn.results.folder import RunFolder
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from fedlearn.secagg.settings import sum_of
from server import serverfile
from server.admission import Admission, HelperNode
from server.cohorts import cohort_problems
from server.health import Watch
from server.outages import Outages, telling_the_end
from server.owners import OwnersWait
from server.programs import gateway, superlink
from server.run import Listener, run
from server.serverfile import Participants, ServerFile
from server.spending import SpendingWatch
from server.standing import mark_waiting, telling_how_it_ended
from server.stop import Stop
from server.superlink.endpoint import SuperLink
from server.waiting import Tell, nobody

_SPARE: Final = 1
"""Spare rounds of a deployment that does not ask for others: an outage costs about one."""


def check(file: ServerFile, config: RunConfig, now: datetime) -> Participants:
    """Everything that can be refused before anything is started.

    Raises:
        ConfigError: with every problem.
    """
    found: list[str] = []
    parties = None
    with collected(found):
        parties = serverfile.federation(file, now)
    found += run_problems(config)
    if parties:
        found += _roster_problems(config, len(parties.certificates))
    if parties is None or found:
        raise ConfigError(found)
    return parties


def _roster_problems(config: RunConfig, sites: int) -> Iterator[str]:
    """Why so many sites are too few, should all of them come."""
    if sites < config.strategy.min_sites:
        yield (
            f"strategy.min_sites={config.strategy.min_sites}: the roster has "
            f"{counted(sites, 'site')}"
        )
    elif (summing := sum_of(config.secagg)) is not None:
        yield from cohort_problems(config, summing.least, sites)


def run_problems(config: RunConfig) -> list[str]:
    """What is wrong with a run by itself, whoever takes part."""
    found: list[str] = []
    with collected(found):
        RunFolder(Path(config.out)).check(config)
    if config.sites is not None:
        found.append(f"sites={config.sites}: is for simulations; a deployed site has its own file")
    return found


def left_open(config: RunConfig) -> list[str]:
    """What the sites' own files have to give where the run does not: of a site whose file gives it
    neither, the coordinator only ever hears that its records cannot be used."""
    if not config.privacy.within_sites:
        return []
    found = ", ".join(config.scenario.left_open(config.task))
    return [
        f"the run leaves open {found}: a site whose file does not give them turns it away, as what "
        "is found in all records lets one change what the others become; who knows them sets them"
    ] * bool(found)


def composed(overrides: Sequence[str]) -> RunConfig:
    """The config of a deployment, which differs from that of a simulation under privacy alone.

    Its test metrics are private, and one round is spare where the noise follows from an epsilon,
    unless it is asked for others.

    Raises:
        ConfigError: with every problem.
    """
    config = compose(overrides)
    chosen = {one.partition("=")[0].lstrip("+") for one in overrides}
    if config.privacy.unit == "none":
        return config
    if "evaluation" not in chosen:
        config = replace(config, evaluation="private")
    # Where the noise is given a spare round would raise the epsilon, which owners have agreed to.
    if "spare_rounds" not in chosen and getattr(config.privacy, "epsilon", None) is not None:
        config = replace(config, spare_rounds=_SPARE)
    return config


def deployed(config: RunConfig, folder: Path) -> RunConfig:
    """The config with its output in `folder`, and going on with a run that is there already."""
    return _resumed(replace(config, out=str(folder / config.out)))


def _resumed(config: RunConfig) -> RunConfig:
    """The config that goes on with the run in its folder, if there is one."""
    return replace(config, resume=config.resume or RunFolder(Path(config.out)).holds_run())


def finished(config: RunConfig) -> bool:
    """Whether this run was carried out to its end before; nobody has to be asked again."""
    folder = Path(config.out)
    return (folder / "result.json").exists() and read_result(folder).status == "finished"


def serve(
    file: ServerFile, config: RunConfig, listener: Listener, stop: Stop, tell: Tell = nobody
) -> ResultFile:
    """Start what sites connect to, wait for them, and carry the run out, whatever outages come.

    `tell` is shown whom it waits for, and what was cut off.

    Raises:
        FedlearnError: see `check` and `server.run.run`.
        StoppedError: the user stopped the run; what was trained is kept.
    """
    parties = check(file, config, datetime.now(UTC))
    for warning in parties.warnings:
        EVENTS.warning("certificate", extra={"fields": {"reason": warning}})
    file.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    outages = Outages(SpendingWatch(listener), tell)
    with telling_the_end(), telling_how_it_ended(config):
        while True:
            with connected(file, parties) as there:
                while there.link.ready():
                    if result := carried_on(there, file, config, outages, stop):
                        return result
            EVENTS.warning("restarted", extra={"fields": {"program": "superlink"}})


def carried_on(
    there: Connected, file: ServerFile, config: RunConfig, outages: Outages, stop: Stop
) -> ResultFile | None:
    """The run to its end; None where it was cut off, and goes on.

    Raises:
        FedlearnError, StoppedError: as `serve`.
    """
    try:
        return _carried_out(there, file, config, outages, stop)
    except (ProtocolError, UnauthenticatedError) as error:
        if not outages.outlasts(error, stop):
            raise
        mark_waiting(config, f"a round was cut off: {error}")
        return None


@dataclass(frozen=True)
class Connected:
    """What sites connect to, and the nodes under which they are known there."""

    link: SuperLink
    parties: Participants
    nodes: dict[int, str]
    second: HelperNode | None


@contextmanager
def connected(file: ServerFile, parties: Participants) -> Iterator[Connected]:
    """A SuperLink that knows all nodes, and the gateway before it."""
    with superlink(file) as link:
        nodes = {
            link.register(node_public_key(read_certificate(pem, name)), name): name
            for name, pem in parties.certificates.items()
        }
        second = _second(link, parties)
        watched = nodes | ({second.node: second.name} if second else {})
        with (
            gateway(file, link.address, parties),
            Watch(link.nodes, watched, file.state / "health.json"),
        ):
            yield Connected(link, parties, nodes, second)


def _carried_out(
    there: Connected, file: ServerFile, config: RunConfig, outages: Outages, stop: Stop
) -> ResultFile:
    """The run, to its end or until it is cut off; goes on with one that was cut off before."""
    link, config = there.link, _resumed(config)
    mark_waiting(config, "waits for its sites")
    run_id = link.start_run(flower.run_config_of(config))
    fields = {"run": run_id, "sites": len(there.nodes), "out": config.out}
    EVENTS.info("started", extra={"fields": {**fields, "rounds": config.rounds}})
    longest = max(config.reply_timeout, file.wait_seconds)
    with link.carry_out(run_id, longest) as (grid, _):
        return run(grid, config, outages, stop, _admission(file, there, outages, stop))


def _second(link: SuperLink, parties: Participants) -> HelperNode | None:
    """The node of the roster's second server."""
    if parties.helper is None:
        return None
    one, pem = parties.helper.participant, parties.helper.certificate
    node = link.register(node_public_key(read_certificate(pem, one.name)), one.name)
    return HelperNode(name=one.name, public=one.public, node=node)


def _admission(file: ServerFile, there: Connected, outages: Outages, stop: Stop) -> Admission:
    parties, nodes = there.parties, there.nodes
    owners = OwnersWait(
        seconds=file.wait_seconds if file.owner_seconds is None else file.owner_seconds,
        tell=outages.tell,
        stopping=lambda: stop.now.is_set() or stop.after_round.is_set(),
        waited=outages.waited,
    )
    return Admission(
        seconds=file.wait_seconds,
        wanted=len(nodes),
        identity=parties.identity,
        roster=parties.roster,
        nodes=nodes,
        version=__version__,
        code=code_digest(),
        receipts=file.state / receipts.FOLDER,
        sets_aside=True,
        helper=there.second,
        tell=outages.tell,
        absent=outages.absent,
        owners=owners,
    )
