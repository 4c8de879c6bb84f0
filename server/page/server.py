"""The page of a coordinator, and what its buttons do with the queue."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fedlearn.config.words import refuse_words
from fedlearn.core.errors import ConfigError
from fedlearn.loopback.server import Fields, Pages
from fedlearn.loopback.server import serve as serve_pages
from server.page import view
from server.queue import Queue
from server.serverfile import ServerFile
from server.standing_server import put_into

_MOST_DIGITS = 9


@dataclass
class CoordinatorPages(Pages):
    """What is shown of a coordinator; `folder` is where the command was started."""

    command: str = field(default=view.COMMAND, init=False)
    file: ServerFile
    folder: Path

    def shown(self, form: str, notice: str) -> str:
        """The page, from the coordinator's files as they are now."""
        return view.page(self.file, self.folder, form, notice)

    def document(self, name: str) -> bytes | None:
        """The report of the run, or of a study of the queue, where it has one."""
        path = view.look(self.file, datetime.now(UTC)).reports.get(name)
        try:
            return path.read_bytes() if path else None
        except OSError:
            return None

    def done(self, fields: Fields) -> str:
        """Change the queue as a form says.

        Nothing is done with a study that does not stand any more as the page has shown it.
        """
        queue, verb = Queue(self.file.state), fields.get("verb", "")
        if verb == "add":
            words = words_of(fields.get("words", ""))
            refuse_words(words)
            made = put_into(queue, words, self.folder)
            return f"Study {made.number} is queued: {made.out}"
        number = number_of(fields.get("number", ""))
        now = {one.number: one for one in queue.studies()}.get(number)
        if now is None or now.state != fields.get("standing"):
            raise ConfigError(
                f"study {number} is {now.state if now else 'none'} by now: look again"
            )
        if verb == "stop":
            changed = queue.stop(number)
            how = "ends after its round" if changed.wish else "will not begin"
            return f"Study {number} {how}."
        if verb == "resume":
            queue.resume(number)
            return f"Study {number} is queued again."
        raise ConfigError("there is no such button")


def words_of(text: str) -> list[str]:
    """The words of a run as somebody has typed them; raises ConfigError where a quote is open."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"the words of the run: {error}") from None


def number_of(text: str) -> int:
    """The number of a study; raises ConfigError where it is none."""
    if not (text.isascii() and text.isdigit()) or len(text) > _MOST_DIGITS:
        raise ConfigError("the page named no study")
    return int(text)


def serve(
    file: ServerFile, folder: Path, address: str, port: int, say: Callable[[Sequence[str]], None]
) -> None:
    """Serve the page of a coordinator until it is interrupted; `say` is given what to print first.

    Raises:
        ConfigError: the port cannot be had.
    """
    what = f"page of the coordinator {file.listen}"
    serve_pages(CoordinatorPages(file, folder), what, address, port, say)
