"""Checks that know their chance of a false alarm, exactly or by a proven inequality.

Several tests make one check. All tests of a check share its chance of a false alarm evenly
(Bonferroni), and so do the checks of an audit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtr, chdtrc, ndtr

from fedlearn.auditing.findings import Check, CheckName

Floats = NDArray[np.float64]

FALSE_ALARMS: Final = 1e-6
"""How often at most all checks together accuse what is as promised."""

_CHECKS: Final = 13
"""Among how many checks by chance that is shared."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One test: the chance of such a value, or of a stranger one, and what it was made on."""

    chance: float
    where: str


def chance_check(name: CheckName, tests: Iterable[Found]) -> Check:
    """A check by chance: holds unless the strangest test is stranger than all of them explain."""
    found = list(tests) or [Found(chance=1.0, where="")]
    worst = min(found, key=lambda one: one.chance)
    p_value = min(1.0, worst.chance * len(found))
    holds = p_value >= FALSE_ALARMS / _CHECKS
    return Check(name=name, holds=holds, p_value=p_value, where="" if holds else worst.where)


def exact_check(name: CheckName, holds: bool, where: str) -> Check:
    """A check that chance does not touch; `where` is what is wrong if it does not hold."""
    return Check(name=name, holds=holds, p_value=None, where="" if holds else where)


def variance(values: Floats, rounding: float = 0.0) -> float:
    """Whether standard normals have a variance of one, or of `rounding` more."""
    squares, many = float(np.square(values).sum()), values.size
    return both_sides(float(chdtr(many, squares)), float(chdtrc(many, squares / (1 + rounding))))


def of_normal(value: float) -> float:
    """Whether a value is one of a standard normal."""
    return 2 * float(ndtr(-abs(value)))


def largest(values: Floats) -> float:
    """Whether the largest of standard normals, which may depend on one another, is one."""
    return min(1.0, values.size * of_normal(float(np.abs(values).max(initial=0.0))))


def product(a: Floats, b: Floats) -> float:
    """Of independent standard normals, `a . b / |b|` is one, whatever `b` is."""
    length = float(np.linalg.norm(b))
    return 1.0 if length == 0 else of_normal(float(a @ b) / length)


def both_sides(below: float, above: float) -> float:
    """The chance of a value as strange on either side."""
    return min(1.0, 2 * min(below, above))
