"""How likely chance alone puts more colluders into one group than its masks withstand."""

from __future__ import annotations

from dataclasses import dataclass

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
        counted = "must be counted on" if self.bound >= 0.995 else f"at most {self.bound:.2g}"
        return (
            f"of {self.colluders} sites that work with the coordinator more than {self.withstood} "
            f"share a group in some of {self.rounds} rounds by chance: {counted}"
        )


def chances(sizes: Sizes, withstood: int, counted_on: int, rounds: int) -> tuple[Chance, ...]:
    """For the fewest colluders that can open an update of their group, and for `counted_on`.

    What `counted_on` sites a sum over all would withstand, a sum over a group does not.
    """
    numbers = sorted({withstood + 1, max(withstood + 1, counted_on)})
    return tuple(
        Chance(number, withstood, rounds, exposure(sizes, number, withstood, rounds))
        for number in numbers
    )
