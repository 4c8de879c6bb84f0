"""The file in which a data owner says what its site is: data, keys, roster, ledger, policy.

Written by hand and read by the client alone; a server never sees it. `load`
checks its form, `problems` what it points to. Relative paths are relative to
the file, so that a site's folder can be moved as a whole. A simulation reads what
it has a use for, by `load_simulated`: name, ledger, policy, dataset and machine; data too
where records are dealt out by files.

```yaml
name: cleveland
data: {kind: csv, path: /data/heart.csv, label: disease}
keys: keys/cleveland            # the private identity; made by `fedlearn keys new`
roster: roster.json             # signed by an authority, pinned by `fedlearn keys roster pin`
dataset: registry 2019-2024     # what the data is called (left out: as the site), for life
ledger: state/ledger.jsonl      # belongs to the data, not to a run
policy: {epsilon_total: 8.0, delta: 1.0e-5, min_cohort: 3}
server: {address: "fed.example.org:8443", authority: ca.crt}   # for `fedlearn client`
machine: {max_batch: 256}       # what this machine can hold, where it is less than others
alerts: [/usr/local/bin/page]   # a command, for four fifths of the budget, and a study that waits
webhook: "https://..."          # an address, for the same
```
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from clients.ledger.report import verify
from clients.policy import STRICT, Policy, policy_problems
from fedlearn.config import decode
from fedlearn.core import yaml_file
from fedlearn.core.alerts import alert_problems
from fedlearn.core.errors import ConfigError, DataError, collected
from fedlearn.core.names import site_name_problem
from fedlearn.core.settings import Count, Name, config
from fedlearn.crypto.certificate_files import tls_path
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keyring import load_pinned
from fedlearn.data import SCENARIOS, Scenario
from fedlearn.training.device import Device, device_of


@config
class Server:
    """Where the coordinator is: `address` as host:port, and who certifies it."""

    address: Name
    authority: Path


@config
class Machine:
    """What this site's machine can do; None: as the run says.

    `max_batch` bounds the records that are worked on at once, `threads` are torch's,
    `device` is where it computes. None changes what a run promises; all change the last
    bits of a result.
    """

    max_batch: Count | None = None
    threads: Count | None = None
    device: Device | None = None


@dataclass(frozen=True, kw_only=True)
class SimulatedSite:
    """One site as a simulation knows it by its owner's file; all paths are absolute.

    `ledger` is the file that outlives every run, `dataset` what the records are called in it for
    as long as there are any of the same people. `data` is None where the file names none.
    """

    name: Name
    data: Scenario | None
    ledger: Path
    policy: Policy
    dataset: Name
    machine: Machine = field(default_factory=Machine)
    roster: Path | None = None
    """The pinned list of sites, where the file names one."""


@dataclass(frozen=True, kw_only=True)
class SiteFile(SimulatedSite):
    """One site as its owner describes it; all paths are absolute.

    `keys` is the private identity, `roster` the signed list that is pinned beside
    itself. `server` is None where the site only takes part in simulations.
    """

    data: Scenario
    keys: Path
    roster: Path
    server: Server | None = None
    alerts: tuple[str, ...] = ()
    webhook: str | None = field(default=None, repr=False)
    """Whoever knows it may send there."""

    @property
    def tls(self) -> Path:
        """The key and certificate of the site's connection."""
        return tls_path(self.keys)


def load(path: Path) -> SiteFile:
    """The site that a file describes; opens nothing that the file points to.

    Raises:
        ConfigError: with every problem, one line each, by dotted path.
    """
    rest, data = _described(path, _Deployed)
    if data is None:
        raise TypeError("a deployed site has data")
    folder = path.absolute().parent
    return SiteFile(
        name=rest.name,
        data=data.under(folder),
        keys=folder / rest.keys,
        roster=folder / rest.roster,
        ledger=folder / rest.ledger,
        policy=rest.policy,
        dataset=rest.dataset or rest.name,
        server=rest.server and replace(rest.server, authority=folder / rest.server.authority),
        machine=rest.machine,
        alerts=rest.alerts,
        webhook=rest.webhook,
    )


def load_simulated(path: Path) -> SimulatedSite:
    """What a simulation takes of the same file, which needs no keys, roster and data for it.

    Raises:
        ConfigError: with every problem, one line each, by dotted path.
    """
    rest, data = _described(path, _Simulated)
    folder = path.absolute().parent
    return SimulatedSite(
        name=rest.name,
        data=data and data.under(folder),
        ledger=folder / rest.ledger,
        policy=rest.policy,
        dataset=rest.dataset or rest.name,
        machine=rest.machine,
        roster=folder / rest.roster if rest.roster else None,
    )


def _problems_of(rest: _Rest | None) -> list[str]:
    if rest is None:
        return []
    found = policy_problems(rest.policy)
    if problem := site_name_problem(rest.name):
        found.append(f"name: {problem}")
    if rest.server and not ADDRESS.fullmatch(rest.server.address):
        found.append(f"server.address={rest.server.address}: must be host:port")
    return found


def problems(site: SiteFile) -> list[str]:
    """Why a site could not take part as it is, every reason; changes nothing, reads no record.

    Identity and roster load, the roster holds this name with this key, the
    ledger, where there is one, is intact and this site's, the device is there, and a table.
    """
    found = [*_membership_problems(site), *_ledger_problems(site)]
    with collected(found):
        device_of(site.machine.device or "auto", "machine.device")
    found += [f"data.{line}" for line in site.data.absent()]
    found += alert_problems(site.alerts, site.webhook)
    return found


def _membership_problems(site: SiteFile) -> list[str]:
    found: list[str] = []
    identity = roster = None
    with collected(found, "keys: "):
        identity = Identity.load(site.keys)
    with collected(found, "roster: "):
        roster = load_pinned(site.roster)
    if identity is None or roster is None:
        return found
    listed = roster.sites().get(site.name)
    if listed is None:
        return [f"name={site.name}: the roster of {roster.federation} names no such site"]
    if listed != identity.public:
        return [
            f"keys={site.keys}: has the fingerprint {identity.fingerprint}, but the roster gives "
            f"{site.name} another key. Use that key, or ask for a roster with this one"
        ]
    return []


def _ledger_problems(site: SiteFile) -> list[str]:
    if not site.ledger.exists():
        return []  # made by the first run
    try:
        report = verify(site.ledger)
    except DataError as error:
        return [f"ledger: {error}"]
    if report.site != site.name:
        return [f"ledger={site.ledger}: belongs to site {report.site}, not to {site.name}"]
    return []


ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:\s/]+):[0-9]{1,5}")

# --- Decoding -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Rest:
    """All but the data, whose problems are named by `fedlearn.config` as a run's scenario."""

    name: Name
    ledger: Name
    policy: Policy = STRICT
    dataset: Name | None = None
    server: Server | None = None
    machine: Machine = field(default_factory=Machine)
    alerts: tuple[Name, ...] = ()
    webhook: Name | None = None


@dataclass(frozen=True, kw_only=True)
class _Deployed(_Rest):
    keys: Name
    roster: Name


@dataclass(frozen=True, kw_only=True)
class _Simulated(_Rest):
    keys: Name | None = None
    roster: Name | None = None


@dataclass(frozen=True, kw_only=True)
class _Data:
    scenario: Annotated[Scenario, SCENARIOS]


_R = TypeVar("_R", _Deployed, _Simulated)


def _described(path: Path, form: type[_R]) -> tuple[_R, Scenario | None]:
    """What a file says, and its data, which only a simulated site may leave out."""
    rest, data, found = _decoded(yaml_file.read(path), form)
    found += _problems_of(rest)
    if rest is None or found:
        raise ConfigError([f"{path}: {problem}" for problem in found])
    return rest, data


def _decoded(tree: dict[str, Any], form: type[_R]) -> tuple[_R | None, Scenario | None, list[str]]:
    found: list[str] = []
    rest, data = None, None
    others = {key: value for key, value in tree.items() if key != "data"}
    scenario = {"scenario": tree["data"]} if "data" in tree else {}
    with collected(found):
        rest = decode(form, json.dumps(others))
    if form is _Simulated and not scenario:
        return rest, None, found
    try:
        data = decode(_Data, json.dumps(scenario)).scenario
    except ConfigError as error:
        found += [re.sub(r"(^|, as )scenario\b", r"\1data", line) for line in error.problems]
    return rest, data, found
