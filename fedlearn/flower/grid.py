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
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedlearn.core.errors import (
    FedlearnError,
    PrivacyError,
    ProtocolError,
    StoppedError,
    UnauthenticatedError,
)
from fedlearn.core.names import printable
from fedlearn.flower.messages import read_refusal
from fedlearn.flower.private import NODE_UNAVAILABLE
from fedlearn.flower.records import size_of
from fedlearn.rounds import Refusal

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


class Seals(Protocol):
    """The server's ends of sealed channels, one for each site; `round` is that of the run."""

    round: int

    def seal(self, site: str, message: Message) -> Message:
        """The message with its content sealed for `site`."""
        ...

    def open(self, site: str, message_type: str, reply: Message) -> Message:
        """The reply to a message of that type with its content opened.

        Raises:
            UnauthenticatedError: it is no sealed message of that site in this round, or repeated.
            ValueError: the site has sealed something that is no content.
        """
        ...


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

    def reasons(self) -> dict[str, str]:
        """Why there is no answer, of all sites without one."""
        return self.failures | {one.site: one.reason for one in self.refusals}

    def by_owner(self) -> dict[str, str]:
        """Sites whose owners have decided that they take no part now, with that decision."""
        return {one.site: one.reason for one in self.refusals if one.by_owner}

    def add(self, more: Replies) -> None:
        """Take in the outcome for the sites that come next."""
        self.answers.update(more.answers)
        self.refusals.extend(more.refusals)
        self.failures.update(more.failures)


@dataclass
class Tally:
    """What became of every site over several exchanges."""

    asked: list[str] = field(default_factory=list)
    """Sites that got the model, and may have trained."""
    contributed: dict[str, Message] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def note(self, replies: Replies) -> None:
        """Keep the refusals and failures of one exchange."""
        self.refusals += replies.refusals
        self.failures |= replies.failures

    def replies(self, survivors: Iterable[str]) -> Replies:
        """The outcome, with the replies of those whose contribution is in the sum."""
        answers = {site: self.contributed[site] for site in survivors}
        return Replies(answers, self.refusals, self.failures)

    def reasons(self) -> dict[str, str]:
        """Why every site is left out that is."""
        return self.failures | {one.site: one.reason for one in self.refusals}

    def error(self, error: ProtocolError) -> FedlearnError:
        """The error with every site's reason: of privacy, where a budget or policy refused."""
        private = [one.reason for one in self.refusals if one.of_budget]
        if private:
            return PrivacyError("\n".join(dict.fromkeys(private)))
        return ProtocolError("", error.step, "; ".join([error.reason, *by_reason(self.reasons())]))


def by_reason(reasons: Mapping[str, str]) -> list[str]:
    """`a, b: reason` for every reason, with the names of all whose it is."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(them)}: {reason}" for reason, them in names.items()]


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
    sealing: Seals | None = None
    """Set once there are channels to the sites."""
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
        *,
        sorts: bool = True,
    ) -> Replies:
        """Send `messages`, wait for their replies, and sort both by site name.

        `keep` gets every answer, in the order of names, or as they come where the order does not
        matter to it (`sorts=False`), and may let go of what is large: of answers that come one by
        one, no two are then held.
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
            found.add(self._exchange(part, check, keep, sorts))
        return found

    def _exchange(
        self, asked: Mapping[str, Message], check: Check, keep: Keep, sorts: bool
    ) -> Replies:
        site_of, found = self._push(asked), dict[str, Message | Refusal | str]()
        arriving = ((self._sender(one, site_of), one) for one in self._arriving(set(site_of)))
        for site, reply in sorted(arriving, key=lambda one: one[0]) if sorts else arriving:
            self.traffic.up += size_of(reply)
            if site in asked and site not in found:
                found[site] = self._outcome(site, asked[site], reply, check, keep)
        outcomes = [(site, found.get(site, "no answer in time")) for site in asked]
        return Replies(
            answers={site: one for site, one in outcomes if isinstance(one, Message)},
            refusals=[one for _, one in outcomes if isinstance(one, Refusal)],
            failures={site: one for site, one in outcomes if isinstance(one, str)},
        )

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

    def _arriving(self, waiting: set[str]) -> Iterator[Message]:
        """The replies as they come; `waiting` are the ids of messages."""
        # Flower's own `send_and_receive` polls every three seconds and cannot be stopped.
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        pause = 0.0 if getattr(self.inner, "holds", False) else POLL_SECONDS
        while waiting and (deadline is None or time.monotonic() < deadline):
            arrived = list(self.inner.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            nothing = not arrived
            while arrived:
                yield arrived.pop(0)
            if self.stopping():
                raise StoppedError("stopped")
            if waiting and nothing:
                time.sleep(pause)
                pause = min(LONGEST_POLL_SECONDS, pause * 1.2)

    def _outcome(
        self, site: str, message: Message, reply: Message, check: Check, keep: Keep
    ) -> Message | Refusal | str:
        """What a site has answered, refused, or why its reply is no use."""
        if reply.has_error():
            return self._error_of(reply)
        try:
            opened = self._opened(site, message, reply)
            refusal = read_refusal(opened.content)
            if refusal is None:
                check(opened.content)
                return keep(site, opened)
            # Named by who was asked: a site cannot refuse in the name of another.
            return replace(refusal, site=site, reason=printable(refusal.reason))
        except UnauthenticatedError as error:
            return str(error)
        except ProtocolError as error:
            return printable(error.reason)
        except Exception as error:
            log.debug("the reply of %s", site, exc_info=True)
            return f"its reply cannot be read ({type(error).__name__})"

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
