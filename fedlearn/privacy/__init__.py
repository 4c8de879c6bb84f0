"""Differential privacy: one plan per run, its noise, and what it costs."""

from fedlearn.privacy.events import Event
from fedlearn.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from fedlearn.privacy.plan import (
    NoPrivacy,
    Privacy,
    PrivacyPlan,
    RecordPrivacy,
    derive,
    problems,
    statement,
)

__all__ = [
    "Event",
    "NoPrivacy",
    "NoiseSource",
    "Privacy",
    "PrivacyPlan",
    "RecordPrivacy",
    "SeededNoise",
    "SystemNoise",
    "derive",
    "problems",
    "statement",
]
