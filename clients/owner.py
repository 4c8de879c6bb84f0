"""Whose site this is and what its owner demands: asked at every message, before any record is read.

A deployed site is described by its own file. In a simulation, `sites=FOLDER` gives
site `NAME` the file `FOLDER/NAME.yaml`: its ledger and its policy then belong to the
data and outlive every run. A site without a file has no policy, and a ledger that
lives and dies with the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from clients import ledger, sitefile
from clients.ledger import Budget
from clients.policy import Policy, RunDescription, refusals
from clients.sitefile import Machine, SiteFile
from clients.spending import Declined
from fedlearn.code import code_digest
from fedlearn.config import RunConfig
from fedlearn.errors import ConfigError, PrivacyError
from fedlearn.privacy import ClientPrivacy, DistributedPrivacy, NoPrivacy, RecordPrivacy, Unit


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The ledger of a site's data and, where the owner wrote one, the policy."""

    name: str
    ledger: Path
    policy: Policy | None
    machine: Machine = field(default_factory=Machine)
    """What the site's machine can hold, by its own file."""
    deployed: SiteFile | None = None
    """The site's own file, where it is a machine of its own."""

    @property
    def budget(self) -> Budget | None:
        """What may be spent over all runs; None where nobody has set a limit."""
        return None if self.policy is None else self.policy.budget


def owner_of(config: RunConfig, name: str) -> Owner:
    """The owner of the simulated site `name`.

    Raises:
        ConfigError: the site file is wrong, or is that of another site.
    """
    path = None if config.sites is None else Path(config.sites) / f"{name}.yaml"
    if path is None or not path.is_file():
        kept = Path(config.out) / "sites" / name / "ledger.jsonl"
        return Owner(name=name, ledger=kept, policy=None)
    site = sitefile.load(path)
    if site.name != name:
        raise ConfigError([f"{path}: name={site.name}: is not that of the site, {name}"])
    return Owner(name=name, ledger=site.ledger, policy=site.policy, machine=site.machine)


def deployed_owner(site: SiteFile) -> Owner:
    """The owner of a site that is a machine of its own."""
    return Owner(
        name=site.name,
        ledger=site.ledger,
        policy=site.policy,
        machine=site.machine,
        deployed=site,
    )


def owned_ledgers(config: RunConfig, names: Sequence[str]) -> list[Path]:
    """The ledgers that outlive the run, after a look at every site file.

    Raises:
        ConfigError: with everything that is wrong with `sites` and its files.
    """
    if config.sites is None:
        return []
    folder, found, ledgers = Path(config.sites), [], []
    files = {path.stem for path in folder.glob("*.yaml")}
    if not files:
        found.append(f"sites={folder}: holds no site file NAME.yaml")
    strangers, known = sorted(files - set(names)), ", ".join(names)
    found += [f"sites={folder}: {one}.yaml is for no site: {known}" for one in strangers]
    for name in sorted(files & set(names)):
        try:
            ledgers.append(owner_of(config, name).ledger)
        except ConfigError as error:
            found += error.problems
    shared = sorted({str(path) for path in ledgers if ledgers.count(path) > 1})
    found += [f"{path}: is the ledger of two sites; every data set has its own" for path in shared]
    if found:
        raise ConfigError(found)
    return ledgers


def admit(
    owner: Owner, config: RunConfig, *, run_id: str, cohort: int | None, now: datetime
) -> None:
    """Refuse what the policy does not allow; the refusal is written to the ledger.

    Raises:
        PrivacyError: with every demand that is not met.
    """
    if owner.policy is None:
        return
    found = refusals(owner.policy, describe(config, cohort))
    if not found:
        return
    declined = Declined(
        run_id=run_id, purpose=f"training {config.experiment}", reason="; ".join(found)
    )
    ledger.decline(owner.ledger, declined, now=now)
    raise PrivacyError("\n".join(f"site {owner.name}: {problem}" for problem in found))


def describe(config: RunConfig, cohort: int | None) -> RunDescription:
    """A run in the terms of a policy."""
    delta: float | None = None
    unit: Unit | None = None
    match config.privacy:
        case NoPrivacy():
            pass
        case RecordPrivacy() as privacy:
            delta, unit = privacy.delta, "record"
        case ClientPrivacy() as privacy:
            delta, unit = privacy.delta, "client"
        case DistributedPrivacy() as privacy:
            delta, unit = privacy.delta, privacy.unit
    return RunDescription(
        model=config.model.kind,
        unit=unit or "none",
        delta=delta,
        cohort=cohort,
        transport=config.transport.kind,
        secagg=config.secagg.kind,
        code=code_digest(),
    )
