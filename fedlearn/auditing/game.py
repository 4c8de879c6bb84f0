"""The game that every audit plays, and the guesses that it counts.

Each canary was put in or left out by its own fair, secret coin. The attacker
sees what its seat shows and gives each canary a score; the more canaries it
places rightly, the more has been given away (Steinke, Nasr and Jagielski 2023,
section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_FRACTIONS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Game:
    """`scores: float64[m]`, higher for "in"; `inside: bool[m]`, the coins.

    Guesses are "in" above `threshold`. It must come from the law of the
    mechanism or from all scores together, never from the coins.
    """

    scores: NDArray[np.float64]
    inside: NDArray[np.bool_]
    threshold: float

    def __post_init__(self) -> None:
        if self.scores.shape != self.inside.shape or self.scores.ndim != 1:
            raise ValueError("a game has one score and one coin for each canary")

    @property
    def canaries(self) -> int:
        """How many canaries the game has."""
        return len(self.scores)

    def correct(self) -> NDArray[np.int64]:
        """`int64[m]`: how many of the 1, 2, ..., m surest guesses are right.

        The surest guess is the score that lies furthest from the threshold.
        """
        surest = np.argsort(-np.abs(self.scores - self.threshold), kind="stable")
        right = (self.scores > self.threshold) == self.inside
        return np.cumsum(right[surest], dtype=np.int64)


def guess_counts(canaries: int) -> tuple[int, ...]:
    """How many guesses are tried; who picks the best result must correct for all of them."""
    return tuple(sorted({max(1, round(canaries * part)) for part in _FRACTIONS}))
