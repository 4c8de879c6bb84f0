"""No rule: whatever is opened is taken."""

from __future__ import annotations

from typing import ClassVar, Literal

from fedlearn.core.settings import config
from fedlearn.robust.rule import Robust


@config
class NotRobust(Robust):
    """Sums are taken as they are."""

    kind: Literal["none"] = "none"

    @property
    def open_to(self) -> str:
        """Everything."""
        return "Nothing bounds what a site sends: one that lies can put any model in its place."

    idle: ClassVar[bool] = True
