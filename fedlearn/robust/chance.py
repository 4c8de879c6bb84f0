"""How likely chance alone puts more colluders into one group than its masks withstand."""

from __future__ import annotations

from dataclasses import dataclass

from fedlearn.core.language import Figure, Message, message
from fedlearn.robust.draw import Sizes, exposure


@dataclass(frozen=True)
class Chance:
    """Of `colluders` sites that work with the coordinator more than `withstood` share a group."""

    colluders: int
    withstood: int
    rounds: int
    bound: float
    """On the probability that it happens in one of the rounds; 1 is no bound."""

    def __str__(self) -> str:
        return self.sentence

    @property
    def sentence(self) -> Message:
        """All of it in words."""
        return message(
            "of %(colluders)s sites that work with the coordinator more than %(withstood)s share a "
            "group in some of %(rounds)s rounds by chance: %(bound)s",
            colluders=self.colluders,
            withstood=self.withstood,
            rounds=self.rounds,
            bound=self._bound,
        )

    @property
    def _bound(self) -> Message:
        if self.bound >= 0.995:
            return message("must be counted on")
        return message("at most %(bound)s", bound=Figure(self.bound, ".2g"))


def chances(sizes: Sizes, withstood: int, counted_on: int, rounds: int) -> tuple[Chance, ...]:
    """For the fewest colluders that can open an update of their group, and for `counted_on`.

    What `counted_on` sites a sum over all would withstand, a sum over a group does not.
    """
    numbers = sorted({withstood + 1, max(withstood + 1, counted_on)})
    return tuple(
        Chance(number, withstood, rounds, exposure(sizes, number, withstood, rounds))
        for number in numbers
    )
