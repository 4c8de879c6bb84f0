"""The server's end of a protected Flower app: a grid that a strategy uses as it uses Flower's.

The strategy makes its messages and gets replies, as always. In between the grid enrols the
sites, seals what goes to them, and runs the five steps of secure aggregation: of a round of
training the strategy gets one reply, the weighted mean, and an error for every site that
is not in it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedlearn.config import decode
from fedlearn.core.errors import ConfigError, ProtocolError, refuse
from fedlearn.crypto.handshake import RUN_ID_BYTES
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keyring import load_pinned
from fedlearn.crypto.roster import Roster
from fedlearn.flower.apps import sealing
from fedlearn.flower.apps.enrolment import AppSites
from fedlearn.flower.apps.exchange import CONTRIBUTION, FORM
from fedlearn.flower.apps.protection import STANDARD, Protection
from fedlearn.flower.apps.sums import (
    NOTHING,
    AlikeReplies,
    GlobalModel,
    ReplyForm,
    as_first,
    cut_values,
    reply_of_total,
)
from fedlearn.flower.grid import Keep, Replies, SiteGrid, Tally
from fedlearn.flower.private import FlowerRun, error_reply, from_server, without
from fedlearn.flower.records import config_in, read_large_bytes
from fedlearn.flower.strategies import averaging_problems, nodes_wanted
from fedlearn.secagg.layout import LayoutEntry
from fedlearn.secagg.server import Receive, ServerSession, plan_round, run_steps

log = logging.getLogger(__name__)


def secure(
    grid: Grid,
    strategy: Strategy,
    protection: Protection = STANDARD,
    *,
    keys: str | Path | None = None,
    roster: str | Path | None = None,
    nodes: int | None = None,
    averages: bool = False,
    step_seconds: float = 300.0,
) -> SecureGrid:
    """Wrap the grid of a ServerApp: what it sends is sealed, what it gets is summed under masks.

    Its counterpart in the ClientApp is `fedlearn.flower.protect`; both must have the same
    `protection`. Give it to `strategy.start` in the place of `grid`.

    Args:
        grid: the grid that Flower gave to the ServerApp; or what `secure` has made of it, for
            another strategy in the same run.
        strategy: the strategy that will use it. Under masks it must need no more than the
            weighted mean: FedAvg, FedProx, FedAvgM, FedAdam, FedYogi, FedAdagrad, and what
            inherits their aggregation.
        protection: the public constants of the sums.
        keys: the server's private identity (`fedlearn keys new`), which signs the roster of
            the run. None: one made for the run, which sites trust on first use.
        roster: the pinned roster of a deployment. Sites that are not on it are left out.
        nodes: wait for so many nodes. None: as many as the strategy or the roster wants.
        averages: state that a strategy of one's own needs only the weighted mean.
        step_seconds: how long a step of the protocol waits for a site. The step in which
            sites train waits as long as the strategy says.

    Returns:
        A grid whose `send_and_receive` is protected; other ways to send are refused.

    Raises:
        ConfigError: the strategy needs single updates, or weighs by another metric, or the
            identity or roster is not in order.

    Guarantees:
        - No array that a single site has trained is in the server's memory in clear.
        - A sum is of `protection.min_cohort` sites at least, or there is none.

    Example:
        >>> from flwr.serverapp.strategy import FedAvg, Krum
        >>> def main(grid, context):
        ...     strategy = FedAvg()
        ...     strategy.start(grid=secure(grid, strategy), initial_arrays=...)
        >>> secure(None, Krum())
        Traceback (most recent call last):
        ...
        fedlearn.core.errors.ConfigError: Krum: needs every site's update, and under masks ...
    """
    found = averaging_problems(strategy, protection, averages)
    if isinstance(grid, SecureGrid):
        found += [f"protection: {d}" for d in protection.differences(grid.protection)]
    refuse(found, ConfigError)
    if isinstance(grid, SecureGrid):
        return grid
    pinned = None if roster is None else load_pinned(Path(roster))
    least = nodes_wanted(strategy, protection)
    wanted = max(least, len(pinned.sites()) if pinned else 0)
    return SecureGrid(
        inner=grid,
        protection=protection,
        identity=Identity.new() if keys is None else Identity.load(Path(keys)),
        pinned=pinned,
        nodes=wanted if nodes is None else nodes,
        least=least,
        step_seconds=step_seconds,
    )


class SecureGrid(Grid):
    """What `secure` makes; a subclass because Flower's strategies ask for a `Grid`."""

    def __init__(
        self,
        inner: Grid,
        protection: Protection,
        *,
        identity: Identity,
        pinned: Roster | None,
        nodes: int,
        least: int,
        step_seconds: float,
    ) -> None:
        self.inner, self.protection = inner, protection
        self.nodes, self.step_seconds = nodes, step_seconds
        self._run_id = os.urandom(RUN_ID_BYTES)
        self._parties = AppSites(
            inner, protection, identity, pinned, self._run_id, least, step_seconds
        )
        self._first: dict[str, LayoutEntry] = {}
        self._round = 0

    # --- What Flower's strategies use ------------------------------------------------

    def get_node_ids(self) -> Iterable[int]:
        """The enrolled nodes; before there are enough to be enrolled, none."""
        there = sorted(self.inner.get_node_ids())
        if self._parties.node_of:
            known = set(self._parties.node_of.values())
            return [node for node in there if node in known]
        return there if len(there) >= self.nodes else []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """The replies to the app's messages, sealed on their way; of a sum one, and errors.

        Raises:
            ConfigError: the messages cannot be protected, or the sites have not agreed to this.
            ProtocolError: too few sites are left; nothing of a sum is released.
            PrivacyError: the same, because of budgets or policies.
        """
        asked = list(messages)
        if not asked:
            return []
        kind = _one_kind(asked)
        if not self._parties.node_of:
            self._parties.enrol(kind)
        self._round += 1
        by_site = self._by_site(asked)
        if not by_site:
            raise ProtocolError("", "enrol", "none of the nodes that were asked is enrolled")
        contents = self._restored(by_site)
        if self.protection.sums(kind):
            return [*self._summed(kind, by_site, contents, timeout), *self._strangers(asked)]
        requests = {site: (content, b"") for site, content in contents.items()}
        found = self._exchange(kind, "ask", requests, timeout)
        replies = [Message(m.content, reply_to=by_site[s]) for s, m in found.answers.items()]
        return [*replies, *_errors(by_site, found.reasons()), *self._strangers(asked)]

    def _by_site(self, asked: Sequence[Message]) -> dict[str, Message]:
        site_of = {node: site for site, node in self._parties.node_of.items()}
        known = [m for m in asked if m.metadata.dst_node_id in site_of]
        by_site = {site_of[m.metadata.dst_node_id]: m for m in known}
        if len(by_site) != len(known):
            raise ConfigError("two messages to one node in one call of send_and_receive")
        return by_site

    def _strangers(self, asked: Sequence[Message]) -> list[Message]:
        """Errors for nodes that were chosen before the enrolment left them out."""
        enrolled, reasons = set(self._parties.node_of.values()), self._parties.left_out
        return [
            error_reply(m, reasons.get(m.metadata.dst_node_id, "not enrolled in this run"))
            for m in asked
            if m.metadata.dst_node_id not in enrolled
        ]

    # --- A sum -----------------------------------------------------------------------

    def _summed(
        self,
        kind: str,
        by_site: Mapping[str, Message],
        contents: Mapping[str, RecordDict],
        timeout: float | None,
    ) -> list[Message]:
        model = _one_model(contents.values())
        layout = model.layout if kind.partition(".")[0] == "train" else NOTHING
        self._first = self._first or {entry.name: entry for entry in layout.entries}
        sites = len(self._parties.sites)
        payload, settings = self.protection.payload(sites, layout), self.protection.secagg(sites)
        params = plan_round(
            settings,
            run_id=self._run_id,
            round_number=self._round,
            cohort=tuple(by_site),
            length=payload.length,
            layout_hash=layout.hash(),
            plan_hash=self.protection.plan_hash(sites, kind),
            request_hash=model.digest,
        )
        session = ServerSession(params, self._parties.sites, settings.min_cohort)
        tally = Tally()
        alike = AlikeReplies(len(by_site), session.receive, tally.failures)

        def ask(step: str, requests: Mapping[str, bytes], receive: Receive) -> None:
            if step != "mask":
                self._exchange_bytes(sealing.step_of(step), kind, requests, receive, tally)
                return
            # The model goes out with the step in which sites train on it.
            asked = {site: (contents[site], request) for site, request in requests.items()}
            takes = self._takes(alike)
            tally.note(self._exchange(kind, "mask", asked, timeout, takes, sorts=False))
            alike.close()

        try:
            run_steps([session], ask)
            total = payload.decode(session.total())
            content = reply_of_total(total, alike.agreed, model, layout, self.protection)
        except ProtocolError as error:
            raise tally.error(error) from None
        self._warn_of_cuts(cut_values(total), layout.num_reals * len(session.survivors))
        gone = {s: r for s, r in tally.reasons().items() if s not in session.survivors}
        mean = from_server(Message(content, reply_to=next(iter(by_site.values()))))
        return [mean, *_errors(by_site, gone)]

    def _exchange_bytes(
        self,
        step: sealing.Step,
        kind: str,
        requests: Mapping[str, bytes],
        receive: Receive,
        tally: Tally,
    ) -> None:
        """One step without vectors."""

        def keep(site: str, reply: Message) -> Message:
            receive(site, sealing.clear_bytes(reply.content))
            return reply

        asked = {site: (RecordDict(), request) for site, request in requests.items()}
        tally.note(self._exchange(kind, step, asked, self.step_seconds, keep))

    def _takes(self, alike: AlikeReplies) -> Keep:
        """What adds a contribution, and lets go of it."""

        def keep(site: str, reply: Message) -> Message:
            data, form = _contribution(reply.content)
            if form.numbers > self.protection.metrics or min(form.lengths.values(), default=0) < -1:
                raise ProtocolError(site, "mask", "its metrics are of an impossible form")
            alike.take(site, data, form)
            return without(reply, CONTRIBUTION)

        return keep

    def _restored(self, by_site: Mapping[str, Message]) -> dict[str, RecordDict]:
        """What goes to every site: counters in the types that they had in the first round."""
        # Strategies let all messages of a round share one content.
        contents = {id(m.content): m.content for m in by_site.values()}
        restored = {key: self._as_first(content) for key, content in contents.items()}
        return {site: restored[id(m.content)] for site, m in by_site.items()}

    def _as_first(self, content: RecordDict) -> RecordDict:
        return RecordDict(
            {
                name: as_first(one, self._first) if isinstance(one, ArrayRecord) else one
                for name, one in content.items()
            }
        )

    def _warn_of_cuts(self, cut: int, of: int) -> None:
        if cut:
            log.warning(
                "round %d: %d of %d values changed by more than protection.clip=%g and were cut: "
                "the mean is not that of the sites' models",
                self._round,
                cut,
                of,
                self.protection.clip,
            )

    # --- One exchange ------------------------------------------------------------------

    def _exchange(
        self,
        kind: str,
        step: sealing.Step,
        asked: Mapping[str, tuple[RecordDict, bytes]],
        seconds: float | None,
        keep: Keep = lambda site, reply: reply,
        *,
        sorts: bool = True,
    ) -> Replies:
        """Ask some sites one thing: for each the content, and the protocol's bytes beside it."""
        node_of = {site: self._parties.node_of[site] for site in asked}
        requests = {site: request for site, (_, request) in asked.items()}
        seals = sealing.StepSealing(self._parties.channels, self._round, step, requests)
        grid = SiteGrid(self.inner, node_of, seconds, sealing=seals)
        messages = (Message(asked[s][0], dst_node_id=node_of[s], message_type=kind) for s in asked)
        return grid.exchange(messages, keep=keep, sorts=sorts)

    # --- The rest of a grid ------------------------------------------------------------

    def set_run(self, run: FlowerRun) -> None:
        """Take over Flower's description of the run."""
        self.inner.set_run(run)

    @property
    def run(self) -> FlowerRun:
        """Flower's description of the run."""
        return self.inner.run

    def get_nodes(self) -> Iterable[Any]:
        """What Flower knows of the nodes in the run."""
        known = set(self.get_node_ids())
        return [node for node in self.inner.get_nodes() if node.node_id in known]

    def create_message(self, *args: Any, **named: Any) -> Message:
        """Deprecated by Flower, which still has it."""
        return self.inner.create_message(*args, **named)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refused: a message without its answer cannot be protected."""
        raise ConfigError("a secure grid sends by send_and_receive alone")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refused, as `push_messages`."""
        raise ConfigError("a secure grid receives by send_and_receive alone")


def _errors(by_site: Mapping[str, Message], reasons: Mapping[str, str]) -> list[Message]:
    return [error_reply(by_site[site], reason) for site, reason in reasons.items()]


def _one_kind(messages: Sequence[Message]) -> str:
    kinds = {message.metadata.message_type for message in messages}
    if len(kinds) > 1:
        raise ConfigError(f"one call of send_and_receive has messages of types {sorted(kinds)}")
    return kinds.pop()


def _one_model(contents: Iterable[RecordDict]) -> GlobalModel:
    """The model that all sites get."""
    models = {id(content): GlobalModel.of(content) for content in contents}
    if len({model.digest for model in models.values()}) != 1:
        raise ConfigError("the sites get different models, and a sum is of one")
    return next(iter(models.values()))


def _contribution(content: RecordDict) -> tuple[bytes, ReplyForm]:
    """A site's masked vector, and the form of its reply."""
    data = read_large_bytes(content, CONTRIBUTION)
    form = decode(ReplyForm, str(config_in(content, FORM)["json"]))
    if data is None:
        raise ValueError("no contribution")
    return data, form
