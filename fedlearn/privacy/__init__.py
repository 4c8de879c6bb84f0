"""Differential privacy: one plan per run, its noise, and what it costs."""

from fedlearn.privacy.events import Event, Unit
from fedlearn.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from fedlearn.privacy.plan import (
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
    statement,
)

__all__ = [
    "ClientPlan",
    "ClientPrivacy",
    "DistributedPlan",
    "DistributedPrivacy",
    "Event",
    "NoPrivacy",
    "NoiseSource",
    "Population",
    "Privacy",
    "PrivacyPlan",
    "RecordPlan",
    "RecordPrivacy",
    "SeededNoise",
    "SystemNoise",
    "Unit",
    "derive",
    "problems",
    "statement",
]
