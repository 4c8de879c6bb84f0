"""The file in which a coordinator says where it listens and who takes part.

```yaml
listen: "0.0.0.0:8443"
keys: keys/coordinator          # the identity that the roster names, in the role `server`
roster: roster.json             # pinned as at the sites, where somebody else has signed it
introductions: keys             # the folder of the sites' NAME.pub
tls: keys/server.tls            # key and certificate chain, PEM, mode 0600
state: state                    # what the coordinator's programs write
wait_seconds: 600.0             # for the sites of the roster; then min_sites suffice
owner_seconds: 86400.0          # for owners who have not decided; left out: as wait_seconds
client_certificates: true       # false: for sites that use Flower's own SuperNode
metrics: metrics/fedlearn.prom  # left out: none; for node_exporter, see `fedlearn status`
alerts: [/usr/local/bin/page]   # left out: none; a command that is started with the alert's kind
webhook: "https://hooks.example.org/..."   # left out: none; is sent the same alerts as JSON
```
Relative paths are relative to the file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from fedlearn.config import decode
from fedlearn.core import yaml_file
from fedlearn.core.alerts import alert_problems
from fedlearn.core.errors import ConfigError, collected, prefixed
from fedlearn.core.settings import Name, Positive
from fedlearn.crypto.certificate_files import server_problems
from fedlearn.crypto.certificates import own_certificate, validity_problems
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.introduction import Introduction, read_certified
from fedlearn.crypto.keyring import PUBLIC_SUFFIX, load_pinned, read_pin
from fedlearn.crypto.roster import Roster

_LISTEN: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\s/]+):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, kw_only=True)
class ServerFile:
    """A coordinator as its file describes it; all paths are absolute."""

    listen: str
    keys: Path
    roster: Path
    introductions: Path
    tls: Path
    state: Path
    wait_seconds: float
    client_certificates: bool
    metrics: Path | None = None
    alerts: tuple[str, ...] = ()
    webhook: str | None = field(default=None, repr=False)
    """Whoever knows it may send there."""
    owner_seconds: float | None = None
    """How long an owner is waited for who has to approve of a study, or has paused it."""

    @property
    def host(self) -> str:
        """Where to listen, without the port."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to listen on."""
        return int(self.listen.rpartition(":")[2])


@dataclass(frozen=True, kw_only=True)
class Participants:
    """Who takes part: the coordinator's identity, the signed roster, the sites' certificates."""

    identity: Identity
    roster: Roster
    certificates: dict[str, str]
    """PEM by site."""
    helper: Introduction | None
    """The second server of another organisation, where the roster has one."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Text:
    listen: Name
    keys: Name
    roster: Name
    introductions: Name
    tls: Name
    state: Name = "state"
    wait_seconds: Positive = 600.0
    client_certificates: bool = True
    metrics: Name | None = None
    alerts: tuple[Name, ...] = ()
    webhook: Name | None = None
    owner_seconds: Positive | None = None


def load(path: Path) -> ServerFile:
    """The coordinator that a file describes; opens nothing that the file points to.

    Raises:
        ConfigError: with every problem, one line each, by dotted path.
    """
    folder = path.absolute().parent
    tree = yaml_file.read(path)
    with prefixed(path):
        text = decode(_Text, json.dumps(tree))
        match = _LISTEN.fullmatch(text.listen)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ConfigError([f"listen={text.listen}: must be host:port"])
    places = ("keys", "roster", "introductions", "tls", "state")
    metrics = text.metrics and folder / text.metrics
    absolute = {name: folder / getattr(text, name) for name in places}
    return ServerFile(**vars(text) | absolute | {"metrics": metrics})


def federation(file: ServerFile, now: datetime) -> Participants:
    """Read keys, roster and introductions, and check that they belong together.

    A certificate that has expired is a warning: the run goes on without that site.

    Raises:
        ConfigError: with every problem.
    """
    found = [*server_problems(file.tls, now), *alert_problems(file.alerts, file.webhook)]
    identity = roster = None
    with collected(found, "keys: "):
        identity = Identity.load(file.keys)
    if identity is not None:
        with collected(found, "roster: "):
            roster = _roster(file.roster, identity)
    warnings = list[str]()

    def introduced(name: str, key: bytes) -> Introduction | None:
        path = file.introductions / f"{name}{PUBLIC_SUFFIX}"
        with collected(found, "introductions: "):
            sent = _matching(path, name, key)
            certificate = own_certificate(sent.certificate, str(path))
            warnings.extend(validity_problems(certificate, str(path), now))
            return sent
        return None

    listed = roster.sites() if roster else {}
    sites = {name: introduced(name, key) for name, key in listed.items()}
    helper = roster.helper if roster else None
    second = introduced(helper.name, helper.public) if helper else None
    if identity is None or roster is None or found:
        raise ConfigError(found)
    return Participants(
        identity=identity,
        roster=roster,
        certificates={name: one.certificate for name, one in sites.items() if one},
        helper=second,
        warnings=tuple(warnings),
    )


def _roster(path: Path, identity: Identity) -> Roster:
    """The list as it is pinned; where nothing is pinned, as the coordinator itself signed it."""
    pinned = read_pin(path) is not None
    roster = load_pinned(path) if pinned else Roster.load(path, identity.fingerprint)
    if identity.public != roster.coordinator:
        raise ConfigError(
            [f"{path}: has another coordinator than keys, whose fingerprint is "
             f"{identity.fingerprint}; ask for a roster with this key in the role `server`"]
        )  # fmt: skip
    return roster


def _matching(path: Path, name: str, key: bytes) -> Introduction:
    sent = read_certified(path)
    if (sent.participant.name, sent.participant.public) != (name, key):
        raise ConfigError([f"{path}: is not the key that the roster gives {name}"])
    if not sent.certificate:
        raise ConfigError([f"{path}: holds no certificate; make it anew with `fedlearn keys new`"])
    return sent
