"""Rules against poisoning, one module each: what sums of honest sites can be, and what then.

Those of `fedlearn.robust.in_clear` choose among single updates instead.
"""

from __future__ import annotations

from fedlearn.core.registry import Family
from fedlearn.robust.bounded import Bounded
from fedlearn.robust.bulyan import Bulyan
from fedlearn.robust.draw import Draw, Sizes
from fedlearn.robust.evidence import Evidence
from fedlearn.robust.fltrust import FlTrust
from fedlearn.robust.groups import Groups
from fedlearn.robust.in_clear import Aggregation, InClear
from fedlearn.robust.krum import Krum
from fedlearn.robust.median import Median
from fedlearn.robust.none import NotRobust
from fedlearn.robust.proofs import Proofs
from fedlearn.robust.rule import Robust, Within, explained, left_out, suspects
from fedlearn.robust.trimmed_mean import TrimmedMean

__all__ = [
    "ROBUST",
    "Aggregation",
    "Bounded",
    "Draw",
    "Evidence",
    "FlTrust",
    "Groups",
    "InClear",
    "NotRobust",
    "Proofs",
    "Robust",
    "Sizes",
    "Within",
    "explained",
    "left_out",
    "suspects",
]

ROBUST: Family[Robust] = Family(
    "robust",
    "fedlearn.robust",
    (NotRobust, Bounded, Proofs, Groups, FlTrust, Krum, Bulyan, TrimmedMean, Median),
    Robust,
)
