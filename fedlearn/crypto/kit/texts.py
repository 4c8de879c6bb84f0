"""The files of a kit that people fill in or install, by the facts that they depend on.

Whoever opens a kit writes them anew and compares: nothing that a coordinator has written is run or
read as a site's own file, but what the release that is installed here would have written itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from string import Template
from typing import Final

SITE_FILE: Final = "site.yaml"
UNIT: Final = "fedlearn-client.service"
COMPOSE: Final = "compose.yaml"
README: Final = "README.md"

ADDRESS: Final = re.compile(
    r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\]):[0-9]{1,5}"
)
"""A host and a port, and no sign that means anything in YAML."""

_SITE: Final = Template("""\
# The site $name in the federation $federation. What is yours to fill in is the data block: where
# your records are, and what is learned from them; `fedlearn data check FILE` says what a table has.
name: $name
data: {kind: csv, path: FILL-IN.csv, label: FILL-IN}
keys: $keys
roster: roster.json
ledger: state/ledger.jsonl     # what was spent: it belongs to the data, for as long as they live
# What you allow, whatever the coordinator asks for: strict values, which are yours to change. With
# `approval: ask` no study begins before you approve of it (`fedlearn desk site.yaml`).
policy:
  approval: ask
  epsilon_total: 1.0
  delta: 1.0e-5
  unit: record
  min_cohort: 3
  require_transport: sealed
  require_secagg: masked
server: {address: $address, authority: ca.crt}
""")

_UNIT: Final = """\
# A site. Install as /etc/systemd/system/fedlearn-client.service.
[Unit]
Description=fedlearn site
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
User=fedlearn
WorkingDirectory=/var/lib/fedlearn
ExecStartPre=/opt/fedlearn/bin/fedlearn client site.yaml --check
ExecStart=/opt/fedlearn/bin/fedlearn client site.yaml
# What is wrong in its own file (2), or spent by another process (3), is for its owner.
Restart=always
RestartPreventExitStatus=2 3
RestartSec=10
TimeoutStopSec=2min
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectHome=yes
ProtectSystem=strict
ReadWritePaths=/var/lib/fedlearn/state
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictSUIDSGID=yes
LockPersonality=yes
CapabilityBoundingSet=

[Install]
WantedBy=multi-user.target
"""

_COMPOSE: Final = """\
# A site as a container: `docker compose up -d`, or podman, in the folder of site.yaml. The image is
# built from the release that both sides have compared (docs/deployment/Containerfile).
services:
  site:
    image: fedlearn
    command: [client, site.yaml]
    volumes: [".:/work"]
    working_dir: /work
    restart: on-failure
    stop_signal: SIGTERM
    stop_grace_period: 2m
    read_only: true
    tmpfs: [/tmp]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
"""

_README: Final = Template("""\
# The site $name in the federation $federation

What is in here holds no secret. Your keys are made on your machine and stay there.

1. `fedlearn keys new $plain`, in the folder of your site, if you have not yet: the coordinator has
   made this kit for the public half that you have sent.
2. Ask whoever signs the list of sites for its fingerprint, in person or by telephone, and open the
   kit: `fedlearn keys join $archive FINGERPRINT`. It checks every signature before it writes
   anything, shows who takes part, and pins that list. (`--check` looks, and writes nothing.)
3. Fill in the data block of `site.yaml`; then `fedlearn client site.yaml`. With `--check` it says
   everything that is missing, and starts nothing.

As a service: copy `fedlearn-client.service` to `/etc/systemd/system`, or use `compose.yaml`.
The coordinator is at $address. Nobody connects to your machine; it connects to that one.
""")


def archive_name(site: str) -> str:
    """The file of a site's kit."""
    return f"{site}.kit.zip"


def texts_of(site: str, federation: str, address: str) -> Mapping[str, str]:
    """The files that people fill in or install, by name.

    Raises:
        ValueError: the address is none.
    """
    if not ADDRESS.fullmatch(address):
        raise ValueError(f"address={address!r}: must be host:port")
    quoted = {
        "name": json.dumps(site, ensure_ascii=False),
        "federation": json.dumps(federation, ensure_ascii=False),
        "keys": json.dumps(f"keys/{site}", ensure_ascii=False),
        "address": json.dumps(address),
    }
    return {
        SITE_FILE: _SITE.substitute(quoted),
        UNIT: _UNIT,
        COMPOSE: _COMPOSE,
        README: _README.substitute(
            name=site,
            plain=_shell(site),
            federation=federation,
            archive=_shell(archive_name(site)),
            address=address,
        ),
    }


def _shell(word: str) -> str:
    """A word as a shell takes it."""
    return (
        word if re.fullmatch(r"[\w.-]+", word, re.ASCII) else "'" + word.replace("'", "'\\''") + "'"
    )
