"""How a run is reported to people: settings only (`fedlearn.report` does it)."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from fedlearn.core.language import codes
from fedlearn.core.settings import config


def _known(code: str) -> str:
    if code not in codes():
        raise PydanticCustomError("language", "one of {known}", {"known": ", ".join(codes())})
    return code


@config
class Reported:
    """What the report of a run, its model card and its statement are in."""

    language: Annotated[str, AfterValidator(_known)] = "en"

    @property
    def idle(self) -> bool:
        """Whether it is what every run had before there was a choice."""
        return self.language == "en"
