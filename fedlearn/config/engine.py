"""Where the sites of a simulation run."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Le

from fedlearn.core.settings import Count, NonNegative, Positive, config

Threads = Annotated[Count, Le(1024)]
"""As many as a machine may have: a site computes with what a run says, unless its owner says less.
"""


@config
class LocalEngine:
    """All sites on this machine, in this process and its workers: no sockets, no Ray."""

    kind: Literal["local"] = "local"
    threads: Threads
    """torch threads of a site. Part of the result: sums are split by thread."""
    workers: Literal["auto"] | Count = "auto"
    """Processes that train sites side by side; never part of the result.

    `auto`: as many as the cores carry, once a site's round takes long enough to share.
    """


@config
class RayEngine:
    """Flower's own simulation runtime: sites run in Ray actors."""

    kind: Literal["ray"] = "ray"
    threads: Threads
    """torch threads of a site, as in `LocalEngine`."""
    cpus_per_site: Positive
    """CPUs that Ray sets aside for a site while it trains; may be a fraction."""
    gpus_per_site: NonNegative
    """GPUs that Ray sets aside for a site while it trains; may be a fraction."""


Engine = LocalEngine | RayEngine
"""The union of engines, told apart by `kind`."""
