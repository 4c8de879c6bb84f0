"""No privacy: updates leave the sites as they are, weighed by their records."""

from __future__ import annotations

from typing import ClassVar, Literal

from fedlearn.core.settings import config
from fedlearn.mechanisms.base import Mechanism, Plan, Population, Protected, StudyTerms
from fedlearn.mechanisms.reach import Reach
from fedlearn.stages import Source, Trained


@config
class NoPrivacy(Mechanism):
    """No differential privacy: updates leave the sites as they are."""

    kind: Literal["none"] = "none"

    unit: ClassVar[Protected] = "none"
    delta: ClassVar[float | None] = None

    def plan(
        self,
        *,
        sample_rate: float,
        steps_per_round: int,
        rounds: int,
        population: Population | None,
    ) -> Plan | None:
        """Nothing is promised."""
        return None


class _Unprotected(Plan):
    """What is done where nothing is promised; it has no events, and nobody asks for them."""

    def source(self, terms: StudyTerms) -> Source:
        """Sites weigh as much as they have records: nothing hides that number."""
        return Trained(weighted=True)

    def reach(self, terms: StudyTerms, clip_norm: float | None = None) -> Reach | None:
        """The norm that the rule sets; thrice that where more travels than plain steps make."""
        if terms.change_norm is None:
            return None
        return Reach(signal=terms.change_norm * (3.0 if terms.corrected else 1.0))


UNPROTECTED = _Unprotected()
"""Stands for the plan of a run that has none."""
