"""The desk of one site: its page, and the decisions that come from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast, get_args

from clients.desk import pages
from clients.studies.decisions import Verb
from clients.studies.view import decide, look
from fedlearn.core.errors import ConfigError
from fedlearn.loopback.server import Fields, Pages
from fedlearn.loopback.server import serve as serve_pages


@dataclass
class Desk(Pages):
    """What the page shows and does: the file of one site."""

    command: str = field(default="fedlearn desk", init=False)
    site: Path

    def shown(self, form: str, notice: str) -> str:
        """The page, from the files of the site as they are now."""
        return pages.desk(self.site, form, notice)

    def done(self, fields: Fields) -> str:
        """Decide what a form says.

        Nothing is decided of a study that does not stand any more as the page has shown it.
        """
        verb, terms = fields.get("verb", ""), fields.get("terms", "")
        if verb not in get_args(Verb) or len(terms) != 64:
            raise ConfigError("no such decision")
        study = look(self.site).study(terms)
        if study.standing != fields.get("standing"):
            raise ConfigError(f"study {terms[:16]} is {study.standing} by now: look again")
        seen = fields.get("roster", "")
        made = decide(self.site, cast(Verb, verb), terms, datetime.now(UTC), seen)
        return f"Study {terms[:16]} is {pages.STANDINGS[made.standing][1]}."


def serve(site: Path, address: str, port: int, say: Callable[[Sequence[str]], None]) -> None:
    """Serve the desk of a site until it is interrupted; `say` is given what to print first.

    Raises:
        ConfigError: the file of the site is wrong, or the port cannot be had.
        DataError: its decisions are not intact.
    """
    serve_pages(Desk(site), f"desk of {look(site).site.name}", address, port, say)
