"""The file in which an organisation says what second server it is, and for which studies.

```yaml
name: notary
keys: keys/notary               # the private identity; made by `fedlearn keys new --role helper`
roster: roster.json             # signed by an authority, pinned by `fedlearn keys roster pin`
state: state                    # its key in the run that goes on, and which round was answered
approved: ["5be1..."]           # the terms (SHA-256) of the studies that it helps in
min_cohort: 3                   # it sums for no fewer sites
server: {address: "fed.example.org:8443", authority: ca.crt}
```
Relative paths are relative to the file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from clients.sitefile import ADDRESS, Server
from fedlearn.config import decode
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError, counted
from fedlearn.core.names import name_problem
from fedlearn.core.settings import Name
from fedlearn.crypto.certificate_files import authority_problems, credential_problems, tls_path
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keyring import load_pinned
from fedlearn.secagg.settings import Cohort

_TERMS: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class HelperFile:
    """A second server as its organisation describes it; all paths are absolute.

    `approved` are the terms of studies that it takes part in, and of no others.
    """

    name: Name
    keys: Path
    roster: Path
    server: Server
    state: Path = Path("state")
    approved: tuple[str, ...] = ()
    min_cohort: Cohort = 3

    @property
    def tls(self) -> Path:
        """The key and certificate of its connection."""
        return tls_path(self.keys)


def load(path: Path) -> HelperFile:
    """The second server that a file describes; opens nothing that the file points to.

    Raises:
        ConfigError: with every problem, one line each, by dotted path.
    """
    folder = path.absolute().parent
    try:
        file = decode(HelperFile, json.dumps(yaml_file.read(path)))
        found = [f"approved={one}: must be 64 hex digits" for one in file.approved if _odd(one)]
        if problem := name_problem(file.name):
            found.append(f"name: {problem}")
        if not ADDRESS.fullmatch(file.server.address):
            found.append(f"server.address={file.server.address}: must be host:port")
        if found:
            raise ConfigError(found)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None
    return replace(
        file,
        keys=folder / file.keys,
        roster=folder / file.roster,
        state=folder / file.state,
        server=replace(file.server, authority=folder / file.server.authority),
    )


def _odd(terms: str) -> bool:
    return not _TERMS.fullmatch(terms)


def check(path: Path, now: datetime) -> list[str]:
    """What is found in a file and all that it points to, in lines; changes nothing.

    Raises:
        ConfigError: with every problem.
    """
    file = load(path)
    found = [*credential_problems(file.tls, now), *authority_problems(file.server.authority, now)]
    identity = roster = None
    try:
        identity = Identity.load(file.keys)
    except ConfigError as error:
        found += [f"keys: {problem}" for problem in error.problems]
    try:
        roster = load_pinned(file.roster)
    except ConfigError as error:
        found += [f"roster: {problem}" for problem in error.problems]
    if identity and roster:
        listed = roster.helper
        if listed is None or (listed.name, listed.public) != (file.name, identity.public):
            found.append(
                f"name={file.name}: the roster of {roster.federation} has another second server, "
                "or none; ask who signs it for one with this key in the role `helper`"
            )
    if identity is None or roster is None or found:
        raise ConfigError(found)
    return [
        f"helper: {file.name}, fingerprint {identity.fingerprint}",
        f"federation: {roster.federation}, {counted(len(roster.sites()), 'site')}, "
        "signature as pinned",
        f"coordinator: {file.server.address}",
        f"approved: {len(file.approved)} studies, cohorts of at least {file.min_cohort}",
    ]
