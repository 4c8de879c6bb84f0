"""An algorithm whose step at the coordinator is a function, given from Python.

The sites train as for FedAvg; what becomes of their mean is the function's business. A run is
told by its config, and a function does not stand in one: `name` does, for people. Whoever
resumes such a run gives the function again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fedlearn.algorithms.algorithm import Algorithm, RoundMean, State
from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Name, config
from fedlearn.core.vector import Vector

Step = Callable[[RoundMean, State], tuple[Vector, State]]
"""The next model, `float32[d]`, and the next state, from the mean of a round and the state."""

_GIVEN: dict[str, Step] = {}


@config
class Given(Algorithm):
    """FedAvg at the sites, and the step called `name` at the coordinator; `give` makes one."""

    kind: Literal["given"] = "given"
    name: Name

    def prepare(self) -> None:
        """Refuse a run whose function is not there."""
        if self.name not in _GIVEN:
            raise ConfigError(
                [
                    f"strategy.name={self.name}: is a function that was given from Python, and is "
                    "not here. Give it again, or choose a strategy by its name"
                ]
            )

    def server(self, mean: RoundMean, state: State) -> tuple[Vector, State]:
        """What the function makes of them."""
        return _GIVEN[self.name](mean, state)


def give(step: Step, *, name: str, fraction: float = 1.0, min_sites: int = 2) -> Given:
    """An algorithm by its step at the coordinator; the last of a name is the one that counts.

    Example:
        >>> halved = give(
        ...     lambda mean, state: ((mean.before + mean.model) / 2, state), name="halved"
        ... )
        >>> halved.kind, halved.name
        ('given', 'halved')
    """
    made = Given(name=name, fraction=fraction, min_sites=min_sites)
    _GIVEN[name] = step
    return made
