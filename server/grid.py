"""A grid whose sites have names: wraps any Flower grid.

Flower's node ids are random numbers, new in every run. Here a site is known by
its name: messages go out and replies come back in the order of names, so that
sums are added in one fixed order.
The wrapper also counts bytes and sorts refusals and failures from answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedlearn.core.errors import ProtocolError, StoppedError, UnauthenticatedError
from fedlearn.core.names import printable
from fedlearn.flower.messages import read_refusal
from fedlearn.flower.private import NODE_UNAVAILABLE
from fedlearn.flower.records import size_of
from fedlearn.rounds import Refusal
from server.sealing import Sealing

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
"""How soon an exchange looks again for replies."""

LONGEST_POLL_SECONDS = 0.25
"""Between two looks of an exchange that takes long: over a network a look is not free."""

Check = Callable[[RecordDict], object]
"""Reads a reply as far as it will be read later, and raises where that is not possible."""

Keep = Callable[[str, Message], Message]
"""(site, answer) to what is kept of it until the exchange is over; it raises where that cannot be
used, before it has changed anything."""


@dataclass
class Traffic:
    """Bytes of message contents since the last `take`: `down` to sites, `up` from them."""

    down: int = 0
    up: int = 0

    def take(self) -> dict[str, int]:
        """The counts so far; starts again from zero."""
        counts = {"up": self.up, "down": self.down}
        self.down = self.up = 0
        return counts


@dataclass(frozen=True)
class Replies:
    """The outcome of one exchange, every part in the order of site names."""

    answers: dict[str, Message]
    refusals: list[Refusal]
    failures: dict[str, str]
    """Sites whose app failed or that did not answer in time, with the reason."""

    def add(self, more: Replies) -> None:
        """Take in the outcome for the sites that come next."""
        self.answers.update(more.answers)
        self.refusals.extend(more.refusals)
        self.failures.update(more.failures)


@dataclass
class SiteGrid:
    """Sites by name over `inner`.

    `timeout` is how many seconds an exchange waits for replies (None: until all
    are there); `stopping` is asked while it waits.
    """

    inner: Grid
    node_of: dict[str, int]
    timeout: float | None = None
    stopping: Callable[[], bool] = lambda: False
    sealing: Sealing | None = None
    """Set once the sites have joined a run with `transport=sealed`."""
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def sites(self) -> list[str]:
        """Names of all sites, sorted."""
        return sorted(self.node_of)

    def exchange(
        self,
        messages: Iterable[Message],
        check: Check = lambda content: None,
        keep: Keep = lambda site, answer: answer,
    ) -> Replies:
        """Send `messages`, wait for their replies, and sort both by site name.

        `keep` gets every answer, in the order of names, and may let go of what is large.
        A grid with a `window`, as the simulation's, is asked for that many sites at a time;
        one that `holds`, as a deployment's, waits for replies itself.

        Guarantees: `check` holds for every answer; a site whose reply it or `keep` refuses, by
        whatever error, is a failure, and all others are taken.

        Raises:
            StoppedError: `stopping` said so.
        """
        by_site = {self.site_of(message): message for message in messages}
        sites, found = sorted(by_site), Replies({}, [], {})
        window = getattr(self.inner, "window", None) or max(1, len(sites))
        for start in range(0, len(sites), window):
            part = {site: by_site[site] for site in sites[start : start + window]}
            found.add(self._exchange(part, check, keep))
        return found

    def _exchange(self, asked: Mapping[str, Message], check: Check, keep: Keep) -> Replies:
        site_of = self._push(asked)
        replies = self._collect(set(site_of))
        self.traffic.up += sum(map(size_of, replies))
        by_site = {self._sender(reply, site_of): reply for reply in replies}
        return self._sorted_out(asked, by_site, check, keep)

    def _push(self, asked: Mapping[str, Message]) -> dict[str, str]:
        """Send; the sites that were asked, by the id of their message."""
        sealed = self._sealed(asked)
        # Of large messages a grid that holds them no longer than it must has one at a time.
        outgoing = sealed if getattr(self.inner, "holds", False) else list(sealed)
        ids = self.inner.push_messages(outgoing)
        return dict(zip(ids, asked, strict=False))  # fewer where a grid refuses to send

    def _sealed(self, asked: Mapping[str, Message]) -> Iterator[Message]:
        for site, message in asked.items():
            outgoing = self.sealing.seal(site, message) if self.sealing else message
            self.traffic.down += size_of(outgoing)
            yield outgoing

    def _sender(self, reply: Message, site_of: Mapping[str, str]) -> str:
        """Whose reply this is; a SuperLink that speaks for a node which is gone names itself."""
        if reply.has_error():
            return site_of.get(reply.metadata.reply_to_message_id, "")
        return self._name_of.get(reply.metadata.src_node_id, "")

    def site_of(self, message: Message) -> str:
        """The site that a message goes to."""
        return self._name_of[message.metadata.dst_node_id]

    @cached_property
    def _name_of(self) -> dict[int, str]:
        return {node: site for site, node in self.node_of.items()}

    def _collect(self, waiting: set[str]) -> list[Message]:
        # Flower's own `send_and_receive` polls every three seconds and cannot be stopped.
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        replies: list[Message] = []
        pause = 0.0 if getattr(self.inner, "holds", False) else POLL_SECONDS
        while waiting and (deadline is None or time.monotonic() < deadline):
            arrived = list(self.inner.pull_messages(waiting))
            replies += arrived
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            if self.stopping():
                raise StoppedError("stopped")
            if waiting and not arrived:
                time.sleep(pause)
                pause = min(LONGEST_POLL_SECONDS, pause * 1.2)
        return replies

    def _sorted_out(
        self, asked: Mapping[str, Message], by_site: dict[str, Message], check: Check, keep: Keep
    ) -> Replies:
        answers: dict[str, Message] = {}
        refusals, failures = [], {}
        for site, message in asked.items():
            reply = by_site.get(site)
            if reply is None:
                failures[site] = "no answer in time"
                continue
            if reply.has_error():
                failures[site] = self._error_of(reply)
                continue
            try:
                opened = self._opened(site, message, reply)
                refusal = read_refusal(opened.content)
                if refusal is None:
                    check(opened.content)
                    answers[site] = keep(site, opened)
                else:
                    # Named by who was asked: a site cannot refuse in the name of another.
                    reason = printable(refusal.reason)
                    refusals.append(replace(refusal, site=site, reason=reason))
            except UnauthenticatedError as error:
                failures[site] = str(error)
            except ProtocolError as error:
                failures[site] = printable(error.reason)
            except Exception as error:
                log.debug("the reply of %s", site, exc_info=True)
                failures[site] = f"its reply cannot be read ({type(error).__name__})"
        return Replies(answers, refusals, failures)

    def _opened(self, site: str, message: Message, reply: Message) -> Message:
        if self.sealing is None:
            return reply
        return self.sealing.open(site, message.metadata.message_type, reply)

    def _error_of(self, reply: Message) -> str:
        """Flower's errors come outside the sealed channel: anybody on the way could write one."""
        if reply.error.code == NODE_UNAVAILABLE:
            return "it is offline"
        if self.sealing:
            return "its node reports an error"
        return printable(reply.error.reason or "its app failed")

    def ask(
        self,
        kind: str,
        content: RecordDict,
        sites: Sequence[str],
        check: Check = lambda content: None,
    ) -> Replies:
        """Ask `sites` the same question of message type `kind`."""
        asked = (
            Message(content, dst_node_id=self.node_of[site], message_type=kind) for site in sites
        )
        return self.exchange(asked, check)
