"""Mechanisms of privacy: for each its config, its plan, and what the plan promises."""

from fedlearn.mechanisms.plan import (
    ClientPlan,
    ClientPrivacy,
    DistributedPlan,
    DistributedPrivacy,
    NoPrivacy,
    Population,
    Privacy,
    PrivacyPlan,
    RecordPlan,
    RecordPrivacy,
    derive,
    problems,
)

__all__ = [
    "ClientPlan",
    "ClientPrivacy",
    "DistributedPlan",
    "DistributedPrivacy",
    "NoPrivacy",
    "Population",
    "Privacy",
    "PrivacyPlan",
    "RecordPlan",
    "RecordPrivacy",
    "derive",
    "problems",
]
