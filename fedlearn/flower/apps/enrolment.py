"""Who takes part in the run of a protected app: greeted in clear, listed, and given channels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedlearn import __version__
from fedlearn.config import encode
from fedlearn.core.code import code_digest
from fedlearn.core.errors import ProtocolError, UnauthenticatedError, counted
from fedlearn.core.names import printable, site_name_problem
from fedlearn.crypto.codec import name_bytes
from fedlearn.crypto.handshake import NO_TERMS, ServerOffer
from fedlearn.crypto.identity import Identity, fingerprint
from fedlearn.crypto.roster import SERVER, Roster
from fedlearn.crypto.sealed import Channel
from fedlearn.flower.apps import sealing
from fedlearn.flower.apps.protection import Protection
from fedlearn.flower.grid import Check, SiteGrid, by_reason
from fedlearn.rounds import Invitation

log = logging.getLogger(__name__)


@dataclass
class AppSites:
    """Sites, and what binds them; empty until `enrol` has asked."""

    grid: Grid
    protection: Protection
    identity: Identity
    pinned: Roster | None
    run_id: bytes
    least: int
    step_seconds: float
    node_of: dict[str, int] = field(default_factory=dict)
    """The node of every site that takes part."""
    sites: dict[str, bytes] = field(default_factory=dict)
    """The keys of all that have greeted."""
    channels: dict[str, Channel] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)
    """Why a node takes no part."""

    def enrol(self, kind: str) -> None:
        """Ask every node who it is, sign the roster of the run, and make a channel with each.

        Raises:
            ConfigError: the sites have agreed to another protection.
            ProtocolError: too few nodes can take part.
        """
        nodes = {f"node {node}": node for node in sorted(self.grid.get_node_ids())}
        greeted = self._greet(kind, nodes)
        if self.pinned is None:
            log.warning(
                "no roster is pinned: the keys of %d sites and the server are trusted on first "
                "use. That is for simulations, where one machine holds them all anyway",
                len(greeted),
            )
        self.sites = {site: key for site, (key, _) in greeted.items()}
        self._check_enough(len(greeted))
        self.node_of = self._invited(kind, {site: nodes for site, (_, nodes) in greeted.items()})
        self._check_enough(len(self.node_of))

    def _check_enough(self, there: int) -> None:
        # Flower's strategies would wait for ever for nodes that are left out.
        if there >= self.least:
            return
        reasons = {f"node {node}": reason for node, reason in self.left_out.items()}
        needed = f"{counted(there, 'site')} can take part; needed: {self.least}"
        raise ProtocolError("", "enrol", "; ".join([needed, *by_reason(reasons)]))

    def _greet(self, kind: str, nodes: Mapping[str, int]) -> dict[str, tuple[bytes, list[int]]]:
        """The key of every site, and the nodes that say they are it: one of them can prove it."""
        found: dict[str, dict[str, list[int]]] = {}
        answers = self._in_clear(kind, sealing.GREET, b"", nodes, sealing.read_greeting)
        for label, content in answers.items():
            greeting, node = sealing.read_greeting(content), nodes[label]
            if reason := self._refusal(greeting):
                self._leave_out(node, reason)
                continue
            claims = found.setdefault(greeting.site, {})
            claims.setdefault(greeting.public_key, []).append(node)
        there = dict[str, tuple[bytes, list[int]]]()
        for site, claims in sorted(found.items(), key=lambda item: name_bytes(item[0])):
            (key, claimed), *others = claims.items()
            if not others:
                there[site] = bytes.fromhex(key), claimed
                continue
            for node in (node for claimed in claims.values() for node in claimed):
                self._leave_out(node, f"nodes with other keys claim the name {site} as well")
        return there

    def _refusal(self, greeting: sealing.Greeting) -> str | None:
        """Why a site is not enrolled, if so."""
        if problem := site_name_problem(greeting.site):
            return problem
        key = bytes.fromhex(greeting.public_key)
        if (greeting.version, greeting.code) != (__version__, code_digest()):
            version = printable(f"{greeting.version} ({greeting.code[:16]})")
            return (
                f"runs fedlearn {version}, and the "
                f"server {__version__} ({code_digest()[:16]}): install the same release on both"
            )
        if other := self.protection.differences(greeting.protection):
            return f"the protections of server and site differ in {'; '.join(other)}"
        if self.pinned is None:
            return None
        listed = self.pinned.sites().get(greeting.site)
        if listed is None:
            return f"the roster has no site {greeting.site}"
        if listed != key:
            return f"has the key {fingerprint(key)}, and the roster {fingerprint(listed)}"
        return None

    def _invited(self, kind: str, claimed: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """Make a channel with every site; the node that has proved to be it."""
        offer = ServerOffer(self.identity, self.run_id, NO_TERMS, SERVER)
        federation = self.pinned.federation if self.pinned else "flower"
        roster = Roster.of_run(federation, self.sites, self.identity)
        invitation = Invitation(
            run_id=self.run_id.hex(),
            roster=roster.to_json(),
            offer=offer.message.hex(),
            helper="",
        )
        data = encode(invitation).encode()
        site_of = {node: site for site, nodes in claimed.items() for node in nodes}
        asked, proved = {f"node {node}": node for node in site_of}, dict[str, int]()
        for label, content in self._in_clear(kind, sealing.INVITE, data, asked).items():
            node = asked[label]
            site = site_of[node]
            try:
                accepted = sealing.clear_bytes(content)
                self.channels[site] = offer.finish(site, self.sites[site], accepted)
                proved[site] = node
            except (UnauthenticatedError, ProtocolError, KeyError, TypeError, ValueError):
                self._leave_out(node, "its acceptance could not be authenticated")
        return dict(sorted(proved.items(), key=lambda item: name_bytes(item[0])))

    def _in_clear(
        self,
        kind: str,
        step: str,
        data: bytes,
        nodes: Mapping[str, int],
        check: Check = sealing.clear_bytes,
    ) -> dict[str, RecordDict]:
        """The answers to one of the messages before there are channels."""
        grid = SiteGrid(self.grid, dict(nodes), self.step_seconds)
        replies = grid.ask(kind, sealing.clear(step, data), grid.sites, check)
        for label, reason in replies.reasons().items():
            self._leave_out(nodes[label], reason)
        return {label: reply.content for label, reply in replies.answers.items()}

    def _leave_out(self, node: int, reason: str) -> None:
        log.warning("node %d takes no part: %s", node, reason)
        self.left_out[node] = reason
