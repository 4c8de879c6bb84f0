"""What happens to an update on its way, as one list; and the stages that can be chosen."""

from __future__ import annotations

from fedlearn.core.registry import Family
from fedlearn.stages.mask import RandomMask
from fedlearn.stages.stage import (
    MODEL,
    ClippedSteps,
    Difference,
    Form,
    Mean,
    NoStage,
    PaidSteps,
    Round,
    Route,
    ServerRound,
    SiteContext,
    Source,
    Stack,
    Stage,
    Total,
    Trained,
    Update,
)

__all__ = [
    "MODEL",
    "STAGES",
    "ClippedSteps",
    "Difference",
    "Form",
    "Mean",
    "NoStage",
    "PaidSteps",
    "RandomMask",
    "Round",
    "Route",
    "ServerRound",
    "SiteContext",
    "Source",
    "Stack",
    "Stage",
    "Total",
    "Trained",
    "Update",
]

STAGES: Family[Stage] = Family("stage", "fedlearn.stages", (NoStage, RandomMask), Stage)
