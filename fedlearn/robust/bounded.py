"""Sums that honest sites could not have made are refused."""

from __future__ import annotations

from typing import Literal

from fedlearn.core.settings import config
from fedlearn.robust.bounds import Bounds


@config
class Bounded(Bounds):
    """One sum in a round, over all sites."""

    kind: Literal["bounded"] = "bounded"

    @property
    def open_to(self) -> str:
        """What all sites together could send."""
        return (
            "Of a sum of few sites a bound on the sum bounds no single one: a site that lies can "
            "send as much as all of them together, and turn the model round. Of the rules that see "
            "no single update robust=fltrust, with public records, leaves least of that."
        )
