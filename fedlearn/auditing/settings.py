"""How a run is audited: configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from fedlearn.core.settings import Probability, config

Canaries = Annotated[int, Ge(20)]
"""How many canaries: below 20 an audit could show next to nothing."""


@config
class NoAudit:
    """The run carries no canaries."""

    kind: Literal["none"] = "none"


@config
class SlotAudit:
    """Canaries on coordinates of their own: does the mechanism do what it promises?

    `canaries` parameters that no record of the task touches are added to the
    model for the run; a canary is a record whose gradient lies on one of them,
    and which takes part or not by a secret coin. The trained coordinates, the
    clip norm and the accounting stay as they are. Bounds hold with confidence
    `1 - alpha` each.
    """

    kind: Literal["slots"] = "slots"
    canaries: Canaries = 1000
    alpha: Probability = 0.05


@config
class MislabelledAudit:
    """Records under a wrong label: would somebody notice who only has the final model?

    `canaries` training records, drawn in secret and shared evenly among the
    sites, leave the training set; by a secret coin each comes back under a
    wrong label. This costs accuracy: half of them teach something false.
    """

    kind: Literal["mislabelled"] = "mislabelled"
    canaries: Canaries = 50
    alpha: Probability = 0.05


def slots_of(audit: Audit) -> int:
    """How many slots the audit adds to the model."""
    return audit.canaries if isinstance(audit, SlotAudit) else 0


Audit = NoAudit | SlotAudit | MislabelledAudit
