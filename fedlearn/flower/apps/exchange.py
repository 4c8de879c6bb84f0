"""How a protected app's server asks sites for something, and sorts what comes back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedlearn.core.errors import FedlearnError, PrivacyError, ProtocolError, UnauthenticatedError
from fedlearn.core.names import printable
from fedlearn.flower.apps.sums import ReplyForm
from fedlearn.flower.messages import read_refusal
from fedlearn.rounds import Refusal

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.02
LONGEST_POLL_SECONDS: Final = 0.25
"""How soon an exchange looks again for replies, and how seldom once it takes long."""

_ANOTHER_FORM: Final = "its reply has other records or metrics than those of most sites"

Take = Callable[[str, RecordDict], None]
"""Gets every answer as it comes, and may refuse it by a ProtocolError."""


@dataclass
class Answers:
    """What became of one exchange: contents by site, and why there is none."""

    contents: dict[str, RecordDict] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def reasons(self) -> dict[str, str]:
        """Why every site is left out that is."""
        return self.failures | {site: one.reason for site, one in self.refusals.items()}

    def error(self, error: ProtocolError) -> FedlearnError:
        """The error with every site's reason: of privacy, where a budget or policy refused."""
        private = [
            r.reason for r in self.refusals.values() if r.exit_code == PrivacyError.exit_code
        ]
        if private:
            return PrivacyError("\n".join(dict.fromkeys(private)))
        reasons: dict[str, list[str]] = {}
        for site, reason in self.reasons().items():
            reasons.setdefault(reason, []).append(site)
        reported = [f"{', '.join(sites)}: {reason}" for reason, sites in reasons.items()]
        return ProtocolError(error.peer, error.step, "; ".join([error.reason, *reported]))

    def sort_in(
        self,
        site: str,
        reply: Message,
        open_: Callable[[str, RecordDict], RecordDict],
        take: Take,
    ) -> None:
        """Take in one reply: what `open_` makes of its content, and `take` does not refuse.

        Guarantees: whatever reading it raises is a failure of its site, and of no other.
        """
        if reply.has_error():
            # It comes outside of the sealed channel: anybody on the way could write one.
            self.failures[site] = f"its node reports: {printable(reply.error.reason or '')}"
            return
        try:
            content = open_(site, reply.content)
            refusal = read_refusal(content)
            if refusal is None:
                take(site, content)
                self.contents[site] = content
            else:
                # Named by who was asked: a site cannot refuse in the name of another.
                reason = printable(refusal.reason)
                self.refusals[site] = replace(refusal, site=site, reason=reason)
        except ProtocolError as error:
            self.failures[site] = printable(error.reason)
        except Exception as error:
            log.debug("the answer of %s", site, exc_info=True)
            reason = str(error) if isinstance(error, UnauthenticatedError) else type(error).__name__
            self.failures[site] = f"its answer cannot be read ({reason})"


@dataclass
class AlikeReplies:
    """The vectors of a round whose replies have one form: that of most of those asked.

    They wait until it is known, so that no site which answers first decides for all others; from
    then on each is added as it comes.
    """

    asked: int
    add: Callable[[str, bytes], None]
    failures: dict[str, str]
    """Why sites are left out; grows."""
    form: ReplyForm | None = None
    _waiting: dict[str, tuple[bytes, ReplyForm]] = field(default_factory=dict)

    def take(self, site: str, data: bytes, form: ReplyForm) -> None:
        """Add the vector of a reply, or keep it; ProtocolError where it is of another form."""
        if self.form is None:
            self._waiting[site] = data, form
            if 2 * sum(form == other for _, other in self._waiting.values()) > self.asked:
                self._settle(form)
        elif form != self.form:
            raise ProtocolError(site, "mask", _ANOTHER_FORM)
        else:
            self.add(site, data)

    def close(self) -> None:
        """Nobody else will answer: what there is most of counts."""
        if self._waiting:
            forms = [form for _, form in self._waiting.values()]
            self._settle(max(forms, key=forms.count))

    @property
    def agreed(self) -> ReplyForm:
        """The form of all that were added; RuntimeError where none was."""
        if self.form is None:
            raise RuntimeError("no reply was added")
        return self.form

    def _settle(self, form: ReplyForm) -> None:
        self.form = form
        while self._waiting:
            site = next(iter(self._waiting))
            data, own = self._waiting.pop(site)
            try:
                self.take(site, data, own)
            except ProtocolError as error:
                self.failures[site] = error.reason
            except Exception as error:
                log.debug("the answer of %s", site, exc_info=True)
                self.failures[site] = f"its answer cannot be read ({type(error).__name__})"


def post(
    grid: Grid,
    asked: Mapping[str, tuple[int, RecordDict]],
    kind: str,
    seconds: float | None,
    take: Callable[[str, Message], None],
) -> None:
    """Push messages, and `take` every reply as it comes, for so many seconds."""
    sent = {
        site: Message(content, dst_node_id=node, message_type=kind)
        for site, (node, content) in asked.items()
    }
    pushed = set(grid.push_messages(list(sent.values())))
    ids = {m.metadata.message_id: site for site, m in sent.items()}
    site_of = {i: site for i, site in ids.items() if i in pushed}
    waiting, pause = dict.fromkeys(site_of), POLL_SECONDS
    deadline = None if seconds is None else time.monotonic() + seconds
    while waiting:
        # Flower's own `send_and_receive` looks every three seconds.
        arrived = list(grid.pull_messages(list(waiting)))
        for reply in arrived:
            site = site_of.get(reply.metadata.reply_to_message_id, "")
            waiting.pop(reply.metadata.reply_to_message_id, None)
            if site:
                take(site, reply)
        if deadline is not None and time.monotonic() >= deadline:
            return
        if waiting and not arrived:
            time.sleep(pause)
            pause = min(LONGEST_POLL_SECONDS, pause * 1.2)
