"""Whose site this is and what its owner demands: asked at every message, before any record is read.

A deployed site is described by its own file. In a simulation, `sites=FOLDER` gives
site `NAME` the file `FOLDER/NAME.yaml`: its ledger and its policy then belong to the
data and outlive every run. A site without a file has no policy, and a ledger that
lives and dies with the run. Where a simulation puts the records of all into one place,
every owner is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from clients import sitefile
from clients.ledger import ledger
from clients.ledger.ledger import Budget
from clients.ledger.state import Declined
from clients.policy import Policy, RunDescription, refusals
from clients.sitefile import Machine, SiteFile
from clients.studies.consent import Consent
from fedlearn.agreement import code_besides
from fedlearn.config import RunConfig
from fedlearn.core.code import code_digest
from fedlearn.core.errors import ConfigError, PrivacyError, collected
from fedlearn.data.partition import Files
from fedlearn.metrics.fairness import GroupFairness


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
    dataset: str = ""
    """What the owner calls the data; empty where it lives no longer than the run."""
    roster: Path | None = None
    """The pinned list of sites, where the owner's file names one."""
    contributors: tuple[Owner, ...] = ()
    """Whose records are in one place, where a simulation has pooled them; each has a say."""

    @property
    def consent(self) -> Consent | None:
        """Who is asked whether a study goes on; None where nobody has written a policy."""
        if self.policy is None:
            return None
        asks = self.policy.approval == "ask"
        return Consent(
            site=self.name,
            ledger=self.ledger,
            roster=self.roster,
            asks=asks,
            notes=asks or self.deployed is not None,
        )

    @property
    def budget(self) -> Budget | None:
        """What may be spent over all runs; None where nobody has set a limit."""
        return None if self.policy is None else self.policy.budget


def owner_of(config: RunConfig, name: str) -> Owner:
    """The owner of the simulated site `name`.

    Raises:
        ConfigError: the site file is wrong, or is that of another site.
    """
    kept = Path(config.out) / "sites" / file_name(name) / "ledger.jsonl"
    if _is_pooled(config):
        alone = replace(config, partition=Files())
        owners = tuple(owner_of(alone, one) for one in _names(config))
        return Owner(name=name, ledger=kept, policy=None, contributors=owners)
    path = None if config.sites is None else Path(config.sites) / f"{file_name(name)}.yaml"
    if path is None or not path.is_file():
        return Owner(name=name, ledger=kept, policy=None)
    site = sitefile.load_simulated(path)
    if site.name != name:
        raise ConfigError([f"{path}: name={site.name}: is not that of the site, {name}"])
    return Owner(
        name=name,
        ledger=site.ledger,
        policy=site.policy,
        machine=site.machine,
        dataset=site.dataset,
        roster=site.roster,
    )


def file_name(site: str) -> str:
    """The name of a site as one part of a path: a site may be called `A/B`, or `..`."""
    encoded = "".join(f"%{ord(sign):02X}" if sign in "/\\%\0" else sign for sign in site)
    return encoded.replace(".", "%2E") if encoded.strip(".") == "" else encoded


def _is_pooled(config: RunConfig) -> bool:
    """Whether one site holds what is everybody's; no ledger is charged, so without privacy only."""
    plain = config.privacy.unit == "none" and config.sites is not None
    return config.partition.in_one_place() and (config.partition.reads_site_files or plain)


def _names(config: RunConfig) -> list[str]:
    """Whom the folder of site files has a file for."""
    return sorted(path.stem for path in Path(config.sites or "").glob("*.yaml"))


def deployed_owner(site: SiteFile) -> Owner:
    """The owner of a site that is a machine of its own."""
    return Owner(
        name=site.name,
        ledger=site.ledger,
        policy=site.policy,
        machine=site.machine,
        deployed=site,
        dataset=site.dataset,
        roster=site.roster,
    )


def owned_ledgers(config: RunConfig, names: Sequence[str]) -> list[Path]:
    """The ledgers that outlive the run, after a look at every site file.

    Raises:
        ConfigError: with everything that is wrong with `sites` and its files.
    """
    if config.sites is None:
        return []
    folder, found, ledgers = config.sites, [], []
    files = set(_names(config))
    if _is_pooled(config):
        config, names = replace(config, partition=Files()), sorted(files)
    if not files:
        found.append(f"sites={folder}: holds no site file NAME.yaml")
    strangers, known = sorted(files - set(names)), ", ".join(names)
    found += [f"sites={folder}: {one}.yaml is for no site: {known}" for one in strangers]
    for name in sorted(files & set(names)):
        with collected(found):
            ledgers.append(owner_of(config, name).ledger)
    shared = sorted({str(path) for path in ledgers if ledgers.count(path) > 1})
    found += [f"{path}: is the ledger of two sites; every data set has its own" for path in shared]
    if found:
        raise ConfigError(found)
    return ledgers


def admit(
    owner: Owner, config: RunConfig, *, run_id: str, cohort: int | None, now: datetime
) -> None:
    """Refuse what no policy concerned allows; the refusal is written to its ledger.

    Raises:
        PrivacyError: with every demand that is not met.
    """
    run = describe(config, cohort, owner.deployed)
    found = []
    for one in (owner, *owner.contributors):
        demands = [] if one.policy is None else refusals(one.policy, run)
        if demands:
            purpose, reason = f"training {config.experiment}", "; ".join(demands)
            declined = Declined(run_id=run_id, purpose=purpose, reason=reason)
            ledger.decline(one.ledger, declined, now=now)
        found += [f"site {one.name}: {demand}" for demand in demands]
    if found:
        raise PrivacyError("\n".join(found))


def check_consent(owner: Owner, config: RunConfig, step: str, now: datetime) -> None:
    """Refuse a study that an owner concerned has not approved of, has paused or has ended here.

    Raises:
        HeldError, DeclinedError: as `Consent.check`.
    """
    for one in (owner, *owner.contributors):
        if one.consent is not None:
            one.consent.check(config, step, now)


def describe(
    config: RunConfig, cohort: int | None, deployed: SiteFile | None = None
) -> RunDescription:
    """A run in the terms of a policy, at a site that has a file of its own or is simulated."""
    groups = config.fairness if isinstance(config.fairness, GroupFairness) else None
    return RunDescription(
        model=config.model.kind,
        unit=config.privacy.unit,
        delta=config.privacy.delta,
        cohort=cohort,
        transport=config.transport.kind,
        secagg=config.secagg.kind,
        group=config.robust.group_size,
        opens=config.secagg.least if config.secagg.two_servers else None,
        masks=config.secagg.against(config.privacy.colluders),
        code=code_digest(),
        custom=code_besides(config),
        in_shares=config.privacy.noise_from == "shares",
        colluders=config.privacy.colluders,
        deployed=deployed is not None,
        evaluation=config.evaluation_seen,
        evaluations=len(config.evaluated),
        group_column=groups.column if groups else "",
        smallest_group=groups.smallest if groups else 0,
        never_groups=deployed.data.never_groups() if deployed else (),
    )
