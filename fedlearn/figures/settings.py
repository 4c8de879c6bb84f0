"""Whether a run makes a table of figures instead of a model: configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen, MinLen

from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Probability, ValueName, config


@config
class NoStatistics:
    """A run that trains."""

    kind: Literal["none"] = "none"

    idle: ClassVar[bool] = True
    by_site: ClassVar[bool] = False


@config
class TableStatistics:
    """Counts, gaps, means, quantiles and categories of all records, and nothing else.

    `points` is how many places a number is rounded to in its public range, at most. Every two of
    the `correlations` are held against each other, and every pair of `tables` is counted together:
    each takes precision from all other figures. With `by_site` the coordinator sees the sums of
    each site, with all of the noise that privacy asks for.
    """

    kind: Literal["table"] = "table"
    columns: tuple[ValueName, ...] = ()
    quantiles: Annotated[tuple[Probability, ...], MinLen(1), MaxLen(100)] = (0.25, 0.5, 0.75)
    points: Annotated[int, Ge(16), Le(1024)] = 256
    correlations: Annotated[tuple[ValueName, ...], MaxLen(20)] = ()
    tables: Annotated[
        tuple[Annotated[tuple[ValueName, ...], MinLen(2), MaxLen(2)], ...], MaxLen(50)
    ] = ()
    confidence: Probability = 0.95
    by_site: bool = False

    idle: ClassVar[bool] = False

    def contradictions(self) -> Iterator[str]:
        """Quantiles that do not rise, or what stands twice where it is meant once."""
        if list(self.quantiles) != sorted(set(self.quantiles)):
            yield f"quantiles={list(self.quantiles)}: must be rising"
        if len(self.correlations) == 1:
            yield f"correlations={list(self.correlations)}: takes two columns or more"
        for name in ("columns", "correlations"):
            names = getattr(self, name)
            if len(set(names)) < len(names):
                yield f"{name}={list(names)}: names a column twice"
        for one, other in self.tables:
            if one == other:
                yield f"tables: {one!r} is paired with itself"


Statistics = NoStatistics | TableStatistics


def asked(settings: Statistics) -> TableStatistics:
    """The figures that a run makes.

    Raises:
        ConfigError: it makes none.
    """
    if isinstance(settings, TableStatistics):
        return settings
    raise ConfigError(["statistics=none: the run makes no figures of tables"])
