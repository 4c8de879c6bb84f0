"""Attacks of sites that lie, one class each: they poison what all learn together.

`fedlearn audit demo=poison` runs federations in which some sites are liars, with each attack
against each rule (`fedlearn.robust`), and measures what is left.
"""

from __future__ import annotations

from fedlearn.core.registry import Family
from simulations.attacks.poison.attack import Goal, Lies, LyingRound, Poisoning
from simulations.attacks.poison.records import Backdoor, LabelFlip, Replacement
from simulations.attacks.poison.vectors import (
    Colluding,
    FreeRider,
    LittleIsEnough,
    Negated,
    NoiseInstead,
    OutOfRange,
    Scaled,
    SignFlip,
    Stale,
)

__all__ = ["ATTACKS", "Goal", "Lies", "LyingRound", "Poisoning"]

ATTACKS: Family[Poisoning] = Family(
    "attack",
    "fedlearn.attacks",
    (
        Negated,
        SignFlip,
        Scaled,
        OutOfRange,
        LabelFlip,
        Backdoor,
        Replacement,
        NoiseInstead,
        FreeRider,
        Stale,
        Colluding,
        LittleIsEnough,
    ),
    Poisoning,
)
