"""`fedlearn server`: a run over sites on their own machines, from its start to its end."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from fedlearn import __version__, flower
from fedlearn.config import RunConfig
from fedlearn.core.code import code_digest
from fedlearn.core.errors import ConfigError
from fedlearn.crypto.certificates import node_public_key, read_certificate
from fedlearn.results.folder import RunFolder
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from server import serverfile
from server.admission import Admission
from server.run import Listener, run
from server.serverfile import Participants, ServerFile
from server.stop import Stop
from server.superlink.endpoint import SuperLink
from server.superlink.health import Watch
from server.superlink.processes import gateway, superlink

log = logging.getLogger(__name__)


def check(file: ServerFile, config: RunConfig, now: datetime) -> Participants:
    """Everything that can be refused before anything is started.

    Raises:
        ConfigError: with every problem.
    """
    found: list[str] = []
    parties = None
    try:
        parties = serverfile.federation(file, now)
    except ConfigError as error:
        found += error.problems
    try:
        RunFolder(Path(config.out)).check(config)
    except ConfigError as error:
        found += error.problems
    if parties and len(parties.certificates) < config.strategy.min_sites:
        found.append(
            f"strategy.min_sites={config.strategy.min_sites}: the roster has "
            f"{len(parties.certificates)} sites"
        )
    if config.sites is not None:
        found.append(f"sites={config.sites}: is for simulations; a deployed site has its own file")
    if parties is None or found:
        raise ConfigError(found)
    return parties


def deployed(config: RunConfig, folder: Path) -> RunConfig:
    """The config with its output in `folder`, and going on with a run that is there already."""
    config = replace(config, out=str(folder / config.out))
    return replace(config, resume=config.resume or RunFolder(Path(config.out)).holds_run())


def finished(config: RunConfig) -> bool:
    """Whether this run was carried out to its end before; nobody has to be asked again."""
    folder = Path(config.out)
    return (folder / "result.json").exists() and read_result(folder).status == "finished"


def serve(file: ServerFile, config: RunConfig, listener: Listener, stop: Stop) -> ResultFile:
    """Start what sites connect to, wait for them, and carry the run out.

    Raises:
        FedlearnError: see `check` and `server.run.run`.
        StoppedError: the user stopped the run; what was trained is kept.
    """
    parties = check(file, config, datetime.now(UTC))
    for warning in parties.warnings:
        log.warning("certificate", extra={"fields": {"reason": warning}})
    file.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with superlink(file) as link:
        nodes = _register(link, parties)
        with (
            gateway(file, link.address, parties),
            Watch(link.nodes, nodes, file.state / "health.json"),
        ):
            run_id = link.start_run(flower.run_config_of(config))
            log.info("started", extra={"fields": {"run": run_id, "sites": len(nodes)}})
            longest = max(config.reply_timeout, file.wait_seconds)
            with link.carry_out(run_id, longest) as (grid, _):
                return run(grid, config, listener, stop, _admission(file, parties, nodes))


def _register(link: SuperLink, parties: Participants) -> dict[int, str]:
    """Enrol the key of every site of the roster; node ids with the sites that they are for."""
    return {
        link.register(node_public_key(read_certificate(pem, name)), name): name
        for name, pem in parties.certificates.items()
    }


def _admission(file: ServerFile, parties: Participants, nodes: dict[int, str]) -> Admission:
    return Admission(
        seconds=file.wait_seconds,
        wanted=len(nodes),
        identity=parties.identity,
        roster=parties.roster,
        nodes=nodes,
        version=__version__,
        code=code_digest(),
    )
