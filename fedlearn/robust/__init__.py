"""Rules against poisoning, one module each: what sums of honest sites can be, and what then."""

from __future__ import annotations

from fedlearn.core.registry import Family
from fedlearn.robust.bounded import Bounded
from fedlearn.robust.none import NotRobust
from fedlearn.robust.rule import Robust, Within, left_out, suspects

__all__ = ["ROBUST", "Bounded", "NotRobust", "Robust", "Within", "left_out", "suspects"]

ROBUST: Family[Robust] = Family("robust", "fedlearn.robust", (NotRobust, Bounded), Robust)
