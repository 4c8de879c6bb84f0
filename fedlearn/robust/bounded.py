"""Sums that honest sites could not have made are refused."""

from __future__ import annotations

from typing import Literal

from fedlearn.core.settings import config
from fedlearn.robust.bounds import Bounds


@config
class Bounded(Bounds):
    """One sum in a round, over all sites."""

    kind: Literal["bounded"] = "bounded"
