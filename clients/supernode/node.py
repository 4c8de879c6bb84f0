"""`fedlearn client`: one warm process that serves a site for as long as it runs.

It waits for a coordinator, comes online, answers messages with the app that is
installed here, and goes on waiting when the coordinator has gone. Whatever is sent
beside messages, code above all, is not fetched.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients import sitefile
from clients.supernode.checkup import tls_context
from clients.supernode.deployed import SITE_FILE
from clients.supernode.fleet import Fleet, Incoming, head_bytes, headless
from clients.supernode.memory import Memory
from clients.supernode.refusals import NotEnrolledError, RunOverError
from clients.supernode.run_lock import claimed
from fedlearn.core.errors import ConfigError, ProtocolError, StoppedError
from fedlearn.crypto.certificate_files import credential
from fedlearn.flower import private

log = logging.getLogger(__name__)

BREATH_SECONDS: Final = 0.02
"""Between two questions that found nothing; the coordinator holds each for a while."""

PAUSE_SECONDS: Final = 1.0
"""After a message that could not be had: the coordinator may give the same one again at once."""

RETRY_SECONDS: Final = 5.0
"""The longest wait before a call that did not get through is tried again."""


@dataclass
class Node:
    """One site's process; `serve` returns when `stop` is set."""

    config: Mapping[str, str]
    """What the app finds in its `node_config`: where its own file is."""
    app: ClientApp
    stop: threading.Event
    memory: Memory
    fleet: Fleet = field(init=False)
    _contexts: dict[int, Context] = field(default_factory=dict)
    _node_id: int = 0
    _was_online: bool = False
    _trouble: str = ""
    _tries: int = 0

    def serve(self) -> None:
        """Answer messages until `stop` is set.

        Raises:
            ProtocolError: the coordinator has not enrolled this site's key.
            StoppedError: `stop` was set while it waited for the coordinator.
        """
        while not self.stop.is_set():
            try:
                self._come_online()
                self._answer_all()
            except NotEnrolledError as error:
                self.fleet.forget()
                self._contexts.clear()
                if not self._was_online:
                    raise ProtocolError("server", "activate", str(error)) from None
                self._wait(str(error), False)
        self.fleet.leave()
        _event("left")

    def connected(self, address: str, tls: Path, authority: Path) -> None:
        """`serve`, over a connection to an address that `authority` certifies.

        Raises:
            ProtocolError: the coordinator does not take this node.
        """
        context = tls_context(tls, authority)
        self.fleet = Fleet(address, credential(tls).key, context, self._wait)
        try:
            self.serve()
        except StoppedError:
            _event("left")
        finally:
            self.fleet.close()

    def _come_online(self) -> None:
        last = self.memory.node()
        while True:
            self._node_id = self.fleet.activate(last)
            try:
                self.memory.set_node(self._node_id)
                break
            except OSError as error:
                # What it is asked it could not remember either: it takes no part until it can. Its
                # goodbye may be lost, or overtaken by a beat: then it is its own predecessor.
                self.fleet.leave()
                last = self._node_id
                folder = self.memory.folder
                self._wait(f"{folder} cannot be written to ({error.strerror})", False)
        self._was_online, self._trouble, self._tries = True, "", 0
        _event("online", node=self._node_id)
        if head := self.memory.open_message():
            self._decline(headless(head))

    def _decline(self, message: Message) -> None:
        """Say that a message from before a crash will not be answered: nobody has to wait."""
        self._identify(message.metadata.run_id)
        with contextlib.suppress(RunOverError):
            self.fleet.reply(private.error_reply(message, "the site was restarted"), 0.0)
        self.memory.clear_open()
        _event("gave_up", message=message.metadata.message_type)

    def _answer_all(self) -> None:
        while not self.stop.is_set():
            incoming = self._received()
            if incoming is None:
                self.stop.wait(BREATH_SECONDS)
            else:
                self._answer(incoming)

    def _received(self) -> Incoming | None:
        try:
            return self.fleet.receive()
        except RunOverError as error:
            _event("unread", reason=str(error))
            self.stop.wait(PAUSE_SECONDS)
            return None

    def _answer(self, incoming: Incoming) -> None:
        started = time.monotonic()
        kind = incoming.message.metadata.message_type
        self._identify(incoming.run_id)
        reply = self._reply(incoming)
        seconds = time.monotonic() - started
        try:
            self.fleet.reply(reply, seconds)
        except RunOverError as error:
            _event("too_late", message=kind, reason=str(error))
        self.memory.clear_open()
        failed = reply.has_error()
        _event("answered", message=kind, seconds=round(seconds, 3), failed=failed)

    def _reply(self, incoming: Incoming) -> Message:
        """The app's answer, after all that it must remember is on the disk."""
        message = incoming.message
        try:
            context = self._context(incoming)
            self.memory.set_open(head_bytes(message))
            reply = self.app(message, context)
            self.memory.set_state(incoming.run_id, context.state)
        except Exception as error:  # the coordinator learns its kind, and no more
            log.exception("no answer to %s", message.metadata.message_type)
            return private.error_reply(message, type(error).__name__)
        return reply

    def _context(self, incoming: Incoming) -> Context:
        run_id = incoming.run_id
        if run_id not in self._contexts:
            self._contexts.clear()
            self.memory.forget_others(run_id)
            self._contexts[run_id] = Context(
                run_id=run_id,
                node_id=self._node_id,
                node_config=dict(self.config),
                state=self.memory.state(run_id),
                run_config=incoming.run_config,
            )
        return self._contexts[run_id]

    def _identify(self, run_id: int) -> None:
        private.identify(run_id=run_id, node_id=self._node_id)

    def _wait(self, reason: str, final: bool) -> None:
        """Before a call is tried again."""
        if reason != self._trouble:
            self._trouble, self._tries = reason, 0
            _event("waiting", reason=reason)
        if final and not self._was_online:
            raise ProtocolError("server", "connect", reason)
        self._tries += 1
        self.stop.wait(min(RETRY_SECONDS, 0.2 * 2 ** min(self._tries, 10)))
        if self.stop.is_set():
            raise StoppedError("stopped while waiting for the coordinator")


def serve(path: Path, app: ClientApp, stop: threading.Event) -> None:
    """Serve the site of a site file until `stop` is set.

    Raises:
        ConfigError: the site file is wrong.
        PrivacyError: another process serves the same data.
        ProtocolError: the coordinator does not take this site.
    """
    path = path.absolute()
    site = sitefile.load(path)
    if site.server is None:
        raise ConfigError([f"{path}: server: must be given to take part in a deployment"])
    memory = Memory(site.ledger.parent / "runtime")
    node = Node(config={SITE_FILE: str(path)}, app=app, stop=stop, memory=memory)
    with claimed([site.ledger]):
        node.connected(site.server.address, site.tls, site.server.authority)


def _event(name: str, **fields: object) -> None:
    log.info(name, extra={"fields": fields})
