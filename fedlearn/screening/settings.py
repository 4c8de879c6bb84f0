"""Whether sites compare their tables before training: configuration."""

from __future__ import annotations

from typing import ClassVar, Literal

from fedlearn.core.settings import Probability, config


@config
class NoScreening:
    """Nothing is compared, and nothing spent."""

    kind: Literal["none"] = "none"

    idle: ClassVar[bool] = True
    share: ClassVar[float] = 0.0
    alarm: ClassVar[float] = 0.0


@config
class SumScreening:
    """Sums over training records, of classes and of where they stand in each column.

    `share` is what they get of the squared signal-to-noise ratio of the privacy budget. `alarm` is
    the chance, for a site and run, that noise makes something of a table with which nothing is
    wrong. At home the choice of the own records is in it as well, of units by Student's law: with
    fewer than forty records of a column that has hardly more than one value it may be more.
    """

    kind: Literal["sums"] = "sums"
    share: Probability = 0.1
    alarm: Probability = 0.01

    idle: ClassVar[bool] = False


Screening = NoScreening | SumScreening
