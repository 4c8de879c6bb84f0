"""Who may take part in a run: nothing to check in a simulation, much in a deployment.

In a deployment the coordinator signs under its long-lived identity, which sites have
pinned; it admits a site only under the key that its roster gives, from the node that
this key was registered for, and running the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedlearn.core.names import printable
from fedlearn.crypto.identity import Identity, fingerprint
from fedlearn.crypto.roster import Roster
from fedlearn.rounds import Hello
from server.owners import OwnersWait
from server.waiting import Tell, nobody


@dataclass(frozen=True, kw_only=True)
class HelperNode:
    """The second server of the roster: its name, its identity's key, and its node."""

    name: str
    public: bytes
    node: int


@dataclass(frozen=True, kw_only=True)
class Admission:
    """How sites are let in.

    `seconds` is how long the first nodes are waited for; `wanted` how many there
    should be (0: as many as `strategy.min_sites`), though `strategy.min_sites` suffice
    once the time is over. `identity` signs the run's roster (None: one made for the
    run). `roster`, `nodes` (Flower's node ids and the sites that they were registered
    for), `version` and `code` are what hellos are compared with, where given. `receipts` is
    the folder with the last receipt of every site (None: sites are not asked for any).
    `sets_aside` says that a run starts without sites that cannot take part (`server.aside`).
    `helper` is the second server of another organisation (None: it is in the coordinator's
    process). `tell` is shown whom the run waits for. `absent` are the sites that were waited for in
    vain; it grows and shrinks as they go and come back. `owners` is how those are waited for whose
    decision a site awaits (None: nobody is).
    """

    seconds: float = 120.0
    wanted: int = 0
    identity: Identity | None = None
    roster: Roster | None = None
    nodes: Mapping[int, str] = field(default_factory=dict)
    version: str = ""
    code: str = ""
    receipts: Path | None = None
    sets_aside: bool = False
    helper: HelperNode | None = None
    tell: Tell = nobody
    absent: set[str] = field(default_factory=set)
    owners: OwnersWait | None = None

    def refusal(self, node: int, hello: Hello) -> str | None:
        """Why a site is not admitted, if so."""
        if self.code and (hello.version, hello.code) != (self.version, self.code):
            version = printable(f"{hello.version} ({hello.code[:16]})")
            return (
                f"{hello.site} runs fedlearn {version}, the "
                f"coordinator {self.version} ({self.code[:16]}): install the same release on both"
            )
        if self.nodes and self.nodes.get(node) != hello.site:
            return f"{hello.site}: its connection is registered for {self.nodes.get(node)}"
        if self.roster is None:
            return None
        if not hello.public_key:
            return f"{hello.site}: says no key, and the roster has one"
        key = bytes.fromhex(hello.public_key)
        listed = self.roster.sites().get(hello.site)
        if listed is None:
            return f"{hello.site}: the roster has no such site"
        if listed != key:
            return f"{hello.site}: has the key {fingerprint(key)}, the roster {fingerprint(listed)}"
        return None


SIMULATED = Admission()
"""Every node is taken at its word: all of them are ours."""
