"""Whether a site could take part as it is: everything that can be seen without the coordinator."""

from __future__ import annotations

import os
import ssl
from datetime import datetime
from pathlib import Path

from clients import sitefile
from clients.ledger.report import verify
from clients.records import own_data
from clients.sitefile import SiteFile
from fedlearn import __version__
from fedlearn.core.code import code_digest
from fedlearn.core.errors import ConfigError, FedlearnError, counted
from fedlearn.crypto.certificate_files import authority_problems, credential_problems
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keyring import load_pinned
from fedlearn.data.datasets.archives import nothing_brought
from fedlearn.training.device import device_of


def check(path: Path, now: datetime) -> list[str]:
    """What is found in a site file and all that it points to, in lines; changes nothing.

    Keys, certificates, roster and its pin, the coordinator's address, the ledger, the
    policy, and the records, which are read as for a run.

    Raises:
        ConfigError: with every problem.
    """
    site = sitefile.load(path)
    found = [*sitefile.problems(site), *_connection_problems(site, now), *_ledger_folder(site)]
    facts: list[str] = []
    try:
        with nothing_brought():  # as when it takes part
            data = own_data(site)
        facts.append(f"data: {len(data.train)} training and {len(data.test)} test records")
        facts += data.notes
    except FedlearnError as error:
        found += [f"data: {line}" for line in str(error).splitlines()]
    if found:
        raise ConfigError([*dict.fromkeys(found)])
    return [*_facts(site), *facts]


def tls_context(tls: Path, authority: Path) -> ssl.SSLContext:
    """TLS 1.3 to a coordinator that `authority` certifies, under the credential in `tls`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=str(authority))
    context.load_cert_chain(str(tls))
    return context


def _connection_problems(site: SiteFile, now: datetime) -> list[str]:
    found = credential_problems(site.tls, now)
    if site.server is None:
        return [*found, "server: must be given to take part in a deployment"]
    return [*found, *authority_problems(site.server.authority, now)]


def _ledger_folder(site: SiteFile) -> list[str]:
    folder = site.ledger.parent
    while not folder.exists():
        folder = folder.parent
    if os.access(folder, os.W_OK):
        return []
    return [f"ledger={site.ledger}: {folder} cannot be written to"]


def _device(site: SiteFile) -> str:
    """Its own choice, or what it would be where a run leaves the choice to it."""
    own = site.machine.device
    return f"{device_of(own or 'auto')}{'' if own else ', unless a run asks for another device'}"


def _facts(site: SiteFile) -> list[str]:
    roster = load_pinned(site.roster)
    facts = [
        f"site: {site.name}, fingerprint {Identity.load(site.keys).fingerprint}",
        f"federation: {roster.federation}, {counted(len(roster.sites()), 'site')}, "
        "signature as pinned",
        f"sites: {', '.join(roster.sites())}",
        f"coordinator: {site.server.address}" if site.server else "",
        f"policy: epsilon {site.policy.epsilon_total or 'unlimited'} over all runs, "
        f"unit {site.policy.unit}, cohorts of at least {site.policy.min_cohort}",
        f"machine: computes on {_device(site)}",
        f"code: fedlearn {__version__} ({code_digest()[:16]})",
    ]
    if site.ledger.exists():
        facts.append(f"ledger: intact, {verify(site.ledger).entries} entries")
    return facts
